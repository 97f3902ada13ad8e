"""A source of the reward as a callable `(prompts, completions) -> scores`, as other trainers take it.

TRL calls `reward(prompts=..., completions=..., completion_ids=..., **columns)`; what is not needed is ignored, and a
function of the user's gets the columns that it asks for. Others (verl, verifiers) ask about one answer at a time, from
many threads or coroutines: what is asked while a pass is at work is scored together in the next one.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from rlaif.config import RunConfig
from rlaif.core.errors import DataError, RlaifError
from rlaif.core.files import RunFolder
from rlaif.core.records import Failure, FinishReason, Message, Prompt, Response
from rlaif.judge.judge import Judge
from rlaif.lm.local.load import context_length, load_model
from rlaif.training.ppo.rollout import Rollouts
from rlaif.training.rewards.by_judge import JudgeReward
from rlaif.training.rewards.function import FunctionReward, import_function
from rlaif.training.rewards.model import RewardModel, row_length
from rlaif.training.rewards.sources import Rewards

Chat = str | Sequence[Mapping[str, str]]
"""A text, or messages such as {"role": "user", "content": "..."}."""
Said = float | Failure
"""A score, or why there is none."""
ROLES = ("system", "user", "assistant")


@dataclass(eq=False)
class Call:
    """What one caller asks, and in the end either `found` or the `problem`."""

    prompts: list[Prompt]
    texts: list[str]
    finished: list[bool]
    columns: Mapping[str, Any] = field(default_factory=dict)
    found: list[Said] | None = None
    problem: Exception | None = None


class PortableReward:
    """`reward(prompts, completions)`: a score for each completion, None where nothing can be said of it.

    Prompts and completions are texts or lists of messages. `finished` says which completions ended by themselves (all,
    where it is not given). It may be called from many threads, and be pickled: it is opened again where it is
    unpickled, so the run's folder must be there too. `about` says what scores.
    """

    def __init__(
        self, answer: Callable[[Sequence[Call]], None], name: str, opened: tuple[Any, ...], about: Mapping[str, Any]
    ) -> None:
        """`answer` fills in calls, `opened` is the function and its arguments that open this reward again."""
        self.__name__, self.about = name, dict(about)
        self._answer, self._opened = answer, opened
        self._waiting: list[Call] = []
        self._entering, self._scoring = threading.Lock(), threading.Lock()

    def __call__(
        self,
        prompts: Sequence[Chat],
        completions: Sequence[Chat],
        *,
        finished: Sequence[bool] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        found = self.scored(prompts, completions, finished=finished, **columns)
        return [None if isinstance(said, Failure) else said for said in found]

    async def awaited(self, prompts: Sequence[Chat], completions: Sequence[Chat], **given: Any) -> list[float | None]:
        """The same for a caller that goes on with other work meanwhile."""
        call = self._enter(prompts, completions, **given)
        found = await asyncio.to_thread(self._result, call)
        return [None if isinstance(said, Failure) else said for said in found]

    def scored(
        self,
        prompts: Sequence[Chat],
        completions: Sequence[Chat],
        *,
        finished: Sequence[bool] | None = None,
        **columns: Any,
    ) -> list[Said]:
        """The scores, with the reason where there is none."""
        return self._result(self._enter(prompts, completions, finished=finished, **columns))

    def __reduce__(self) -> tuple[Any, ...]:
        return self._opened

    def _enter(
        self,
        prompts: Sequence[Chat],
        completions: Sequence[Chat],
        *,
        finished: Sequence[bool] | None = None,
        **columns: Any,
    ) -> Call:
        if len(prompts) != len(completions) or len(completions) != len(completions if finished is None else finished):
            ended = "" if finished is None else f" and {len(finished)} in finished"
            raise DataError(
                f"{len(prompts)} prompts and {len(completions)} completions{ended} do not belong together",
                where="the reward",
                remedy="give one of each for each answer",
            )
        ends = [True] * len(completions) if finished is None else [bool(ended) for ended in finished]
        call = Call([_prompt(chat) for chat in prompts], [_text(chat) for chat in completions], ends, columns)
        with self._entering:
            self._waiting.append(call)
        return call

    def _result(self, call: Call) -> list[Said]:
        """What was found for the call: by whoever scored while it waited, or now, with all that wait by now."""
        with self._scoring:
            if call.found is None and call.problem is None:
                with self._entering:  # without it itself, if a pass that had taken it was interrupted
                    calls, self._waiting = list(dict.fromkeys([call, *self._waiting])), []
                self._answer(calls)
        if call.problem is not None:
            raise call.problem
        assert call.found is not None
        return call.found


def of_model(config: RunConfig, run: RunFolder, opened: tuple[Any, ...], about: Mapping[str, Any]) -> PortableReward:
    """The run's reward model, or what the config makes of an ensemble."""
    members = []
    for name in config.reward.adapters:  # each changes the base that it stands on
        base = load_model(config.model, tuple(run.file(stage, "adapter") for stage in config.start))
        members.append(RewardModel.load(run.file("reward", name), base))
    ensemble = Rewards((), config.ppo.reward_ensemble, config.ppo.reward_uncertainty)
    context = context_length(members[0].loaded.model)

    def scores(prompts: Sequence[Prompt], texts: Sequence[str], finished: Sequence[bool]) -> list[Said]:
        given = zip(prompts, texts, finished, strict=True)
        rows = [members[0].encode(prompt, text, finished=ended) for prompt, text, ended in given]
        found: list[Said] = [
            Failure("context_overflow", f"{row_length(row)} tokens, the reward model's context is {context}")
            for row in rows
        ]
        fit = [place for place, row in enumerate(rows) if row_length(row) <= context]
        if not fit:
            return found
        by_member = torch.tensor([member.scores_of([rows[place] for place in fit]) for member in members]).T
        for place, score in zip(fit, ensemble.of_members(by_member).tolist(), strict=True):
            found[place] = score if math.isfinite(score) else Failure("backend", f"the reward model says {score}")
        return found

    return PortableReward(_together(scores), "reward_model", opened, about)


