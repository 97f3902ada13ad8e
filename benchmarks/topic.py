"""How much the answers of a run's evaluation tell of their questions, in nats, by what gold says of them:

    python benchmarks/topic.py runs/my

For every model the mean over its everyday answers of log p(answer | its prompt) - log p(answer | another prompt) under
SFT: over all tokens, over those that the prompt does not contain, of which `ppo.reward: on_topic` wants
`ppo.on_topic_nats`, and the latter apart for answers that gold relevance calls on or off topic.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from statistics import mean

import torch
from machine import machine

import rlaif
from rlaif.core.files import read_json_lines
from rlaif.lm.local.load import encode_text, load_tokenizer, resolve
from rlaif.lm.protocol import ScoreRequest
from rlaif.training.rewards.topic import new_tokens, other_prompts


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
        policy.ask([ScoreRequest(which[a.prompt_id].messages, a.text, temperature=at) for a in answers])
        for which in (prompts, others)
    )
    tokenizer = load_tokenizer(resolve(run.config.model.source)[0])
    rows = read_json_lines(asked.run / "evaluate" / "scores.jsonl")
    relevant = {row["response_id"]: row["relevance"] > 0.5 for _, row in rows}
    found: dict[str, list[tuple[float, float, bool]]] = defaultdict(list)
    for answer, one, two in zip(answers, own, other, strict=True):
        gains = torch.tensor(one.token_logprobs) - torch.tensor(two.token_logprobs)
        ids = encode_text(tokenizer, answer.text)
        new = new_tokens([prompts[answer.prompt_id]], [ids], lambda token: str(tokenizer.decode([token])))[0]
        found[answer.model].append((float(gains.sum()), float(gains[new].sum()), relevant[answer.id]))
    print(f"{machine()}\n\n| model | answers | nats | of new words | off topic by gold | on topic |")
    print("|---|---|---|---|---|---|")
    for model, told in found.items():
        apart = [[new for _, new, on in told if on is wanted] for wanted in (False, True)]
        cells = [f"{mean(part):.1f} ({len(part)})" if part else "-" for part in apart]
        whole, new = (mean(row[place] for row in told) for place in (0, 1))
        print(f"| {model} | {len(told)} | {whole:.1f} | {new:.1f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
