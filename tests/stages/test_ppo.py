"""The ppo stage: what it leaves, what it refuses, and that it ends the same when it is killed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rlaif.config import LoraTable
from rlaif.core.errors import ConfigError, ModelError, StageError
from rlaif.core.files import JsonlFile, MetricsLog
from rlaif.core.records import Response
from rlaif.judge.load import parse
from rlaif.lm.local.load import load_model
from rlaif.stages import ppo
from rlaif.stages.context import StageContext
from rlaif.training.rewards.model import CONSTANTS_FILE, HEAD_FILE, RewardModel
from tests.tiny import make_tiny_model, other_model
from tests.training.contexts import Heard, prompt, response
from tests.training.tiny_ppo import (
    ADAPTIVE,
    PROMPTS,
    model_config,
    policy_model,
    ppo_context,
    reward_folder,
    rows,
    same_run,
)
from tests.training.toy_rewards import share_of_e


def test_the_stage_leaves_an_adapter_metrics_and_rollouts(tmp_path: Path, tiny_model: Path, sft_adapter: Path) -> None:
    asked = [*PROMPTS, prompt("too long " * 80)]
    context = ppo_context(tmp_path, tiny_model, sft_adapter, asked)
    context.progress = Heard()
    counts = ppo.run(context)
    assert counts["prompts"] == 6
    assert counts["prompts_too_long"] == 1
    assert any("too long" in line for line in context.progress.lines)
    assert counts["generated_tokens"] <= 4 * 8 * 6
    assert counts["score_last"] == rows(context)[-1]["score"]
    assert [row["step"] for row in rows(context)] == [0, 1, 2, 3]
    assert sorted(path.name for path in context.folder.iterdir()) == ["adapter", "metrics.jsonl", "rollouts.jsonl"]
    shown = MetricsLog(context.folder / "rollouts.jsonl").read()
    assert {row["prompt_id"] for row in shown} <= {p.id for p in PROMPTS}
    assert len({row["prompt_id"] for row in shown if row["step"] == 0}) == 4  # of different prompts
    for row in shown:
        score = share_of_e([], [row["response"]])[0] - (row["finish"] != "stop")
        assert row["score"] == pytest.approx(score, abs=1e-5)


def test_a_policy_that_is_far_enough_ends_the_stage(tmp_path: Path, tiny_model: Path, sft_adapter: Path) -> None:
    table = {"max_kl": 1e-6, "learning_rate": 1e-2, "steps": 5, "eval_steps": 4, "gold": [], "best_by": "score"}
    context = ppo_context(tmp_path, tiny_model, sft_adapter, PROMPTS, **table)
    context.progress = Heard()
    first = next(i for i, row in enumerate(rows_of(context)) if row["kl"] > 1e-6)
    assert 0 < first < 4
    assert len(rows(context)) == first + 1, "that step is the last"
    assert any(f"stopped after step {first + 1}: KL" in line for line in context.progress.lines)
    validated = {row["step"] for row in MetricsLog(context.folder / "validation.jsonl").read()}
    assert validated == {0, first + 1}, "and is validated as a last one is"
    before = rows(context)
    (context.folder / "adapter").rename(tmp_path / "adapter")  # as after a kill between the last step and its adapter
    ppo.run(context)
    assert rows(context) == before


def rows_of(context: StageContext) -> list[dict[str, Any]]:
    """The stage's rows, once it has run."""
    ppo.run(context)
    return rows(context)


def test_prompts_that_are_all_too_long_are_an_error(tmp_path: Path, tiny_model: Path, sft_adapter: Path) -> None:
    context = ppo_context(tmp_path, tiny_model, sft_adapter, [prompt("too long " * 80)])
    with pytest.raises(StageError, match="none of 1 prompts leaves room"):
        ppo.run(context)


def test_sizes_that_do_not_come_out_even_are_an_error() -> None:
    tables: tuple[dict[str, Any], ...] = (
        {"batch_size": 9, "samples_per_prompt": 2},
        {"batch_size": 8, "samples_per_prompt": 4, "num_mini_batches": 2},  # a prompt each: whitening would be its own
    )
    for table in tables:
        with pytest.raises(ConfigError, match="ppo"):
            parse({"prompts": {"all": {"source": "own"}}, "ppo": table}, where="test")


