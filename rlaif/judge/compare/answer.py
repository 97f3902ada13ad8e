"""A comparison of judges as an answer: for the terminal and for a page, with both parts and their agreement as
pictures."""

from __future__ import annotations

from collections.abc import Iterator

from rlaif.gold.text import MATCHED
from rlaif.judge.card.answer import kinds
from rlaif.judge.card.verdict import points, share
from rlaif.judge.compare.records import JudgeComparison, PartFigures
from rlaif.judge.compare.verdict import by_criterion
from rlaif.view.answer import INTERVALS, NONE, Answer, Facts, Figures, Line, Part, Section, Table, below
from rlaif.view.matrix import heat_map
from rlaif.view.plots import Point, dots
from rlaif.view.text import number, percent


def answer(found: JudgeComparison) -> Answer:
    """The judges on both parts, what they cost and how far they agree."""
    judges = len(found.candidates) - 1
    return Answer(
        verb="rlaif judge compare",
        title=f"{judges} judges on {found.gold}",
        about=f"comparison {found.id}, measured on {found.gold}, {found.gold_about}.",
        heading=f"{judges} judges on {found.gold}: comparison {found.id}",
        verdict=found.verdict,
        sections=[
            Section("What was compared", [Facts(_facts(found))]),
            Section("Both parts", list(_parts(found))),
            Section("Cost", list(_costs(found))),
            Section("Agreement", list(_agreement(found))),
        ],
        notes=found.notes,
        footer=f"Made by rlaif. {INTERVALS}",
    )


def _facts(found: JudgeComparison) -> list[tuple[str, str]]:
    """On what was compared, what decides, and who the judges are, each as a name and a sentence."""
    first = found.candidates[0]
    parts = [(f"{part.pairs:,} pairs of {part.prompts:,} prompts") for part in (first.choosing, first.reporting)]
    matched = f"the numbers of characters differ by at most {MATCHED:.0%} of the longer one"
    facts = [
        ("gold", f"{found.gold_about} ({found.gold_hash})"),
        ("split", f"by hash of the prompt, seed {found.seed}: {parts[0]} for choosing, {parts[1]} for reporting"),
        ("criterion", f"{found.choice.criterion} on the choosing part, fixed before anything was judged"),
        ("length-matched", matched),
        ("constitution", f"{found.constitution} ({found.constitution_hash}): {', '.join(found.principles)}"),
    ]
    for candidate in found.candidates:
        if candidate.model:
            words = " ".join(candidate.words) or "as in the config"
            template = f", template {candidate.template_hash}" if candidate.template_hash else ""
            facts.append(
                (candidate.name, f"{words}; {candidate.model} ({candidate.fingerprint or 'no model'}){template}")
            )
    return facts


def _parts(found: JudgeComparison) -> Iterator[Part]:
    groups = []
    for choosing, name in ((True, "choosing part"), (False, "reporting part")):
        known = [(candidate.name, by_criterion(candidate, found, choosing=choosing)) for candidate in found.candidates]
        groups.append((name, [Point(1, who, e.mean, e.low, e.high) for who, e in known if e is not None]))
    criterion = found.choice.criterion
    yield Figures(lambda: [dots("parts", "The criterion on both parts", groups, criterion, line=0.5)])
    yield _part_table(found, choosing=True)
    yield Line(
        f"The judge with the star was chosen for the best {criterion} here, so its figures here are somewhat too good. "
        "All pairs and matched: how often judge or rule prefers the same answer as gold, on all pairs and on those of "
        "about the same length; a tie counts half, each prompt counts once. Flips: the judge changes its mind when the "
        "two answers change places.",
        "caption",
    )
    yield _part_table(found, choosing=False)
    yield Line(
        "The prompts that no judge was chosen on. Behind by: how many points the judge is behind the chosen one, by "
        "the same criterion on the same prompts.",
        "caption",
    )


def _part_table(found: JudgeComparison, *, choosing: bool) -> Table:
    """One row per judge, one for the mean of all, and one for each rule that looks at length alone."""
    several = any(part.best_of is not None for one in found.candidates for part in (one.choosing, one.reporting))
    head = [f"{'choosing' if choosing else 'reporting'} part", "all pairs", "matched", "Brier", "flips"]
    head += ["best of several"] * several + ["behind by"] * (not choosing)
    rows = []
    for candidate in found.candidates:
        part = candidate.choosing if choosing else candidate.reporting
        chosen = " *" if candidate.name == found.choice.winner else ""
        missing = f"\nno label: {part.pairs - part.labelled:,}{kinds(part.failures)}" if part.failures else ""
        last = [] if choosing else [NONE if candidate.behind is None else below(points(candidate.behind))]
        rows.append([f"{candidate.name}{chosen}{missing}", *_figures(part, several=several), *last])
    mean = found.candidates[-1].choosing if choosing else found.candidates[-1].reporting
    blank = [NONE] * (len(head) - 3)
    for name in ("shorter", "longer"):
        rule = [below(share(getattr(accuracy, name))) for accuracy in (mean.accuracy, mean.length_matched)]
        rows.append([f"{name} wins", *rule, *blank])
    return Table(head, rows)


def _figures(part: PartFigures, *, several: bool) -> list[str]:
    brier = NONE if part.calibration is None else number(part.calibration.brier.mean, 3)
    flips = NONE if part.order is None else percent(part.order.flip_rate.mean)
    best = [NONE if part.best_of is None else below(share(part.best_of))] if several else []
    return [below(share(part.accuracy.judge)), below(share(part.length_matched.judge)), brier, flips, *best]


def _costs(found: JudgeComparison) -> Iterator[Part]:
    """One row per judge with a model."""
    known = [(candidate, candidate.cost) for candidate in found.candidates if candidate.cost is not None]
    rows = [
        [candidate.name, number(c.seconds, 2), number(c.calls, 1), number(c.tokens, 0), f"{c.pairs:,} pairs"]
        for candidate, c in known
    ]
    if rows:
        yield Table(("a pair costs", "seconds", "calls", "tokens", "measured on"), rows)
        yield Line("Measured past the cache, with the model loaded; tokens read, written and scored.", "caption")


def _agreement(found: JudgeComparison) -> Iterator[Part]:
    """One row for every two judges."""
    names = [candidate.name for candidate in found.candidates[:-1]]
    agree = {(a.one, a.other): None if a.agree is None else a.agree.mean for a in found.agreements}
    cells = [[agree.get((one, other), agree.get((other, one))) for other in names] for one in names]
    yield Figures(lambda: [heat_map("agreement", "Share with the same preference", names, cells, middle=True)])
    rows = [
        [
            f"{a.one}, {a.other}",
            f"{a.pairs:,}",
            below(share(a.agree)),
            number(a.kappa, 2) if a.kappa is not None else NONE,
            *(NONE if value is None else percent(value) for value in (a.both_wrong, a.both_wrong_by_chance)),
        ]
        for a in found.agreements
    ]
    yield Table(("two judges", "pairs", "agree", "kappa", "both wrong", "by chance"), rows)
    yield Line(
        "Over both parts. Kappa: agreement beyond chance; 1 is always, 0 is no more than by chance. Both wrong: of the "
        "pairs that at least one of the two has wrong, the share that both have wrong. By chance: what that share "
        "would be if their errors had nothing to do with each other.",
        "caption",
    )
