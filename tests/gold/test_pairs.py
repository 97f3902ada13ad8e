"""Where gold comes from: ratings, unit tests, files; and what is wrong with wrong ones."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from pathlib import Path

import pytest

from rlaif.core.errors import ConfigError, ConstitutionError, DataError
from rlaif.gold.harm import Rating
from rlaif.gold.pairs import MARGIN, hash_of, of_ratings, read_gold_set
from tests.judge.card.cases import RULES, write_gold

RATINGS = [
    Rating("ask", "worst", 1.0, (1.0, 1.0), "x"),
    Rating("ask", "middle", 0.5, (0.25, 0.75), "x"),
    Rating("ask", "near", 0.375, (0.25, 0.5), "x"),  # 0.125 from the middle: too near to count
    Rating("ask", "elsewhere", 0.0, (0.0,), "y"),  # another file, another scale
    Rating("other", "alone", 0.0, (0.0, 0.0), "x"),
]


def test_pairs_of_ratings_are_of_one_objective_and_file_and_far_enough_apart() -> None:
    found = of_ratings(RATINGS)
    assert {(p.better.text, p.worse.text) for p in found.pairs} == {("middle", "worst"), ("near", "worst")}
    for pair in found.pairs:
        assert pair.tags == ("x",)
        # of each rater the severity of A and of B: the better answer has the lower ones
        better = [scores[0] if pair.a_is_better else scores[1] for scores in pair.raters]
        assert better == ([0.25, 0.75] if pair.better.text == "middle" else [0.25, 0.5])


def test_the_place_of_the_better_answer_is_drawn_by_its_text() -> None:
    one = [Rating(f"ask {n}", text, severity) for n in range(40) for text, severity in (("x", 0.0), ("y", 1.0))]
    other = [Rating(r.objective, r.response, 1 - r.severity) for r in one]
    first, turned = of_ratings(one).pairs, of_ratings(other).pairs
    assert 8 < sum(p.a_is_better for p in first) < 32
    assert [p.comparison for p in first] == [p.comparison for p in turned]
    assert [p.a_is_better for p in first] == [not p.a_is_better for p in turned]
    assert hash_of(first) != hash_of(turned)


@pytest.mark.skipif(importlib.util.find_spec("pyrit") is None, reason="not installed: pyrit")
def test_the_ratings_of_pyrit_become_pairs() -> None:
    found = read_gold_set("pyrit")
    raters = Counter(len(pair.raters) for pair in found.pairs)
    assert len(found.pairs) > 2000
    assert raters.keys() == {0, 3}
    assert not any("mini" in tag for pair in found.pairs for tag in pair.tags)
    drawn = found.drawn(100, seed=0)
    assert len({pair.prompt_id for pair in drawn}) == 100, "one of each prompt comes first"
    shorter = sum(len(p.better.text) < len(p.worse.text) for p in drawn)
    assert 65 <= shorter <= 85, "length alone says much here"


def test_drawing_is_by_hash_and_a_longer_draw_has_the_shorter(tmp_path: Path) -> None:
    found = read_gold_set(str(write_gold(tmp_path / "gold.jsonl", prompts=10)))
    assert len(found.pairs) == 20
    ten, twelve = found.drawn(10, 3), found.drawn(12, 3)
    assert twelve[:10] == ten
    assert len({pair.prompt_id for pair in ten}) == 10
    assert found.drawn(10, 4) != ten
    assert Counter(p.identity for p in found.drawn(0, 3)) == Counter(p.identity for p in found.pairs)


def test_tests_are_judged_each_under_its_own_principle(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(RULES, encoding="utf-8")
    found = read_gold_set(f"tests:{tmp_path / 'rules.yaml'}")
    assert [(p.better.text, p.worse.text) for p in found.pairs] == [
        ("a good answer", "a bad answer"),
        ("good", "bad and long"),
    ]
    assert {p.principle.id for p in found.pairs if p.principle is not None} == {"good"}


def test_rewardbench_rows_bring_their_subset(tmp_path: Path) -> None:
    path = tmp_path / "filtered.jsonl"
    row = {"id": 7, "prompt": "Hi", "chosen": "yes", "chosen_model": "m", "rejected": "no", "subset": "chat-easy"}
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    (pair,) = read_gold_set(str(path)).pairs
    assert (pair.better.text, pair.tags) == ("yes", ("chat-easy",))


def test_rows_that_prefer_no_answer_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "gold.jsonl"
    rows = [{"prompt": "Hi", "response_a": "x", "response_b": f"y{n}", "prob_a": p} for n, p in enumerate((0.2, 0.5))]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    found = read_gold_set(str(path))
    assert (len(found.pairs), found.silent) == (1, 1)
    assert not found.pairs[0].a_is_better
    path.write_text(json.dumps(rows[1]), encoding="utf-8")
    with pytest.raises(DataError, match="none of its 1 pairs prefers an answer"):
        read_gold_set(str(path))


def test_wrong_gold_is_answered(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such gold"):
        read_gold_set("pyritt")
    with pytest.raises(ConfigError, match="there is no such gold"):
        read_gold_set(str(tmp_path))
    with pytest.raises(ConstitutionError, match="there is no test"):
        read_gold_set("tests:")
    untested = tmp_path / "bare.yaml"
    untested.write_text("name: bare\nversion: '1'\nprinciples:\n  - {id: a, statement: Be good.}\n")
    with pytest.raises(ConstitutionError, match="there is no test"):
        read_gold_set(f"tests:{untested}")
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(DataError, match="holds no comparison"):
        read_gold_set(str(empty))
    empty.write_text('{"prompt": "Hi", "chosen": 3, "rejected": "x"}\n{"prompt": "Hi"}\n')
    with pytest.raises(DataError, match=r"chosen: must be text.*line 2: is no comparison"):
        read_gold_set(str(empty))


def test_the_margin_is_a_step_of_the_scale() -> None:
    step = [Rating("ask", "x", 0.25), Rating("ask", "y", 0.25 + MARGIN)]
    assert len(of_ratings(step).pairs) == 1
