"""Where is gold lost: in the pairs, in their labels, or in the reward model? One row a predictor of gold:

    python benchmarks/reward_ceiling.py RUN [RUN ...] [--slice everyday] [--measure sentiment]

PPO climbs the reward model among the answers of the SFT policy, so these are what counts: fresh ones, to the prompts
of training and to the held-out ones. Each predictor is correlated with gold over the held-out answers, whole and within
prompts (both less their means over a prompt: what a policy can gain by other answers to the same prompts).

- reward model, judge (its margin under the first principle of the slice, by tokens' sum and mean), words, finished;
- ridge regressions on the SFT model's frozen mean states: of gold itself on the answers to the training prompts (what
  there is to learn), of gold on the pairs of the labels (what the pairs would teach), and of the labels (what they
  teach), all and of this slice alone.
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine
from sklearn.linear_model import Ridge

import rlaif
from rlaif.constitution.load import by_slice
from rlaif.core.records import PreferenceLabel, Prompt, Response, record_seed
from rlaif.core.statistics import logit
from rlaif.gold.scorers import load
from rlaif.inputs.templates import load_template
from rlaif.judge.methods import contrast
from rlaif.lm.local.load import LoadedModel, load_model
from rlaif.lm.protocol import GenerateRequest, Generation, ResponseLogprobs, ScoreRequest
from rlaif.training.rewards.model import RewardModel, encoded, frozen_states

Array = np.ndarray[Any, Any]
STRENGTHS = (300.0, 3000.0)


def main() -> None:
    parser = argparse.ArgumentParser(description="What predicts gold among the answers of the SFT policy.")
    parser.add_argument("runs", type=Path, nargs="+", help="run folders with reward")
    parser.add_argument("--slice", default="everyday")
    parser.add_argument("--measure", default="sentiment")
    parser.add_argument("--samples", type=int, default=5, help="answers a prompt")
    asked = parser.parse_args()
    print(machine())
    for path in asked.runs:
        _show(path, asked.slice, asked.measure, asked.samples)


def _show(path: Path, part: str, measure: str, samples: int) -> None:
    run = rlaif.open_run(path)
    table = run.config.label
    where = {
        prompt.id: (kind, prompt)
        for kind in ("train", "held_out")
        for prompt in run.prompts(kind)
        if prompt.slice == part
    }
    asked = [
        (prompt, record_seed(run.config.seed, "ceiling", prompt.id, k))
        for _, prompt in where.values()
        for k in range(samples)
    ]
    policy = run.policy("sft")
    given = policy.ask([GenerateRequest(p.messages, table.max_new_tokens, table.temperature, s) for p, s in asked])
    answers = [(prompt, found) for (prompt, _), found in zip(asked, given, strict=True) if found.text is not None]
    gold = _gold(measure, [prompt for prompt, _ in answers], [str(found.text) for _, found in answers])
    held = np.array([where[prompt.id][0] == "held_out" for prompt, _ in answers])
    prompts = np.array([prompt.id for prompt, _ in answers])

    loaded = load_model(run.config.model, tuple(path / stage / "adapter" for stage in run.config.start))
    states = _states(loaded, answers)
    scale = states[~held].std(0) + 1e-6
    labels = [label for label in run.labels() if label.prob_a is not None]
    own = np.array([label.comparison.prompt.slice == part for label in labels])
    first, second = (_states(loaded, [_side(label, side) for label in labels]) for side in "ab")
    gold_a, gold_b = (
        _gold(measure, [x.comparison.prompt for x in labels], [getattr(x.comparison, side).text for x in labels])
        for side in "ab"
    )
    differences, sides = (first - second) / scale, np.array([logit(_within(label.prob_a)) for label in labels])
    agrees = np.mean(((gold_a - gold_b) * sides > 0)[own & (gold_a != gold_b)])

    found: dict[str, Array] = {
        "words": np.array([len(str(answer.text).split()) for _, answer in answers], float),
        "finished": np.array([answer.finish == "stop" for _, answer in answers], float),
    }
    margins = _judged(run, part, answers)
    found["judge, sum over tokens"] = np.array([math.fsum(margin) for margin in margins])
    found["judge, mean over tokens"] = np.array([math.fsum(margin) / max(1, len(margin)) for margin in margins])
    fits: dict[str, tuple[Array, Array]] = {
        "gold of answers to training prompts": (
            _centred(states / scale, prompts)[~held],
            _centred(gold, prompts)[~held],
        ),
        "gold of the labels' pairs": (differences, gold_a - gold_b),
        "labels": (differences, sides),
        f"labels of {part} alone": (differences[own], sides[own]),
    }
    for name, (inputs, targets) in fits.items():
        for strength in STRENGTHS:
            weights = Ridge(alpha=strength, fit_intercept=False).fit(inputs, targets).coef_
            found[f"ridge {strength:g}: {name} ({len(targets)})"] = states / scale @ weights
    reward = RewardModel.load(path / "reward" / "adapter", loaded)
    found["reward model"] = np.array(reward.score_texts(*_columns(answers)))
    print(
        f"\n{path.name}: {len(answers)} answers of SFT, {measure} {gold.mean():.3f}, deviation {gold.std():.3f}; "
        f"gold agrees with {agrees:.0%} of {part}'s {own.sum()} labels\n"
    )
    print(f"| predictor of {measure} | r on held-out prompts | within them |\n|---|---|---|")
    for name, values in found.items():
        whole = _r(values[held], gold[held])
        print(f"| {name} | {whole} | {_r(_centred(values, prompts)[held], _centred(gold, prompts)[held])} |")


Answer = tuple[Prompt, Generation | Response]


def _side(label: PreferenceLabel, side: str) -> Answer:
    return label.comparison.prompt, getattr(label.comparison, side)


def _columns(answers: Sequence[Answer]) -> tuple[list[Prompt], list[str], list[bool]]:
    return (
        [prompt for prompt, _ in answers],
        [str(answer.text) for _, answer in answers],
        [answer.finish == "stop" for _, answer in answers],
    )


def _states(loaded: LoadedModel, answers: Sequence[Answer]) -> Array:
    rows = [encoded(loaded, p, text, finished=ended) for p, text, ended in zip(*_columns(answers), strict=True)]
    found: Array = frozen_states(loaded, rows)["mean"].numpy()
    return found


def _gold(measure: str, prompts: Sequence[Prompt], texts: Sequence[str]) -> Array:
    scorers, _ = load([measure])
    return np.array([np.nan if value is None else value for value in scorers[0].score(prompts, texts)], float)


def _judged(run: rlaif.Run, part: str, answers: Sequence[Answer]) -> list[list[float]]:
    """Per answer and token what it gains in log-probability where the principle is followed."""
    principle = by_slice(run.constitution, run.config.prompts)[part].principles[0]
    template = load_template(contrast.TEMPLATE, run.path / "templates")
    requests = [
        ScoreRequest(messages, str(answer.text))
        for prompt, answer in answers
        for messages in contrast.contexts(principle, prompt, template)
    ]
    found: list[ResponseLogprobs] = run.policy("base").ask(requests)
    return [
        [one - other for one, other in zip(followed.token_logprobs or (), violated.token_logprobs or (), strict=True)]
        for followed, violated in zip(found[::2], found[1::2], strict=True)
    ]


def _within(prob: float | None) -> float:
    return min(max(prob or 0.0, 0.01), 0.99)


def _centred(values: Array, prompts: Array) -> Array:
    """The values less the mean over their prompt's answers."""
    rows: dict[str, list[int]] = defaultdict(list)
    for place, prompt in enumerate(prompts):
        rows[prompt].append(place)
    result = np.array(values, float)
    for places in rows.values():
        result[places] -= result[places].mean(0)
    return result


def _r(one: Array, other: Array) -> str:
    known = np.isfinite(one) & np.isfinite(other)
    return f"{np.corrcoef(one[known], other[known])[0, 1]:+.2f}" if one[known].std() > 0 else "-"


if __name__ == "__main__":
    main()
