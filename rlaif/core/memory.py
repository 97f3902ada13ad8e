"""Memory that is no longer used goes back to the system."""

from __future__ import annotations

import ctypes
import gc
import sys


def give_back() -> None:
    """Frees what is unreachable, and asks the C library to return what it keeps of it.

    glibc holds on to freed blocks of many sizes: a closed model leaves a gigabyte behind, and the next stage takes its
    own beside it. Elsewhere than on Linux with glibc only the first is done.
    """
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
