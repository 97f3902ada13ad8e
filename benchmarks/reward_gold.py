"""Does the reward model see what gold measures? Its score on the held-out answers of a run, beside each gold measure:

    python benchmarks/reward_gold.py RUN [RUN ...]

Accuracy on held-out labels says how well a reward model tells apart answers that were made to differ. PPO climbs its
score among the policy's own answers, which differ less. So: per model and slice the mean score, its deviation, and the
correlation with each measure of `evaluate/scores.jsonl`. A gain of d deviations of the score is worth about d times the
correlation, in deviations of the measure.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from machine import machine

import rlaif
from rlaif.core.evaluation import read_scores
from rlaif.core.files import RunFolder
from rlaif.lm.local.load import load_model
from rlaif.training.rewards.model import RewardModel


def main() -> None:
    parser = argparse.ArgumentParser(description="The reward model's score beside gold, on held-out answers.")
    parser.add_argument("runs", type=Path, nargs="+", help="run folders with reward and evaluate")
    parser.add_argument("--measures", default="sentiment,relevance,finished,words")
    asked = parser.parse_args()
    names = asked.measures.split(",")
    print(machine())
    print(f"\n| run | answers of | slice | score | sd | {' | '.join(f'r with {name}' for name in names)} |")
    print("|---" * (5 + len(names)) + "|")
    for path in asked.runs:
        run = rlaif.open_run(path)
        prompts = {prompt.id: prompt for prompt in run.prompts("held_out")}
        rows = {row.response_id: row for row in read_scores(RunFolder(path))}
        base = load_model(run.config.model, tuple(path / stage / "adapter" for stage in run.config.start))
        reward = RewardModel.load(path / "reward" / "adapter", base)
        answers = run.responses()
        found = reward.score_texts(
            [prompts[answer.prompt_id] for answer in answers],
            [answer.text for answer in answers],
            [answer.finish == "stop" for answer in answers],
        )
        for model in dict.fromkeys(answer.model for answer in answers):
            for part in dict.fromkeys(prompt.slice for prompt in prompts.values()):
                chosen = [
                    (score, rows[answer.id].values)
                    for score, answer in zip(found, answers, strict=True)
                    if answer.model == model and prompts[answer.prompt_id].slice == part
                ]
                scores = np.array([score for score, _ in chosen])
                cells = [_correlation(scores, [values.get(name) for _, values in chosen]) for name in names]
                facts = [path.name, model, part, f"{scores.mean():.2f}", f"{scores.std():.2f}", *cells]
                print(f"| {' | '.join(facts)} |")


def _correlation(scores: np.ndarray, values: list[float | None]) -> str:
    known = [(score, value) for score, value in zip(scores, values, strict=True) if value is not None]
    if len(known) < 3 or len({value for _, value in known}) < 2:
        return "-"
    return f"{np.corrcoef(np.array(known, dtype=float).T)[0, 1]:+.2f}"


if __name__ == "__main__":
    main()
