"""Names of a set and classes of a user's own."""

from __future__ import annotations

import json

import pytest

from rlaif.core.errors import ConfigError, DataError, StageError
from rlaif.core.plugins import check_name, is_own, load_own, own_code, short_name


def test_a_name_is_known_or_ones_own_or_answered_with_the_nearest() -> None:
    check_name("one", ["one", "two"], what="thing", where="here")
    check_name("module:Class", ["one", "two"], what="thing", where="here")
    with pytest.raises(ConfigError, match="no thing 'onee', did you mean 'one'") as caught:
        check_name("onee", ["one", "two"], what="thing", where="here")
    assert caught.value.where == "here"
    assert "one, two" in str(caught.value)
    assert [is_own(name) for name in ("a:B", "a.b:C", "a", "a:", ":B", "a b:C")] == [True, True, *[False] * 4]
    assert (short_name("a.b:C"), short_name("harm")) == ("C", "harm")


def test_what_cannot_be_imported_says_why() -> None:
    assert load_own("json:dumps", what="thing", where="here", remedy="write it").__name__ == "dumps"
    for name, reason in (("nowhere:A", "No module named 'nowhere'"), ("json:nothing", "no attribute 'nothing'")):
        with pytest.raises(ConfigError, match=reason):
            load_own(name, what="thing", where="here", remedy="write it")


def test_a_file_in_place_of_a_module_is_answered_with_the_module() -> None:
    with pytest.raises(ConfigError, match=r"(?s)names a file, not a module.*write rewards\.mine:short"):
        load_own("rewards/mine.py:short", what="thing", where="here", remedy="write it")


def test_what_ones_own_code_raises_names_it_and_the_line() -> None:
    said = r"the thing json:loads raised JSONDecodeError: Expecting value"
    with pytest.raises(StageError, match=said) as caught, own_code("json:loads", what="thing"):
        json.loads("x")
    assert (caught.value.where or "").startswith(f"{json.__file__}:")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("harm", ValueError("ours")),
        ("mine:A", DataError("an error of rlaif")),
        ("mine:A", MemoryError()),
        ("mine:A", RuntimeError("CUDA out of memory")),
    ],
)
def test_other_errors_pass_as_they_are(name: str, problem: Exception) -> None:
    with pytest.raises(type(problem)) as caught, own_code(name, what="thing"):
        raise problem
    assert caught.value is problem
