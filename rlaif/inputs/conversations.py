"""A prompt, or a prompt and two answers to it, in whatever way a row of a file writes them.

Each is a text, a list of messages or a transcript ("\\n\\nHuman: ...\\n\\nAssistant: ...", as in hh-rlhf). Answers may
repeat the conversation before them; where it is in messages or a transcript, `prompt` is not needed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, get_args

from rlaif.core.errors import DataError
from rlaif.core.records import Message, Role

_ROLES: tuple[str, ...] = get_args(Role)

FEW_WORDS = 5
"""From so many words on, a prompt with which both answers begin is one that they repeat."""
_WRITE = 'write {"prompt": "..."} or {"messages": [{"role": "user", "content": "..."}]}'
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


def prompt_of(row: dict[str, Any]) -> tuple[tuple[Message, ...], str]:
    """The prompt of a row that is asked for nothing else, and the answer that stood behind it, "" for none.

    It is `prompt`, or `messages`, or in a row of preferences what `chosen` has before its last message. DataError names
    the field that is wrong.
    """
    given = {key: row[key] for key in ("prompt", "messages") if row.get(key) is not None}
    if len(given) > 1:
        raise DataError(
            'has both "prompt" and "messages"', remedy="keep the one that the model is to answer; rename the other"
        )
    if given:
        ((key, value),) = given.items()
        turns = _prompt_turns(value, key)
    elif row.get("chosen") is not None and not _stands_alone(row["chosen"]):
        key, turns = "chosen", _side(row["chosen"], "chosen")[:-1]
    elif "prompt" in row or "messages" in row:
        raise DataError("must be text, not null", where="prompt" if "prompt" in row else "messages", remedy=_WRITE)
    else:
        there = f"; it has {', '.join(map(str, row))}" if row else ""
        raise DataError(f'has neither "prompt" nor "messages"{there}', remedy=_WRITE)
    answer = ""
    if len(turns) > 1 and turns[-1].role == "assistant":
        turns, answer = turns[:-1], turns[-1].content
    system, rest = _split(turns)
    if row.get("system") not in (None, ""):
        named = (Message("system", filled_text(row["system"], "system", "a system message")),)
        if system and system != named:
            raise DataError("differs from the system message of the conversation", where="system", remedy="keep one")
        system = named
    return _checked((*system, *rest), key), answer


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


def _prompt(value: Any) -> tuple[Message, ...]:
    return _checked(_prompt_turns(value, "prompt"), "prompt")


def _prompt_turns(value: Any, key: str) -> tuple[Message, ...]:
    """The turns of a prompt, whoever has the last word."""
    if isinstance(value, list):
        return read_messages(value, key)
    if key == "messages":
        raise DataError(f"must be a list of messages, not {type(value).__name__}", where=key, remedy=_WRITE)
    text = filled_text(value, key, "a prompt")
    turns = _transcript(text) or (Message("user", text),)
    return turns if turns[-1].content else turns[:-1]  # a transcript may end with "Assistant:"


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


# --- texts and messages ---------------------------------------------------------------------------------------------


def filled_text(value: Any, where: str, kind: str) -> str:
    """The text in a field of a JSON line; DataError, pointing at `where`, if it is none, blank or broken Unicode.

    `kind` says in words what belongs there, such as "a prompt".
    """
    if not isinstance(value, str):
        raise DataError(f"must be text, not {type(value).__name__}", where=where, remedy="put it in quotes")
    if not value.strip():
        raise DataError("is blank", where=where, remedy=f"write {kind} or remove the line")
    if not value.isprintable() and any("\ud800" <= char <= "\udfff" for char in value):
        raise DataError("holds half of a surrogate pair", where=where, remedy="remove the broken \\ud... escape")
    return value


def read_messages(value: Any, where: str) -> tuple[Message, ...]:
    """The messages in a field of a JSON line, whoever they are by; DataError where one is no message."""
    if not isinstance(value, list) or not value:
        raise DataError("must be a list of messages", where=where, remedy='[{"role": "user", "content": "..."}]')
    messages = []
    for index, item in enumerate(value):
        at = f"{where}.{index}"
        if not isinstance(item, dict):
            raise DataError("must be an object", where=at, remedy='{"role": "user", "content": "..."}')
        if item.get("role") in ("tool", "function") or item.get("tool_calls") or item.get("function_call"):
            raise DataError(
                "is a call of a tool, or what came of one, and a prompt has neither here",
                where=at,
                remedy="write call and result into the turns of user and assistant, as text, or leave the row out",
            )
        if item.get("role") not in _ROLES:
            raise DataError(
                f"role must be one of {', '.join(_ROLES)} (given: {item.get('role')!r})", where=f"{at}.role"
            )
        messages.append(Message(item["role"], filled_text(item.get("content"), f"{at}.content", "a message")))
    return tuple(messages)


def _checked(messages: tuple[Message, ...], where: str) -> tuple[Message, ...]:
    """The messages of a prompt: an optional system message, then user and assistant in turn, the user last. DataError
    for any others."""
    for index, message in enumerate(messages):
        filled_text(message.content, f"{where}.{index}.content", "a message")
    if messages[-1].role != "user":
        raise DataError(
            f"the last message is by the {messages[-1].role}, not by the user",
            where=where,
            remedy="end with what the model is to answer; leave out the answer",
        )
    turns = messages[1:] if messages[0].role == "system" else messages
    for index, message in enumerate(turns):
        if message.role != ("user", "assistant")[index % 2]:
            raise DataError(
                f"message {len(messages) - len(turns) + index + 1} is out of turn: {message.role}",
                where=where,
                remedy="after an optional first system message, user and assistant take turns",
            )
    return messages
