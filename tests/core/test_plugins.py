"""Names of a set and classes of a user's own."""

from __future__ import annotations

import pytest

from rlaif.core.errors import ConfigError
from rlaif.core.plugins import check_name, is_own, load_own, short_name


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
