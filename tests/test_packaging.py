"""What is installed: the wheel has all that the command needs, and the tested versions fit the dependencies."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import rlaif

ROOT = Path(__file__).parent.parent
SOURCES = ("pyproject.toml", "README.md", "LICENSE", ".gitignore", "rlaif", "constitutions", "prompts")


def run(*words: str | Path, cwd: Path, path: Path | None = None) -> str:
    """What the command wrote; fails the test with its errors."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run([str(word) for word in words], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel built from a copy of the checkout, so that nothing is left in it."""
    pytest.importorskip("hatchling", reason="the build backend (extra dev) is not installed")
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "checkout"
    copy.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif (ROOT / name).exists():
            shutil.copy(ROOT / name, copy / name)
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder)
    run(sys.executable, "-m", "pip", "wheel", *options, copy, cwd=folder)
    (built,) = folder.glob("rlaif_toolkit-*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_has_every_file_of_the_package_and_its_data(wheel: Path) -> None:
    package = {path.relative_to(ROOT) for path in (ROOT / "rlaif").rglob("*") if path.is_file()}
    wanted = {path.as_posix() for path in package if path.suffix != ".pyc"}
    for name in ("constitutions", "prompts"):
        files = [path for path in (ROOT / name).rglob("*") if path.suffix in (".yaml", ".jsonl", ".jinja")]
        assert files
        wanted |= {f"rlaif/_data/{path.relative_to(ROOT).as_posix()}" for path in files}
    assert {"rlaif/py.typed", "rlaif/view/templates/report.html.jinja"} <= wanted
    assert wanted - set(zipfile.ZipFile(wheel).namelist()) == set()


@pytest.mark.slow
def test_the_installed_command_runs_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", site, wheel, cwd=tmp_path)
    found = run(sys.executable, "-c", "import rlaif; print(rlaif.__file__)", cwd=tmp_path, path=site)
    assert Path(found.strip()).is_relative_to(site)
    assert "init" in run(site / "bin" / "rlaif", "--help", cwd=tmp_path, path=site)
    run(site / "bin" / "rlaif", "init", "mine", cwd=tmp_path, path=site)
    assert "harmless-and-kind" in run(site / "bin" / "rlaif", "constitution", "list", cwd=tmp_path, path=site)
    run(site / "bin" / "rlaif", "check", "mine/mine.yaml", "--json", cwd=tmp_path, path=site)


def test_every_dependency_but_torch_has_a_tested_version_within_its_bounds() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    asked = [Requirement(text) for group in (project["dependencies"], *extras) for text in group]
    text = (ROOT / "scripts" / "constraints.txt").read_text("utf-8")
    tested = dict(re.findall(r"^([\w.-]+)==(\S+)$", text, re.MULTILINE))
    assert tested.keys() == {part.name for part in asked} - {"torch"}
    assert [part.name for part in asked if part.name in tested and tested[part.name] not in part.specifier] == []


def test_the_citation_is_of_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert f"version: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert version == rlaif.__version__
