"""A recovery as an answer for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rlaif.analysis.recover.clusters import SAME_VERDICTS
from rlaif.analysis.recover.measure import COVERED, Match, Nearest, Row
from rlaif.analysis.recover.propose import Proposals
from rlaif.analysis.recover.recover import Against, Recovery, Tried
from rlaif.core.statistics import Estimate
from rlaif.view.answer import Answer, Line, Part, Section, Table
from rlaif.view.text import duration, number, percent, percents

MOST_TRIED = 10


def answer(found: Recovery) -> Answer:
    """Which principles explain the labels, how well they do on held-out prompts, and what else was tried."""
    return Answer(
        verb="rlaif constitution recover",
        title=f"The principles behind {found.labels}",
        about="principles that explain given labels, chosen on one half of the prompts and tested on the other.",
        heading=_heading(found),
        verdict=[],
        sections=[
            Section("Kept", list(_kept(found))),
            Section("Agreement", list(_accuracies(found))),
            Section("Candidates", list(_candidates(found))),
            Section("Compared", [] if found.against is None else list(_against(found.against))),
            Section(
                "Cost",
                [
                    Line(
                        f"{found.calls:,} calls of the judge's model, {found.cached:,} answers known from before, "
                        f"{duration(found.seconds)}"
                    )
                ],
            ),
        ],
        notes=found.notes,
    )


def _heading(found: Recovery) -> str:
    counts = found.pairs
    left = f"; {_count(counts['not_used'], 'pair')} more not used" if counts["not_used"] else ""
    who = "at random" if found.method == "random" else f"by {found.judge} ({found.method})"
    chosen, held = (
        f"{_count(counts[half], 'pair')} of {_count(counts[f'{half}_prompts'], 'prompt')}"
        for half in ("training", "held_out")
    )
    return f"{found.labels}: {chosen} to choose on, {held} held out{left}; judged {who}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _kept(found: Recovery) -> Iterator[Part]:
    rows = [
        (
            f"{kept.candidate.principle.id}\n({kept.candidate.origin})",
            kept.candidate.principle.statement + ("\n(contrast pair made)" if kept.candidate.contrast_made else ""),
            f"{kept.step.gain:.3f}",
            _share(kept.alone.held_out, found.pairs["held_out"]),
        )
        for kept in found.kept
    ]
    if rows:
        yield Table(("kept", "statement", "gain", "alone, held out"), rows, texts=(0, 1))
        if any(kept.candidate.contrast_made for kept in found.kept):
            yield Line("A made contrast pair only wraps the statement; one that names the behaviour works better.")
    if found.refused is not None:
        step = found.refused
        what = "The next best" if found.kept else "No candidate explains the labels better than chance: the best"
        yield Line(
            f"{what}, {step.id}, gains {number(step.gain, 3)} nats a pair; {number(step.needed, 3)} are needed "
            "to be more than chance among so many candidates."
        )


def _accuracies(found: Recovery) -> Iterator[Part]:
    rows = []
    for row in found.rows:
        held = row.held_out
        shares = (_share(rate, found.pairs[half]) for rate, half in ((row.training, "training"), (held, "held_out")))
        rows.append((row.name, *shares, "-" if held is None else percents(held.low, held.high)))
    head = ("agrees with the labels", "training", "held out", "95 % interval")
    yield Table(head, rows, strong=(0,) if found.kept else ())
    if found.kept and not _beats_a_coin(found.rows[0]):
        yield Line(
            "On prompts that the choice did not see, the recovered principles are not shown to be better than a coin: "
            "they may fit the training pairs by chance alone.",
            "warning",
        )


def _beats_a_coin(row: Row) -> bool:
    """Whether the whole interval on held-out prompts lies above one half."""
    return row.held_out is not None and row.held_out.side(0.5) > 0


def _share(found: Estimate | None, pairs: int) -> str:
    """The rate, and on how many pairs it is where not all have a verdict."""
    if found is None:
        return "-"
    return percent(found.mean) if found.n == pairs else f"{percent(found.mean)} ({found.n:,} of {pairs:,})"


def _candidates(found: Recovery) -> Iterator[Part]:
    yield Table(
        ("candidate alone, on training pairs", "from", "no verdict", "agrees", "gain"),
        [_tried(tried) for tried in found.tried],
        texts=(0, 1),
        most=MOST_TRIED,
        rest="more (--json has them)",
    )
    if found.inverted:
        yield Line("the labels contradict these principles: each would have been kept if it said the opposite")
        for name, gain in found.inverted.items():
            yield Line(f"  {name}  {gain:.3f} nats a pair when reversed")
    if found.proposals is not None:
        yield Line(_proposed(found.proposals))
        for statement in found.proposals.statements:
            yield Line(f"  + {statement}")
    for cluster in found.clusters:
        verdicts = f"verdicts (at one scale, within {SAME_VERDICTS:g} on average)"
        how = "wording" if cluster.alike == "wording" else verdicts
        yield Line(f"alike in {how}: {cluster.kept} stands for {', '.join(cluster.dropped)}", "muted")


def _tried(tried: Tried) -> tuple[str, str, str, str, str]:
    failed = ", ".join(f"{n} {kind}" for kind, n in tried.failures.items())
    agrees = "-" if tried.accuracy is None else percent(tried.accuracy)
    gain = "alike" if tried.gain is None else f"{tried.gain:.3f}"
    return tried.candidate.principle.id, tried.candidate.origin, failed or "0", agrees, gain


def _proposed(proposals: Proposals) -> str:
    failed = Counter(failure.kind for failure in proposals.failures)
    lines = ", ".join(f"{n} {kind}" for kind, n in failed.items())
    left = [
        f"{n} {why}" for n, why in ((proposals.alike, "nearly the same"), (proposals.spare, "beyond --propose")) if n
    ]
    head = f"{_count(len(proposals.statements), 'statement')} from {_count(proposals.asked, 'question')}"
    head += f"; left out: {', '.join(left)}" if left else ""
    head += f"; unusable lines: {lines}, the first because {proposals.failures[0].reason}" if lines else ""
    return f"proposed: {head}"


def _against(against: Against) -> Iterator[Part]:
    if not against.matches:
        yield Line(f"nothing was recovered to compare with {against.name}")
        return
    yield _nearest("recovered", f"nearest of {against.name}: wording", against.matches)
    if not against.uncovered:
        yield Line(f"every principle of {against.name} is covered by a recovered one")
        return
    yield _nearest(f"of {against.name}, not covered", "nearest recovered: wording", against.uncovered)
    yield Line(
        f"covered: both prefer the same answer on {COVERED:.0%} of the pairs; or on more than half of them, with half "
        "of their word pairs in common",
        "muted",
    )


def _nearest(name: str, wording: str, matches: Sequence[Match]) -> Table:
    rows = [(match.id, _near(match.wording), _near(match.behaviour)) for match in matches]
    return Table((name, wording, "behaviour, held out"), rows, texts=(0, 1, 2))


def _near(nearest: Nearest | None) -> str:
    return "-" if nearest is None else f"{nearest.id} {percent(nearest.likeness)}"
