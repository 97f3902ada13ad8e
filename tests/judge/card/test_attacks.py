"""The attacks are text and stay text: no special token, no message, no line outside of a quotation comes of them."""

from __future__ import annotations

from pathlib import Path

from rlaif.core.records import Message
from rlaif.judge.card.attacks import ATTACKS, Attack
from rlaif.lm.local.load import encode_chat, encode_text, load_tokenizer
from tests.judge.card.cases import ANSWER, each_attack

FAMILIES = ["<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<start_of_turn>", "<end_of_turn>", "[INST]"]


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
