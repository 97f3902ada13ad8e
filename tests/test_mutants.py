"""scripts/mutants.py: the mistakes that it makes, one at a time."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from tests.scripts import loaded

ROOT = Path(__file__).parent.parent
SOURCE = """
from dataclasses import dataclass


@dataclass(frozen=True)
class Box:
    size: int | None = None


def least(x: int = 3, *, strict: bool = True) -> int | None:
    if not strict and x <= max(-x, 0):
        x -= 1
    return x.clip(min=x) if x in () or x == 2 else None
"""


def script() -> ModuleType:
    return loaded(ROOT / "scripts" / "mutants.py")


def test_each_mistake_is_made_once_and_alone() -> None:
    found = script().mutants(SOURCE)
    assert sorted({(mutant.line, mutant.before, mutant.after) for mutant in found}) == [
        (10, "3", "4"),
        (10, "True", "False"),
        (11, "-x", "x"),
        (11, "0", "1"),
        (11, "max", "min"),
        (11, "not strict", "strict"),
        (11, "not strict and x <= max(-x, 0)", "not strict or x <= max(-x, 0)"),
        (11, "x <= max(-x, 0)", "x < max(-x, 0)"),
        (11, "x <= max(-x, 0)", "x > max(-x, 0)"),
        (12, "1", "2"),
        (12, "x -= 1", "x += 1"),
        (13, "2", "3"),
        (13, "min=x", "max=x"),
        (13, "x == 2", "x != 2"),
        (13, "x in ()", "x not in ()"),
        (13, "x in () or x == 2", "x in () and x == 2"),
    ]
    whole = script().mutants("def f(x):\n    return x - (x + 1)\n")
    assert [mutant.source.splitlines()[1] for mutant in whole] == [
        "    return x + (x + 1)",
        "    return x - (x - 1)",
        "    return x - (x + 2)",
    ]


def test_a_few_are_spread_over_the_module_and_tested_by_its_mirror() -> None:
    module = script()
    found = module.mutants(SOURCE)
    assert module.spread(found, None) == module.spread(found, 99) == found
    assert [found.index(mutant) for mutant in module.spread(found, 4)] == [0, 4, 8, 12]
    assert module.mirror(Path("rlaif/core/statistics.py")) == Path("tests/core/test_statistics.py")
