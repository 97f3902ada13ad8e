"""What PPO does when a step goes wrong: the batch is saved to be looked at, and the error says which step and why.

`bad_batch.pt` is a dictionary for `torch.load(path, weights_only=True)`; docs/reference/ppo.md says what it holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlaif.core.errors import StageError
from rlaif.training.ppo.checkpoint import write_tensors
from rlaif.training.ppo.rollout import DERIVED, MEASURED, RolloutBatch
from rlaif.training.ppo.step import PpoTrainer

HOPELESS = 3
"""Steps in a row whose every update was undone, after which the stage stops: the next ones would fare no better."""


class SpoiltError(StageError):
    """Numbers that went wrong have ended the stage; its weights are not worth a checkpoint. `everywhere`: all processes
    have met it."""

    def __init__(self, what: str, *, where: str, remedy: str, everywhere: bool) -> None:
        self.everywhere = everywhere
        super().__init__(what, where=where, remedy=remedy)


def stopped(
    folder: Path, step: int, problem: str, trainer: PpoTrainer, batch: RolloutBatch | None, rows: Sequence[int] = ()
) -> SpoiltError:
    """The error that ends the stage at `step`, once the batch and the weights that made it stand in bad_batch.pt."""
    path = folder / "bad_batch.pt"
    if batch is None or trainer.processes.first:
        write_tensors(path, _contents(step, problem, trainer, batch, rows))
    if batch is not None:  # all processes have it and are here, and the launcher ends everything when one has gone
        trainer.processes.wait()
    best = "".join(f", which removes the best policy so far: copy {path} before" for path in folder.glob("best-*"))
    return SpoiltError(
        f"step {step}: {problem}; what led to it is saved for inspection",
        where=str(path),
        remedy=f"lower ppo.learning_rate ({trainer.config.learning_rate:g}) or set model.dtype: float32, and start the "
        f"stage anew with --force{best}; docs/reference/ppo.md says how to look at the batch",
        everywhere=batch is not None,
    )


def hopeless(rows: Sequence[dict[str, Any]], steps: int) -> bool:
    """Whether the last steps of a stage of `steps` kept no update: `rows` are its metrics."""
    least = min(HOPELESS, steps)
    return len(rows) >= least and all(row["approx_kl"] is None for row in rows[-least:])


def _contents(
    step: int, problem: str, trainer: PpoTrainer, batch: RolloutBatch | None, rows: Sequence[int]
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "step": step,
        "problem": problem,
        "rows": list(rows),
        "config": trainer.config.model_dump(mode="json"),
        "seed": trainer.seed,
        "kl_coef": trainer.state.kl.coefficient,
        "weights": trainer.model.adapter_state(),
    }
    if batch is None:
        return found
    rollouts = batch.rollouts
    return {
        **found,
        **{name: getattr(batch, name) for name in (*MEASURED, *DERIVED, "response_mask")},
        "parts": dict(batch.parts),
        "prompt_ids": [list(ids) for ids in rollouts.prompt_ids],
        "responses": [list(ids) for ids in rollouts.responses],
        "finish": list(rollouts.finish),
        "prompts": [prompt.id for prompt in rollouts.prompts],
        "prompt_texts": [prompt.text for prompt in rollouts.prompts],
        "response_texts": [trainer.text(response) for response in rollouts.responses],
    }
