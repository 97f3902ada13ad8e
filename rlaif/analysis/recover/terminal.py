"""A recovery on the terminal. Texts of models and files are shown as they are, never as markup."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from rlaif.analysis.recover.clusters import SAME_VERDICTS
from rlaif.analysis.recover.measure import COVERED, Nearest, Row
from rlaif.analysis.recover.propose import Proposals
from rlaif.analysis.recover.recover import Against, Recovery, Tried
from rlaif.core.statistics import Estimate
from rlaif.view.text import duration, number, percent, percents, visible

MOST_TRIED = 10


def rendered(found: Recovery) -> Iterator[RenderableType]:
    """What to print, from the headline to the cost."""
    yield _text(_headline(found), "bold")
    yield from _kept(found)
    yield _accuracies(found)
    if found.kept and not _beats_a_coin(found.rows[0]):
        yield _text(
            "On prompts that the choice did not see, the recovered principles are no better than a coin: they fit the "
            "training pairs by chance, and explain nothing.",
            "bold red",
        )
    yield _tried(found)
    if found.inverted:
        yield _text(
            "the labels go against these: turned round, they gain as much as was needed\n"
            + "\n".join(f"  {name}  {gain:.3f} nats a pair" for name, gain in found.inverted.items())
        )
    if found.proposals is not None:
        yield _text(_proposed(found.proposals))
    for cluster in found.clusters:
        how = (
            "wording" if cluster.alike == "wording" else f"verdicts (at one scale, within {SAME_VERDICTS:g} on average)"
        )
        yield _text(f"alike in {how}: {cluster.kept} stands for {', '.join(cluster.dropped)}", "dim")
    if found.against is not None:
        yield from _against(found.against)
    for note in found.notes:
        yield _text(f"note: {note}", "yellow")
    yield _text(
        f"{found.calls:,} calls of the judge's model, {found.cached:,} answers known from before, "
        f"{duration(found.seconds)}"
    )


def _text(text: str, style: str = "") -> Text:
    return Text(visible(text), style=style)


def _table(*headings: str, numbers: int = 0) -> Table:
    """A table whose last `numbers` columns hold numbers."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for index, heading in enumerate(headings):
        right = index >= len(headings) - numbers
        table.add_column(heading, justify="right" if right else "left", no_wrap=right, overflow="fold")
    return table


def _headline(found: Recovery) -> str:
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


def _kept(found: Recovery) -> Iterator[RenderableType]:
    if found.kept:
        table = _table("kept", "statement", "gain", "alone,\nheld out", numbers=2)
        for kept in found.kept:
            principle, made = kept.candidate.principle, "\n(contrast pair made)" if kept.candidate.contrast_made else ""
            alone = kept.alone.held_out
            table.add_row(
                _text(f"{principle.id}\n({kept.candidate.origin})"),
                _text(principle.statement + made),
                f"{kept.step.gain:.3f}",
                _share(alone, found.pairs["held_out"]),
            )
        yield table
        if any(kept.candidate.contrast_made for kept in found.kept):
            yield _text("A made contrast pair only wraps the statement; one that names the behaviour works better.")
    if found.refused is not None:
        step = found.refused
        what = "The next best" if found.kept else "No candidate explains the labels better than chance: the best"
        yield _text(
            f"{what}, {step.id}, gains {number(step.gain, 3)} nats a pair; {number(step.needed, 3)} are needed "
            "to be more than chance among so many candidates."
        )


def _accuracies(found: Recovery) -> Table:
    table = _table("agrees with the labels", "training", "held out", "95 % interval", numbers=3)
    for place, row in enumerate(found.rows):
        style = "bold" if place == 0 and found.kept else ""
        held = row.held_out
        bounds = "-" if held is None else percents(held.low, held.high)
        shares = (_share(rate, found.pairs[half]) for rate, half in ((row.training, "training"), (held, "held_out")))
        table.add_row(_text(row.name), *shares, bounds, style=style)
    return table


def _beats_a_coin(row: Row) -> bool:
    """Whether the whole interval on held-out prompts lies above one half."""
    return row.held_out is not None and row.held_out.low is not None and row.held_out.low > 0.5


def _share(found: Estimate | None, pairs: int) -> str:
    """The rate, and on how many pairs it is where not all have a verdict."""
    if found is None:
        return "-"
    return percent(found.mean) if found.n == pairs else f"{percent(found.mean)} ({found.n:,} of {pairs:,})"


def _tried(found: Recovery) -> Table:
    table = _table("candidate alone, on training pairs", "from", "no verdict", "agrees", "gain", numbers=3)
    for tried in found.tried[:MOST_TRIED]:
        table.add_row(_text(tried.candidate.principle.id), _text(tried.candidate.origin), *_figures(tried))
    more = len(found.tried) - MOST_TRIED
    if more > 0:
        table.add_row(f"and {more} more (--json has them)", style="dim")
    return table


def _figures(tried: Tried) -> tuple[str, str, str]:
    failed = ", ".join(f"{n} {kind}" for kind, n in tried.failures.items())
    gain = "alike" if tried.gain is None else f"{tried.gain:.3f}"
    return failed or "0", "-" if tried.accuracy is None else percent(tried.accuracy), gain


def _proposed(proposals: Proposals) -> str:
    failed = Counter(failure.kind for failure in proposals.failures)
    lines = ", ".join(f"{n} {kind}" for kind, n in failed.items())
    left = [
        f"{n} {why}" for n, why in ((proposals.alike, "nearly the same"), (proposals.spare, "beyond --propose")) if n
    ]
    head = f"{_count(len(proposals.statements), 'statement')} from {_count(proposals.asked, 'question')}"
    head += f"; left out: {', '.join(left)}" if left else ""
    head += f"; unusable lines: {lines}, the first because {proposals.failures[0].reason}" if lines else ""
    return "\n".join([f"proposed: {head}", *(f"  + {statement}" for statement in proposals.statements)])


def _against(against: Against) -> Iterator[RenderableType]:
    if not against.matches:
        yield _text(f"nothing was recovered to compare with {against.name}")
        return
    table = _table("recovered", f"nearest of {visible(against.name)}: wording", "behaviour, held out")
    for match in against.matches:
        table.add_row(_text(match.id), _near(match.wording), _near(match.behaviour))
    yield table
    if against.uncovered:
        table = _table(f"of {visible(against.name)}, not covered", "nearest recovered: wording", "behaviour, held out")
        for match in against.uncovered:
            table.add_row(_text(match.id), _near(match.wording), _near(match.behaviour))
        yield table
        yield _text(
            "covered: half of the word pairs shared and the same answer preferred more often than not, or the same "
            f"answer preferred on {COVERED:.0%} of the pairs",
            "dim",
        )
    else:
        yield _text(f"every principle of {against.name} is covered by a recovered one")


def _near(nearest: Nearest | None) -> Text:
    return _text("-" if nearest is None else f"{nearest.id} {percent(nearest.likeness)}")
