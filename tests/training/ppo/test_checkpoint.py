"""A checkpoint that is damaged is passed over for the one before, or told."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from rlaif.core.errors import StageError
from rlaif.training.ppo import checkpoint

STATE, FACTS = {"weight": torch.arange(3.0)}, {"step": 4}


def damaged(folder: Path, how: str) -> None:
    state, facts = folder / "state.pt", folder / "facts.json"
    match how:
        case "no facts":
            facts.unlink()
        case "facts cut":
            facts.write_text('{"st')
        case "facts a list":
            facts.write_text("[4]")
        case "no state":
            state.unlink()
        case "state empty":
            state.write_bytes(b"")
        case "state cut":
            state.write_bytes(state.read_bytes()[:-200])
        case "state text":
            state.write_text("not tensors")
        case "state of code":
            torch.save({"weight": print}, state)


DAMAGE = (
    "no facts",
    "facts cut",
    "facts a list",
    "no state",
    "state empty",
    "state cut",
    "state text",
    "state of code",
)


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_or_told(tmp_path: Path, how: str) -> None:
    folder = tmp_path / "checkpoint"
    checkpoint.save(folder, STATE, FACTS)
    shutil.copytree(folder, tmp_path / "checkpoint.old")
    checkpoint.save(tmp_path / "newer", STATE, {"step": 6})
    shutil.rmtree(folder)
    (tmp_path / "newer").rename(folder)
    damaged(folder, how)
    found = checkpoint.restore(folder)
    assert found is not None
    assert found[1] == FACTS
    assert torch.equal(found[0]["weight"], STATE["weight"])
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint", "checkpoint.damaged"}
    damaged(folder, how)
    with pytest.raises(StageError, match="the checkpoint cannot be read") as caught:
        checkpoint.restore(folder)
    assert caught.value.where == str(folder)
    assert "--force" in str(caught.value.remedy)


@pytest.mark.parametrize("problem", [RuntimeError("can't allocate memory"), OSError(5, "Input/output error")])
def test_a_shortage_while_reading_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: Exception
) -> None:
    folder = tmp_path / "checkpoint"
    checkpoint.save(folder, STATE, FACTS)
    shutil.copytree(folder, tmp_path / "checkpoint.old")

    def fails(*_: Any, **__: Any) -> Any:
        raise problem

    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", fails)
        with pytest.raises(type(problem)):
            checkpoint.restore(folder)
    assert checkpoint.restore(folder) is not None
    assert (tmp_path / "checkpoint.old").exists()


def test_what_a_crash_left_beside_a_checkpoint_is_removed_with_it(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    checkpoint.save(folder, STATE, FACTS)
    for name in ("checkpoint.tmp", "checkpoint.old", "checkpoint.damaged"):
        shutil.copytree(folder, tmp_path / name)
    checkpoint.remove(folder)
    assert not list(tmp_path.iterdir())
    assert checkpoint.restore(folder) is None
