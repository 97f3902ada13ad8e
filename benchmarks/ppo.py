"""Seconds and memory of a PPO step: rlaif's against TRL 1.12's PPOTrainer, the last one that TRL had.

    python benchmarks/ppo.py PYTHON_OF_TRL_1.12 [--steps 3] [--threads 1] [--rows trl-fp32,...] [--out rows.json]

How to make the environment that PYTHON_OF_TRL_1.12 (its bin/python) is from stands at the top of peers/trl_ppo.py.

The same work in every row: 16 prompts of a chat (47-64 tokens), 48 new tokens each that nothing ends, 2 epochs of 2
optimiser steps of 8 responses, LoRA r=16 on all linear layers, a reward model of the policy's size, KL in the reward.
What is left different is the subject: the copies of the weights held, what is trained of the critic (all of it in TRL,
a LoRA adapter or a head in ours), and how the work is done. Tokens and optimiser steps are counted and printed.

Each row is a process of its own that lives to the end; they take turns (A B C A B C ...), and the first turn of each
does not count. Printed are medians and ranges: of the clock, and of the process's CPU time, which stands even where
others work on the machine. A step counts as disturbed where others used more than 0.15 of a core.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from machine import machine

HERE = Path(__file__).parent
PHASES = ("generate", "score", "optimise")
OURS, TRL = "rlaif_ppo.py", "trl_ppo.py"
ROWS: dict[str, tuple[str, ...]] = {
    "trl-fp32": (TRL,),
    "trl-bf16": (TRL, "--dtype", "bfloat16"),
    "trl-bf16-eager": (TRL, "--dtype", "bfloat16", "--attention", "eager"),
    "trl-bf16-eager-lora-critic": (TRL, "--dtype", "bfloat16", "--attention", "eager", "--critic", "lora"),
    "rlaif-adapter": (OURS, "--value", "adapter"),
    "rlaif-trunk": (OURS, "--value", "trunk"),
}
DEFAULT_ROWS = [name for name in ROWS if "lora-critic" not in name]
YARDSTICK = "trl-bf16-eager"
DISTURBED = 0.15
SPARE = 1.5e9
"""Bytes of memory that a step leaves to the machine."""
FIRST_STEP = 20
"""Bytes for each parameter held that a row is taken to need at most, as long as none of its steps has been seen."""
WORK = {
    "batch_size": 16,
    "max_new_tokens": 48,
    "num_ppo_epochs": 2,
    "num_mini_batches": 2,
    "lora_r": 16,
    "lora_alpha": 32,
}


class StoppedEarly(Exception):
    """The turns cannot go on; what was counted so far stands."""


@dataclass
class Worker:
    """A row of the table: its process and the steps that count."""

    name: str
    process: subprocess.Popen[str]
    facts: dict[str, Any] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)
    peak: float = 0.0

    def turn(self) -> dict[str, Any]:
        """One step of the worker, with the cores that others used meanwhile.

        Raises StoppedEarly where the step would take the machine's last memory: pages that come and go are no
        measurement, and whoever else works there would pay for it.
        """
        assert self.process.stdin is not None
        if _available() < self.peak - _resident(self.process.pid) + SPARE:
            raise StoppedEarly(f"too little memory is free for a step of {self.name}: take fewer --rows")
        busy, start = _busy_seconds(), time.perf_counter()
        print("step", file=self.process.stdin, flush=True)
        row = self.answer()
        self.peak = row["peak_bytes"]
        wall = time.perf_counter() - start
        others = (_busy_seconds() - busy - sum(row["cpu"].values())) / wall
        return row | {"others": max(0.0, others)}

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise StoppedEarly(f"{self.name} ended: see its log")
        return dict(json.loads(line))

    def end(self) -> None:
        """Ends the process; it may be in the midst of a step."""
        self.process.kill()
        self.process.wait()

    def each(self, kind: str, phase: str) -> list[float]:
        """What the counted steps took, in one phase or ("total") in all."""
        return [sum(step[kind].values()) if phase == "total" else step[kind][phase] for step in self.steps]


def main() -> None:
    given = _arguments()
    rows = [name.strip() for name in given.rows.split(",")]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = os.environ | {"OMP_NUM_THREADS": str(given.threads), "HF_HUB_OFFLINE": "1"}
        environment["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
        work = WORK | {"source": given.model, "prompts": given.prompts}
        work |= {"batch_size": given.batch_size, "max_new_tokens": given.max_new_tokens}
        workload = folder / "workload.json"
        workload.write_text(json.dumps(work), encoding="utf-8")
        prepare = [sys.executable, str(HERE / "peers" / OURS), str(workload), "--prepare"]
        subprocess.run(prepare, env=environment, check=True)
        work = json.loads(workload.read_text(encoding="utf-8"))
        _say_what(work, given)
        workers: list[Worker] = []
        try:
            workers.extend(_start(row, given.trl_python, workload, environment, Path(given.logs)) for row in rows)
            _take_turns(workers, given.warmup, given.steps)
        except (StoppedEarly, KeyboardInterrupt) as problem:
            print(f"stopped: {str(problem) or 'by hand'}")
        for worker in workers:
            worker.end()
    workers = [worker for worker in workers if worker.steps]
    if given.out:
        found = {worker.name: {"facts": worker.facts, "steps": worker.steps} for worker in workers}
        Path(given.out).write_text(json.dumps(found, indent=1), encoding="utf-8")
    if workers:
        _print_tables(workers, work)
        model_config = json.loads((Path(work["model"]) / "config.json").read_text(encoding="utf-8"))
        products = step_products(model_config, work)
        _print_floor(workers, products, _floor(products, environment))


def _take_turns(workers: Sequence[Worker], warmup: int, steps: int) -> None:
    for turn in range(warmup + steps):
        for worker in workers:
            step = worker.turn()
            _say_step(worker.name, turn - warmup + 1, step)
            if turn >= warmup:
                worker.steps.append(step)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trl_python", help="bin/python of an environment with TRL 1.12")
    parser.add_argument("--steps", type=int, default=3, help="counted steps per row")
    parser.add_argument("--warmup", type=int, default=1, help="steps before them that do not count")
    parser.add_argument("--threads", type=int, default=1, help="OMP_NUM_THREADS of every row")
    parser.add_argument("--rows", default=",".join(DEFAULT_ROWS), help=f"of {', '.join(ROWS)}")
    parser.add_argument("--model", default="embedded", help="as in model.source")
    parser.add_argument("--prompts", default="do-not-answer", help="a prompt set")
    parser.add_argument("--batch-size", type=int, default=WORK["batch_size"], help="responses per step")
    parser.add_argument("--max-new-tokens", type=int, default=WORK["max_new_tokens"], help="tokens per response")
    parser.add_argument("--logs", default=".", help="folder for what the rows print")
    parser.add_argument("--out", help="JSON file for every counted step")
    given = parser.parse_args()
    unknown = [name for name in given.rows.split(",") if name.strip() not in ROWS]
    if unknown:
        parser.error(f"no such rows: {', '.join(unknown)}")
    return given


def _start(name: str, trl_python: str, workload: Path, environment: dict[str, str], logs: Path) -> Worker:
    script, *arguments = ROWS[name]
    python = trl_python if script == TRL else sys.executable
    command = [python, str(HERE / "peers" / script), str(workload), *arguments]
    with (logs / f"{name}.log").open("w", encoding="utf-8") as log:
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=log, text=True, env=environment)
    worker = Worker(name, process)
    worker.facts = worker.answer()
    worker.peak = FIRST_STEP * worker.facts["held"]
    return worker


def _busy_seconds() -> float:
    """Seconds of all cores that were not idle since the machine started (0 where there is no /proc)."""
    try:
        first = Path("/proc/stat").read_text(encoding="utf-8").splitlines()[0].split()[1:9]
    except OSError:
        return 0.0
    user, nice, system, _, _, *rest = map(int, first)
    return float(user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")


def _available() -> float:
    """Bytes of memory that can be had (infinitely many where there is no /proc)."""
    return _from_proc("/proc/meminfo", "MemAvailable", otherwise=float("inf"))


def _resident(process: int) -> float:
    """Bytes of memory that a process holds."""
    return _from_proc(f"/proc/{process}/status", "VmRSS", otherwise=0.0)


def _from_proc(file: str, name: str, *, otherwise: float) -> float:
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except OSError:
        return otherwise
    return next((float(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), otherwise)


def _say_what(work: dict[str, Any], given: argparse.Namespace) -> None:
    lengths = list(map(len, work["ids"]))
    print(
        f"{machine()}; {given.threads} thread(s) a row\n"
        f"{given.model}: {len(lengths)} prompts of {min(lengths)}-{max(lengths)} tokens "
        f"(mean {statistics.mean(lengths):.1f}), {work['max_new_tokens']} new tokens each; what the rows print goes to "
        f"{given.logs}/ROW.log\n",
        flush=True,
    )


def _say_step(name: str, number: int, step: dict[str, Any]) -> None:
    parts = " ".join(f"{phase} {step['wall'][phase]:.1f} ({step['cpu'][phase]:.1f})" for phase in PHASES)
    count = f"step {number}" if number > 0 else "warm-up"
    mark = "  DISTURBED" if step["others"] > DISTURBED else ""
    print(f"  {count} {name}: seconds (CPU's) {parts}; others {step['others']:.2f} cores{mark}", flush=True)


def _print_tables(workers: Sequence[Worker], work: dict[str, Any]) -> None:
    print("\n| row | tokens sampled | tokens into models: " + ", ".join(PHASES) + " | optimiser steps | "
          "parameters held, M | trained, M |\n|---|---|---|---|---|---|")  # fmt: skip
    for worker in workers:
        step = worker.steps[0]
        tokens = ", ".join(str(step["tokens"][phase]) for phase in PHASES)
        held, trained = (worker.facts[name] / 1e6 for name in ("held", "trained"))
        print(f"| {worker.name} | {step['generated']} | {tokens} | {step['updates']} | {held:.1f} | {trained:.1f} |")
    yardstick = next((worker for worker in workers if worker.name == YARDSTICK), None)
    for kind, title in (("wall", "seconds by the clock"), ("cpu", "CPU seconds")):
        columns = [title, *PHASES, "total", "response tokens/s", f"x over {YARDSTICK}", "peak memory, GB", "disturbed"]
        print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
        for worker in workers:
            cells = [_spread(worker.each(kind, phase)) for phase in (*PHASES, "total")]
            total = statistics.median(worker.each(kind, "total"))
            rate = len(work["ids"]) * work["max_new_tokens"] / total
            gain = f"{statistics.median(yardstick.each(kind, 'total')) / total:.2f}" if yardstick else ""
            peak = worker.steps[-1]["peak_bytes"] / 1e9
            dirty = sum(step["others"] > DISTURBED for step in worker.steps)
            row = [worker.name, *cells, f"{rate:.1f}", gain, f"{peak:.2f}", f"{dirty} of {len(worker.steps)}"]
            print(f"| {' | '.join(row)} |")


def _spread(values: Sequence[float]) -> str:
    middle = statistics.median(values)
    return f"{middle:.1f} ({min(values):.1f}-{max(values):.1f})"


Product = tuple[str, int, int, int, int]
"""(phase, rows, inputs, outputs, how often)"""


def step_products(config: dict[str, Any], work: dict[str, Any]) -> list[Product]:
    """The matrix products of the least PPO step there is, for a model of Llama's shape.

    Least: prompts and responses once through the policy to sample; once through reference, and once through the reward
    model (the sampler's log-probs and values are kept); per epoch once forward and once backward (to the inputs alone:
    the weights are frozen) through the trunk that policy and critic share. The head only where tokens are predicted.
    LoRA's own products, attention and all that is no matrix product are left out.
    """
    hidden, inner, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    size = config.get("head_dim") or hidden // config["num_attention_heads"]
    queries, keys = config["num_attention_heads"] * size, config["num_key_value_heads"] * size
    layer = [(hidden, queries, 1), (hidden, keys, 2), (queries, hidden, 1), (hidden, inner, 2), (inner, hidden, 1)]
    batch, new = len(work["ids"]), work["max_new_tokens"]
    prompts = sum(map(len, work["ids"]))
    whole, part = prompts + batch * (new - 1), work["num_mini_batches"]
    products: list[Product] = []

    def add(phase: str, rows: int, heads: int, times: int, *, backward: bool = False) -> None:
        shapes = [(i, o, count * config["num_hidden_layers"]) for i, o, count in layer]
        for rows_, shape in [(rows, s) for s in shapes] + [(heads, (hidden, vocabulary, 1))] * bool(heads):
            inputs, outputs, count = shape
            products.append((phase, rows_, inputs, outputs, count * times))
            if backward:
                products.append((phase, rows_, outputs, inputs, count * times))

    add("generate", prompts, batch, 1)
    add("generate", batch, batch, new - 1)
    add("score", whole // part, batch * new // part, part)
    add("score", whole // part, 0, part)
    add("optimise", whole // part, batch * new // part, part * work["num_ppo_epochs"], backward=True)
    return products


def _floor(products: Sequence[Product], environment: dict[str, str]) -> dict[str, Any]:
    """What peers/floor.py measures for the products."""
    asked = json.dumps([product[1:4] for product in products])
    command = [sys.executable, str(HERE / "peers" / "floor.py")]
    done = subprocess.run(command, input=asked, env=environment, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


def _print_floor(workers: Sequence[Worker], products: Sequence[Product], floor: dict[str, Any]) -> None:
    """The floor by phase, in seconds of all threads, beside what each of our rows takes of it."""
    rate, bandwidth = floor["rate"], floor["bandwidth"]
    print(f"\nbfloat16 products of 2048^3: {rate / 1e9:.0f} GFLOP/s; memory read: {bandwidth / 1e9:.1f} GB/s")
    least: dict[str, Callable[[Product, float], float]] = {
        "arithmetic at that rate, or memory": lambda p, _: p[4] * max(
            2 * p[1] * p[2] * p[3] / rate, 2 * p[2] * p[3] / bandwidth
        ),
        "its matrix products as torch does them": lambda p, seconds: p[4] * seconds,
    }  # fmt: skip
    print("\n| floor, seconds | " + " | ".join(PHASES) + " | total |\n|" + "---|" * 5)
    for name, seconds_of in least.items():
        found = dict.fromkeys(PHASES, 0.0)
        for product, seconds in zip(products, floor["seconds"], strict=True):
            found[product[0]] += seconds_of(product, seconds)
        cells = " | ".join(f"{found[phase]:.2f}" for phase in PHASES)
        print(f"| {name} | {cells} | {sum(found.values()):.2f} |")
        for worker in workers:
            if worker.name.startswith("rlaif"):
                times = [statistics.median(worker.each("cpu", p)) / worker.facts["threads"] for p in (*PHASES, "total")]
                whole = [*found.values(), sum(found.values())]
                gaps = " | ".join(f"{taken / needed:.1f}x" for taken, needed in zip(times, whole, strict=True))
                print(f"| {worker.name} takes | {gaps} |")


if __name__ == "__main__":
    main()
