"""Best of n: what the reward does without any training, as a control of PPO in `evaluate`.

SFT answers each held-out prompt n times, and the answer stays that the reward of `ppo` scores highest: all its sources
with their weights, less `ppo.missing_eos_penalty` where the answer was cut off. A judge as the reward compares with the
answers that SFT gives to the same prompt in this evaluation, since `label` has sampled none to held-out prompts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache, partial

import torch

from rlaif.core.records import Prompt, Response
from rlaif.inputs.columns import column_names
from rlaif.lm.local.load import encode_text, load_model, load_tokenizer, resolve
from rlaif.lm.open import OnDemand
from rlaif.lm.protocol import ScoreRequest
from rlaif.stages.context import StageContext
from rlaif.stages.resume import chunks, resume
from rlaif.training.ppo.rollout import Rollouts
from rlaif.training.rewards.by_judge import JudgeReward
from rlaif.training.rewards.model import RewardModel
from rlaif.training.rewards.sources import Rewards
from rlaif.training.rewards.topic import new_tokens, other_prompts, topic_scores


def choose(
    context: StageContext, prompts: Sequence[Prompt], candidates: Sequence[Response], references: Sequence[Response]
) -> list[Response]:
    """The best of the candidates for each prompt that has any, in the order of the prompts; from
    evaluate/responses.jsonl where it is there. `references`: SFT's own answers, for a judge to compare with."""
    given, beside = _by_prompt(candidates), _by_prompt(references)
    if context.config.ppo.scored_by("judge"):
        given = {prompt_id: rows for prompt_id, rows in given.items() if prompt_id in beside}

    @cache
    def reward() -> Reward:
        return Reward(context, beside)

    def work(chunk: Sequence[Prompt]) -> list[Response]:
        rows = [(prompt, row) for prompt in chunk for row in given[prompt.id]]
        best: dict[str, tuple[float, Response]] = {}
        for (prompt, row), score in zip(rows, reward().scores(rows), strict=True):
            if prompt.id not in best or score > best[prompt.id][0]:
                best[prompt.id] = score, row
        return [row for _, row in best.values()]

    plan, n = [prompt for prompt in prompts if prompt.id in given], context.config.evaluate.best_of
    with context.progress.task(f"best of {n}: reward", len(plan), "prompts") as task:
        return resume(
            chunks(plan, max(1, context.config.evaluate.batch_size // n)),
            files=(context.responses("evaluate"),),
            keys=lambda prompt: [(prompt.id, given[prompt.id][0].model)],
            key_of=lambda row: (row.prompt_id, row.model),
            work=work,
            task=task,
        )


class Reward:
    """The reward of `ppo`, on finished texts."""

    def __init__(self, context: StageContext, references: Mapping[str, Sequence[Response]]) -> None:
        self.config = context.config
        columns = column_names(context.held_out_prompts())
        self.rewards = Rewards.of_config(self.config.ppo, lambda: JudgeReward(context.judge(), references), columns)
        self.tokenizer = load_tokenizer(resolve(self.config.model.source)[0])
        self.others = other_prompts(context.held_out_prompts()) if self.rewards.by_topic else {}
        self.policy = OnDemand(partial(context.open_policy, context.start))
        names = self.config.reward.adapters if self.rewards.by_model else ()
        self.members = [  # each on a base of its own, which it changes
            RewardModel.load(context.run.file("reward", name), load_model(self.config.model, context.start))
            for name in names
        ]

    def scores(self, rows: Sequence[tuple[Prompt, Response]]) -> list[float]:
        """The score of each response to its prompt."""
        prompts, responses = [prompt for prompt, _ in rows], [response for _, response in rows]
        texts, ended = [response.text for response in responses], [response.finish == "stop" for response in responses]
        ids = [(*encode_text(self.tokenizer, text), *self._end(stop)) for text, stop in zip(texts, ended, strict=True)]
        rollouts = Rollouts(tuple(prompts), ((),) * len(rows), tuple(ids), tuple(row.finish for row in responses))
        size = self.config.model.batch_size
        members = [member.score_texts(prompts, texts, ended, size) for member in self.members]
        topic = self._topic(prompts, texts) if self.rewards.by_topic else None
        scored = self.rewards.scored(rollouts, texts, torch.tensor(members).T if members else None, topic)
        penalties = self.config.ppo.missing_eos_penalty * torch.tensor([not stop for stop in ended])
        return [float(score) for score in scored.scores - penalties]

    def _topic(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> torch.Tensor:
        """(B,) scores of `on_topic`, by SFT; NaN for a text that it cannot score."""
        own = self._logprobs(prompts, texts)
        other = self._logprobs([self.others[prompt.id] for prompt in prompts], texts)
        scores = torch.full((len(texts),), math.nan)
        for row, (one, two) in enumerate(zip(own, other, strict=True)):
            if one is not None and two is not None:
                ids = encode_text(self.tokenizer, texts[row])
                counts = new_tokens([prompts[row]], [ids], lambda token: str(self.tokenizer.decode([token])))
                found = topic_scores(torch.tensor([one]), torch.tensor([two]), counts, self.config.ppo.on_topic_nats)
                scores[row] = found[0, -1] if ids else -1.0
        return scores

    def _logprobs(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[tuple[float, ...] | None]:
        """Log-probs of each text's tokens after its prompt; None where there are none."""
        at = self.config.ppo.temperature
        asked = [ScoreRequest(p.messages, text, temperature=at) for p, text in zip(prompts, texts, strict=True)]
        return [answer.token_logprobs for answer in self.policy.ask(asked)]

    def _end(self, ended: bool) -> tuple[int, ...]:
        return (int(self.tokenizer.eos_token_id),) if ended else ()


def _by_prompt(responses: Sequence[Response]) -> dict[str, list[Response]]:
    found: dict[str, list[Response]] = {}
    for response in responses:
        found.setdefault(response.prompt_id, []).append(response)
    return found
