"""How often the 95 % intervals of rlaif.core.statistics hold the truth, by the number of prompts.

    python benchmarks/intervals.py [--draws 2000]

Made-up measurements whose truth is known: shares of one answer a prompt, shares of six answers that are alike within a
prompt, scores without and with a long tail. Prints a row for each number of prompts; docs/read-a-report.md has it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import numpy as np

from rlaif.core.statistics import Estimate, Keyed, mean, mean_share

Draws = Callable[[np.random.Generator, int], Sequence[Sequence[float]]]
"""Values of each prompt."""
KINDS: dict[str, tuple[Draws, float, bool]] = {
    "share, 1 answer": (lambda random, n: (random.random((n, 1)) < 0.7).astype(float).tolist(), 0.7, True),
    "share, 6 alike": (
        lambda random, n: [(random.random(6) < level).astype(float).tolist() for level in random.random(n)],
        0.5,
        True,
    ),
    "normal": (lambda random, n: random.normal(0, 1, (n, 1)).tolist(), 0.0, False),
    "long tail": (lambda random, n: random.exponential(1, (n, 1)).tolist(), 1.0, False),
}
"""What is measured -> (how it is drawn, its true mean, whether it is a share)."""
PROMPTS = (4, 6, 8, 10, 15, 20, 30)


def holds(found: Estimate | None, truth: float) -> bool:
    return found is not None and found.low is not None and found.high is not None and found.low <= truth <= found.high


def coverage(kind: str, prompts: int, draws: int, resamples: int = 1000) -> float:
    """The share of `draws` data sets whose interval holds the truth."""
    draw, truth, is_share = KINDS[kind]
    random, held = np.random.default_rng(prompts), 0
    for number in range(draws):
        rows: list[Keyed] = [(str(p), v) for p, values in enumerate(draw(random, prompts)) for v in values]
        held += holds((mean_share if is_share else mean)(rows, seed=number, resamples=resamples), truth)
    return held / draws


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--draws", type=int, default=2000, help="data sets for each figure")
    draws = parser.parse_args().draws
    start = time.monotonic()
    print("| prompts |", " | ".join(KINDS), "|")
    print("|---|" + "---|" * len(KINDS))
    for prompts in PROMPTS:
        print(f"| {prompts} |", " | ".join(f"{coverage(kind, prompts, draws):.1%}" for kind in KINDS), "|", flush=True)
    print(f"{draws} draws each, {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