def test_a_score_that_is_not_a_number_stops_with_the_batch_saved(
    tmp_path: Path, tiny_model: Path, sft_adapter: Path
) -> None:
    context = ppo_context(tmp_path, tiny_model, sft_adapter, PROMPTS, reward="model")
    model = load_model(context.config.model, (context.adapter("sft"),))

    scorer = RewardModel.new(model, LoraTable(), seed=0)  # type: ignore[call-arg]
    scorer.head.weight.data.fill_(3e38)
    scorer.save(context.adapter("reward"))
    with pytest.raises(StageError, match="not finite"):
        ppo.run(context)
    saved = torch.load(context.folder / "bad_batch.pt", weights_only=True)
    assert saved["rows"]
    assert saved["rows"] == (~saved["scores"].isfinite()).nonzero().flatten().tolist()
    assert len(saved["responses"]) == 8
    assert not context.metrics.read()


def test_a_killed_stage_ends_as_the_uncut_one(tmp_path: Path, tiny_model: Path, sft_adapter: Path) -> None:
    whole = ppo_context(tmp_path / "whole", tiny_model, sft_adapter, PROMPTS, **ADAPTIVE)
    counts = ppo.run(whole)
    named = {"source": "tests.training.toy_rewards:killed_at_the_fourth_call", "name": "share_of_e"}
    table = {**ADAPTIVE, "reward": named}
    cut = ppo_context(tmp_path / "cut", tiny_model, sft_adapter, PROMPTS, **table)
    code = (
        "import sys, torch; from pathlib import Path\n"
        "from rlaif.stages import ppo; from tests.training.contexts import stage_context\n"
        "torch.set_num_threads(1)\n"
        f"ppo.run(stage_context(Path(sys.argv[1]), Path(sys.argv[2]), 'ppo', ppo={cut.config.ppo.model_dump()!r}))"
    )
    counter = tmp_path / "counter"
    counter.touch()
    killed = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "cut"), str(tiny_model)],
        env={**os.environ, "KILL_COUNTER": str(counter)},
        cwd=Path(__file__).parents[2],
        capture_output=True,
    )
    assert killed.returncode == -9, killed.stderr.decode()
    assert len(rows(cut)) == 3  # and the checkpoint is after two
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KILL_COUNTER", str(counter))
        assert ppo.run(cut) == counts
    same_run(cut, whole)
    before = rows(cut)
    assert ppo.run(cut) == counts  # killed again, between the adapter and the stage's record
    assert rows(cut) == before


WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"


@pytest.fixture(scope="module")
def reward(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reward_folder(tmp_path_factory.mktemp("reward"), tiny_model)


def constants(**changed: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / CONSTANTS_FILE
        path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))

    return change


def nan_weights(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    first = min(weights)
    save_file({**weights, first: weights[first] * float("nan")}, folder / WEIGHTS)


def fewer_weights(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    save_file({name: weights[name] for name in sorted(weights)[2:]}, folder / WEIGHTS)


REWARD_DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no settings": (lambda folder: (folder / SETTINGS).unlink(), "holds no LoRA adapter"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), "holds no LoRA adapter"),
    "settings text": (lambda folder: (folder / SETTINGS).write_text("hello"), "config.json of the adapter cannot be"),
    "weights cut": (
        lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-9]),
        "safetensors of the adapter cannot be read",
    ),
    "weights of NaN": (nan_weights, "1 weights of the adapter are NaN"),
    "weights missing": (fewer_weights, "2 LoRA weights have no counterpart"),
    "no head": (lambda folder: (folder / HEAD_FILE).unlink(), "missing or damaged"),
    "head text": (lambda folder: (folder / HEAD_FILE).write_text("hello"), "missing or damaged"),
    "head of another width": (
        lambda folder: save_file({"weight": torch.zeros(1, 64)}, folder / HEAD_FILE),
        "missing or damaged",
    ),
    "constants text": (lambda folder: (folder / CONSTANTS_FILE).write_text("hello"), "missing or damaged"),
    "constants a list": (lambda folder: (folder / CONSTANTS_FILE).write_text("[1]"), "missing or damaged"),
    "deviation 0": (constants(std=0), "missing or damaged"),
    "deviation text": (constants(std="x"), "missing or damaged"),
    "another base": (constants(base_fingerprint="abc"), "trained on other weights"),
}


@pytest.mark.parametrize("how", REWARD_DAMAGE)
def test_a_reward_adapter_that_cannot_serve(tiny_model: Path, reward: Path, tmp_path: Path, how: str) -> None:
    folder = Path(shutil.copytree(reward, tmp_path / "reward"))
    damage, message = REWARD_DAMAGE[how]
    damage(folder)
    with pytest.raises(ModelError, match=message) as caught:
        policy_model(tiny_model, rewards=[folder])
    assert str(caught.value.where).startswith(str(folder))
    assert caught.value.remedy
    with pytest.raises(ModelError, match=message):  # as the check of a reward model, and evaluate, load it
        RewardModel.load(folder, load_model(model_config(tiny_model)))


