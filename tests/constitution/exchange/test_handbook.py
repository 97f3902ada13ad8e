"""The Alignment Handbook's lists of principles and chats."""

from __future__ import annotations

from pathlib import Path

from rlaif.core.records import PrincipleTest
from tests.constitution.exchange.samples import HANDBOOK, imported


def test_the_handbooks_chats_become_tests_of_the_principle_they_show(tmp_path: Path) -> None:
    def chat(*contents: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": text} for text in contents]

    used = chat(
        "Hi", "Go away!", "Name what sounds rude.", "It is rude.", "Rewrite the response in kind words.", "Hello!"
    )
    other = chat("Hi", "Go away!", "Anything?", "Yes.", "Rewrite the response in kind words.", "Hello!")
    found = imported(tmp_path, "h.json", {**HANDBOOK, "system_chat": [used, other, used[:4]], "model": "x"})
    kind, exact = found.constitution.principles
    assert kind.tests == (PrincipleTest("Hi", "Hello!", "Go away!"),)
    assert (kind.id, exact.id, exact.tests) == ("kind-words", "exact-numbers", ())
    assert found.left_out == {
        "model": 1,
        "critique in a chat of system_chat": 1,
        "chat of system_chat that uses no principle's wordings": 2,
    }
