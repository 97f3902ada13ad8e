"""`random`: a coin from a hash, the control that shows what labels without information do."""

from __future__ import annotations

from collections.abc import Sequence

from rlaif.core.records import Verdict, record_seed
from rlaif.judge.methods.method import Ask, Asker, Method, verdict


def ask(asks: Sequence[Ask], asker: Asker) -> list[list[Verdict]]:
    """One verdict per ask with P(A) uniform on [0, 1], drawn from the seed, the two responses and the principle.

    The two stand in the draw in the order of their ids: swapped, they get the complement.
    """
    verdicts = []
    for one in asks:
        a, b = (response.id for response in one.responses)
        point = record_seed(asker.seed, "random judge", min(a, b), max(a, b), one.principle.id) / (1 << 63)
        verdicts.append([verdict(one, METHOD.name, "none", "random", point if a <= b else 1 - point)])
    return verdicts


METHOD = Method("random", ask, cost=None, shown=("id",))
