"""What a run would cost, by arithmetic: answers sampled, judge calls, tokens at most, money, and a rough time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rlaif.config import LabelConfig, PpoConfig, RunConfig, StageName
from rlaif.core.records import Prompt
from rlaif.judge.card.attacks import ATTACKS
from rlaif.judge.methods.method import JudgingCost, JudgingWork
from rlaif.judge.methods.table import cost_of
from rlaif.stages.context import limited
from rlaif.stages.summary import COMPARISONS, compared_models
from rlaif.stages.table import of_run

if TYPE_CHECKING:
    from rich.table import Table

GOLD_TOKENS = 100
"""Assumed length of an answer of gold."""
PROMPT_TOKENS = 120
"""Assumed length of a rendered prompt with its system text."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Tokens a second: sampled, read without gradients, and read with gradients."""

    generate: float
    score: float
    train: float
    basis: str

    def of_size(self, weights: int | None) -> Rates:
        """These for a model of that many weights, at an equal number of multiplications a second."""
        if weights is None:
            return self
        factor = ASSUMED_SIZE / weights
        size = f"{weights / 1e9:.2g}B" if weights >= 1e9 else f"{weights / 1e6:.3g}M"
        numbers = (factor * self.generate, factor * self.score, factor * self.train)
        told = [f"{number:,.0f}" if number >= 10 else f"{number:.2g}" for number in numbers]
        said = f"{told[0]} tokens/s sampled, {told[1]} read, {told[2]} trained"
        return Rates(*numbers, BASIS.format(model=f"a {size} model", rates=said))


BASIS = (
    "Times are a guess from assumed rates: those of {model} on 2 CPU cores ({rates}). A GPU or a server has others. "
    "Tokens are upper bounds: every answer as long as it may be."
)
ASSUMED_SIZE = 134_515_008
"""Weights of SmolLM2-135M."""
ASSUMED = Rates(
    150.0, 850.0, 300.0, BASIS.format(model="a 135M model", rates="150 tokens/s sampled, 850 read, 300 trained")
)


@dataclass(frozen=True, slots=True)
class StageWork:
    """What one stage has to do. `judge_calls` are model calls by the judge; tokens are upper bounds, and so is the
    judge's `money`, by judge.price_in and price_out."""

    stage: StageName
    prompts: int
    generations: int = 0
    judge_calls: int = 0
    generated_tokens: int = 0
    scored_tokens: int = 0
    trained_tokens: int = 0
    money: float = 0.0

    def seconds(self, rates: Rates) -> float:
        return (
            self.generated_tokens / rates.generate
            + self.scored_tokens / rates.score
            + self.trained_tokens / rates.train
        )


@dataclass(frozen=True, slots=True)
class WorkPlan:
    """The work of all stages; `basis` says where the times come from."""

    stages: tuple[StageWork, ...]
    rates: Rates

    @property
    def basis(self) -> str:
        return self.rates.basis

    @property
    def money(self) -> float:
        return sum(work.money for work in self.stages)

    def as_json(self) -> dict[str, Any]:
        rows = [{**asdict(work), "seconds": round(work.seconds(self.rates), 1)} for work in self.stages]
        seconds = round(sum(row["seconds"] for row in rows), 1)
        return {"stages": rows, "seconds": seconds, "money": self.money, "basis": self.basis}


def plan(
    config: RunConfig,
    train: Sequence[Prompt],
    held_out: Sequence[Prompt],
    principles: int,
    limit: int | None,
    gold: int = 0,
    until: StageName | None = None,
    weights: int | None = None,
    given: int = 0,
    given_pairs: int = 0,
) -> WorkPlan:
    """The work of a run, or `until` one of its stages, on these prompts, cut to `limit` per slice, under that many
    principles; `gold` pairs are there for the judge's card, and `given` answers in `given_pairs` labels of the user's
    own. Times are those of a model of so many `weights`."""
    train, held_out = limited(train, limit), limited(held_out, limit)
    works = (
        _card(config, gold, principles),
        _revise(config, train, principles),
        _sft(config, train),
        StageWork("label", 0) if config.given_labels else _label(config, len(train), principles),
        _reward(config, len(train), given),
        _ppo(config, len(train), principles),
        _dpo(config, len(train), given_pairs),
        _evaluate(config, len(held_out), principles),
        StageWork("report", 0),
    )
    wanted = of_run(config, until)
    return WorkPlan(tuple(work for work in works if work.stage in wanted), ASSUMED.of_size(weights))


