"""What was freed is no longer held."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CODE = """
import resource
from rlaif.core.memory import give_back

def held():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 1e6

blocks = [b"x" * 1_000_000 for _ in range(400)]
last = bytes(100_000)  # on top of the heap: what lies below is not given back by itself
full = held()
del blocks
before = held()
give_back()
print(full, before, held())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the C library decides alone")
def test_freed_memory_goes_back_to_the_system() -> None:
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(1 << 25)}  # blocks of a megabyte stand on the heap
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True)
    full, before, after = map(float, done.stdout.split())
    assert full - before < 200, "else this system gives it back by itself, and the test shows nothing"
    assert full - after > 300
