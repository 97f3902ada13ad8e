"""What PPO must not lose, and its checkpoints: folders that are whole or not there.

The checkpoint before stays until the next one is whole.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch

from rlaif.config import PpoConfig
from rlaif.core.errors import StageError, memory_is_full
from rlaif.core.files import disk_errors, move_folder, parse_json, remove_folder, write_folder
from rlaif.training.ppo.formulas import KlController
from rlaif.training.ppo.policy_model import PolicyModel
from rlaif.training.ppo.processes import Processes
from rlaif.training.rewards.held import HeldWeights


class TrainingState:
    """Everything that a step changes: the trained weights, Adam's state, the KL coefficient, weights that are
    held, the steps done.

    `finished`: the steps that it stands for, None while a step's updates are under way; `saved`: those on the disk.
    """

    def __init__(self, model: PolicyModel, config: PpoConfig, processes: Processes) -> None:
        self.model, self.processes = model, processes
        self.parameters = list(model.trained.values())
        self.optimiser = torch.optim.AdamW(
            self.parameters, lr=config.learning_rate, eps=config.adam_epsilon, weight_decay=0.0
        )
        self.kl = KlController(config.kl_coef, config.kl_target, config.kl_horizon)
        self.held = HeldWeights({part.called: part.weight for part in config.reward if part.hold})
        self.finished: int | None = 0
        self.saved = 0

    def set_rate(self, rate: float) -> None:
        """Sets the learning rate of the next update."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate

    def copy(self) -> dict[str, Any]:
        """A copy of weights and optimiser, for `take_up`."""
        return copy.deepcopy({"adapters": self.model.adapter_state(), "optimiser": self.optimiser.state_dict()})

    def take_up(self, state: dict[str, Any]) -> None:
        """Puts back what `copy` gave."""
        self.model.load_adapter_state(state["adapters"])
        self.optimiser.load_state_dict(state["optimiser"])

    def save(self, folder: Path, step: int) -> None:
        """Writes a checkpoint after `step` finished steps; the one before it is kept until this one is whole."""
        if self.processes.first:
            save(folder, self.copy(), {"step": step, "kl_coef": self.kl.coefficient, "held": self.held.facts()})
        self.saved = step

    def restore(self, folder: Path) -> int:
        """Takes up the last checkpoint; returns the number of finished steps (0 without one)."""
        found = self.processes.from_first(lambda: restore(folder))
        if found is None:
            return 0
        state, facts = found
        self.take_up(state)
        self.kl.coefficient = facts["kl_coef"]
        if "held" in facts:  # an older checkpoint has none
            self.held.take_up(facts["held"])
        self.finished = self.saved = int(facts["step"])
        return self.saved


READ_ERRORS = (FileNotFoundError, ValueError, KeyError, TypeError, RuntimeError, EOFError)
"""What reading a damaged file raises; `UnpicklingError`, a plain Exception, comes as `ValueError` from `_read`. Other
errors of the disk, and a full memory, may pass: the checkpoint is none the worse for them."""


def save(folder: Path, state: dict[str, Any], facts: dict[str, Any]) -> None:
    """Writes tensors (`state`) and plain values (`facts`)."""

    def write(into: Path) -> None:
        write_tensors(into / "state.pt", state)
        (into / "facts.json").write_text(json.dumps(facts), encoding="utf-8")

    write_folder(folder, write)


def restore(folder: Path) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """(state, facts) of the last whole checkpoint; None where there is none.

    A damaged one is passed over for the one before, if that is still there: the run redoes a few steps. Raises
    StageError where all that is left is damaged.
    """
    damage: list[tuple[Path, Exception]] = []
    for path in (folder, folder.with_suffix(".old")):
        if not path.exists():
            continue
        try:
            found = _read(path)
        except READ_ERRORS as problem:
            if memory_is_full(problem):
                raise
            damage.append((path, problem))
            continue
        if path != folder:
            remove_folder(folder.with_suffix(".damaged"))
            if folder.exists():
                folder.rename(folder.with_suffix(".damaged"))
            move_folder(path, folder)
        return found
    if not damage:
        return None
    place, first = damage[0]
    lines = str(first).strip().splitlines() or [type(first).__name__]
    raise StageError(
        f"the checkpoint cannot be read: {lines[0]}",
        where=str(place),
        remedy="start the stage anew with --force, which gives up what it had trained",
    )


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    from pickle import UnpicklingError

    facts = parse_json((path / "facts.json").read_text(encoding="utf-8"))
    if not isinstance(facts, dict):
        raise ValueError("facts.json is no JSON object")
    try:
        return torch.load(path / "state.pt", weights_only=True, map_location="cpu"), facts
    except UnpicklingError:
        raise ValueError("state.pt is no file of tensors") from None


def remove(folder: Path) -> None:
    """Removes the checkpoint and what stands beside it."""
    for path in (folder, folder.with_suffix(".old"), folder.with_suffix(".damaged")):
        remove_folder(path)


def write_tensors(path: Path, value: dict[str, Any]) -> None:
    """Writes what `torch.load(path, weights_only=True)` gives back.

    On a full disk torch reports a file position that it did not expect; the OSError behind that is raised instead.
    """
    with disk_errors(path), path.open("wb") as file:
        try:
            torch.save(value, file)
        except RuntimeError as problem:
            if isinstance(problem.__context__, OSError):
                raise problem.__context__ from None
            raise
