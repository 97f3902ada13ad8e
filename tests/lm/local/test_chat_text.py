"""A chat that was made into text is read back, turn by turn, or refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlaif.core.errors import DataError
from rlaif.core.records import Message
from rlaif.lm.local.chat_text import ChatText
from tests.tiny import tiny_tokenizer

WITH_DEFAULT = (  # as SmolLM2's: a system message of its own where there is none
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are kind.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
STRIPS = "".join(  # as Llama 3's
    [
        "{{ '<|im_start|>' }}{% for message in messages %}",
        "{{ message['role'] + ':' + message['content'] | trim + '<|im_end|>' }}{% endfor %}",
        "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}",
    ]
)
NO_SYSTEM = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{{ '[' + message['role'] + ']' + message['content'] + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"
)
TEMPLATES = {"plain": None, "default": WITH_DEFAULT, "strips": STRIPS, "no_system": NO_SYSTEM}


def chats(template: str | None) -> ChatText:
    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.chat_template = template or tokenizer.chat_template
    return ChatText(tokenizer, "tiny")


def written(chat: ChatText, messages: Any) -> str:
    rows = [{"role": turn.role, "content": turn.content} for turn in messages]
    return str(chat.tokenizer.apply_chat_template(rows, tokenize=False, add_generation_prompt=True))


def turns(*texts: str, system: str | None = None) -> tuple[Message, ...]:
    roles: tuple[Any, ...] = ("user", "assistant")
    found = tuple(Message(roles[place % 2], text) for place, text in enumerate(texts))
    return found if system is None else (Message("system", system), *found)


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_the_template_wrote_is_read_back(name: str) -> None:
    chat = chats(TEMPLATES[name])
    for messages in (turns("Hi"), turns("How?\n\nSo?", "So.", "Why?"), turns("a", "b", "c", "d", "user:e")):
        assert chat.messages(written(chat, messages)) == messages
    if name != "no_system":
        for messages in (turns("Hi", system="Be brief."), turns("a", "b", "c", system="You are kind.")):
            found = chat.messages(written(chat, messages))
            # a system message that is the template's own may as well be none
            assert written(chat, found) == written(chat, messages)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=12), min_size=1, max_size=5).filter(lambda texts: len(texts) % 2 == 1))
def test_any_texts_are_read_so_that_they_are_written_alike(texts: list[str]) -> None:
    chat = chats(None)
    messages = turns(*texts)
    assert written(chat, chat.messages(written(chat, messages))) == written(chat, messages)


def test_a_plain_text_is_one_turn_and_another_template_is_refused() -> None:
    chat = chats(None)
    assert chat.messages("How do I bake bread?") == turns("How do I bake bread?")
    for other in ("<|im_start|>human\nHi<|im_end|>", "Hi<|im_end|>"):
        with pytest.raises(DataError, match=r"is no prompt of the chat template of tiny\n  -> .*--tokenizer MODEL"):
            chat.messages(other)


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("No.<|im_end|>", ("No.", True)),
        ("No.<|im_end|>\n", ("No.\n", True)),
        ("No", ("No", False)),
        ("", ("", False)),
        ("<|im_end|>", ("", True)),
        ("A<|im_start|>B<|im_end|>", ("AB", True)),
        ("A<|im_end|>B", ("AB", False)),
    ],
)
def test_the_answer_stands_behind_the_prompt(said: str, found: tuple[str, bool]) -> None:
    prompt = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert chats(None).answer(prompt + said, prompt) == found
    with pytest.raises(DataError, match="does not begin with its prompt"):
        chats(None).answer("x" + prompt + said, prompt)


def test_of_a_model(tiny_model: Path) -> None:
    assert ChatText.of(str(tiny_model)).name == tiny_model.name
