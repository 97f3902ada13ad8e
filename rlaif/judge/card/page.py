"""A judge's card as one self-contained HTML page, with the reliability of its probabilities as a picture."""

from __future__ import annotations

from datetime import UTC, datetime

from rlaif.gold.scorers import MATCHED
from rlaif.judge.card import terminal
from rlaif.judge.card.records import JudgeCard
from rlaif.view.plots import Point, dots, reliability
from rlaif.view.render import render


def page(card: JudgeCard) -> str:
    """The page, in the dress of the run's report."""
    bins = [] if card.calibration is None else card.calibration.bins
    filled = [(b.confidence, b.accuracy, b.pairs) for b in bins if b.confidence is not None and b.accuracy is not None]
    moved = [Point(1, a.name, a.change.mean, a.change.low, a.change.high) for a in card.attacks if a.change is not None]
    curve = reliability(
        "reliability",
        "Reliability",
        filled,
        who="judge (area = pairs)",
        labels=("confidence: P of the answer it prefers", "share right"),
        lowest=0.5,
    )
    changes = dots("changes", "Change of P", [("attack", moved)], "P with the attack less P without it", line=0.0)
    return render(
        "card.html.jinja",
        {
            "title": f"{card.subject.model} by {card.subject.method}",
            "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "card": card,
            "facts": terminal.facts_of(card),
            "accuracy": (terminal.ACCURACY_HEAD, terminal.accuracy_rows(card)),
            "bins": (terminal.BIN_HEAD, terminal.bin_rows(card)),
            "attacks": (terminal.ATTACK_HEAD, [[row[0], *row[2:]] for row in terminal.attack_rows(card)]),
            "groups": (terminal.GROUP_HEAD, terminal.group_rows(card)),
            "reliability": curve,
            "changes": changes,
            "matched": MATCHED,
        },
    )
