"""PPO with validations, cut anywhere and taken up again, ends as the uncut run: same rows, same best, same adapters."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlaif.core.files import MetricsLog
from rlaif.stages import ppo
from rlaif.stages.context import StageContext
from rlaif.training.ppo import validation
from tests.stages.test_ppo import one_thread, ppo_context, rows, sft_adapter
from tests.training.contexts import Heard
from tests.training.ppo.test_validation import HACKED, PROMPTS, hacked, planted, same, samples, validations

__all__ = ["hacked", "one_thread", "planted", "sft_adapter"]


class Cut(BaseException):
    """The process is gone."""


def cut_at(number: int, patch: pytest.MonkeyPatch) -> list[str]:
    """From now on call number `number` of those that move a folder, remove one or finish a validation raises Cut
    instead; the calls are in the list."""
    calls: list[str] = []

    def cutting(name: str, real: Callable[..., Any], counts: Callable[..., bool]) -> Callable[..., Any]:
        def call(first: Any, *args: Any, **named: Any) -> Any:
            if counts(first, **named):
                calls.append(f"{name} {first if isinstance(first, Path) else ''}")
                if len(calls) == number:
                    raise Cut
            return real(first, *args, **named)

        return call

    def exists(path: Path, **_: Any) -> bool:
        return path.exists()

    patch.setattr(Path, "rename", cutting("rename", Path.rename, exists))
    patch.setattr(validation.shutil, "rmtree", cutting("rmtree", validation.shutil.rmtree, exists))
    whole = cutting("append", MetricsLog.append, lambda log, **row: "gain" in row)
    patch.setattr(MetricsLog, "append", whole)
    return calls


SHORT = {**HACKED, "save_steps": 2, "patience": 1}


def test_cut_anywhere_and_resumed_it_ends_as_the_uncut_one(tmp_path: Path, tiny_model: Path, sft_adapter: Path) -> None:
    whole = ppo_context(tmp_path / "whole", tiny_model, sft_adapter, PROMPTS, **SHORT)
    with pytest.MonkeyPatch.context() as patch:
        calls = cut_at(10**6, patch)
        counts = ppo.run(whole)
    assert counts["best_step"] < counts["steps"]
    assert sum("best-" in call for call in calls) >= 2  # kept, put into its place
    kinds = {re.sub(r"\d+", "", call.rpartition("/")[2]): number for number, call in enumerate(calls, 1)}
    for number in (n for kind, n in kinds.items() if "checkpoint." not in kind):
        cut = ppo_context(tmp_path / str(number), tiny_model, sft_adapter, PROMPTS, **SHORT)
        with pytest.MonkeyPatch.context() as patch:
            cut_at(number, patch)
            with pytest.raises(Cut):
                ppo.run(cut)
        assert ppo.run(cut) == counts, calls[number - 1]
        assert validations(cut) == validations(whole)
        assert samples(cut) == samples(whole)
        assert same(cut.adapter("ppo"), whole.adapter("ppo"))
        assert same(cut.folder / "adapter-last", whole.folder / "adapter-last")
        assert {path.name for path in cut.folder.iterdir()} == {path.name for path in whole.folder.iterdir()}


def test_killed_in_a_validation_it_ends_as_the_uncut_one(
    hacked: tuple[StageContext, dict[str, float]], tmp_path: Path, tiny_model: Path, sft_adapter: Path
) -> None:
    whole, counts = hacked
    table = {**HACKED, "reward": [{"source": "tests.training.toy_rewards:killed_at_a_call", "name": "share_of_e"}]}
    cut = ppo_context(tmp_path / "cut", tiny_model, sft_adapter, PROMPTS, **table)
    code = (
        "import sys, torch; from pathlib import Path\n"
        "from rlaif.stages import ppo; from tests.training.contexts import stage_context\n"
        "from tests.training.planted_gold import plant; plant()\n"
        "torch.set_num_threads(1)\n"
        f"ppo.run(stage_context(Path(sys.argv[1]), Path(sys.argv[2]), 'ppo', ppo={cut.config.ppo.model_dump()!r}))"
    )
    counter = tmp_path / "counter"
    counter.touch()
    environment = {"KILL_COUNTER": str(counter), "KILL_AT": "11"}  # the validation after step 5; the checkpoint is of 3
    killed = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "cut"), str(tiny_model)],
        env={**os.environ, **environment},
        cwd=Path(__file__).parents[3],
        capture_output=True,
    )
    assert killed.returncode == -9, killed.stderr.decode()
    assert (len(rows(cut)), len(validations(cut))) == (5, 5)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        assert ppo.run(cut) == counts
    assert (rows(cut), validations(cut), samples(cut)) == (rows(whole), validations(whole), samples(whole))
    assert same(cut.adapter("ppo"), whole.adapter("ppo"))


def test_stopped_in_a_validation_it_keeps_the_steps_before(
    tmp_path: Path, tiny_model: Path, sft_adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = tmp_path / "counter"
    monkeypatch.setenv("KILL_COUNTER", str(counter))
    table = {
        **SHORT,
        "steps": 3,
        "save_steps": 10,
        "reward": "tests.training.toy_rewards:interrupted_at_the_third_call",
    }
    whole, cut = (ppo_context(tmp_path / part, tiny_model, sft_adapter, PROMPTS, **table) for part in ("whole", "cut"))
    counter.write_text("xxx")  # which is past the interruption
    counts = ppo.run(whole)
    counter.write_text("")
    cut.progress = Heard()
    with pytest.raises(KeyboardInterrupt):  # the calls before: the validation of SFT and the first step
        ppo.run(cut)
    assert cut.progress.lines[-1] == "  ppo: 1 of 3 steps are kept"
    assert len(validations(cut)) == 1
    assert ppo.run(cut) == counts
    assert (rows(cut), validations(cut), samples(cut)) == (rows(whole), validations(whole), samples(whole))
    assert same(cut.adapter("ppo"), whole.adapter("ppo"))


@pytest.mark.parametrize("written", [1, 2])
def test_a_validation_that_was_half_written_is_done_again(
    written: int, tmp_path: Path, tiny_model: Path, sft_adapter: Path
) -> None:
    table = {**SHORT, "steps": 2, "save_steps": 1, "patience": 0}
    whole, cut = (ppo_context(tmp_path / part, tiny_model, sft_adapter, PROMPTS, **table) for part in ("whole", "cut"))
    ppo.run(whole)
    left = [0]

    def full(log: MetricsLog, **row: object) -> None:
        left[0] += "prompt_id" in row and row["step"] == 1 and "kl" in row
        if left[0] > written:
            raise OSError(28, "No space left on device")
        append(log, **row)

    append = MetricsLog.append
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MetricsLog, "append", full)
        with pytest.raises(OSError, match="No space"):
            ppo.run(cut)
    assert len([row for row in samples(cut) if row["step"] == 1]) == written
    ppo.run(cut)
    assert (rows(cut), validations(cut), samples(cut)) == (rows(whole), validations(whole), samples(whole))
