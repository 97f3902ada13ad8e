"""Comparisons of judges whose faults are known: which is chosen, on what, and what is said of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rlaif.core.errors import ConfigError
from rlaif.core.statistics import Draw
from rlaif.gold.pairs import read_gold_set
from rlaif.judge.card.figures import JudgedPair
from rlaif.judge.compare.measure import best_of, criterion_of, in_choosing_part, mean_of
from rlaif.judge.compare.records import PANEL, Contender, JudgeComparison
from tests.judge.card.cases import judged, says, share, write_gold
from tests.judge.compare.contests import SCORES, compared


def of(found: JudgeComparison, name: str) -> Contender:
    candidate = found.candidate(name)
    assert candidate is not None
    return candidate


def test_the_best_is_chosen_and_shown_to_be_better(tmp_path: Path) -> None:
    found = compared(tmp_path, "length", "wavering", "perfect")
    choice = found.choice
    assert (choice.criterion, choice.winner, choice.runner_up) == ("length-matched accuracy", "perfect", "wavering")
    assert share(choice.lead) > 0.1
    assert share(choice.lead_after) > 0.1
    assert share(of(found, "perfect").reporting.accuracy.judge) == 1.0
    assert of(found, "perfect").behind is None
    assert share(of(found, "wavering").behind) == pytest.approx(share(choice.lead_after))
    assert says(found, "Better than wavering there")
    assert says(found, "Better than wavering on the reporting part")
    assert says(found, "to 100), better than a coin, better than")


def test_luck_on_the_choosing_part_shows_on_the_other(tmp_path: Path) -> None:
    found = compared(tmp_path, "wavering", "lucky")
    assert (found.choice.winner, found.choice.runner_up) == ("lucky", "wavering")
    assert share(of(found, "lucky").choosing.accuracy.judge) == 1.0
    assert share(of(found, "lucky").reporting.accuracy.judge) == 0.0
    assert share(found.choice.lead_after) < -0.5
    assert says(found, "Better than wavering there")
    assert says(found, "Worse than wavering on the reporting part")


def test_the_parts_share_no_prompt_and_make_up_the_whole(tmp_path: Path) -> None:
    found = compared(tmp_path, "perfect", "first")
    parts = [(one.choosing, one.reporting) for one in found.candidates]
    assert {(a.pairs + b.pairs, a.prompts + b.prompts) for a, b in parts} == {(240, 120)}
    assert 40 <= parts[0][0].prompts <= 80
    rarely = compared(tmp_path, "perfect", "first", share=0.2)
    assert of(rarely, "perfect").choosing.prompts < of(found, "perfect").choosing.prompts
    prompts = [f"p{n}" for n in range(2000)]
    kept = {p for p in prompts if in_choosing_part(p, 3, 0.3)}
    assert 520 < len(kept) < 680
    assert kept < {p for p in prompts if in_choosing_part(p, 3, 0.6)}, "a larger share only adds to the part"
    assert kept != {p for p in prompts if in_choosing_part(p, 4, 0.3)}


def test_judges_without_a_difference_are_said_so(tmp_path: Path) -> None:
    found = compared(tmp_path, "first", "length")
    assert says(found, f"Not shown to be better than {found.choice.runner_up} there")
    assert says(found, "not shown to be better than a coin")


def test_of_equal_judges_the_first_is_chosen(tmp_path: Path) -> None:
    # A judge that always takes the first letter has one half on both parts; so has its mirror image.
    SCORES["last"] = lambda messages, choice: 12.0 * (choice == "B")
    try:
        assert compared(tmp_path, "last", "first").choice.winner == "last"
        assert compared(tmp_path, "first", "last").choice.winner == "first"
    finally:
        del SCORES["last"]


def test_a_judge_without_labels_is_not_chosen(tmp_path: Path) -> None:
    found = compared(tmp_path, "mute", "contrary")
    assert (found.choice.winner, found.choice.runner_up, found.choice.left_out) == ("contrary", None, ["mute"])
    assert of(found, "mute").choosing.failures == {"refused": of(found, "mute").choosing.pairs}
    assert says(found, "mute could not be chosen: no label on")
    assert says(found, "no other judge can be chosen")
    assert says(found, "worse than a coin")


def test_what_decides_depends_on_the_gold_alone(tmp_path: Path) -> None:
    pairs = read_gold_set(str(write_gold(tmp_path / "gold.jsonl", prompts=60))).pairs
    assert criterion_of(pairs, [True] * len(pairs)) == "length-matched accuracy"
    assert criterion_of(pairs, [pair.length_matched is False for pair in pairs]) == "accuracy"
    matched = list(dict.fromkeys(pair.prompt_id for pair in pairs if pair.length_matched))
    for number, criterion in ((29, "accuracy"), (30, "length-matched accuracy")):
        assert criterion_of(pairs, [pair.prompt_id in matched[:number] for pair in pairs]) == criterion


def test_the_mean_of_all_is_the_mean_of_those_with_a_label() -> None:
    rows = [[judged("p", 0.9), judged("q", None)], [judged("p", 0.2), judged("q", 0.4)]]
    found = mean_of(rows)
    assert [row.label.prob_a for row in found] == [pytest.approx(0.55), 0.4]
    assert mean_of([[judged("q", None)], [judged("q", None)]])[0].label.prob_a is None


def test_the_mean_of_a_judge_and_a_coin_toss_of_places_is_the_judge(tmp_path: Path) -> None:
    found = compared(tmp_path, "first", "wavering")
    assert found.candidates[-1].name == PANEL
    alone = of(found, "wavering")
    assert found.candidates[-1].reporting.accuracy.judge == alone.reporting.accuracy.judge
    assert share(found.candidates[-1].behind) == 0.0


def test_the_id_holds_for_figures_and_not_for_cost(tmp_path: Path) -> None:
    found = compared(tmp_path, "first", "perfect")
    again = compared(tmp_path, "first", "perfect")
    assert found.id == again.id
    assert found.candidates[0].cost is not None
    assert (found.candidates[0].cost.pairs, found.candidates[0].cost.calls) == (2, 2.0)
    assert replace(found, seed=1).id != found.id
    assert compared(tmp_path, "perfect", "first", share=0.4).id != found.id
    assert json.loads(json.dumps(found.as_json()))["choice"]["winner"] == "perfect"


def test_gold_that_cannot_be_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="each part needs two or more"):
        compared(tmp_path, "first", "perfect", gold=write_gold(tmp_path / "small.jsonl", prompts=2))


def test_right_answers_among_several_are_counted_where_there_are_several(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"question {n}", "chosen": ["a good answer"], "rejected": ["bad", "a bad answer", "a very bad one"]}
        for n in range(24)
    ]
    path = tmp_path / "several.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    found = compared(tmp_path, "perfect", "length", gold=path)
    assert share(of(found, "perfect").reporting.best_of) == 1.0
    assert share(of(found, "length").reporting.best_of) == 0.0, "the longest answer is wrong"
    assert compared(tmp_path, "perfect", "length", gold=path, pairs=24).candidates[0].reporting.best_of is None


DRAW = Draw(1, 200)


def found_in(rows: list[JudgedPair], gold: list[JudgedPair] | None = None) -> float | None:
    found = best_of(rows, [row.pair for row in gold or rows], DRAW)
    return None if found is None else found.mean


def four(prompt: str, *probabilities: float | None, right: str = "right") -> list[JudgedPair]:
    return [judged(prompt, p, a=right, b=f"wrong {n}") for n, p in enumerate(probabilities)]


def test_all_wrong_ones_must_be_beaten() -> None:
    assert found_in(four("p", 0.9, 0.8, 0.7)) == 1.0
    assert found_in(four("p", 0.9, 0.8, 0.4)) == 0.0
    assert found_in(four("p", 0.9, 0.8, 0.5)) == 0.5
    assert found_in([*four("p", 0.9, 0.8, 0.7), *four("q", 0.9, 0.1, 0.7)]) == 0.5


def test_one_of_several_right_ones_is_enough() -> None:
    assert found_in([*four("p", 0.9, 0.2), *four("p", 0.6, 0.7, right="also")]) == 1.0
    assert found_in([*four("p", 0.9, 0.2), *four("p", 0.2, 0.7, right="also")]) == 0.0, "each is beaten by another"


def test_only_prompts_with_several_wrong_answers_that_are_all_judged() -> None:
    assert found_in(four("p", 0.9)) is None, "a pair is no choice among several"
    assert found_in(four("p", 0.9, None)) is None
    assert found_in(four("p", 0.9, 0.9)[:1], gold=four("p", 0.9, 0.9)) is None, "the other pair was not drawn"
    chain = [judged("p", 0.9, a="x", b="y"), judged("p", 0.9, a="y", b="z"), judged("p", 0.9, a="x", b="z")]
    assert found_in(chain) is None, "an answer that is right here and wrong there is a rank, not right or wrong"
