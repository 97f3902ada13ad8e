"""The trained stages (sft, reward, ppo, dpo) as curves over their steps, from metrics.jsonl and held_out.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from markupsafe import Markup

from rlaif.core.evaluation import HeldOut, HeldOutAccuracy
from rlaif.core.files import MetricsLog, RunFolder
from rlaif.core.records import Rollout
from rlaif.view.plots import Series, curve, reliability, stacked
from rlaif.view.text import is_known

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Curves:
    """The metrics of one stage: its plots (None where nothing was measured), and each number at first and last."""

    rows: int
    plots: list[Markup]
    first_and_last: list[tuple[str, float | None, float | None]]


def accuracies(held_out: HeldOut | None) -> list[HeldOutAccuracy]:
    """Who tells the held-out labels how often: the reward model, on all pairs and on parts of them, the probe, and the
    trivial predictors."""
    if held_out is None or held_out.pairs is None:
        return []
    low, high = held_out.accuracy_low, held_out.accuracy_high
    # The pairs whose label has a side, as in every other row; older files have no parts to tell them by.
    pairs = sum(row.pairs for row in held_out.parts.get("slice", ())) or held_out.pairs
    found = [HeldOutAccuracy("reward model", held_out.accuracy, low, high, pairs)]
    for kind, rows in held_out.parts.items():
        found += [replace(row, name=f"reward model, {kind} {row.name}") for row in rows] if len(rows) > 1 else []
    if held_out.probe is not None:
        found.append(replace(held_out.probe.held_out, name=f"probe, {held_out.probe.pooling} of the frozen states"))
    return [*found, *held_out.predictors]


def reliability_plot(held_out: HeldOut | None) -> Markup | None:
    """The reliability diagram of the held-out pairs."""
    if held_out is None:
        return None
    bins = [(b.predicted, b.labelled, b.n) for b in held_out.bins if is_known(b.predicted) and is_known(b.labelled)]
    return reliability("reliability", "Reliability on held-out pairs", bins)


def sft_curves(run: RunFolder) -> Curves:
    """Loss and, where logged, token accuracy."""
    rows = _rows(run, "sft")
    plots = [
        curve("sft-loss", "Loss (nats per token)", [_series(rows, "loss")]),
        curve("sft-accuracy", "Token accuracy", [_series(rows, "token_accuracy")]),
    ]
    return _curves(rows, plots)


def reward_curves(run: RunFolder) -> Curves:
    """Loss and accuracy on the training pairs; with `reward.patience` also the loss on the validation pairs."""
    rows = _rows(run, "reward")
    measured = [row for row in rows if "validation_loss" in row]
    validated = [_series(measured, "validation_loss")] if measured else []
    plots = [
        curve("reward-loss", "Loss (soft Bradley-Terry, nats)", [_series(rows, "loss"), *validated]),
        curve("reward-accuracy", "Accuracy on training pairs", [_series(rows, "accuracy")]),
    ]
    return _curves(rows, plots)


def ppo_curves(run: RunFolder, kl_target: float | None) -> Curves:
    """Everything one watches while PPO runs; the phases' seconds last."""
    rows = _rows(run, "ppo")
    phases = {name: [_value(row, f"seconds_{name}") for row in rows] for name in ("generate", "score", "optimise")}
    plots = [
        curve("ppo-score", "Score (mean ± sd)", [_series(rows, "score", spread="score_std")]),
        *_part_curves(rows),
        curve("ppo-kl", "KL to SFT (nats per response)", [_series(rows, "kl")], target=kl_target, from_zero=True),
        curve("ppo-kl-coef", "KL coefficient", [_series(rows, "kl_coef")], from_zero=True),
        curve("ppo-entropy", "Entropy (nats per token)", [_series(rows, "entropy")], from_zero=True),
        curve("ppo-length", "Length (tokens)", [_series(rows, "length")], from_zero=True),
        curve("ppo-eos", "Share of responses that ended", [_series(rows, "eos_rate")], from_zero=True),
        curve("ppo-clip", "Clip fraction", [_series(rows, "clip_fraction")], from_zero=True),
        curve("ppo-sampler", "KL of what sampled to the policy (nats per token)", [_series(rows, "sampler_kl")]),
        curve("ppo-variance", "Explained variance of the critic", [_series(rows, "explained_variance")]),
        curve("ppo-policy-loss", "Policy loss", [_series(rows, "policy_loss")]),
        curve("ppo-value-loss", "Value loss", [_series(rows, "value_loss")], from_zero=True),
        curve("ppo-grad", "Gradient norm", [_series(rows, "grad_norm")], from_zero=True),
        stacked("ppo-seconds", "Seconds per step by phase", _steps(rows), phases),
    ]
    return _curves(rows, plots)


