"""Where a result came from: versions, source revision, hardware, peak memory. Loads no heavy library to find out."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from functools import lru_cache
from importlib import metadata
from pathlib import Path

RECORDED = ("rlaif", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "numpy")


def package_version(name: str) -> str | None:
    """The installed version of a distribution, or None."""
    if name == "rlaif":
        from rlaif import __version__

        return __version__
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Python and the installed ones of the libraries that can change a number."""
    found = {name: package_version(name) for name in RECORDED}
    return {"python": platform.python_version(), **{name: v for name, v in found.items() if v is not None}}


@lru_cache(maxsize=1)
def git_revision() -> str:
    """Commit of the checkout that rlaif runs from, with "-dirty" if it was edited; "" for an installed rlaif."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return ""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def cpu_name() -> str:
    """Model name of the processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def cpu_cores() -> int:
    """Cores that this process may use, which in a container is fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def hardware() -> str:
    """Processor, cores and, where torch is loaded and sees one, the GPUs."""
    text = f"{cpu_name()}, {cpu_cores()} cores"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        text += f", {torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    return text


def peak_memory_gb() -> float:
    """Largest resident size of this process so far, in GB (10^9 bytes)."""
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
