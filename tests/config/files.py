"""A config of the fewest words, and the message about one that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlaif.core.errors import ConfigError
from rlaif.judge.load import load

MINIMAL = "prompts:\n  mine:\n    source: everyday\n    train: 4\n"


def fails(file: Path, text: str, *overrides: str) -> str:
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(file, overrides)
    assert caught.value.exit_code == 2
    return str(caught.value)