def as_table(work: WorkPlan) -> Table:
    """The plan for the terminal."""
    from rich.table import Table

    table = Table()
    table.add_column("stage")
    for heading in ("prompts", "generations", "judge calls", "tokens sampled", "tokens read", "tokens trained", "time"):
        table.add_column(heading, justify="right")
    if work.money:
        table.add_column("judge's money", justify="right")
    for row in work.stages:
        numbers = (row.prompts, row.generations, row.judge_calls)
        tokens = (row.generated_tokens, row.scored_tokens, row.trained_tokens)
        told = (*(f"{value:,}" for value in numbers + tokens), _minutes(row.seconds(work.rates)))
        table.add_row(row.stage, *told, *[_money(row.money)] * bool(work.money))
    total = sum(row.seconds(work.rates) for row in work.stages)
    table.add_section()
    table.add_row("all", *[""] * 6, _minutes(total), *[_money(work.money)] * bool(work.money))
    return table


def _money(amount: float) -> str:
    return f"{amount:,.2f}" if amount >= 0.1 or not amount else f"{amount:.2g}"


def _minutes(seconds: float) -> str:
    return f"~{seconds / 60:,.0f} min" if seconds >= 60 else f"~{seconds:.0f} s"


def _judged(config: RunConfig, responses: int, pairs: int, principles: int, length: int) -> JudgingCost:
    """What it takes to judge `pairs` of `responses`, each of `length` tokens, by all members of the panel."""
    judge = config.judge
    times = {"all": principles, "one": 1, "subset": min(judge.subset_size, principles)}[judge.principles]
    reads = responses * times
    if judge.draw_per == "pair":  # another draw may show a response under another principle
        reads = min(2 * pairs * times, responses * principles)
    work = JudgingWork(reads, pairs * times, pairs, response_tokens=length, prompt_tokens=PROMPT_TOKENS)
    return cost_of(judge, work)


def _card(config: RunConfig, gold: int, principles: int) -> StageWork:
    table = config.card
    pairs = min(gold, table.pairs) if table.pairs else gold
    asked = pairs + min(pairs, table.repeat) + min(pairs, table.attack) * len(ATTACKS)
    each = 1 if table.gold.startswith("tests") else principles  # a test is of one principle
    judging = _judged(config, 2 * asked, asked, each, GOLD_TOKENS)
    return StageWork(
        "card",
        pairs,
        judge_calls=judging.calls,
        generated_tokens=judging.generated,
        scored_tokens=judging.scored,
        money=judging.money,
    )


def _revise(config: RunConfig, train: Sequence[Prompt], principles: int) -> StageWork:
    table = config.revise
    chains = sum(config.prompts[prompt.slice].revise for prompt in train)
    rounds = chains * table.rounds
    critiques = rounds if table.method == "critique" else 0
    candidates = rounds * table.candidates
    judging = JudgingCost()
    if table.gate > 0:
        judging = _judged(config, rounds + candidates, candidates, principles, table.max_new_tokens)
    written = (len(train) + candidates) * table.max_new_tokens + critiques * table.critique_tokens
    return StageWork(
        "revise",
        len(train),
        generations=len(train) + critiques + candidates,
        judge_calls=judging.calls,
        generated_tokens=written + judging.generated,
        scored_tokens=judging.scored,
        money=judging.money,
    )


def _sft(config: RunConfig, train: Sequence[Prompt]) -> StageWork:
    revised = sum(config.prompts[prompt.slice].revise for prompt in train)
    examples = revised + min(len(train) - revised, round(revised * config.sft.helpful_ratio))
    length = min(config.sft.max_length, PROMPT_TOKENS + config.revise.max_new_tokens)
    return StageWork("sft", len(train), trained_tokens=round(examples * length * config.sft.epochs))


def _label(config: RunConfig, prompts: int, principles: int) -> StageWork:
    table = config.label
    responses, judging, length = _labelled_answers(table, prompts), JudgingCost(), table.max_new_tokens
    if table.by_policy:
        judging += _judged(config, prompts * table.samples, prompts * _sampled_pairs(table), principles, length)
    if table.by_contrast and table.confirm:  # each under the one principle that made it
        pairs = prompts * table.pairs
        judging += cost_of(
            config.judge, JudgingWork(2 * pairs, pairs, pairs, response_tokens=length, prompt_tokens=PROMPT_TOKENS)
        )
    return StageWork(
        "label",
        prompts,
        generations=responses,
        judge_calls=judging.calls,
        generated_tokens=responses * table.max_new_tokens + judging.generated,
        scored_tokens=judging.scored,
        money=judging.money,
    )


def _labelled_answers(table: LabelConfig, prompts: int) -> int:
    return prompts * (table.by_policy * table.samples + table.by_contrast * 2 * table.pairs)


