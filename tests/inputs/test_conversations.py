"""Turns of a conversation, however a line spells them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlaif.core.errors import DataError
from rlaif.core.records import Message
from rlaif.inputs.conversations import prompt_of
from tests.inputs.lines import BOT, COLD, HELLO, HUMAN, KIND, WARM, better, only


def test_a_conversation_keeps_its_turns(tmp_path: Path) -> None:
    talk = [{"role": "system", "content": "Be kind."}, *HELLO, *WARM, {"role": "user", "content": "Who are you?"}]
    pair = only(tmp_path, {"chosen": talk + WARM, "rejected": talk + COLD, "slice": "chat", "tags": ["x"]})
    assert [m.role for m in pair.comparison.prompt.messages] == ["system", "user", "assistant", "user"]
    assert (pair.comparison.prompt.slice, pair.comparison.prompt.tags) == ("chat", ("x",))
    assert better(pair) == "Welcome!"


def test_a_transcript_becomes_its_turns(tmp_path: Path) -> None:
    before = f"{HUMAN} Hello{BOT} Welcome!{HUMAN} Who{HUMAN} are you?\n\nBe brief.{BOT}"
    pair = only(tmp_path, {"chosen": f"{before} A model.", "rejected": f"{before} Human: guess."})
    assert [(m.role, m.content) for m in pair.comparison.prompt.messages] == [
        ("user", "Hello"), ("assistant", "Welcome!"), ("user", "Who\n\nare you?\n\nBe brief."),
    ]  # fmt: skip
    assert {pair.comparison.a.text, pair.comparison.b.text} == {"A model.", "Human: guess."}
    assert better(pair) == "A model."


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Hello", "chosen": KIND + HELLO + WARM, "rejected": KIND + HELLO + COLD},
        {"prompt": "Hello", "chosen": KIND + HELLO + WARM, "rejected": "What?"},
        {"prompt": KIND + HELLO, "chosen": HELLO + WARM, "rejected": KIND + COLD},
        {"prompt": "Hello", "system": "Be kind.", "chosen": "Welcome!", "rejected": "What?"},
        {"prompt": KIND + HELLO, "system": "Be kind. ", "chosen": "Welcome!", "rejected": "What?"},
        {"system": "Be kind.", "chosen": HELLO + WARM, "rejected": HELLO + COLD},
    ],
)
def test_a_system_message_is_part_of_the_prompt_wherever_it_stands(tmp_path: Path, row: dict[str, Any]) -> None:
    pair = only(tmp_path, row)
    assert pair.comparison.prompt.messages == (Message("system", "Be kind."), Message("user", "Hello"))
    assert better(pair) == "Welcome!"


def test_a_prompt_that_both_answers_repeat_is_taken_off(tmp_path: Path) -> None:
    row = {
        "prompt": "How far is the moon? ",
        "chosen": "How far is the moon? Far.",
        "rejected": "How far is the moon?\nNo",
    }
    pair = only(tmp_path, row)
    assert (better(pair), {pair.comparison.a.text, pair.comparison.b.text}) == ("Far.", {"Far.", "No"})
    for kept in ({**row, "rejected": "No"}, {"prompt": "Hello", "chosen": "Hello you", "rejected": "Hello there"}):
        pair = only(tmp_path, kept)
        assert {pair.comparison.a.text, pair.comparison.b.text} == {kept["chosen"], kept["rejected"]}


@pytest.mark.parametrize(
    "turns",
    [
        [{"role": "assistant", "content": "I look.", "tool_calls": [{"id": "1", "function": {"name": "f"}}]}],
        [{"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "f"}}]}],
        [{"role": "assistant", "content": "I look.", "function_call": {"name": "f"}}],
        [{"role": "tool", "content": "7", "tool_call_id": "1"}],
    ],
)
def test_turns_of_tools_are_refused_and_never_dropped(turns: list[dict[str, Any]]) -> None:
    with pytest.raises(DataError, match="is a call of a tool") as caught:
        prompt_of({"messages": [*HELLO, *turns, *HELLO]})
    assert "messages.1" in str(caught.value)


def test_fields_of_tools_that_are_empty_are_none() -> None:
    said = {**WARM[0], "tool_calls": None, "function_call": None}
    assert len(prompt_of({"messages": [*HELLO, said, *HELLO]})[0]) == 3
    assert len(prompt_of({"messages": [*HELLO, {**said, "tool_calls": []}, *HELLO]})[0]) == 3
