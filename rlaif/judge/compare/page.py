"""A comparison of judges as one self-contained HTML page, with both parts and their agreement as pictures."""

from __future__ import annotations

from datetime import UTC, datetime

from rlaif.judge.compare import terminal
from rlaif.judge.compare.records import Compared
from rlaif.judge.compare.verdict import by_criterion
from rlaif.view.matrix import heat_map
from rlaif.view.plots import Point, dots
from rlaif.view.render import render


def page(found: Compared) -> str:
    """The page, in the dress of the run's report."""
    groups = []
    for choosing, name in ((True, "choosing part"), (False, "reporting part")):
        known = [(candidate.name, by_criterion(candidate, found, choosing=choosing)) for candidate in found.candidates]
        groups.append((name, [Point(1, who, e.mean, e.low, e.high) for who, e in known if e is not None]))
    names = [candidate.name for candidate in found.candidates[:-1]]
    agree = {(a.one, a.other): None if a.agree is None else a.agree.mean for a in found.agreements}
    cells = [[agree.get((one, other), agree.get((other, one))) for other in names] for one in names]
    return render(
        "compare.html.jinja",
        {
            "title": f"{len(names)} judges on {found.gold}",
            "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "found": found,
            "facts": terminal.facts_of(found),
            "choosing": (terminal.part_head(found, choosing=True), terminal.part_rows(found, choosing=True)),
            "reporting": (terminal.part_head(found, choosing=False), terminal.part_rows(found, choosing=False)),
            "costs": (terminal.COST_HEAD, terminal.cost_rows(found)),
            "agreements": (terminal.AGREEMENT_HEAD, terminal.agreement_rows(found)),
            "figure": dots("parts", "The criterion on both parts", groups, found.choice.criterion, line=0.5),
            "matrix": heat_map("agreement", "Share with the same preference", names, cells, middle=True),
        },
    )
