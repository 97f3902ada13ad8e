"""A prompt and two answers to it, in whatever way a line of a file writes them.

Each is a text, a list of messages or a transcript ("\\n\\nHuman: ...\\n\\nAssistant: ...", as in hh-rlhf). Answers may
repeat the conversation before them; where it is in messages or a transcript, `prompt` is not needed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from rlaif.core.errors import DataError
from rlaif.core.records import Message, Role
from rlaif.inputs.prompt_sets import filled_text, read_conversation, read_messages

FEW_WORDS = 5
"""From so many words on, a prompt with which both answers begin is one that they repeat."""
_OTHER_NAMES = ("question", "instruction", "query", "conversations", "conversation", "messages", "context", "input")
"""Where others keep what is `prompt` here."""
_TRANSCRIPT = re.compile(r"\s*Human:.*\n\nAssistant:", re.DOTALL)
_TURN = re.compile(r"\n\n(Human|Assistant):")


class ComparesNothing(DataError):
    """Raised for a line that is well formed and compares nothing, such as one with a blank answer."""


def conversation_of(row: dict[str, Any], keys: tuple[str, str]) -> tuple[tuple[Message, ...], str, str]:
    """The prompt of a line and its two answers, which may repeat the prompt or bring it along."""
    given = row.get("prompt")
    if given is None and all(_stands_alone(row[key]) for key in keys):
        raise _no_prompt(row, keys[0])
    sides = [_side(row[key], key) for key in keys]
    prompt = _implicit(keys, sides) if given is None else _prompt(given)
    own = [_split(side)[0] for side in (prompt, *sides)]
    if row.get("system") not in (None, ""):
        own.append((Message("system", filled_text(row["system"], "system", "a system message")),))
    systems = {
        message.content.strip(): message for before in reversed(own) for message in before
    }  # as the prompt has it
    if len(systems) > 1:
        raise ComparesNothing("the system messages of the prompt and the answers differ")
    first, second = (_answer(side, key, prompt) for side, key in zip(sides, keys, strict=True))
    return (*systems.values(), *_split(prompt)[1]), *_without_prompt(first, second, prompt)


def _split(messages: tuple[Message, ...]) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """The system message at the beginning, or none, and the other messages."""
    number = int(messages[0].role == "system")
    return messages[:number], messages[number:]


def _stands_alone(value: Any) -> bool:
    """Whether this is an answer without any conversation before it."""
    if isinstance(value, str):
        return not _TRANSCRIPT.match(value)
    return isinstance(value, dict) or (isinstance(value, list) and len(value) < 2)


def _no_prompt(row: dict[str, Any], key: str) -> DataError:
    name = next((name for name in _OTHER_NAMES if name in row), None)
    if name is not None:
        return DataError(
            f"there is no prompt, but there is {name}",
            where=key,
            remedy=f"rename {name} to prompt: a text, or a list of messages with role and content",
        )
    return DataError(
        "there is no prompt, and answers that are plain texts do not bring one",
        where=key,
        remedy="add the prompt; where the answers repeat it, keep the answer alone",
    )


def _implicit(keys: tuple[str, str], sides: Sequence[tuple[Message, ...]]) -> tuple[Message, ...]:
    """The conversation that both sides share, for a line without a prompt."""
    for side, key in zip(sides, keys, strict=True):
        if side[-1].role != "assistant":
            raise ComparesNothing(f"{key} does not end with the assistant's answer")
    if not _same(sides[0][:-1], sides[1][:-1]):
        raise ComparesNothing(f"{keys[0]} and {keys[1]} do not share the conversation before their last message")
    return _checked(sides[0][:-1], keys[0])


def _same(one: Sequence[Message], other: Sequence[Message]) -> bool:
    """Whether these are the same turns, whatever space stands around them."""
    return [(m.role, m.content.strip()) for m in one] == [(m.role, m.content.strip()) for m in other]


def _without_prompt(first: str, second: str, prompt: tuple[Message, ...]) -> tuple[str, str]:
    """Both texts without the prompt, where both repeat it before the answer. A prompt of few words is none that is
    repeated: answers to "Hello" begin with it."""
    asked = prompt[-1].content.strip()
    again = re.compile(rf"\s*{re.escape(asked)}\s+(?=\S)")
    found = [again.match(text) for text in (first, second)]
    if len(asked.split()) < FEW_WORDS or not all(found):
        return first, second
    one, other = (text[match.end() :] for text, match in zip((first, second), found, strict=True) if match is not None)
    return one, other


def _side(value: Any, key: str) -> tuple[Message, ...]:
    """The messages of one side, the answer last; a text that is a transcript has several."""
    if isinstance(value, list) and value and all(isinstance(text, str) for text in value):
        raise DataError(f"is a list of {len(value)} texts", where=key, remedy="write a line for each pair of answers")
    if isinstance(value, dict):
        value = [value]
    last = (
        value[-1].get("content", False) if isinstance(value, list) and value and isinstance(value[-1], dict) else value
    )
    if last is None or (isinstance(last, str) and not last.strip()):
        raise ComparesNothing(f"{key} is blank")
    if isinstance(value, list):
        return read_messages(value, key)
    text = filled_text(value, key, "an answer")
    turns = _transcript(text) or (Message("assistant", text),)
    if not all(turn.content for turn in turns):
        raise ComparesNothing(f"{key} {'has a blank turn' if turns[-1].content else 'is blank'}")
    return turns


def _transcript(text: str) -> tuple[Message, ...]:
    """The turns of a text like "\\n\\nHuman: ...\\n\\nAssistant: ..." (hh-rlhf), () for any other. Turns of one speaker
    in a row are one."""
    if not _TRANSCRIPT.match(text):
        return ()
    turns: list[Message] = []
    _, *parts = _TURN.split(f"\n\n{text.strip()}")
    for speaker, said in zip(parts[::2], parts[1::2], strict=True):
        role: Role = "user" if speaker == "Human" else "assistant"
        before = f"{turns.pop().content}\n\n" if turns and turns[-1].role == role else ""
        turns.append(Message(role, f"{before}{said.strip()}".strip()))
    return tuple(turns)


def _checked(messages: tuple[Message, ...], where: str) -> tuple[Message, ...]:
    return read_conversation([{"role": m.role, "content": m.content} for m in messages], where)


def _prompt(value: Any) -> tuple[Message, ...]:
    if isinstance(value, list):
        return read_conversation(value, "prompt")
    text = filled_text(value, "prompt", "a prompt")
    turns = _transcript(text)
    if not turns:
        return (Message("user", text),)
    return _checked(turns if turns[-1].content else turns[:-1], "prompt")  # it may end with "Assistant:"


def _answer(side: tuple[Message, ...], key: str, prompt: tuple[Message, ...]) -> str:
    """The text of the one message behind the prompt, which may be repeated."""
    turns, rest = _split(prompt)[1], _split(side)[1]
    rest = rest[len(turns) :] if _same(rest[: len(turns)], turns) else rest
    if len(rest) != 1 or rest[0].role != "assistant":
        raise DataError(
            "must be one message by the assistant, behind the messages of the prompt or alone "
            f"(given: {', '.join(m.role for m in rest) or 'the prompt alone'})",
            where=key,
            remedy="what comes before the answer belongs into the prompt, word for word",
        )
    return rest[0].content
