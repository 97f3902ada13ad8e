"""A transformers model on this machine behind the language-model protocol."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, cast

from rlaif.core.memory import give_back
from rlaif.core.records import Failure, Message
from rlaif.lm.local.causal_lm import CausalLM, Decoder, PrefixCache, common_prefix, sample, target_logprobs
from rlaif.lm.local.cpu import engine
from rlaif.lm.local.decide import Decider
from rlaif.lm.local.load import LoadedModel, context_length, encode_chat, encode_text, end_ids
from rlaif.lm.local.packing import Row
from rlaif.lm.protocol import (
    A,
    ChoiceLogprobs,
    ChoiceRequest,
    DecisionRequest,
    Decisions,
    GenerateRequest,
    Generation,
    ModelAnswer,
    RequestFor,
    ResponseLogprobs,
    ScoreRequest,
    Usage,
)

ASKED_TOGETHER = 1024
"""Requests taken together: enough to find what they share, few enough that their token ids take little memory."""
TOKENS = 16
"""Tokens of a walk's forward pass for each sequence of `batch_size`: at 64 as many as make the products efficient."""


class LocalModel:
    """Samples and scores with one loaded model. Requests are batched inside a call; results keep order.

    On a CPU the engine of rlaif.lm.local.cpu takes part where the model fits. Its walker scores: it computes each
    beginning once, in this call and mostly in the next, and a score does not depend on what is asked beside it; without
    it requests stand in batches. Its decoder generates, from the first long answer on, and holds the weights a second
    time.
    """

    def __init__(self, loaded: LoadedModel, *, batch_size: int = 64) -> None:
        self.loaded: LoadedModel | None = loaded  # held until `close`: models of the same weights share it
        self.name, self.fingerprint, self.usage = loaded.name, loaded.fingerprint, Usage()
        self.tokenizer, self.batch_size = loaded.tokenizer, batch_size
        self.lm = CausalLM(loaded.model)
        self.prefixes = PrefixCache(self.lm)
        self.walker = engine.walker_for(self.lm, tokens=TOKENS * batch_size)
        self.ends = end_ids(loaded.tokenizer, loaded.model)
        self.context = context_length(loaded.model)

    def ask(self, requests: Sequence[RequestFor[A]]) -> list[A]:
        """One answer per request, in order. Requests of one kind are asked together."""
        asked: Sequence[Any] = requests
        found: dict[int, ModelAnswer] = {}
        for kind, answers in (
            (GenerateRequest, self._generations),
            (ChoiceRequest, self._choices),
            (ScoreRequest, self._responses),
            (DecisionRequest, self._decisions),
        ):
            places = [place for place, request in enumerate(asked) if isinstance(request, kind)]
            for start in range(0, len(places), ASKED_TOGETHER):
                part = places[start : start + ASKED_TOGETHER]
                found.update(zip(part, answers([asked[place] for place in part]), strict=True))
        return cast("list[A]", [found[place] for place in range(len(requests))])

    def _generations(self, requests: Sequence[GenerateRequest]) -> list[Generation]:
        """One sampled answer per request; a prompt that leaves no room for the answer is a context_overflow."""
        results: list[Generation | None] = [None] * len(requests)
        ready: dict[tuple[int, float], list[tuple[int, list[int]]]] = {}
        for index, request in enumerate(requests):
            ids = encode_chat(self.tokenizer, request.messages, request.prefix)
            if len(ids) + request.max_new_tokens > self.context:
                results[index] = Generation(None, "length", 0, self._overflow(len(ids) + request.max_new_tokens))
            else:
                ready.setdefault((request.max_new_tokens, request.temperature), []).append((index, ids))
        for (limit, temperature), rows in ready.items():
            rows.sort(key=lambda row: len(row[1]))
            for begin in range(0, len(rows), self.batch_size):
                batch = rows[begin : begin + self.batch_size]
                sampled = sample(
                    self.lm,
                    [ids for _, ids in batch],
                    max_new_tokens=limit,
                    temperature=temperature,
                    seeds=[requests[index].seed for index, _ in batch],
                    ends=self.ends,
                    prefixes=self.prefixes,
                    decoder=self.decoder if limit >= engine.WORTH_PACKING else None,
                )
                for (index, ids), answer in zip(batch, sampled, strict=True):
                    self.usage.prompt_tokens += len(ids)
                    self.usage.generated_tokens += len(answer.ids)
                    results[index] = self._generation(requests[index], answer.ids, answer.finish)
        self.usage.calls += len(requests)
        return [result for result in results if result is not None]

    @cached_property
    def decoder(self) -> Decoder | None:
        """What makes answers faster, if the model takes it."""
        return engine.decoder_for(self.lm, rows=self.batch_size)

    @cached_property
    def decider(self) -> Decider:
        """What answers typed questions."""
        assert self.loaded is not None
        return Decider(self.loaded, self.context)

    def _decisions(self, requests: Sequence[DecisionRequest]) -> list[Decisions]:
        """The probabilities of every option of each request's questions."""
        return self.decider.decide(requests, self.usage) if requests else []

    def close(self) -> None:
        """Lets go of the weights."""
        if self.loaded is not None:
            self.loaded = self.walker = None
            for made in ("decoder", "decider"):
                self.__dict__.pop(made, None)
            del self.lm, self.prefixes
            give_back()

    def _choices(self, requests: Sequence[ChoiceRequest]) -> list[ChoiceLogprobs]:
        """Summed log-probability of all tokens of each choice, for the very strings that prefix + choice encode to."""
        rows: list[Row] = []
        places: list[tuple[int, int]] = []
        results: list[ChoiceLogprobs | None] = [None] * len(requests)
        chats = self._chats(requests)
        for index, request in enumerate(requests):
            chat = chats[request.messages]
            tails = [encode_text(self.tokenizer, request.prefix + choice) for choice in request.choices]
            shared = min(len(common_prefix(tails)), max(0, min(map(len, tails)) - 1))
            longest = len(chat) + max(map(len, tails))
            if longest > self.context:
                results[index] = ChoiceLogprobs(None, self._overflow(longest))
                continue
            for choice, tail in enumerate(tails):
                rows.append((chat + tail[:shared], tail[shared:]))
                places.append((index, choice))
            self.usage.prompt_tokens += longest
        found: dict[int, list[float]] = {}
        for (index, _), values in zip(places, self._score(rows), strict=True):
            found.setdefault(index, []).append(float(values.sum()))
        for index, logprobs in found.items():
            results[index] = ChoiceLogprobs(tuple(logprobs))
        self.usage.calls += len(requests)
        return [result for result in results if result is not None]

    def _responses(self, requests: Sequence[ScoreRequest]) -> list[ResponseLogprobs]:
        """Log-probability of each token of each response; what requests share is computed once."""
        results: list[ResponseLogprobs | None] = [None] * len(requests)
        # requests under one system prompt stand in common batches
        groups: dict[tuple[float, str], list[tuple[int, Row]]] = {}
        chats = self._chats(requests)
        for index, request in enumerate(requests):
            chat = chats[request.messages]
            answer = encode_text(self.tokenizer, request.response)[: request.first_tokens]
            if not answer:
                results[index] = ResponseLogprobs(None, Failure("empty", "the response has no tokens"))
            elif len(chat) + len(answer) > self.context:
                results[index] = ResponseLogprobs(None, self._overflow(len(chat) + len(answer)))
            else:
                first = request.messages[0]
                key = first.content if first.role == "system" and self.walker is None else ""
                groups.setdefault((request.temperature, key), []).append((index, (chat, answer)))
                self.usage.prompt_tokens += len(chat)
                self.usage.scored_tokens += len(answer)
        for (temperature, _), group in groups.items():
            found = self._score([row for _, row in group], temperature)
            for (index, _), values in zip(group, found, strict=True):
                results[index] = ResponseLogprobs(tuple(values.tolist()))
        self.usage.calls += len(requests)
        return [result for result in results if result is not None]

    def _chats(
        self, requests: Sequence[ChoiceRequest] | Sequence[ScoreRequest]
    ) -> dict[tuple[Message, ...], list[int]]:
        """The token ids of each conversation; several requests mostly have the same one."""
        distinct = dict.fromkeys(request.messages for request in requests)
        return {messages: encode_chat(self.tokenizer, messages) for messages in distinct}

    def _score(self, rows: Sequence[Row], temperature: float = 1.0) -> list[Any]:
        """Log-probs of the targets; equal rows are computed once, so that rounding cannot tell them apart."""
        if not rows:
            return []
        if self.walker is not None:
            return self.walker.logprobs(rows, temperature)
        keys = [(tuple(context), tuple(target)) for context, target in rows]
        distinct = list(dict.fromkeys(keys))
        size = max(1, self.batch_size // 2)
        found = target_logprobs(self.lm, distinct, batch_size=size, prefixes=self.prefixes, temperature=temperature)
        values = dict(zip(distinct, found, strict=True))
        return [values[key] for key in keys]

    def _generation(self, request: GenerateRequest, ids: list[int], finish: Any) -> Generation:
        body = ids[:-1] if finish == "stop" else ids
        text = self.tokenizer.decode(body, skip_special_tokens=True)
        for stop in request.stop:
            if stop in text:
                text, finish = text[: text.index(stop)], "stop"
        # A cut may fall inside a character, which then decodes to U+FFFD.
        text = (text.rstrip("\ufffd") if finish == "length" else text).strip()
        if not text:
            return Generation(None, finish, len(ids), Failure("empty", "the model answered nothing"))
        return Generation(text, finish, len(ids))

    def _overflow(self, tokens: int) -> Failure:
        return Failure("context_overflow", f"{tokens} tokens do not fit the context of {self.context}")
