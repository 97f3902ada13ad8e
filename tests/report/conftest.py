"""One finished run for the tests that only read it."""

from __future__ import annotations

import pytest

from rlaif.core.files import RunFolder
from tests.report.fake_run import write_run


@pytest.fixture(scope="package")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return write_run(tmp_path_factory.mktemp("run") / "demo")
