"""Shipped data is found in a checkout and in an installed package, and a broken installation says so."""

from pathlib import Path

import pytest

from rlaif.core import shipped as resources
from rlaif.core.errors import RlaifError
from rlaif.core.shipped import shipped


def test_a_checkout_finds_what_it_ships() -> None:
    assert {"harmless-and-kind", "example"} <= shipped("constitutions").keys()
    assert {"everyday", "sounds-dangerous"} <= shipped("prompts/sets").keys()
    assert set(shipped("prompts/templates")) == {
        "critique", "revision", "pairwise", "cot", "rating", "decision", "contrast", "propose",
    }  # fmt: skip
    assert shipped("constitutions")["example"].read_text().startswith("#")


def test_an_installed_package_uses_the_data_inside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site-packages" / "rlaif"
    (package / "_data" / "prompts" / "sets").mkdir(parents=True)
    (package / "_data" / "constitutions").mkdir()
    (package / "_data" / "constitutions" / "mine.yaml").write_text("name: mine")
    (package / "_data" / "constitutions" / "notes.txt").write_text("not a constitution")
    monkeypatch.setattr(resources, "_PACKAGE", package)
    assert shipped("constitutions") == {"mine": package / "_data" / "constitutions" / "mine.yaml"}
    assert shipped("prompts/sets") == {}


def test_a_broken_installation_says_how_to_mend_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "_PACKAGE", tmp_path / "rlaif")
    with pytest.raises(RlaifError, match="pip install"):
        shipped("constitutions")
