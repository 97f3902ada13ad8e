"""What was measured on held-out prompts: the records of evaluate/summary.json, evaluate/scores.jsonl and
reward/held_out.json."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any, Literal

from rlaif.core.files import RunFolder, read_json_lines, read_record, write_atomic
from rlaif.core.records import WinRate, to_json
from rlaif.core.statistics import MIN_PROMPTS

REFERENCE = "sft"
"""The model that every difference is against."""
ALIGNED = ("ppo", "dpo")
"""The policies that are trained after it; the first that was measured is what a result is about."""


@dataclass(frozen=True, slots=True)
class Measure:
    """What a column means. `better` says which direction is good; "none" where neither is. `quality`: of a gold scorer,
    the numbers that say how good it is itself; None for what is no gold. `share`: each value is 0 or 1 by kind."""

    label: str
    better: Literal["lower", "higher", "none"] | None = None
    about: str = ""
    quality: dict[str, float | None] | None = None
    share: bool = False

    @property
    def name(self) -> str:
        """The label without its bracket: "gold harm" for "gold harm (lower is better)"."""
        return self.label.split(" (")[0]


@dataclass(frozen=True, slots=True)
class Cell:
    """One model on one slice under one measure: the mean of `n` answers with its 95 % interval, and the mean paired
    difference v SFT. `prompts`: those with a difference, or with an answer where there is none; None in files of
    before."""

    model: str
    slice: str
    measure: str
    n: int
    mean: float | None
    low: float | None = None
    high: float | None = None
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    prompts: int | None = None

    @property
    def differs(self) -> bool:
        """True when the interval of the difference is known, of enough prompts, and does not contain 0."""
        low, high = self.difference_low, self.difference_high
        clear = low is not None and high is not None and (low > 0 or high < 0)
        return _known(self.difference) and clear and enough(self.prompts)


@dataclass(frozen=True, slots=True)
class LengthControlled:
    """What is left of a difference v SFT on a gold measure at equal length, and how large the whole of it is.

    `difference` is the intercept of the least-squares line of the paired differences over those of the logarithm of the
    word count, a point for each of the `n` prompts, with its 95 % interval. `effect` is the difference of the `Cell` in
    units of `sd`, the standard deviation of the measure over SFT's answers, which its interval takes as known.
    """

    model: str
    slice: str
    measure: str
    n: int
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    sd: float | None = None
    effect: float | None = None
    effect_low: float | None = None
    effect_high: float | None = None


@dataclass(frozen=True, slots=True)
class Divergence:
    """KL of `model` from `against` in nats per response and per token, sampled from `model`, over `n` prompts."""

    model: str
    against: str
    slice: str
    n: int = 0
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    per_token: float | None = None
    per_token_low: float | None = None
    per_token_high: float | None = None


@dataclass(frozen=True, slots=True)
class SetDistinct:
    """Share of different word pairs over all answers of a slice together, at equal numbers of pairs for each model."""

    model: str
    slice: str
    value: float | None
    pairs: int


@dataclass(frozen=True, slots=True)
class Summary:
    """evaluate/summary.json."""

    models: tuple[str, ...]
    slices: tuple[str, ...]
    measures: dict[str, Measure]
    cells: tuple[Cell, ...]
    win_rates: tuple[WinRate, ...] = ()
    win_rates_length_matched: tuple[WinRate, ...] = ()
    length_controlled: tuple[LengthControlled, ...] = ()
    kl: tuple[Divergence, ...] = ()
    set_distinct_2: tuple[SetDistinct, ...] = ()
    notes: tuple[str, ...] = ()

    def cell(self, model: str, part: str, measure: str) -> Cell | None:
        return next((c for c in self.cells if (c.model, c.slice, c.measure) == (model, part, measure)), None)

    def measured(self) -> dict[str, Measure]:
        """The measures with at least one number."""
        known = {cell.measure for cell in self.cells if _known(cell.mean)}
        return {key: measure for key, measure in self.measures.items() if key in known}

    def golds(self) -> dict[str, Measure]:
        """The gold measures, the one that counts most first: in the order of `evaluate.gold`."""
        return {key: measure for key, measure in self.measures.items() if measure.quality is not None}

    def unmeasured(self) -> list[str]:
        """Names of the measures without any number."""
        measured = self.measured()
        return [measure.name for key, measure in self.measures.items() if key not in measured]

    def win_rate(self, model: str, part: str) -> WinRate | None:
        """The model's rate against SFT, taken from SFT's rate against it where only that was measured."""
        for rate in self.win_rates:
            if (rate.model, rate.against, rate.slice) == (model, REFERENCE, part):
                return rate
        for rate in self.win_rates:
            if (rate.model, rate.against, rate.slice) == (REFERENCE, model, part):
                return _turned(rate)
        return None

    def length_matched(self, rate: WinRate) -> WinRate | None:
        """The same comparison on the pairs of like length."""
        wanted = (rate.model, rate.against, rate.slice)
        return next((w for w in self.win_rates_length_matched if (w.model, w.against, w.slice) == wanted), None)

    def at_equal_length(self, model: str, part: str, measure: str) -> LengthControlled | None:
        wanted = (model, part, measure)
        return next((row for row in self.length_controlled if (row.model, row.slice, row.measure) == wanted), None)

    def divergence(self, model: str, part: str) -> Divergence | None:
        found = (d for d in self.kl if (d.model, d.against, d.slice) == (model, REFERENCE, part))
        return next(found, None)

    def write(self, path: Path) -> None:
        """Writes the file, whole or not at all."""
        data = to_json(self)
        for measure in data["measures"].values():
            if measure["quality"] is None:
                del measure["quality"]
        write_atomic(path, json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False))


def enough(prompts: int | None) -> bool:
    """Whether what an interval shows may be said in words; files of before do not say of how many prompts it is."""
    return prompts is None or prompts >= MIN_PROMPTS


def _known(value: float | None) -> bool:
    return value is not None and isfinite(value)


def _turned(rate: WinRate) -> WinRate:
    """The same comparison from the other side."""
    share, low, high = (None if value is None else 1 - value for value in (rate.rate, rate.high, rate.low))
    return replace(rate, model=rate.against, against=rate.model, rate=share, low=low, high=high)


def read_summary(run: RunFolder) -> Summary | None:
    """evaluate/summary.json, or None where there is none; raises DataError naming the field that is wrong."""
    path = run.file("evaluate", "summary.json")
    return read_record(path, Summary, "an evaluation summary", "evaluate") if path.exists() else None


@dataclass(frozen=True, slots=True)
class HeldOutBin:
    """Held-out pairs whose predicted probability lies in low..high."""

    low: float
    high: float
    predicted: float | None
    labelled: float | None
    n: int


@dataclass(frozen=True, slots=True)
class HeldOutAccuracy:
    """The share of held-out `pairs` whose side somebody or something tells, with its 95 % interval by prompt.

    Of a trivial predictor also the `lead` of the reward model: how much more often that is right about the same pairs.
    """

    name: str
    accuracy: float | None
    low: float | None
    high: float | None
    pairs: int
    lead: float | None = None
    lead_low: float | None = None
    lead_high: float | None = None


@dataclass(frozen=True, slots=True)
class Probe:
    """A linear probe on the frozen SFT model: `cross_validated` is its accuracy on the training prompts by pooling,
    `pooling` the one that was taken, `held_out` its accuracy there on the held-out pairs."""

    pooling: str
    cross_validated: dict[str, float]
    held_out: HeldOutAccuracy


@dataclass(frozen=True, slots=True)
class HeldOut:
    """reward/held_out.json: the reward model against the judge's labels on prompts that it did not train on.

    `log_loss` and `brier` are taken against the soft labels. `ece` is the mean over bins of the prediction of
    |mean prediction - mean label|, weighted by pairs. `length_accuracy` is that of "the shorter one wins". Of an
    ensemble also how far its `members` differ in their scores (mean sd), and what each is by itself. `parts` are the
    accuracies by slice, principle and source of the answers, `predictors` those of trivial predictors, `verdict` says
    in a sentence whether the model beats them.
    """

    accuracy: float | None = None
    log_loss: float | None = None
    brier: float | None = None
    ece: float | None = None
    pairs: int | None = None
    label_entropy: float | None = None
    bins: tuple[HeldOutBin, ...] = ()
    length_accuracy: float | None = None
    prompts: int | None = None
    disagreement: float | None = None
    members: tuple[HeldOut, ...] = ()
    accuracy_low: float | None = None
    accuracy_high: float | None = None
    parts: dict[str, tuple[HeldOutAccuracy, ...]] = field(default_factory=dict)
    predictors: tuple[HeldOutAccuracy, ...] = ()
    probe: Probe | None = None
    beats_trivial: bool | None = None
    verdict: str = ""

    def as_json(self) -> dict[str, Any]:
        """The file's content: what only an ensemble has is left out of a single model's."""
        data = to_json(replace(self, members=()))
        if self.members:
            data["members"] = [member.as_json() for member in self.members]
        else:
            del data["disagreement"], data["members"]
        return data


def read_held_out(run: RunFolder) -> HeldOut | None:
    """reward/held_out.json, or None where there is none; raises DataError naming the field that is wrong."""
    path = run.file("reward", "held_out.json")
    return read_record(path, HeldOut, "a held-out result", "reward") if path.exists() else None


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One row of evaluate/scores.jsonl: a response of `model` and its number, truth value or None by measure."""

    response_id: str
    prompt_id: str
    slice: str
    model: str
    values: dict[str, float | None]

    def as_json(self) -> dict[str, Any]:
        """The row, flat."""
        row = {"response_id": self.response_id, "prompt_id": self.prompt_id, "slice": self.slice, "model": self.model}
        return row | self.values


def read_scores(run: RunFolder) -> Iterator[ScoreRow]:
    """The rows of evaluate/scores.jsonl; none where there is no such file. What is no number is left out."""
    path = run.file("evaluate", "scores.jsonl")
    for _, row in read_json_lines(path, drop_broken_tail=True) if path.exists() else ():
        names = [str(row.pop(name, "")) for name in ("response_id", "prompt_id", "slice", "model")]
        values = {name: value for name, value in row.items() if value is None or isinstance(value, int | float)}
        yield ScoreRow(names[0], names[1], names[2], names[3], values)