def _sampled_pairs(table: LabelConfig) -> int:
    """Pairs of a prompt among answers that are sampled alike."""
    return min(table.pairs, table.samples * (table.samples - 1) // 2)


def _labelled_pairs(table: LabelConfig, prompts: int) -> int:
    return prompts * (table.by_policy * _sampled_pairs(table) + table.by_contrast * table.pairs)


def _reward(config: RunConfig, prompts: int, given: int) -> StageWork:
    length = min(config.reward.max_length, PROMPT_TOKENS + config.label.max_new_tokens)
    responses = _labelled_answers(config.label, prompts)
    if config.given_labels:
        length, responses, prompts = config.reward.max_length, given, 0
    trained = round(responses * (1 - config.reward.held_out) * length * config.reward.epochs)
    held_out = round(responses * config.reward.held_out * length)
    members = config.reward.members
    return StageWork("reward", prompts, scored_tokens=members * held_out, trained_tokens=members * trained)


def _ppo(config: RunConfig, prompts: int, principles: int) -> StageWork:
    table = config.ppo
    trained = table.steps * table.batch_size
    # The samples of a prompt stand behind one copy of it.
    learnt = trained * table.max_new_tokens + trained // table.samples_per_prompt * PROMPT_TOKENS
    validated = min(table.validation_prompts, prompts // 2) * _validations(table)
    rollouts, read = trained + validated, learnt + validated * (table.max_new_tokens + PROMPT_TOKENS)
    judging, rewards = JudgingCost(), config.reward.members * table.scored_by("model") + table.scored_by("on_topic")
    if table.scored_by("judge"):
        # Against every answer that `label` sampled for the prompt; what the judge made of those is in the cache.
        pairs = rollouts * config.label.samples
        judging = _judged(config, rollouts, pairs, principles, table.max_new_tokens)
    # Each rollout is read by the reference, for on_topic twice, by each reward model, and by policy and critic once
    # before they are trained on it; a critic with an adapter of its own is a second pass with gradients.
    critics = 2 if table.algorithm == "ppo" and table.value == "adapter" else 1
    return StageWork(
        "ppo",
        prompts,
        generations=rollouts,
        judge_calls=judging.calls,
        generated_tokens=rollouts * table.max_new_tokens + judging.generated,
        scored_tokens=read * (1 + rewards + critics) + judging.scored,
        money=judging.money,
        trained_tokens=learnt * table.num_ppo_epochs * critics,
    )


def _dpo(config: RunConfig, prompts: int, given: int) -> StageWork:
    table, labels = config.dpo, config.label
    length, pairs = min(table.max_length, PROMPT_TOKENS + labels.max_new_tokens), _labelled_pairs(labels, prompts)
    if config.given_labels:
        length, pairs, prompts = table.max_length, given, 0
    # Both answers of a pair, each with the prompt, are read by the policy with gradients and by the reference without.
    trained = round(2 * pairs * length * table.epochs)
    return StageWork("dpo", prompts, scored_tokens=trained, trained_tokens=trained)


def _validations(table: PpoConfig) -> int:
    """How often `ppo` validates if it is not stopped early: before the first step, every so often, and at the end."""
    return 1 + -(-table.steps // table.eval_steps) if table.eval_steps else 0


def _evaluate(config: RunConfig, prompts: int, principles: int) -> StageWork:
    table = config.evaluate
    each = prompts * table.samples
    names = compared_models(config)
    models, aligned = len(names), len(config.align_by)
    judging = JudgingCost()
    if config.judged:
        pairs = sum(first in names and second in names for first, second in COMPARISONS)
        judging = _judged(config, models * each, pairs * each, principles, table.max_new_tokens)
    drawn = prompts * table.best_of
    readers = config.reward.members * config.ppo.scored_by("model") + 2 * config.ppo.scored_by("on_topic")
    if config.ppo.scored_by("judge"):
        judging += _judged(config, drawn, drawn * table.samples, principles, table.max_new_tokens)
    # The base model reads the answers of all, PPO and SFT those of PPO (DPO likewise), the reward models those of which
    # one is chosen, and for on_topic SFT twice.
    read = (models + 2 * aligned) * each + prompts * bool(table.best_of) + drawn * readers
    return StageWork(
        "evaluate",
        prompts,
        generations=models * each + drawn,
        judge_calls=judging.calls,
        generated_tokens=(models * each + drawn) * table.max_new_tokens + judging.generated,
        scored_tokens=judging.scored + read * (PROMPT_TOKENS + table.max_new_tokens),
        money=judging.money,
    )
