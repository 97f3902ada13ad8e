"""How often a judge finds a right answer among several, as RewardBench 2 counts (arXiv 2506.01937): best of 4 there."""

from __future__ import annotations

from collections.abc import Sequence

from rlaif.core.statistics import Draw, Estimate, preferred
from rlaif.gold.pairs import GoldPair
from rlaif.judge.card.figures import JudgedPair, share_of


def best_of(rows: Sequence[JudgedPair], gold: Sequence[GoldPair], draw: Draw) -> Estimate | None:
    """Share of prompts on which one of the right answers is preferred to every wrong one, a tie being half.

    It is over the prompts that have several wrong answers, each compared with every right one, all of them judged. None
    where there is no such prompt, as in gold with two answers to a prompt, or where only some pairs were drawn.
    """
    wanted: dict[str, set[tuple[str, str]]] = {}
    for pair in gold:
        wanted.setdefault(pair.prompt_id, set()).add((pair.better.text, pair.worse.text))
    won: dict[str, dict[tuple[str, str], float]] = {}
    for row in rows:
        if (p := row.prob_right) is not None:
            won.setdefault(row.pair.prompt_id, {})[row.pair.better.text, row.pair.worse.text] = preferred(p)
    found = []
    for prompt, wins in won.items():
        right, wrong = ({pair[side] for pair in wanted[prompt]} for side in (0, 1))
        grid = {(one, other) for one in right for other in wrong}
        if len(wrong) > 1 and not right & wrong and wanted[prompt] == grid == wins.keys():
            found.append((prompt, max(min(wins[one, other] for other in wrong) for one in right)))
    return share_of(draw, found)