def of_judge(
    judge: Judge, references: Mapping[str, Sequence[Response]], opened: tuple[Any, ...], about: Mapping[str, Any]
) -> PortableReward:
    """How surely the judge prefers an answer to the references of its prompt, which go by the prompt's id."""
    source = JudgeReward(judge, references)

    def opinions(prompts: Sequence[Prompt], texts: Sequence[str], finished: Sequence[bool]) -> list[Said]:
        for prompt in prompts:
            if prompt.id not in references:
                raise DataError(
                    f"there is no answer to compare with for the prompt {prompt.text[:200]!r}",
                    where="the judge as the reward",
                    remedy="take prompts that the run's label stage answered, or the reward model",
                )
        return source.opinions(prompts, [text.strip() for text in texts])  # as PPO shows them to it

    return PortableReward(_together(opinions), "judge_reward", opened, about)


def of_function(name: str) -> PortableReward:
    """The function "module:function", whatever names its parameters have."""
    plain = import_function(name)
    by_columns: dict[tuple[str, ...], FunctionReward] = {}

    def scores(call: Call) -> list[Said]:
        columns = dict(call.columns)
        ids = columns.pop("completion_ids", None)
        own = {k: v for k, v in columns.items() if isinstance(v, list | tuple) and len(v) == len(call.texts)}
        if tuple(own) not in by_columns:
            by_columns[tuple(own)] = FunctionReward(plain, name, tuple(own))
        none = ((),) * len(call.texts)
        given = none if ids is None else tuple(tuple(row) for row in ids)
        ended: list[FinishReason] = ["stop" if end else "length" for end in call.finished]
        rollouts = Rollouts(tuple(call.prompts), none, given, tuple(ended))
        found = by_columns[tuple(own)].scores(rollouts, call.texts, own).tolist()
        return [Failure("empty", f"{name} returned None") if math.isnan(score) else score for score in found]

    def answer(calls: Sequence[Call]) -> None:  # each call has columns of its own
        for call in calls:
            _answered(call, lambda call=call: scores(call))  # type: ignore[misc]

    return PortableReward(answer, name.rpartition(":")[2], (of_function, (name,)), {"source": name})


def _together(
    scores: Callable[[Sequence[Prompt], Sequence[str], Sequence[bool]], list[Said]],
) -> Callable[[Sequence[Call]], None]:
    """What answers many calls by one pass of `scores`."""

    def answer(calls: Sequence[Call]) -> None:
        prompts = [prompt for call in calls for prompt in call.prompts]
        texts = [text for call in calls for text in call.texts]
        finished = [ended for call in calls for ended in call.finished]
        if len(calls) > 1:
            try:
                found = iter(scores(prompts, texts, finished))
            except RlaifError:  # the one whom it concerns shall have it, and the others their scores
                pass
            else:
                for call in calls:
                    call.found = [next(found) for _ in call.texts]
                return
        for call in calls:
            _answered(call, lambda call=call: scores(call.prompts, call.texts, call.finished))  # type: ignore[misc]

    return answer


def _answered(call: Call, scores: Callable[[], list[Said]]) -> None:
    try:
        call.found = scores()
    except Exception as problem:
        call.problem = problem


def _prompt(chat: Chat) -> Prompt:
    if isinstance(chat, str):
        return Prompt.of_text(chat)
    messages = _messages(chat)
    if messages[-1].role != "user":
        raise _malformed(f"a prompt ends with the user's turn, and this one with {messages[-1].role!r}")
    return Prompt(messages)


def _text(chat: Chat) -> str:
    return chat if isinstance(chat, str) else _messages(chat)[-1].content


def _messages(chat: Any) -> tuple[Message, ...]:
    if not isinstance(chat, Sequence) or not chat or not all(isinstance(turn, Mapping) for turn in chat):
        raise _malformed(f"{repr(chat)[:100]} is neither a text nor a list of messages")
    for turn in chat:
        if turn.get("role") not in ROLES or not isinstance(turn.get("content"), str):
            raise _malformed(f"{repr(turn)[:100]} is no message of a role ({', '.join(ROLES)}) with a text as content")
    return tuple(Message(turn["role"], turn["content"]) for turn in chat)


def _malformed(what: str) -> DataError:
    return DataError(
        what, where="the reward", remedy='give texts, or lists such as [{"role": "user", "content": "..."}]'
    )
