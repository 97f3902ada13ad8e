"""Prints as JSON what this machine can do: seconds of the matrix products of a PPO step alone, and peak rates.

The products have the sizes of the workload (`products` in benchmarks/ppo.py says which and how often); each is timed
as torch does it by default, with the weights frozen. Needs torch alone.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable

import torch


def main() -> None:
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    products: list[list[int]] = json.load(sys.stdin)
    peak = _product(2048, 2048, 2048)
    found = {"rate": 2 * 2048**3 / peak, "bandwidth": _read_bandwidth()}
    print(json.dumps(found | {"seconds": [_product(*product) for product in products]}))


def _product(rows: int, inputs: int, outputs: int) -> float:
    """Seconds of (rows, inputs) times (inputs, outputs) in bfloat16."""
    left = torch.randn(rows, inputs).bfloat16()
    # As in a model no weight is in the cache when its turn comes; beyond 64 copies it does not matter any more.
    size = inputs * outputs * 2
    weights = [torch.randn(outputs, inputs).bfloat16() for _ in range(max(1, min(64, (128 << 20) // size)))]
    place = 0

    def multiply() -> None:
        nonlocal place
        place = (place + 1) % len(weights)
        torch.nn.functional.linear(left, weights[place])

    return _median(multiply, least=5)


def _read_bandwidth() -> float:
    """Bytes per second of reading 512 MB."""
    numbers = torch.ones(1 << 27)
    return numbers.numel() * 4 / _median(lambda: numbers.sum(), least=5)


def _median(work: Callable[[], object], least: int) -> float:
    """The median of the CPU's seconds a call, over the threads that work: others' load does not count."""
    with torch.inference_mode():
        for _ in range(2):
            work()
        seconds: list[float] = []
        start = time.perf_counter()
        while len(seconds) < least or (len(seconds) < 50 and time.perf_counter() - start < 0.3):
            before = time.process_time()
            work()
            seconds.append((time.process_time() - before) / torch.get_num_threads())
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
