"""The judge: one code path for preference labels, the revision gate and win rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from rlaif.config import AskingConfig, JudgeConfig, PromptSlice
from rlaif.constitution.scope import by_slice
from rlaif.core.errors import ConfigError
from rlaif.core.files import RunFolder
from rlaif.core.progress import Task
from rlaif.core.records import Comparison, Constitution, PreferenceLabel, Principle, Verdict, record_seed
from rlaif.inputs.templates import Template, load_template
from rlaif.judge.aggregate import Settling, aggregate
from rlaif.judge.calibration import CalibrationMap, read_calibration
from rlaif.judge.methods import Ask, contrast, cot, pairwise, random, rating
from rlaif.lm.panel import PanelModel
from rlaif.lm.protocol import LanguageModel


@dataclass(frozen=True, slots=True)
class Member:
    """One who votes: the name on its verdicts ("" = the run's own judge), how it is asked, and its template, which the
    method "random" has none of."""

    name: str
    asking: AskingConfig
    template: Template | None


class Judge:
    """Judges comparisons under a constitution by the configured method, or by a panel of judges and methods.

    `prompts` says which principles apply to which slice of the prompts; without it all apply to all.
    `model` may be None for the method "random" alone and is a PanelModel where the config has a panel. `templates` is
    the run's template folder (shipped ones else). `calibration` is the map that the config asks for, fitted
    elsewhere, and `card` the id of the card that the labels stand on.
    """

    def __init__(
        self,
        config: JudgeConfig,
        constitution: Constitution,
        *,
        model: LanguageModel | None,
        seed: int,
        templates: Path | None = None,
        prompts: Mapping[str, PromptSlice] | None = None,
        calibration: CalibrationMap | None = None,
        card: str = "",
    ) -> None:
        if model is None and config.method != "random":
            raise ConfigError(f"method {config.method!r} needs a model", where="judge", remedy="set judge.backend")
        self.config, self.constitution, self.model, self.seed = config, constitution, model, seed
        own = None if config.method == "random" else load_template(config.method, templates)
        others = [Member(m.name, m, load_template(m.method, templates)) for m in config.panel]
        self.members = [Member("", config, own), *others]
        self.settling = Settling(config.weights, config.tier_margin, calibration, config.abstain_below)
        self.constitution_hash, self.card = constitution.hash, card
        self.scopes = by_slice(constitution, prompts or {})

    def label(self, comparisons: Sequence[Comparison]) -> list[PreferenceLabel]:
        """One label per comparison, in order, under the principles that the config asks for."""
        return self.label_under(comparisons, [self.principles(comparison) for comparison in comparisons])

    def label_under(
        self, comparisons: Sequence[Comparison], principles: Sequence[Sequence[Principle]]
    ) -> list[PreferenceLabel]:
        """One label per comparison, each judged under its own list of principles."""
        asks = [
            Ask(comparison, principle)
            for comparison, chosen in zip(comparisons, principles, strict=True)
            for principle in chosen
        ]
        found = [self._ask(member, asks) for member in self.members]
        each = zip(*found, strict=True)  # per ask the verdicts of every member
        labels = []
        for comparison, chosen in zip(comparisons, principles, strict=True):
            verdicts = tuple(verdict for _ in chosen for said in next(each) for verdict in said)
            labels.append(self.settle(comparison, verdicts))
        return labels

    def label_in_parts(
        self, comparisons: Sequence[Comparison], principles: Sequence[Sequence[Principle]], *, size: int, task: Task
    ) -> list[PreferenceLabel]:
        """The labels of `label_under`, asked `size` comparisons at a time: a part is in the cache before the next one
        begins, and shows on the bar."""
        labels: list[PreferenceLabel] = []
        for start in range(0, len(comparisons), size):
            part = comparisons[start : start + size]
            labels += self.label_under(part, principles[start : start + size])
            task.advance(len(part))
        return labels

    def settle(self, comparison: Comparison, verdicts: tuple[Verdict, ...]) -> PreferenceLabel:
        """The label that these verdicts make under the constitution's weights and tiers; asks no model."""
        result = aggregate(verdicts, self.constitution.principles, self.settling)
        return PreferenceLabel(
            comparison=comparison,
            prob_a=result.prob_a,
            verdicts=verdicts,
            consistency=result.consistency,
            failure=result.failure,
            constitution_hash=self.constitution_hash,
            judge_card=self.card,
        )

    def principles(self, comparison: Comparison) -> tuple[Principle, ...]:
        """The principles a comparison is judged under: of those that apply to its slice all with a weight, or one or
        some of them drawn by weight and seed.

        A draw per prompt is shared by all pairs of the prompt, so that a method which scores one response at a time
        scores each response once. A draw per pair is the same for the swapped pair.
        """
        part = self.scopes.get(comparison.prompt.slice, self.constitution)
        if self.config.principles == "all":
            return tuple(p for p in part.principles if p.weight > 0)
        drawn_for = [comparison.prompt.id]
        if self.config.draw_per == "pair":
            drawn_for += sorted((comparison.a.id, comparison.b.id))
        size = 1 if self.config.principles == "one" else self.config.subset_size
        return part.draw_subset(record_seed(self.seed, "judge", *drawn_for), size)

    def _ask(self, member: Member, asks: Sequence[Ask]) -> list[list[Verdict]]:
        """The member's verdicts on each ask."""
        asking, template = member.asking, member.template
        if template is None:
            return random(asks, seed=self.seed)
        assert self.model is not None
        model = cast(PanelModel, self.model).beside[member.name] if member.name else self.model
        match asking.method:
            case "contrast":
                found = contrast(asks, model, template, scale=asking.scale, opening=asking.opening_tokens)
            case "rating":
                found = rating(asks, model, template, scale=asking.rating_scale, few_shots=asking.few_shots)
            case "cot":
                found = cot(asks, model, template, rationale_tokens=asking.rationale_tokens, clamp=asking.clamp)
            case _:
                found = pairwise(asks, model, template, few_shots=asking.few_shots)
        if not member.name:
            return found
        return [[replace(verdict, member=member.name, id="") for verdict in said] for said in found]


def calibration_of(config: JudgeConfig, run: RunFolder) -> CalibrationMap | None:
    """The map that the run's judge is calibrated by, from the card in its run folder; None where it is not."""
    if config.calibration == "none":
        return None
    return read_calibration(run.file("card", "card.json"), config.calibration)
