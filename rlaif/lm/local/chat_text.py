"""The messages and the answer of a chat that was already made into text, by the template of a model.

Some trainers pass on nothing else. What is found is written out again and compared, so a text of another template is
refused and never misread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, cycle
from typing import Any

from rlaif.core.errors import DataError
from rlaif.core.records import Message
from rlaif.lm.local.load import load_tokenizer, resolve
from rlaif.lm.markers import spans

MARKS = ("SYSTEM-0", "USER-1", "ASSISTANT-1", "USER-2")
"""What stands in the place of the turns where a template is read."""


@dataclass(frozen=True)
class ChatText:
    """Reads what the tokenizer's chat template wrote."""

    tokenizer: Any
    name: str

    @classmethod
    def of(cls, source: str) -> ChatText:
        """That of a model: a folder, an id of the hub, "embedded". Raises ModelError."""
        folder, name = resolve(source)
        return cls(load_tokenizer(folder), name)

    def messages(self, prompt: str) -> tuple[Message, ...]:
        """The turns of a prompt up to where the answer begins; a text without any token of a chat is one user turn.

        Raises DataError for a chat that the template has not written.
        """
        for head, separators, tail in self._shapes:
            if prompt.startswith(head) and prompt.endswith(tail) and len(prompt) >= len(head) + len(tail):
                parts = _split(prompt[len(head) : len(prompt) - len(tail)], separators)
                roles = chain(["system"] * (len(separators) == 3), cycle(("user", "assistant")))
                found = tuple(Message(role, part) for role, part in zip(roles, parts, strict=False))  # type: ignore[arg-type]
                if self._written(found) == prompt:
                    return found
        if spans(prompt, tuple(self.tokenizer.all_special_tokens)):
            raise DataError(
                f"{prompt[:200]!r} is no prompt of the chat template of {self.name}",
                where="prompts",
                remedy="have the template of the model that the other trainer trains read: --tokenizer MODEL",
            )
        return (Message("user", prompt),)

    def answer(self, query: str, prompt: str) -> tuple[str, bool]:
        """The answer behind the prompt in the text of both, and whether it ended by itself. Raises DataError where the
        text does not begin with the prompt."""
        if not query.startswith(prompt):
            raise DataError(
                f"the query {query[:100]!r} does not begin with its prompt {prompt[:100]!r}",
                where="query",
                remedy="raise the trainer's longest prompt: one that is cut off cannot be scored",
            )
        text = query[len(prompt) :]
        ended = text.rstrip().endswith(str(self.tokenizer.eos_token))
        for start, end in reversed(spans(text, tuple(self.tokenizer.all_special_tokens))):
            text = text[:start] + text[end:]
        return text, ended

    @cached_property
    def _shapes(self) -> list[tuple[str, tuple[str, ...], str]]:
        """(what stands before the first turn, between the turns in turn, after the last) without and with a system
        message; those that the template takes."""
        system, user, said, more = (
            Message(role, mark)  # type: ignore[arg-type]
            for role, mark in zip(("system", "user", "assistant", "user"), MARKS, strict=True)
        )
        found = []
        for turns in ((user, said, more), (system, user, said, more)):
            text, pieces = self._written(turns), []
            for turn in turns:
                before, mark, text = (text or "").partition(turn.content)
                pieces.append(before if mark else None)
            if text and None not in pieces:
                found.append((str(pieces[0]), tuple(map(str, pieces[1:])), text))
        return found

    def _written(self, messages: Sequence[Message]) -> str | None:
        """The text that the template makes of the messages; None where it refuses them."""
        rows = [{"role": turn.role, "content": turn.content} for turn in messages]
        try:
            return str(self.tokenizer.apply_chat_template(rows, tokenize=False, add_generation_prompt=True))
        except Exception:  # a template raises whatever it likes
            return None


def _split(text: str, separators: Sequence[str]) -> list[str]:
    """The text cut at the separators, of which the last two go on in turn."""
    parts = []
    for separator in chain(separators[:-2], cycle(separators[-2:])):
        part, found, text = text.partition(separator)
        parts.append(part)
        if not found:
            break
    return parts
