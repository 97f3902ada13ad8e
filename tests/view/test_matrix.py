"""The heat map of a matrix."""

from __future__ import annotations

from rlaif.view.matrix import heat_map


def test_the_picture_has_numbers_while_there_is_room_and_stays_small() -> None:
    ids = [f"principle-{n}" for n in range(76)]
    cells = [[None if (i + j) % 9 == 0 else ((i * 7 + j * 3) % 11) / 10 for j in range(76)] for i in range(76)]
    large = heat_map("agreement", "Agreement", ids, cells, middle=True)
    assert large is not None
    assert len(large) < 800_000
    assert all(f">{name}<" in large for name in ids)
    small = heat_map("agreement", "Agreement", ["a<b", "c"], [[1.0, 0.37], [0.37, None]], middle=True)
    assert small is not None
    assert small.count(">37<") == 2
    assert "a&lt;b" in small
    assert ">100<" not in small, "the diagonal says nothing"
    gaps = heat_map("agreement", "Agreement", ["a", "b"], [[None, None], [None, None]], middle=True)
    assert gaps is not None
    assert gaps.count(">\u2013<") == 2
    assert heat_map("agreement", "Agreement", ["a"], [[1.0]], middle=True) is None