@pytest.mark.parametrize("other", [{"hidden": 64}, {"arch": "gpt2"}], ids=["another width", "another architecture"])
def test_a_reward_adapter_of_another_model(tiny_model: Path, tmp_path: Path, other: dict[str, Any]) -> None:
    """With the right fingerprint, as if its files had been mixed up."""
    folder = reward_folder(tmp_path, make_tiny_model(tmp_path / "other", **other))
    constants(base_fingerprint=load_model(model_config(tiny_model)).fingerprint)(folder)
    save_file({"weight": torch.zeros(1, 48)}, folder / HEAD_FILE)
    with pytest.raises(ModelError, match="the adapter does not fit the model"):
        policy_model(tiny_model, rewards=[folder])


def test_a_model_that_takes_no_adapter(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="takes no LoRA adapter on its linear layers"):
        policy_model(other_model(tmp_path, "mamba"))


def test_a_model_whose_logits_are_capped(tmp_path: Path) -> None:
    source = other_model(tmp_path, "gemma2", num_key_value_heads=2, head_dim=12, intermediate_size=96)
    with pytest.raises(ModelError, match="more than a linear map"):
        policy_model(source)


def test_an_sft_adapter_of_nan(tiny_model: Path, sft_adapter: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sft_adapter, tmp_path / "adapter"))
    nan_weights(folder)
    with pytest.raises(ModelError, match=r"NaN or infinite, among them [\s\S]*redo that stage with --force"):
        load_model(model_config(tiny_model), (folder,))


@pytest.mark.parametrize(
    ("table", "limit"),
    [
        ({"max_length": 40}, r"ppo\.max_length is too small\n.*raise ppo\.max_length to 69 or more"),
        ({"max_length": 9000, "max_new_tokens": 500}, r"the model's context is 512\n.*lower ppo\.max_new_tokens$"),
    ],
)
def test_no_prompt_with_room_for_a_response(
    tmp_path: Path,
    tiny_model: Path,
    sft_adapter: Path,
    table: dict[str, Any],
    limit: str,
) -> None:
    asked = [prompt("Bread? " * 10), prompt("Bread? " * 20)]
    context = ppo_context(tmp_path, tiny_model, sft_adapter, asked, **table)
    with pytest.raises(
        StageError, match=r"none of 2 prompts leaves room for \d+ new tokens: the shortest has 63.*" + limit
    ):
        ppo.run(context)


def test_no_prompts_at_all(tmp_path: Path, tiny_model: Path, sft_adapter: Path) -> None:
    with pytest.raises(StageError, match="there are no prompts to train on"):
        ppo.run(ppo_context(tmp_path, tiny_model, sft_adapter, []))


def test_prompts_without_answers_for_the_judge(tmp_path: Path, tiny_model: Path, sft_adapter: Path) -> None:
    context = ppo_context(tmp_path, tiny_model, sft_adapter, PROMPTS, reward="judge", steps=1)
    judge = context.config.judge.model_copy(update={"method": "random"})
    context.config = context.config.model_copy(update={"judge": judge})
    with pytest.raises(StageError, match="none of 6 prompts has an answer of the SFT policy"):
        ppo.run(context)
    answers = JsonlFile(context.run.file("label", "responses.jsonl"), Response)
    followed = replace(response(PROMPTS[1], "Bread, my friend."), model="sft followed", id="")
    answers.append([response(PROMPTS[0], "Bread."), followed])  # the second is no answer to the mere prompt
    context.progress = Heard()
    assert ppo.run(context)["prompts"] == 1
    assert "  5 prompts have no answers from label and are left out" in context.progress.lines


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"max_length": 64, "max_new_tokens": 64}, "leaves no room for a prompt"),
        ({"kl_coef": 0, "kl_target": 3.0}, "from 0 it never moves"),
        ({"steps": 3, "value_warmup_steps": 3}, "the policy would never be trained"),
        ({"steps": 3, "warmup_steps": 3}, "leave some at the full rate"),
    ],
)
def test_fields_that_cannot_work_together(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"ppo: .*{message}"):
        parse({"prompts": {"all": {"source": "own"}}, "ppo": table}, where="test")


def test_no_prompt_is_seen_before_the_files_are(tmp_path: Path, tiny_model: Path, sft_adapter: Path) -> None:
    """The error of a missing reward model comes before anything is sampled or written."""
    context = ppo_context(tmp_path, tiny_model, sft_adapter, PROMPTS, reward="model")
    with pytest.raises(ModelError, match=r"reward/adapter/reward\.json"):
        ppo.run(context)
    assert not list(context.folder.iterdir())
