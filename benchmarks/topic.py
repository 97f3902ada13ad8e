"""How much the answers of a run's evaluation tell of their questions, in nats, by what gold says of them:

    python benchmarks/topic.py runs/my

For every model the mean over its everyday answers of log p(answer | its prompt) - log p(answer | another prompt) under
SFT, which `ppo.reward: on_topic` asks 40 of, and the same apart for answers that gold relevance calls on or off topic.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from statistics import mean

from machine import machine

import rlaif
from rlaif.core.files import read_json_lines
from rlaif.lm.protocol import ScoreRequest
from rlaif.training.rewards.topic import other_prompts


def main() -> None:
    parser = argparse.ArgumentParser(description="Nats that answers tell of their prompts.")
    parser.add_argument("run", type=Path, help="a run with an evaluation whose gold has relevance")
    parser.add_argument("--slice", default="everyday")
    asked = parser.parse_args()
    run = rlaif.open_run(asked.run)
    prompts = {prompt.id: prompt for prompt in run.prompts("held_out") if prompt.slice == asked.slice}
    others = other_prompts(list(prompts.values()))
    answers = [answer for answer in run.responses() if answer.prompt_id in prompts and answer.text.strip()]
    policy, at = run.policy("sft"), run.config.ppo.temperature
    own, other = (
        [
            math.fsum(found.token_logprobs or ())
            for found in policy.ask(
                [ScoreRequest(which[a.prompt_id].messages, a.text, temperature=at) for a in answers]
            )
        ]
        for which in (prompts, others)
    )
    rows = read_json_lines(asked.run / "evaluate" / "scores.jsonl")
    relevant = {row["response_id"]: row["relevance"] > 0.5 for _, row in rows}
    print(f"{machine()}\n\n| model | answers | nats | off topic by gold | on topic |\n|---|---|---|---|---|")
    for model in dict.fromkeys(answer.model for answer in answers):
        nats = [
            (one - two, relevant[a.id]) for a, one, two in zip(answers, own, other, strict=True) if a.model == model
        ]
        apart = [[value for value, on in nats if on is wanted] for wanted in (False, True)]
        cells = [f"{mean(part):.1f} ({len(part)})" if part else "-" for part in apart]
        print(f"| {model} | {len(nats)} | {mean(value for value, _ in nats):.1f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
