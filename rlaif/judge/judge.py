"""The judge: one code path for preference labels, the revision gate and win rates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import astuple, dataclass, replace
from pathlib import Path

from rlaif.config import JudgeConfig, PromptSlice, RunConfig
from rlaif.constitution.load import by_slice
from rlaif.core.errors import ConfigError
from rlaif.core.plugins import own_code
from rlaif.core.progress import Task
from rlaif.core.records import Comparison, Constitution, PreferenceLabel, Principle, Verdict, content_id, record_seed
from rlaif.inputs.templates import load_template
from rlaif.judge.aggregate import Settling, aggregate
from rlaif.judge.calibration import CalibrationMap
from rlaif.judge.methods.method import Ask, Asker, Method
from rlaif.judge.methods.table import askings, find, shown_fields
from rlaif.lm.open import OpenJudge, open_judge
from rlaif.lm.protocol import LanguageModel, Usage


@dataclass(frozen=True, slots=True)
class Voter:
    """One who votes: the name on its verdicts ("" = the run's own judge), its method, and who is asked and how."""

    name: str
    method: Method
    asker: Asker

    def verdicts(self, asks: Sequence[Ask]) -> list[list[Verdict]]:
        """The member's verdicts on each ask."""
        name = self.asker.settings.method
        with own_code(name, what="judging method"):
            found = [list(verdicts) for verdicts in self.method.ask(asks, self.asker)]
        remedy = "return one list of verdicts for each ask, in order"
        if len(found) != len(asks):
            what = f"the method {self.method.name} gave verdicts on {len(found)} of {len(asks)} asks"
            raise ConfigError(what, where=f"judge.method: {name}", remedy=remedy)
        strange = next((one for verdicts in found for one in verdicts if not isinstance(one, Verdict)), None)
        if strange is not None or not all(found):
            given = "an empty list" if strange is None else f"{strange!r:.80}"
            what = f"the method {self.method.name} gave {given} where verdicts belong"
            raise ConfigError(what, where=f"judge.method: {name}", remedy=remedy)
        said = (one.prob_first for verdicts in found for one in verdicts if one.prob_first is not None)
        outside = next((p for p in said if not 0 <= p <= 1), None)
        if outside is not None:
            what = f"the method {self.method.name} gave the probability {outside!r:.80}"
            raise ConfigError(
                what, where=f"judge.method: {name}", remedy="give one from 0 to 1, or None with a failure"
            )
        if not self.name:
            return found
        return [[replace(verdict, member=self.name, id="") for verdict in said] for said in found]


class Judge:
    """Judges comparisons under a constitution by its `members`: the configured judge, and the panel beside it. `shown`:
    the fields of a principle that they show to their models.

    `prompts` says which principles apply to which slice of the prompts; without it all apply to all.
    `models` are those of the members, in their order, none where the method asks none. `templates` is the run's
    template folder (shipped ones else). `calibration` is the map that the config asks for, fitted elsewhere, and `card`
    the id of the card that the labels stand on.
    """

    def __init__(
        self,
        config: JudgeConfig,
        constitution: Constitution,
        *,
        models: Sequence[LanguageModel],
        seed: int,
        templates: Path | None = None,
        prompts: Mapping[str, PromptSlice] | None = None,
        calibration: CalibrationMap | None = None,
        card: str = "",
    ) -> None:
        wanted = len(askings(config))
        if len(models) < wanted:
            who = f"method {config.method!r} needs a model" if wanted == 1 else f"the panel needs {wanted} models"
            raise ConfigError(who, where="judge", remedy="set judge.backend")
        self.config, self.constitution, self.models, self.seed = config, constitution, tuple(models[:wanted]), seed
        self.shown = shown_fields(config, templates)
        self.members = []
        for place, asking in enumerate((config, *config.panel)):
            method = find(asking.method)
            template = None if method.template is None else load_template(method.template, templates)
            name = config.panel[place - 1].name if place else ""
            asker = Asker(asking, seed, models[place] if method.asks_model else None, template)
            self.members.append(Voter(name, method, asker))
        self.settling = Settling(config.weights, config.tier_margin, calibration, config.abstain_below)
        self.constitution_hash, self.card = constitution.hash, card
        self.scopes = by_slice(constitution, prompts or {})

    @property
    def asks_model(self) -> bool:
        return bool(self.models)

    @property
    def name(self) -> str:
        """The names of its models, or that of a method that asks none."""
        return " + ".join(dict.fromkeys(model.name for model in self.models)) or self.members[0].method.name

    @property
    def fingerprint(self) -> str:
        """Changes whenever a model does; "" without any."""
        own, *beside = [model.fingerprint for model in self.models] or [""]
        if not beside:
            return own
        return content_id("panel", own, dict(zip([m.name for m in self.config.panel], beside, strict=True)))

    @property
    def usage(self) -> Usage:
        """What all its models were asked since they were opened."""
        return usage_of(self.models)

    def close(self) -> None:
        for model in self.models:
            model.close()

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
        found = [member.verdicts(asks) for member in self.members]
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


def usage_of(models: Sequence[LanguageModel]) -> Usage:
    """What the models were asked, all together."""
    return Usage(*map(sum, zip(*(astuple(model.usage) for model in models), strict=True)))


@contextmanager
def opened_models(config: RunConfig, cache: Path, open_judge: OpenJudge = open_judge) -> Iterator[list[LanguageModel]]:
    """The models of the config's judge and its panel, behind a cache in the folder; closed afterwards."""
    with ExitStack() as stack:
        found = []
        for asking in askings(config.judge):
            found.append(open_judge(asking, config.model, cache))
            stack.callback(found[-1].close)
        yield found
