"""What chat formats are made of, found in texts that must not forge it, and broken there by a blank.

A reader may take a text in another way than it is written: tokenizers turn full-width letters into plain ones (NFKC)
and drop characters without width. So markers are looked for in what would be left of a text by both.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple


class ChatFormat(NamedTuple):
    """How a chat format ends a turn and begins one of the assistant."""

    end: str
    begin: str


FORMATS = {
    "ChatML": ChatFormat("<|im_end|>\n", "<|im_start|>assistant\n"),
    "Llama 3": ChatFormat("<|eot_id|>", "<|start_header_id|>assistant<|end_header_id|>\n\n"),
    "Llama 2, Mistral": ChatFormat("</s><s>[INST] <<SYS>> <</SYS>>", "[/INST] "),
    "Gemma": ChatFormat("<end_of_turn>\n", "<start_of_turn>model\n"),
    "Phi, Zephyr": ChatFormat("<|end|>\n", "<|assistant|>\n"),
    "DeepSeek": ChatFormat("<｜end▁of▁sentence｜>", "<｜Assistant｜>"),
    "Command R": ChatFormat("<|END_OF_TURN_TOKEN|>", "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>"),
    "harmony": ChatFormat("<|end|>", "<|start|>assistant<|channel|>final<|message|>"),
    "Granite": ChatFormat("<|end_of_text|>\n", "<|start_of_role|>assistant<|end_of_role|>"),
}
"""Those that are made of tokens of their own."""
PLAIN = {
    "Alpaca": ChatFormat("\n\n", "### Response:\n"),
    "Vicuna": ChatFormat("\n", "ASSISTANT: "),
    "Human and Assistant": ChatFormat("\n\n", "Assistant: "),
}
"""Those that are made of ordinary words."""

_TOKENS = re.compile(
    r"<\|(?=[\w/])|<\w{1,40}\|>|<</?SYS>>"
    r"|</?(?:s|bos|eos|pad|unk|sop|eop|start_of_turn|end_of_turn|im_start|im_end)>"
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|gMASK|sMASK)\]",
    re.IGNORECASE,
)
_WORDS = re.compile(r"#+ ?(?:Instruction|Input|Response|Human|Assistant):|\b(?:USER|ASSISTANT|SYSTEM):|<\|\w+\|>", re.I)
_SPEAKERS = re.compile(
    r"(?:^|(?<=[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]))[ \t]*(?:Human|Assistant|System):", re.IGNORECASE
)

Span = tuple[int, int]


def is_marker(token: str) -> bool:
    """Whether a token looks like one that a chat format is made of."""
    return _TOKENS.search(_read(token)) is not None


def without_tokens(text: str) -> str:
    """The text with a blank after the first character of whatever looks like a token of a chat format: "< |im_end|>".

    For servers, which read text: many of them take such text for the token itself.
    """
    return _cut(text, (start + 1 for start, _ in _spans(text, _TOKENS)))


def without_speakers(text: str) -> str:
    """The text with a blank before the colon of "Human:", "Assistant:" and "System:" at the beginning of a line."""
    return _cut(text, (end - 1 for _, end in _spans(text, _SPEAKERS)))


def without_words_of(template: str, text: str) -> str:
    """The text with a blank before the last character of whatever the chat template writes in ordinary words, such as
    "ASSISTANT:" or "[INST]", where no token stands for it."""
    used = _used(template)
    return _cut(text, (end - 1 for _, end in spans(text, used))) if used else text


def spans(text: str, strings: tuple[str, ...]) -> list[Span]:
    """(start, end) of each of the strings in the text, the longest at a place, none over another."""
    return _spans(text, _any_of(strings)) if strings else []


@lru_cache(maxsize=64)
def _any_of(strings: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(_read(one)) for one in sorted(strings, key=len, reverse=True)))


@lru_cache(maxsize=64)
def _used(template: str) -> tuple[str, ...]:
    """What the template is made of, as far as it may be mere text."""
    found = (match[0] for pattern in (_TOKENS, _WORDS) for match in pattern.finditer(_read(template)))
    return tuple(dict.fromkeys(one for one in found if len(one) > 2))


def _spans(text: str, pattern: re.Pattern[str]) -> list[Span]:
    if text.isascii():
        return [match.span() for match in pattern.finditer(text)]
    if pattern.search(_read(text)) is None:  # the usual case, at a hundredth of the price
        return []
    letters, places = list[str](), list[int]()
    for place, letter in enumerate(text):
        for one in _read(letter):
            letters.append(one)
            places.append(place)
    places.append(len(text))
    found = (match.span() for match in pattern.finditer("".join(letters)))
    return [(places[start], places[end - 1] + 1) for start, end in found]


def _read(text: str) -> str:
    """The text as a tokenizer may take it: full-width letters are plain, and what has no width is not there."""
    return text if text.isascii() else _WIDTHLESS.sub("", unicodedata.normalize("NFKC", text))


_WIDTHLESS = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff]"
)


def _cut(text: str, places: Iterable[int]) -> str:
    """The text with a blank at each of the places, which rise."""
    parts, before = list[str](), 0
    for place in places:
        parts.append(text[before:place])
        before = place
    return " ".join([*parts, text[before:]]) if parts else text
