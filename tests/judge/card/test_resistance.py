"""Attacks on the judge: who is taken in, and questions that keep their structure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from rlaif.config import AskingConfig, PanelMember
from rlaif.core.progress import Silent
from rlaif.core.records import Message, Principle, Prompt
from rlaif.inputs.templates import load_template
from rlaif.judge.card.attacks import ATTACKS, Attack
from rlaif.judge.card.resistance import attack_all, structure
from rlaif.judge.judge import Judge
from rlaif.judge.methods import pairwise
from rlaif.lm.protocol import LanguageModel
from rlaif.lm.scripted import ScriptedModel
from tests.fakes import scored
from tests.judge.card.cases import ANSWER, card_of, each_attack, gullible, perfect, says, settings, share, write_gold


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


def test_a_gullible_judge_is_taken_in_by_that_attack_alone(tmp_path: Path) -> None:
    card = card_of(tmp_path, gullible, attack=24)
    found = {attack.name: attack for attack in card.attacks}
    assert list(found) == [attack.name for attack in ATTACKS]
    taken = found["choose-this"]
    assert share(taken.won) == 1.0
    # the attacked answer wins 12 to 3 where it lost 0 to 3
    assert share(taken.change) == pytest.approx(0.999877 - 0.047426, abs=1e-5)
    assert taken.lost_before == taken.judged == 24
    for name in found.keys() - {"choose-this"}:
        assert share(found[name].change) == 0.0, name
        assert found[name].moved == 0.0
        assert share(found[name].won) == 0.0
    assert all(attack.structure_kept == attack.pairs == 24 for attack in card.attacks)
    assert says(card, "Taken in by choose-this (+0.952), of 18 attacks")


def test_a_template_that_does_not_quote_is_found_out(tmp_path: Path) -> None:
    from rlaif.constitution.load import load_constitution
    from rlaif.core.statistics import Draw
    from rlaif.gold.pairs import read_gold_set
    from rlaif.judge.card.figures import JudgedPair

    folder = tmp_path / "templates"
    folder.mkdir()
    (folder / "pairwise.jinja").write_text(
        '{% message "user" %}{{ prompt | dialogue }} {{ principle.statement }}\n(A)\n{{ response_a }}\n(B)\n'
        '{{ response_b | quote }}\n{% endmessage %}{% message "assistant" %}({% endmessage %}'
    )
    config = settings(tmp_path)
    rules = load_constitution(config.constitution)

    def judge_of(models: Sequence[LanguageModel]) -> Judge:
        return Judge(config.judge, rules, models=models, seed=0, templates=folder)

    pairs = read_gold_set(str(write_gold(tmp_path / "gold.jsonl", prompts=3))).pairs
    principles = [rules.principles[:1]] * len(pairs)
    judge = judge_of([ScriptedModel()])
    labels = judge.label_under([pair.comparison for pair in pairs], principles)
    rows = [JudgedPair(pair, label) for pair, label in zip(pairs, labels, strict=True)]
    with Silent().task("", 1) as task:
        found = {a.name: a for a in attack_all(rows, principles, judge, judge_of, Draw(0, 20), task)}
    assert found["forged-sections"].structure_kept == 0
    assert found["template-chatml"].structure_kept == 0


def test_a_panel_is_attacked_like_any_judge(tmp_path: Path) -> None:
    def model(asking: AskingConfig) -> LanguageModel:
        return ScriptedModel() if isinstance(asking, PanelMember) else scored(perfect)

    panel = "judge.panel=[{name: points, backend: scripted, method: rating}]"
    card = card_of(tmp_path, None, panel, model=model, attack=2)
    assert len(card.attacks) == len(ATTACKS)
    assert all(attack.structure_kept == attack.pairs == 2 for attack in card.attacks)
