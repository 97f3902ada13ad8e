"""Which answers to label, as an answer for the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rlaif.analysis.sources.compare import RULE, SourceFigures, SourcesCompared
from rlaif.core.statistics import Estimate
from rlaif.view.answer import INTERVALS, NONE, Answer, Facts, Line, Part, Section, Table
from rlaif.view.text import percent, percents

NAMES = {"policy": "of the policy", "contrast": "by contrast"}


def answer(found: SourcesCompared) -> Answer:
    """What gold, words and confounds say of either kind of answers, and which one to take."""
    judged = f"judged by {found.judge}" + ("" if found.confirm else ", those by contrast taken as they are")
    return Answer(
        verb="rlaif label --compare",
        title="Which answers to label",
        about=f"pairs of the policy and pairs by contrast on {found.prompts} prompts, {judged}.",
        heading=f"{found.run}: {found.prompts} prompts, {judged}",
        verdict=[f"Take label.answers: {found.recommended}: {found.reason}."],
        sections=[Section("Either kind", list(_parts(found)))],
        notes=found.notes,
        footer=f"Made by rlaif from the run {found.run}. {INTERVALS}",
    )


def _parts(found: SourcesCompared) -> Iterator[Part]:
    sides = (found.policy, found.contrast)
    rows = [
        ("pairs", [f"{side.pairs:,}" for side in sides]),
        ("labelled", [_labelled(side) for side in sides]),
        *((f"gold {name} agrees", [_share(side.gold[name]) for side in sides]) for name in found.policy.gold),
        ("words tell", [_share(side.learnable) for side in sides]),
        ("longer wins", [_plain(side.confounds.longer_wins) for side in sides]),
        ("finished wins", [_plain(side.confounds.finished_wins) for side in sides]),
        ("refusal wins", [_plain(side.confounds.refusal_wins) for side in sides]),
    ]
    yield Table(["", *(NAMES[side.answers] for side in sides)], [[name, *cells] for name, cells in rows])
    yield Facts([("rule", RULE), *_words(found)])
    yield Line(
        "Words tell: share of the labels that a logistic regression on words and word pairs gets right on prompts that "
        "it was not fitted on. Style is in it too: look at the first words and at who wins.",
        "muted",
    )


def _labelled(side: SourceFigures) -> str:
    return "\n".join([f"{side.labelled:,}", *(f"{number} {kind}" for kind, number in sorted(side.missing.items()))])


def _plain(share: float | None) -> str:
    return NONE if share is None else percent(share)


def _words(found: SourcesCompared) -> Iterator[tuple[str, str]]:
    for side in (found.policy, found.contrast):
        told = [f"“{word.word}” {word.chosen} v {word.rejected}" for word in side.confounds.first_words]
        if told:
            yield f"first words {NAMES[side.answers]}", f"{', '.join(told)} (of preferred v other answers)"


def _share(value: Estimate | None) -> str:
    if value is None:
        return NONE
    bounds = "" if value.low is None or value.high is None else f"\n{percents(value.low, value.high)}"
    return f"{percent(value.mean)}{bounds}"
