"""A server that samples for PPO, in token ids: vLLM's dialect of the OpenAI protocol.

1. Prompts go out as ids and responses come back as ids (`return_token_ids`), with the log-prob of each one: a text
   that is decoded and encoded anew would be other tokens.
2. Every response is a request with a seed of its own. All that would bend the distribution is set, for a server fills
   in what the model's saved generation config says.
3. LoRA adapters are loaded and unloaded by name, from a folder that the server can read.
4. What may pass is tried again (connection.py). Whatever is left is a BackendError: a rollout cannot be missing. So is
   an answer that is not what was asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from rlaif.core.errors import BackendError
from rlaif.core.records import FinishReason
from rlaif.lm.server.connection import Connection, NoAnswer, Refused
from rlaif.lm.server.credentials import shown
from rlaif.lm.server.replies import Logprob, shorten

T = TypeVar("T")

KEY_ENV = "VLLM_API_KEY"
"""Where vLLM itself looks for the key that it asks of its clients."""
MOST_IN_FLIGHT = 256
LASTING = (500,)
"""Status codes that no other try mends: 500 is what vLLM says of an adapter that it cannot load."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A response as the server sampled it. With finish "stop" the last id is an end token."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: FinishReason


class _RolloutLogprobs(BaseModel):
    token_logprobs: list[Logprob] | None = None


class _RolloutChoice(BaseModel):
    finish_reason: str | None = None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None
    logprobs: _RolloutLogprobs | None = None


class _RolloutCompletion(BaseModel):
    choices: list[_RolloutChoice] = Field(min_length=1)


class _Model(BaseModel):
    id: str


class _Models(BaseModel):
    data: list[_Model]


class RolloutServer:
    """A server at `url` (ending in /v1). `timeout` is in seconds, for the whole of a try; `remedy` is what every error
    tells the user to do, such as the command that starts the server."""

    def __init__(self, url: str, *, timeout: float, remedy: str, max_retries: int = 5) -> None:
        self.url, self.remedy = shown(url), remedy
        self._connection = Connection(
            url,
            field="ppo.server_url",
            key_env=KEY_ENV,
            timeout=timeout,
            max_retries=max_retries,
            most=MOST_IN_FLIGHT,
        )

    def models(self) -> list[str]:
        """Names of what is served, adapters among them; asked once, for a server that is not there yet is no fault."""
        try:
            text = self._wait(self._ask("/models", None, most=1))
            return [model.id for model in _Models.model_validate_json(text).data]
        except (Refused, ValidationError) as problem:
            raise self._error(f"the server does not say what it serves ({shorten(str(problem))})") from None

    def load_adapter(self, name: str, path: str) -> None:
        """Makes the adapter in the folder `path`, as the server sees it, available as the model `name`.

        A name that is loaded already is taken to have these weights. Raises BackendError where the server cannot.
        """
        try:
            self._wait(self._ask("/load_lora_adapter", {"lora_name": name, "lora_path": path}))
        except Refused as problem:
            if "already been loaded" not in str(problem):
                raise self._error(f"the server does not load the policy's adapter {path} ({problem})") from None

    def unload_adapter(self, name: str) -> None:
        """Frees the adapter's memory on the server. That it says no is no error: no request names it again, and vLLM
        says no also of one that it has pushed out of its memory itself."""
        with suppress(Refused):
            self._wait(self._ask("/unload_lora_adapter", {"lora_name": name}))

    def sample(
        self,
        model: str,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        temperature: float,
        seeds: Sequence[int],
        ends: Sequence[int],
    ) -> list[Drawn]:
        """One response to each prompt, in order, from the whole distribution of `model` at `temperature`."""
        shared = {
            "model": model,
            "max_tokens": max_new_tokens,
            "temperature": temperature,
            **{"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0},
            **{"logprobs": 1, "return_token_ids": True},
            **{"stop_token_ids": list(ends), "include_stop_str_in_output": True},
        }

        async def one(prompt: Sequence[int], seed: int) -> Drawn:
            # some servers keep seeds in 32 bits
            body = {**shared, "prompt": list(prompt), "seed": seed & 0x7FFFFFFF}
            return _drawn(await self._ask("/completions", body), prompt, max_new_tokens, ends)

        async def all_of_them() -> list[Drawn]:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(*each)) for each in zip(prompts, seeds, strict=True)]
            return [task.result() for task in tasks]

        try:
            return self._wait(all_of_them())
        except BaseExceptionGroup as problems:
            first = problems.exceptions[0]
            if isinstance(first, Refused):
                raise self._error(f"the server does not sample ({first})") from None
            if isinstance(first, ValueError):
                raise self._error(str(first)) from None
            raise first from None

    def close(self) -> None:
        self._connection.close()

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        future = self._connection.loop.start(work)
        try:
            return future.result()
        finally:
            future.cancel()

    def _error(self, what: str) -> BackendError:
        return BackendError(what, where=self.url, remedy=self.remedy)

    async def _ask(self, path: str, body: dict[str, Any] | None, *, most: int | None = None) -> str:
        """What the server answers to a POST of `body`, or to a GET where there is none, within `most` tries. Raises
        BackendError where there is no answer, Refused where the server says no."""
        try:
            return await self._connection.send(path, body, str, tries=most, lasting=LASTING)
        except NoAnswer as problem:
            if problem.too_long is not None:
                raise self._error(str(problem)) from None
            raise self._error(f"no answer from the server ({problem.reason}), {problem.tried}") from None


def _drawn(text: str, prompt: Sequence[int], max_new_tokens: int, ends: Sequence[int]) -> Drawn:
    """The response in the body of a completion; `ValueError` says what is not as it was asked for."""
    try:
        choice = _RolloutCompletion.model_validate_json(text).choices[0]
    except ValidationError as problem:
        first = problem.errors()[0]
        place = ".".join(map(str, first["loc"])) or "answer"
        raise ValueError(f"the server's answer is malformed at {place}: {first['msg']}") from None
    if choice.token_ids is None:
        raise ValueError("the server does not return the ids of the sampled tokens (return_token_ids)")
    ids = tuple(choice.token_ids)
    if choice.prompt_token_ids is not None and choice.prompt_token_ids != list(prompt):
        raise ValueError("the server changes the ids of the prompt")
    logprobs = choice.logprobs.token_logprobs if choice.logprobs is not None else None
    if logprobs is None or len(logprobs) != len(ids):
        raise ValueError("the server does not return a log-prob for each sampled token")
    if choice.finish_reason not in ("stop", "length"):
        raise ValueError(f"the server ends a response for the reason {choice.finish_reason!r}")
    if not ids or any(token in ends for token in ids[:-1]) or len(ids) > max_new_tokens:
        raise ValueError(f"the server samples on after an end token, beyond {max_new_tokens} tokens, or nothing at all")
    if ids[-1] in ends:
        return Drawn(ids, tuple(logprobs), "stop")
    if choice.finish_reason == "stop":
        raise ValueError("the server cuts the end token off a response, or ends it at something else")
    if len(ids) < max_new_tokens:
        raise ValueError(f"the server cuts a response at {len(ids)} of {max_new_tokens} tokens")
    return Drawn(ids, tuple(logprobs), "length")
