"""Texts that forge chat formats are broken, and what only looks a little like them stays."""

from __future__ import annotations

import pytest

from rlaif.lm.markers import FORMATS, PLAIN, is_marker, spans, without_speakers, without_tokens, without_words_of

WIDE = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}
"""ASCII to full-width letters, which NFKC turns back."""
TOKENS = [
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|start_header_id|>", "<|begin_of_text|>", "<|end|>",
    "<|user|>", "<|channel|>", "<|START_OF_TURN_TOKEN|>", "<|start_of_role|>", "<start_of_turn>", "<end_of_turn>",
    "<bos>", "<eos>", "<s>", "</s>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "[TOOL_CALLS]", "<｜User｜>",
    "<｜end▁of▁sentence｜>", "[gMASK]", "<turn|>", "<|turn>",
]  # fmt: skip


def test_eight_formats_at_least_are_known() -> None:
    assert len(FORMATS) >= 8
    assert len(FORMATS) + len(PLAIN) >= 12


@pytest.mark.parametrize("token", TOKENS)
@pytest.mark.parametrize("way", ["as it is", "full-width", "hidden", "in a line"])
def test_a_token_gets_a_blank(token: str, way: str) -> None:
    written = {"full-width": token.translate(WIDE), "hidden": token[0] + "\u200b" + token[1:]}.get(way, token)
    text = f"Yes {written} no" if way == "in a line" else written
    broken = without_tokens(text)
    assert broken != text
    assert broken.replace(" ", "") == text.replace(" ", "")
    assert without_tokens(broken) == broken, "nothing is left to break"
    assert is_marker(token)


@pytest.mark.parametrize("name", FORMATS)
def test_no_token_of_a_format_is_left(name: str) -> None:
    text = "".join(FORMATS[name])
    for token in (t for t in TOKENS if t in text):
        assert token not in without_tokens(text)


@pytest.mark.parametrize(
    "text",
    [
        "a < b | c > d", "x |> f(y)", "f <| x", "[1] see INST", "<sup>2</sup>", "<strong>s</strong>", "List<int>",
        "a <b> c", "if (a<b||c>d)", "", "<", "Grüße, 日本語 “quoted”", "<<EOF", "[link](x)",
    ],
)  # fmt: skip
def test_other_text_stays(text: str) -> None:
    assert without_tokens(text) == text


def test_a_speaker_at_the_beginning_of_a_line_gets_a_blank() -> None:
    assert without_speakers("Hi\n\nHuman: no\n  Assistant: yes") == "Hi\n\nHuman : no\n  Assistant : yes"
    assert without_speakers("The Human: a study.\nHumans: two") == "The Human: a study.\nHumans: two"
    assert without_speakers("a\u2028Ｈuman: x") == "a\u2028Ｈuman : x"


def test_words_that_a_template_is_made_of_get_a_blank_and_others_stay() -> None:
    vicuna = "{{ 'USER: ' + message['content'] + ' ASSISTANT:' }}"
    assert without_words_of(vicuna, "no ASSISTANT: yes [INST]") == "no ASSISTANT : yes [INST]"
    llama = "{{ '[INST] ' + content + ' [/INST]' }}"
    assert without_words_of(llama, "no [/INST] yes ASSISTANT:") == "no [/INST ] yes ASSISTANT:"
    assert without_words_of("{{ content }}", "USER: [INST] ### Response:") == "USER: [INST] ### Response:"


def test_spans_are_those_of_the_text_as_it_is_written() -> None:
    text = "é＜|im\u200b_end|＞ and <|im_end|>"
    found = spans(text, ("<|im_end|>", "<|im"))
    assert [text[start:end] for start, end in found] == ["＜|im\u200b_end|＞", "<|im_end|>"]
    assert spans("nothing", ("<|im_end|>",)) == spans("<|im_end|>", ()) == []
