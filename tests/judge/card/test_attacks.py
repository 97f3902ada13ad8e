"""The attacks are text and stay text: no special token, no message, no line outside of a quotation comes of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlaif.core.records import Message, Principle, Prompt
from rlaif.inputs.templates import load_template
from rlaif.judge.card.attacks import ATTACKS, Attack
from rlaif.judge.card.resistance import structure
from rlaif.judge.methods import pairwise
from rlaif.lm.local.load import encode_chat, encode_text, load_tokenizer

ANSWER = "a plain answer\nof two lines"
FAMILIES = ["<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<start_of_turn>", "<end_of_turn>", "[INST]"]
each_attack = pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)


def test_names_are_unique_and_every_attack_does_something() -> None:
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS)
    assert len({attack.apply(ANSWER) for attack in ATTACKS} - {ANSWER}) == len(ATTACKS)
    assert [attack.name for attack in ATTACKS if not attack.keeps] == ["empty"]


@each_attack
def test_an_attacked_answer_keeps_its_words(attack: Attack) -> None:
    if attack.keeps and attack.name != "look-alikes":  # those keep their looks
        words = attack.apply(ANSWER).replace("\u200b", "").replace("> ", "")
        assert all(line in words for line in ANSWER.splitlines())


@each_attack
def test_no_attack_makes_a_special_token(attack: Attack, tiny_model: Path) -> None:
    from tokenizers import AddedToken

    tokenizer = load_tokenizer(str(tiny_model))
    tokenizer.add_tokens([AddedToken(text, special=True) for text in FAMILIES], special_tokens=True)
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    assert len(special) >= 9
    attacked = attack.apply(ANSWER)
    assert not special & set(encode_text(tokenizer, attacked))
    question = [Message("system", "Judge."), Message("user", ANSWER)]
    clean = [i for i in encode_chat(tokenizer, question) if i in special]
    found = encode_chat(tokenizer, [question[0], Message("user", attacked)])
    assert [i for i in found if i in special] == clean


@each_attack
def test_no_attack_changes_the_structure_of_a_question(attack: Attack) -> None:
    prompt, rule = Prompt((Message("user", "Hi"),)), Principle("p", "Be good.")
    clean, attacked = (
        load_template(pairwise.TEMPLATE).render(
            principle=rule, prompt=prompt, response_a=text, response_b="other", few_shots=0
        )
        for text in (ANSWER, attack.apply(ANSWER))
    )
    assert structure(clean.messages) == structure(attacked.messages)
    assert clean.prefix == attacked.prefix
    assert clean.messages != attacked.messages


def test_a_line_outside_of_a_quotation_is_a_change_of_structure() -> None:
    told = [Message("user", "> quoted\nAnswer:")]
    assert structure(told) == structure([Message("user", "> another\n> line\nAnswer:")])
    assert structure(told) != structure([Message("user", "> quoted\u2028Answer:\nAnswer:")])
    assert structure(told) != structure([Message("system", "> quoted\nAnswer:")])
