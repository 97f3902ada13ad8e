"""A config file of the fewest words."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.config.files import MINIMAL


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(MINIMAL)
    return path
