"""The judge: one code path for preference labels, the revision gate and win rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rlaif.config import JudgeConfig, PromptSlice
from rlaif.constitution.scope import by_slice
from rlaif.errors import ConfigError
from rlaif.judge.aggregate import aggregate
from rlaif.judge.methods import Ask, contrast, cot, pairwise, random, rating
from rlaif.lm.protocol import LanguageModel
from rlaif.progress import Task
from rlaif.records import Comparison, Constitution, PreferenceLabel, Principle, Verdict, record_seed
from rlaif.stage import StageContext
from rlaif.templates import load_template


class Judge:
    """Judges comparisons under a constitution by the configured method.

    `prompts` says which principles apply to which slice of the prompts; without it all apply to all.
    `model` may be None for the method "random" alone. `templates` is the run's template folder (shipped ones else).
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
    ) -> None:
        if model is None and config.method != "random":
            raise ConfigError(f"method {config.method!r} needs a model", where="judge", remedy="set judge.backend")
        self.config, self.constitution, self.model, self.seed = config, constitution, model, seed
        self.template = None if config.method == "random" else load_template(config.method, templates)
        self.constitution_hash = constitution.hash
        self.scopes = by_slice(constitution, prompts or {})

    @classmethod
    def of_run(cls, context: StageContext) -> Judge:
        """The run's judge with the run's constitution, templates and slices; the random one opens no model."""
        config = context.config
        return cls(
            config.judge,
            context.constitution,
            model=None if config.judge.method == "random" else context.open_judge(),
            seed=config.seed,
            templates=context.run.templates_path,
            prompts=config.prompts,
        )

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
        found = iter(self._ask(asks))
        labels = []
        for comparison, chosen in zip(comparisons, principles, strict=True):
            verdicts = tuple(verdict for _ in chosen for verdict in next(found))
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
        result = aggregate(
            verdicts,
            self.constitution.principles,
            tier_margin=self.config.tier_margin,
            abstain_below=self.config.abstain_below,
        )
        return PreferenceLabel(
            comparison=comparison,
            prob_a=result.prob_a,
            verdicts=verdicts,
            consistency=result.consistency,
            failure=result.failure,
            constitution_hash=self.constitution_hash,
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

    def _ask(self, asks: Sequence[Ask]) -> list[list[Verdict]]:
        config, model, template = self.config, self.model, self.template
        if config.method == "random":
            return random(asks, seed=self.seed)
        assert model is not None
        assert template is not None
        match config.method:
            case "contrast":
                return contrast(asks, model, template, scale=config.scale, opening=config.opening_tokens)
            case "rating":
                return rating(asks, model, template, scale=config.rating_scale)
            case "cot":
                return cot(asks, model, template, rationale_tokens=config.rationale_tokens, clamp=config.clamp)
            case "pairwise":
                return pairwise(asks, model, template)
