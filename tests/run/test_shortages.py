"""A full disk and a full memory, as the libraries really tell of them."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlaif.core.errors import DiskError, StageError
from rlaif.run.shortages import shortages


def test_memory_that_torch_cannot_have_is_told_with_the_fields_to_lower(tmp_path: Path) -> None:
    with (
        pytest.raises(StageError, match=r"^ppo: the memory is full: .*\n.*ppo\.micro_batch_size.*--resume"),
        shortages("ppo", tmp_path),
    ):
        torch.empty(1 << 50)


def test_memory_that_numpy_cannot_have_too(tmp_path: Path) -> None:
    with (
        pytest.raises(StageError, match=r"^evaluate: the memory is full: .*\n.*model\.batch_size"),
        shortages("evaluate", tmp_path),
    ):
        np.empty(1 << 50)


def test_what_a_gpu_says_is_the_same_thing(tmp_path: Path) -> None:
    said = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 7.79 GiB"
    with pytest.raises(StageError, match="the memory is full: CUDA out of memory"), shortages("ppo", tmp_path):
        raise torch.OutOfMemoryError(said)


FILLED: dict[str, Any] = {
    "torch": "from rlaif.training.ppo import checkpoint as c; c.write_tensors(folder / 'x', {'a': torch.ones(9999)})",
    "safetensors": "from safetensors.torch import save_file; save_file({'a': torch.ones(9999)}, folder / 'x')",
    "python": "(folder / 'x').write_bytes(b'x' * 9999)",
}


@pytest.mark.parametrize("library", FILLED)
def test_a_disk_that_takes_no_more_is_told_whoever_writes(tmp_path: Path, library: str) -> None:
    code = (
        "import sys, torch; from pathlib import Path; from rlaif.run.shortages import shortages\n"
        "folder = Path(sys.argv[1])\n"
        f"with shortages('ppo', folder):\n    {FILLED[library]}"
    )

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        preexec_fn=limited,
        cwd=Path(__file__).parents[2],
    )
    assert done.stderr.splitlines()[-1].lstrip().startswith("-> make room"), done.stderr
    assert DiskError.__name__ in done.stderr


def test_another_error_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shapes"), shortages("ppo", tmp_path):
        raise RuntimeError("shapes do not fit")
