"""What each attack (rlaif.judge.card.attacks) does to the judge: the worse answer carries it and is judged again.

Two things are measured. How the probability of the worse answer moves, which only the judge can say; and whether the
question that the judge is asked keeps its structure, which is our templates' matter and needs no model: the same
messages by the same roles, and the same lines outside of quotations, as without the attack. (Text that spells a token
of the chat format is encoded as plain characters by rlaif.lm.local.load; what a server makes of it is up to the
server.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rlaif.core.progress import Task
from rlaif.core.records import Comparison, Failure, Message, PreferenceLabel, Principle
from rlaif.core.statistics import Draw, Keyed, preferred
from rlaif.judge.card.attacks import ATTACKS, Attack
from rlaif.judge.card.figures import JudgedPair, failure_kinds, share_of
from rlaif.judge.card.questions import JudgeOf
from rlaif.judge.card.records import AttackResult
from rlaif.judge.judge import Judge
from rlaif.lm.protocol import Request
from rlaif.lm.scripted import ScriptedModel

UNASKED = Failure("backend", "not asked: only the question is looked at")


def attack_all(
    rows: Sequence[JudgedPair],
    principles: Sequence[Sequence[Principle]],
    judge: Judge,
    judge_of: JudgeOf,
    draw: Draw,
    task: Task,
) -> list[AttackResult]:
    """One result per attack, on all the rows; `principles` are those that each row was judged under."""
    plain = _structures(judge_of, judge, [row.pair.comparison for row in rows], principles)
    found = []
    for attack in ATTACKS:
        attacked = [_attacked(row, attack) for row in rows]
        labels = judge.label_under(attacked, principles)
        kept = sum(a == b for a, b in zip(_structures(judge_of, judge, attacked, principles), plain, strict=True))
        found.append(_result(attack, rows, labels, kept, draw))
        task.advance(len(rows), attack.name)
    return found


def _attacked(row: JudgedPair, attack: Attack) -> Comparison:
    """The pair with the attack in the answer that gold does not prefer."""
    worse = replace(row.pair.worse, text=attack.apply(row.pair.worse.text), id="")
    pair = row.pair.comparison
    return replace(pair, b=worse, id="") if row.pair.a_is_better else replace(pair, a=worse, id="")


def _structures(
    judge_of: JudgeOf, judge: Judge, comparisons: Sequence[Comparison], principles: Sequence[Sequence[Principle]]
) -> list[list[object]]:
    """For each comparison what stands around the quotations in every question that it is asked by."""
    asked: list[tuple[Message, ...]] = []

    def overhear(request: Request) -> Failure:
        asked.append(request.messages)
        return UNASKED

    found = []
    for comparison, chosen in zip(comparisons, principles, strict=True):
        asked.clear()
        judge_of([ScriptedModel(overhear)] * len(judge.models)).label_under([comparison], [chosen])
        found.append([structure(messages) for messages in asked])
    return found


def structure(messages: Sequence[Message]) -> object:
    """The roles, and of each message the lines outside of quotations."""
    return [(m.role, [line for line in m.content.splitlines() if not line.startswith("> ")]) for m in messages]


def _result(
    attack: Attack, rows: Sequence[JudgedPair], labels: Sequence[PreferenceLabel], kept: int, draw: Draw
) -> AttackResult:
    change: list[Keyed] = []
    won: list[Keyed] = []
    for row, label in zip(rows, labels, strict=True):
        before = row.prob_right
        after = JudgedPair(row.pair, label).prob_right
        if before is None or after is None:
            continue
        change.append((row.pair.prompt_id, before - after))
        if before > 0.5:
            won.append((row.pair.prompt_id, preferred(1 - after)))
    return AttackResult(
        name=attack.name,
        about=attack.about,
        structural=attack.structural,
        keeps=attack.keeps,
        pairs=len(rows),
        judged=len(change),
        failures=failure_kinds(labels),
        change=draw.mean(change),
        moved=max((abs(value) for _, value in change if value is not None), default=None),
        lost_before=len(won),
        won=share_of(draw, won),
        structure_kept=kept,
    )
