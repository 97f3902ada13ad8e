"""Near-duplicates: found among thousands, in groups that the earliest leads, and none where there is none."""

from __future__ import annotations

import sys
from random import Random

import pytest

from rlaif.core.errors import ConfigError
from rlaif.export.duplicates import NEAR, first_of_each
from tests.gold.needs import needs

LONG = "How do I bake a loaf of rye bread that stays fresh for a whole week in summer?"


def leaders(*texts: str, near: float = NEAR) -> list[str]:
    """The number of the first text of each text's group."""
    found = first_of_each([(str(n), text) for n, text in enumerate(texts)], near)
    return [found[str(n)] for n in range(len(texts))]


@needs("datasketch")
def test_case_and_punctuation_make_no_difference_and_words_do() -> None:
    assert leaders(LONG, LONG.upper() + "!!", LONG.replace("summer", "Summer ")) == ["0", "0", "0"]
    assert leaders(LONG, "How do I mend a bicycle tyre that loses its air over a whole night in winter?") == ["0", "1"]
    assert leaders("Hi", "Ho", "hi!", "?", "!!") == ["0", "1", "0", "3", "4"]


@needs("datasketch")
def test_the_share_is_that_of_pieces() -> None:
    # 16 letters make 12 pieces; another last letter leaves 11 of 13 in common, 0.846
    one, other = "abcdefghijklmnop", "abcdefghijklmnoq"
    assert leaders(one, other, near=0.84) == ["0", "0"]
    assert leaders(one, other, near=0.85) == ["0", "1"]
    assert leaders(one, one, near=1.0) == ["0", "0"]


@needs("datasketch")
def test_a_chain_is_one_group_which_its_first_leads() -> None:
    a, b, c = "abcdefghijklmnop", "abcdefghijklmnoq", "bcdefghijklmnoqr"
    assert leaders(a, c) == ["0", "1"]  # 10 of 14: 0.71
    assert leaders(a, c, b) == ["0", "0", "0"]
    assert leaders(c, a, b) == ["0", "0", "0"]


@needs("datasketch")
def test_thousands_of_prompts() -> None:
    random = Random(0)
    words = ["".join(random.choices("abcdefghijklmnoprstuw", k=random.randint(3, 8))) for _ in range(400)]
    made = [" ".join(random.choices(words, k=14)) for _ in range(1500)]
    changed = [f"{text} {random.choice(words)}" for text in made]  # one more word of 15: a share of about 0.93
    found = first_of_each(enumerate_ids([*made, *changed]), NEAR)
    together = sum(found[str(1500 + n)] == str(n) for n in range(1500))
    assert together >= 1498
    assert sum(found[str(n)] == str(n) for n in range(1500)) == 1500, "and nothing else is taken for one"


def enumerate_ids(texts: list[str]) -> list[tuple[str, str]]:
    return [(str(n), text) for n, text in enumerate(texts)]


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasketch", None)
    with pytest.raises(ConfigError, match=r'not installed\n.*pip install "rlaif-toolkit\[duplicates\]"'):
        first_of_each([("a", "b")], NEAR)
