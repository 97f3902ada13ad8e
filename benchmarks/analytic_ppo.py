"""How near each algorithm comes to the closed-form optimum, for several beta: docs/reference/results-ppo.md.

    python benchmarks/analytic_ppo.py [OUT=docs/analytic-ppo.png] [STEPS=100]

A real tiny language model answers with one or two tokens of six; all 31 answers are enumerated, so that E[r], KL and
total variation are exact. Every run goes through the whole loop: sampling, rewards, advantages, clipped updates.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch

from rlaif.check.ppo.analytic import Solved, curve_of_optima, solve, write_model

BETAS = (0.5, 0.2, 0.1)
EVERY = 5
WAYS: dict[str, dict[str, Any]] = {
    "ppo": {"algorithm": "ppo"},
    "ppo, dapo loss": {"algorithm": "ppo", "loss_type": "dapo"},
    "reinforce": {"algorithm": "reinforce"},
    "reinforce, baseline": {"algorithm": "reinforce", "baseline": "batch"},
    "rloo": {"algorithm": "rloo", "samples_per_prompt": 8},
    "grpo, scores unscaled": {"algorithm": "grpo", "samples_per_prompt": 8, "scale_rewards": "none"},
    "grpo, scores over deviation": {"algorithm": "grpo", "samples_per_prompt": 8, "loss_type": "grpo"},
}


def main(out: str = "docs/analytic-ppo.png", steps: int = 100) -> None:
    found: dict[str, list[Solved]] = {name: [] for name in WAYS}
    print("| algorithm | beta | total variation, start | end | E[r] | closed form | KL | closed form | s |")
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        folder = write_model(Path(place))
        for name, fields in WAYS.items():
            for beta in BETAS:
                clock = time.process_time()
                size = {"batch_size": 512, "micro_batch_size": 512, "learning_rate": 5e-3}
                got = solve(folder, beta=beta, every=EVERY, steps=steps, **size, **fields)
                found[name].append(got)
                print(
                    f"| {name} | {beta} | {got.distance_at_start:.3f} | {got.distance:.4f} | {got.found.reward:.4f} | "
                    f"{got.optimum.reward:.4f} | {got.found.kl:.4f} | {got.optimum.kl:.4f} | "
                    f"{time.process_time() - clock:.0f} |",
                    flush=True,
                )
        curve = curve_of_optima(folder)
    draw(found, curve, Path(out))


def draw(found: dict[str, list[Solved]], curve: list[tuple[float, float]], out: Path) -> None:
    """Left: the distance to the optimum over the steps, at beta 0.2. Right: where each run ends, on the closed form."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), constrained_layout=True)
    right.plot(*zip(*curve, strict=True), color="0.6", label="closed form, all beta")
    marks = "os^vDP*"
    for (name, runs), mark in zip(found.items(), marks, strict=True):
        middle = next(run for run in runs if run.beta == 0.2)
        places = [EVERY * i + 1 for i in range(len(middle.distances))]
        (line,) = left.semilogy(places, middle.distances, label=name, linewidth=1.2)
        right.plot(
            [run.found.kl for run in runs],
            [run.found.reward for run in runs],
            mark,
            color=line.get_color(),
            label=name,
            fillstyle="none",
            markersize=8,
        )
    for run in next(iter(found.values())):
        right.annotate(
            f"β = {run.beta}", (run.optimum.kl, run.optimum.reward), (8, -14), textcoords="offset points", fontsize=9
        )
    left.axhline(0.02, color="0.6", linestyle=":")
    left.set(xlabel="step", ylabel="total variation to the optimum", title="β = 0.2")
    right.set(xlabel="KL to the reference (nats)", ylabel="E[reward]", title="Where the runs end")
    left.legend(fontsize=8)
    right.legend(fontsize=8, loc="lower right")
    figure.savefig(out, dpi=110)
    print(f"\nwrote {out}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    given = sys.argv[1:]
    main(*given[:1], *map(int, given[1:2]))
