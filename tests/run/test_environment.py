"""`rlaif env`."""

from __future__ import annotations

import json

from rlaif import __version__
from tests.output import rlaif


def test_env_says_what_the_machine_has() -> None:
    found = json.loads(rlaif("env", "--json").stdout)
    assert found["rlaif"] == __version__
    assert found["dtype"] in ("bfloat16", "float32")
    assert {"hardware", "threads", "cache", "garak"} <= found.keys()