def dpo_curves(run: RunFolder) -> Curves:
    """Loss, how often the policy agrees with the labels, and how far it moves towards and away from the answers."""
    rows = _rows(run, "dpo")
    rewards = [_series(rows, "reward_chosen"), _series(rows, "reward_rejected")]
    plots = [
        curve("dpo-loss", "Loss (nats)", [_series(rows, "loss")]),
        curve("dpo-accuracy", "Accuracy on training pairs", [_series(rows, "accuracy")]),
        curve("dpo-rewards", "beta x log-ratio to SFT of the answers", rewards),
    ]
    return _curves(rows, plots)


def _part_curves(rows: Sequence[Row]) -> list[Markup | None]:
    """Each source of the score where there are several, and how far the members of an ensemble differ."""
    first = rows[0] if rows else {}
    parts = [key for key in first if f"{key}_std" in first and key.startswith("score_")]
    disagreement = _series(rows, "disagreement")
    return [
        curve("ppo-parts", "Score by source, before weights", [_series(rows, key) for key in parts])
        if len(parts) > 1
        else None,
        curve("ppo-disagreement", "Disagreement of the reward models (sd)", [disagreement], from_zero=True),
    ]


def read_rollouts(run: RunFolder, limit: int) -> list[tuple[Rollout, Rollout]]:
    """(first, last) rollout of the prompts that were seen at both ends of the run, or of the first and last step's
    rows in file order where no prompt came back."""
    kept = run.rollouts().read()
    steps = sorted({rollout.step for rollout in kept})
    if len(steps) < 2:
        return []
    first = [rollout for rollout in kept if rollout.step == steps[0]]
    last = [rollout for rollout in kept if rollout.step == steps[-1]]
    later = {rollout.prompt_id: rollout for rollout in reversed(last)}
    same = [(rollout, later[rollout.prompt_id]) for rollout in first if rollout.prompt_id in later]
    return (same or list(zip(first, last, strict=False)))[:limit]


def _rows(run: RunFolder, stage: str) -> list[Row]:
    return MetricsLog(run.file(stage, "metrics.jsonl")).read()


def _steps(rows: Sequence[Row]) -> list[float]:
    steps = [_value(row, "step") for row in rows]
    return [float(index) if step is None else step for index, step in enumerate(steps)]


def _value(row: Row, key: str) -> float | None:
    value = row.get(key)
    return float(value) if isinstance(value, int | float) and is_known(value) else None


def _series(rows: Sequence[Row], key: str, *, spread: str | None = None) -> Series:
    band = [_value(row, spread) for row in rows] if spread is not None else None
    return Series(key, _steps(rows), [_value(row, key) for row in rows], band)


def _curves(rows: Sequence[Row], plots: Sequence[Markup | None]) -> Curves:
    keys = [key for key in dict.fromkeys(key for row in rows for key in row) if key != "step"]
    ends = [(key, _value(rows[0], key), _value(rows[-1], key)) for key in keys]
    return Curves(len(rows), [plot for plot in plots if plot is not None], ends)
