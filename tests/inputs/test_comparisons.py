"""Every shape of a line becomes the same comparison, nothing about the answer shows in its place, mistakes are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow.parquet import write_table

from rlaif.core.errors import DataError
from rlaif.core.records import Comparison, Message, Response, to_json
from rlaif.inputs.comparisons import ComparisonFile, GivenPair, read_comparisons
from tests.inputs.lines import BOT, COLD, HELLO, HUMAN, KIND, WARM, better, only, our_label, written

PAIR = {"prompt": "Hello", "response_a": "x", "response_b": "y"}
text = st.text(min_size=1, max_size=20).filter(
    lambda t: bool(t.strip()) and not any("\ud800" <= c <= "\udfff" for c in t)
)


def test_labels_and_comparisons_of_ours_come_back_as_they_were(tmp_path: Path) -> None:
    label, other = our_label(), our_label(None)
    pair = only(tmp_path, to_json(label))
    assert pair == GivenPair(label.comparison, 0.8, 1, label.verdicts, None, "c0ffee")
    silent = only(tmp_path, to_json(other))
    assert (silent.prob_a, silent.failure) == (None, other.failure)
    assert only(tmp_path, to_json(label.comparison)) == GivenPair(label.comparison, None, 1)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Hello", "chosen": "Welcome!", "rejected": "What?"},
        {"prompt": HELLO, "chosen": "Welcome!", "rejected": "What?"},
        {"prompt": HELLO, "chosen": WARM, "rejected": COLD},
        {"prompt": "Hello", "chosen": HELLO + WARM, "rejected": HELLO + COLD},
        {"prompt": HELLO, "chosen": HELLO + WARM, "rejected": COLD, "score": 7},
        {"chosen": HELLO + WARM, "rejected": HELLO + COLD},
        {"prompt": "Hello", "chosen": WARM[0], "rejected": COLD[0]},
        {"prompt": "Hello", "chosen": [{"role": "user", "content": "Hello "}, *WARM], "rejected": HELLO + COLD},
        {"prompt": None, "system": "", "chosen": HELLO + WARM, "rejected": HELLO + COLD},
        {"chosen": f"{HUMAN} Hello{BOT} Welcome!", "rejected": f"{HUMAN} Hello{BOT} What?"},
        {"prompt": "Hello", "chosen": f"{HUMAN} Hello{BOT} Welcome!", "rejected": f"{HUMAN} Hello{BOT} What?"},
        {"prompt": f"{HUMAN} Hello{BOT}", "chosen": "Welcome!", "rejected": "What?"},
        {"prompt": f"{HUMAN} Hello{BOT}", "chosen": f"{HUMAN} Hello{BOT} Welcome!", "rejected": COLD},
    ],
)
def test_every_spelling_of_a_preference_is_one_comparison(tmp_path: Path, row: dict[str, Any]) -> None:
    pair = only(tmp_path, row)
    assert better(pair) == "Welcome!"
    assert pair.comparison == only(tmp_path, {"prompt": "Hello", "chosen": "Welcome!", "rejected": "What?"}).comparison
    assert pair.comparison.prompt.messages == (Message("user", "Hello"),)


def test_the_chosen_answer_may_be_better_with_a_probability(tmp_path: Path) -> None:
    row = {"prompt": "Hello", "chosen": "Welcome!", "rejected": "What?"}
    sure, soft = (
        only(tmp_path, row),
        only(tmp_path, {**row, "prob_chosen": 0.7, "score_chosen": 1, "score_rejected": 1}),
    )
    assert soft.comparison == sure.comparison
    assert soft.prob_a == (0.7 if sure.prob_a == 1 else pytest.approx(0.3))
    assert only(tmp_path, {**row, "prob_chosen": None}).prob_a == sure.prob_a


def test_csv_and_parquet_hold_the_same_comparisons(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text(
        'prompt,response_a,response_b,prob_a,slice\n"Hello",x,y,0.25,one\n"Hello",x,z,,\n\n"Hello",x,x,1,\n'
    )
    found = read_comparisons(tmp_path / "p.csv")
    assert [(pair.prob_a, pair.line, pair.comparison.b.text) for pair in found.pairs] == [
        (0.25, 2, "y"),
        (None, 3, "z"),
    ]
    assert found.notes() == ["left out, as they compare nothing, 1 of the lines: 5 (both answers are the same text)"]
    rows = [{"prompt": HELLO, "chosen": WARM, "rejected": COLD, "prob_chosen": 0.9}, {"chosen": None, "rejected": COLD}]
    write_table(pyarrow.Table.from_pylist(rows[:1] * 2), tmp_path / "p.parquet")
    found = read_comparisons(tmp_path / "p.parquet")
    assert [max(pair.prob_a or 0, 1 - (pair.prob_a or 0)) for pair in found.pairs] == [0.9]
    assert found.notes() == ["left out, as they repeat a pair, 1 of the records: 2 (as in 1)"]
    write_table(pyarrow.Table.from_pylist([{**PAIR, "prob_a": 2.0}, {**PAIR, "prob_a": 0.5}]), tmp_path / "p.parquet")
    with pytest.raises(DataError, match=r"p.parquet: record 1: prob_a: must be a number from 0 to 1 \(given: '2.0'\)"):
        read_comparisons(tmp_path / "p.parquet")


def test_the_subset_of_rewardbench_is_a_tag(tmp_path: Path) -> None:
    pair = only(tmp_path, {**PAIR, "tags": ["x"], "subset": "refusals-dangerous"})
    assert pair.comparison.prompt.tags == ("x", "refusals-dangerous")
    assert only(tmp_path, {**PAIR, "subset": 3}).comparison.prompt.tags == ()


TIES = {
    "id": "tied:0", "prompt": "Name a primary colour.", "chosen": ["Red.", "Blue."],
    "rejected": ["Pink.", "Grey.", "Brown."], "num_correct": 2, "num_incorrect": 3, "total_completions": 5,
    "models": ["m"], "subset": "Ties", "additional_metadata": {"category": None},
}  # fmt: skip


def test_every_right_answer_of_rewardbench_2_is_compared_with_every_wrong_one(tmp_path: Path) -> None:
    other = {**TIES, "prompt": "What is 2 + 2?", "chosen": ["4"], "rejected": ["3", "5", "22"], "subset": "Math"}
    found = read_comparisons(written(tmp_path / "rb2.jsonl", TIES, other))
    told = [({p.comparison.a.text, p.comparison.b.text} - {better(p)}, better(p), p.line) for p in found.pairs]
    assert told[:6] == [({wrong}, right, 1) for right in ("Red.", "Blue.") for wrong in ("Pink.", "Grey.", "Brown.")]
    assert told[6:] == [({wrong}, "4", 2) for wrong in ("3", "5", "22")]
    assert [p.comparison.prompt.tags for p in found.pairs] == [("Ties",)] * 6 + [("Math",)] * 3
    assert len({p.group for p in found.pairs}) == 2, "the pairs of a prompt are one cluster"
    assert (found.repeated, found.left_out) == ((), ())


def test_a_list_on_one_side_and_blank_answers_in_it(tmp_path: Path) -> None:
    row = {"prompt": "What is 2 + 2?", "chosen": "4", "rejected": ["3", "", None, "3", "4", "5"]}
    found = read_comparisons(written(tmp_path / "l.jsonl", row, {**row, "rejected": []}))
    assert [{p.comparison.a.text, p.comparison.b.text} for p in found.pairs] == [{"4", "3"}, {"4", "5"}]
    assert [(left.line, left.why) for left in found.left_out] == [
        (1, "rejected is blank"), (1, "both answers are the same text"), (2, "rejected is blank"),
    ]  # fmt: skip
    assert "2 of the lines: 1 (rejected is blank), 1 (both" in found.notes()[0]


def test_judgebench_says_which_is_right_in_its_own_way(tmp_path: Path) -> None:
    row = {"pair_id": "p", "source": "livebench-math", "question": "Hi?", "response_A": "x", "response_B": "y"}
    for label, expected in (("A>B", 1.0), ("B>A", 0.0), ("A=B", 0.5)):
        pair = only(tmp_path, {**row, "label": label})
        assert (pair.comparison.a.text, pair.prob_a) == ("x", expected)
        assert (pair.comparison.prompt.text, pair.comparison.prompt.tags) == ("Hi?", ("livebench-math",))


def test_equal_scores_prefer_neither(tmp_path: Path) -> None:
    row = {"prompt": "Hello", "chosen": "Welcome!", "rejected": "What?", "score_chosen": 7}
    assert only(tmp_path, {**row, "score_rejected": 7.0}).prob_a == 0.5
    assert better(only(tmp_path, {**row, "score_rejected": 6})) == "Welcome!"
    assert better(only(tmp_path, {**row, "score_chosen": None, "score_rejected": None})) == "Welcome!"


def test_lines_that_compare_nothing_are_left_out_and_counted(tmp_path: Path) -> None:
    talk = f"{HUMAN} Hello{BOT}"
    rows: list[tuple[dict[str, Any], str]] = [
        ({**PAIR, "response_b": " "}, "response_b is blank"),
        ({"prompt": "Hello", "chosen": None, "rejected": "y"}, "chosen is blank"),
        ({"prompt": "Hello", "chosen": WARM, "rejected": [{"role": "assistant", "content": ""}]}, "rejected is blank"),
        ({**PAIR, "response_b": "x"}, "both answers are the same text"),
        ({"chosen": HELLO * 2, "rejected": HELLO * 2}, "chosen does not end with the assistant's answer"),
        (
            {"chosen": HELLO + WARM, "rejected": [*HELLO, *HELLO, *COLD]},
            "chosen and rejected do not share the conversation before their last message",
        ),
        ({"chosen": f"{talk} Hi", "rejected": talk}, "rejected is blank"),
        ({"chosen": f"{talk}{HUMAN} Well?{BOT} Hi", "rejected": f"{talk} Hi"}, "chosen has a blank turn"),
        (
            {"prompt": "Hello", "system": "Be rude.", "chosen": KIND + HELLO + WARM, "rejected": COLD},
            "the system messages of the prompt and the answers differ",
        ),
    ]
    found = read_comparisons(written(tmp_path / "p.jsonl", *[row for row, _ in rows], PAIR))
    assert [pair.line for pair in found.pairs] == [10]
    assert [(left.line, left.why) for left in found.left_out] == [(n, why) for n, (_, why) in enumerate(rows, 1)]
    (note,) = found.notes()
    assert note.startswith(
        "left out, as they compare nothing, 9 of the lines: 1 (response_b is blank), 2 (chosen is blank), "
    )
    many = read_comparisons(written(tmp_path / "p.jsonl", *[rows[0][0]] * 1200, PAIR))
    assert many.notes()[0].endswith("20 (response_b is blank), and 1,180 more")
    with pytest.raises(DataError, match=r"holds no comparison: line 1: both answers are the same text\n"):
        read_comparisons(written(tmp_path / "p.jsonl", rows[3][0]))


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, None), ({"prob_a": None}, None), ({"prob_a": 0.25}, 0.25), ({"prob_a": 1}, 1.0),
        ({"label": "a"}, 1.0), ({"label": "B"}, 0.0), ({"label": "tie"}, 0.5), ({"label": None, "prob_a": 0}, 0.0),
    ],
)  # fmt: skip
def test_a_and_b_stand_as_written_and_may_have_a_label(
    tmp_path: Path, said: dict[str, Any], expected: float | None
) -> None:
    pair = only(tmp_path, {"prompt": "Hello", "response_a": "Welcome!", "response_b": "What?", **said})
    assert (pair.comparison.a.text, pair.comparison.b.text, pair.prob_a) == ("Welcome!", "What?", expected)


@settings(max_examples=60, deadline=None)
@given(prompt=text, first=text, second=text)
def test_which_answer_is_chosen_does_not_show_in_its_place(
    tmp_path_factory: pytest.TempPathFactory, prompt: str, first: str, second: str
) -> None:
    if first == second:
        return
    folder = tmp_path_factory.mktemp("places")
    one = only(folder, {"prompt": prompt, "chosen": first, "rejected": second})
    other = only(folder, {"prompt": prompt, "chosen": second, "rejected": first})
    assert one.comparison == other.comparison
    assert (better(one), better(other)) == (first, second)


def test_the_chosen_one_stands_as_a_about_half_the_time(tmp_path: Path) -> None:
    rows = [{"prompt": f"Number {n}?", "chosen": "Yes.", "rejected": "No."} for n in range(400)]
    firsts = sum(pair.prob_a == 1.0 for pair in read_comparisons(written(tmp_path / "p.jsonl", *rows)).pairs)
    assert 160 < firsts < 240  # four standard deviations of a coin


def test_a_pair_that_stands_twice_is_kept_once_and_told(tmp_path: Path) -> None:
    row = {"prompt": "Hello", "response_a": "Welcome!", "response_b": "What?", "prob_a": 0.75}
    turned = {**row, "response_a": "What?", "response_b": "Welcome!", "prob_a": 0.25}
    found = read_comparisons(
        written(tmp_path / "p.jsonl", row, {**row, "prompt": "Hi"}, turned, {**row, "prob_a": 0.1})
    )
    assert [pair.line for pair in found.pairs] == [1, 2]
    assert [(r.line, r.first, r.agrees) for r in found.repeated] == [(3, 1, True), (4, 1, False)]
    assert found.notes() == [
        "left out, as they repeat a pair, 2 of the lines: 3 (as in 1), 4 (as in 1); "
        "1 of them have another label than the first"
    ]
    assert ComparisonFile(tmp_path, found.pairs, ()).notes() == []


def test_two_samples_of_ours_with_one_text_are_two_pairs(tmp_path: Path) -> None:
    label = our_label()
    again = Response(label.comparison.prompt.id, "What?", "sft", 9, 0.7, "stop", 2)
    other = Comparison(label.comparison.prompt, label.comparison.a, again)
    assert len(read_comparisons(written(tmp_path / "p.jsonl", to_json(label.comparison), to_json(other))).pairs) == 2


SHARED = {"from": "gpt", "value": "x"}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": "Hello"}, ["is no comparison, it has only prompt", "chosen and rejected"]),
        ({"question": "Hello"}, ["is no comparison", "prompt"]),
        ({**PAIR, "prompt": 5}, ["prompt: must be text, not int"]),
        ({**PAIR, "prob_a": 1.5}, ["prob_a: must be a number from 0 to 1", "1.5"]),
        ({**PAIR, "prob_a": float("nan")}, ["prob_a", "nan"]),
        ({**PAIR, "prob_a": True}, ["prob_a", "True"]),
        ({**PAIR, "label": "c"}, ["label: must be one of a, b, tie", "'c'"]),
        ({**PAIR, "label": "a", "prob_a": 0.9}, ["label: stands beside prob_a"]),
        ({**PAIR, "slice": 3}, ["slice: must be text"]),
        ({**PAIR, "tags": "x"}, ["tags: must be a list"]),
        ({"response_a": "x", "response_b": "y"}, ["response_a: there is no prompt", "add the prompt"]),
        ({"question": "Q?", "chosen": "x", "rejected": "y"}, ["there is no prompt, but there is question", "rename"]),
        (
            {"conversations": [], "chosen": SHARED, "rejected": SHARED},
            ["there is conversations", "role and content"],
        ),
        ({"prompt": "Hello", "chosen": SHARED, "rejected": SHARED}, ["chosen.0.role: role must be one of"]),
        ({**PAIR, "response_a": ["x"]}, ["response_a: is a list of 1 texts", "each pair"]),
        ({"prompt": "Hello", "chosen": ["x"], "rejected": ["y", 3]}, ["rejected.0: must be"]),
        ({"response_A": "x", "response_B": "y", "label": "A>B"}, ["there is no prompt"]),
        ({"question": "Q?", "response_A": "x", "response_B": "y", "label": "A>C"}, ["label: must be one of", "A>C"]),
        ({"prompt": "Hello", "system": 3, "chosen": "x", "rejected": "y"}, ["system: must be text, not int"]),
        ({"chosen": "x", "rejected": "y"}, ["chosen: there is no prompt", "add the prompt"]),
        ({"chosen": WARM, "rejected": COLD}, ["chosen: there is no prompt"]),
        ({"prompt": HELLO, "chosen": WARM + WARM, "rejected": COLD}, ["chosen: must be one message", "assistant"]),
        ({"prompt": HELLO, "chosen": HELLO, "rejected": COLD}, ["the prompt alone"]),
        ({"prompt": HELLO, "chosen": [{"role": "assistant"}], "rejected": COLD}, ["chosen.0.content: must be text"]),
        ({"prompt": HELLO + WARM, "chosen": WARM, "rejected": COLD}, ["prompt: the last message is by the assistant"]),
        ({"comparison": {}, "prob_a": 0.5}, ["comparison.prompt", "PreferenceLabel", "required"]),
        ({"prompt": "Hello", "a": "x", "b": "y"}, ["is not a Comparison"]),
        ({**to_json(our_label()), "prob_a": 7}, ["prob_a: must be a number from 0 to 1", "'7'"]),
        ({**to_json(our_label()), "consistency": -1}, ["consistency: must be a number from 0 to 1", "'-1'"]),
    ],
)
def test_a_mistake_is_told_with_line_field_and_remedy(tmp_path: Path, row: object, words: list[str]) -> None:
    path = written(tmp_path / "p.jsonl", {"prompt": "Good", "chosen": "x", "rejected": "y"}, row)
    with pytest.raises(DataError) as error:
        read_comparisons(path)
    assert error.value.where == f"{path}:2"
    assert [word for word in words if word not in str(error.value)] == []


def test_all_mistakes_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        read_comparisons(written(tmp_path / "p.jsonl", *[{**PAIR, "label": n} for n in range(23)]))
    assert error.value.what.count("must be one of") == 20
    assert "; line 20: label" in error.value.what
    assert error.value.what.endswith("; and 3 more")


def test_a_line_that_is_no_json_is_told_with_the_mistakes_before_it(tmp_path: Path) -> None:
    path = written(tmp_path / "p.jsonl", {**PAIR, "label": "c"})
    path.write_text(path.read_text() + '\n{"prompt": "cut', encoding="utf-8")
    with pytest.raises(DataError, match=r"p\.jsonl:1: label: .*; line 3: is not a line of JSON"):
        read_comparisons(path)


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_an_empty_file_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match="holds no comparison"):
        read_comparisons(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_comparisons(tmp_path / "none.jsonl")
