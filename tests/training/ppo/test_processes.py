"""Two processes, launched as a user does on two devices, end as one does; cut and resumed too."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rlaif.config import PpoConfig, RunConfig
from rlaif.core.errors import ConfigError
from rlaif.core.files import RunFolder
from rlaif.core.launch import place
from rlaif.core.progress import Silent
from rlaif.core.records import Message, Prompt
from rlaif.lm.local.load import load_model
from rlaif.run import pipeline
from rlaif.stages import table as stages
from rlaif.training.ppo.policy_model import PolicyModel
from rlaif.training.ppo.processes import ALONE, Processes
from rlaif.training.ppo.rollout import together
from rlaif.training.ppo.sharding import _layers
from tests import tiny
from tests.projects import tiny_project
from tests.stages.small_run import SMALL
from tests.tiny import Arch

ROOT = Path(__file__).parents[3]
OWN = (
    "model.dtype=float32",
    "ppo.steps=4",
    "ppo.batch_size=8",
    "ppo.samples_per_prompt=2",
    "ppo.micro_batch_size=3",
    "ppo.save_steps=2",
    "ppo.kl_target=0.05",
    "reward.members=2",
    'ppo.reward=[model, on_topic, {source: "tests.training.toy_rewards:ends", weight: 0.5}]',
    "ppo.on_topic_nats=0.5",
)

VALIDATED = ("--set", "ppo.eval_steps=2", "--set", "ppo.gold=[]", "--set", "ppo.validation_prompts=3")
"""Three prompts come out even neither among two processes nor among the samples of a prompt."""


class Fixed(Processes):
    """One of several, without the others."""

    def __init__(self, index: int, count: int) -> None:
        super().__init__()
        self.index, self.count = index, count


@pytest.mark.parametrize("items", [4, 6, 8, 10])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_all_items_are_shared_in_groups_and_all_have_equally_many(items: int, count: int) -> None:
    shares = [Fixed(index, count).share(items, together=2) for index in range(count)]
    assert set().union(*shares) == set(range(items))
    assert {len(share) for share in shares} == {2 * -(-items // (2 * count))}
    assert all(b == a + 1 and a % 2 == 0 for share in shares for a, b in zip(share[::2], share[1::2], strict=True))


def test_shares_by_hand() -> None:
    assert ALONE.share(5) == [0, 1, 2, 3, 4]
    assert [Fixed(index, 2).share(6, 2) for index in (0, 1)] == [[0, 1, 4, 5], [2, 3, 0, 1]]
    assert ALONE.joined([1, 0, 1], ["b", "a", "b"]) == ["a", "b"]


def test_no_process_has_fewer() -> None:
    with pytest.raises(AssertionError):
        Fixed(0, 2).share(3, 2)
    one, two = Prompt((Message("user", "1"),)), Prompt((Message("user", "2"),))
    assert together([one, one, two, two], 2) == 2
    assert together([one, two, one, two], 2) == together([one, one, two], 2) == together([one, two], 3) == 1


def test_alone_nothing_is_sent() -> None:
    tensors = [torch.ones(2)]
    assert ALONE.summed(tensors)[0] is tensors[0]
    assert ALONE.from_first(lambda: 3) == 3
    assert place() == (0, 1)


@pytest.mark.parametrize("arch", ["llama", "gpt2", "gpt_neox", "gemma"])
def test_the_layers_are_found(arch: Arch, tmp_path: Path) -> None:
    tiny.make_tiny_model(tmp_path, arch)
    model = load_model(load_config(tmp_path))
    assert len(_layers(PolicyModel(model, PpoConfig(), seed=0).lm.trunk)) == 2  # type: ignore[call-arg]


def load_config(source: Path) -> Any:
    return RunConfig.model_validate({"prompts": {"a": {"source": "b"}}, "model": {"source": str(source)}}).model


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    return tiny_project(tmp_path_factory.mktemp("project"), [*SMALL, *OWN])


@pytest.fixture(scope="module")
def before(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has all that ppo needs."""
    run = tmp_path_factory.mktemp("runs") / "before"
    pipeline.run_stages(config, run, stages.of_run(config, "reward"), mode="new", limit=4, progress=Silent())
    return run


@pytest.fixture(scope="module")
def one(before: Path) -> Path:
    """The run that one process makes of it."""
    return alone(shutil.copytree(before, before.with_name("one")))


def alone(run: Path) -> Path:
    lone = [sys.executable, "-m", "rlaif", "ppo", "--run", str(run), "--limit", "4", "--resume", *VALIDATED]
    assert command(lone).returncode == 0
    return run


@pytest.fixture
def launched(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs rlaif in two processes by `accelerate launch` with a config that ships, on the CPU."""

    def launch(shipped: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        path = ROOT / "scripts" / "accelerate" / shipped
        own = tmp_path / shipped
        own.write_text(path.read_text() + "use_cpu: true\n")
        launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(own), "-m", "rlaif"]
        return command([*launcher, *words], **environment)

    return launch


def command(words: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    settings = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(words, env=os.environ | settings, cwd=ROOT, capture_output=True, text=True, timeout=300)


def same(found: Path, wanted: Path) -> None:
    for name in sorted(path.name for path in (wanted / "ppo").glob("*.jsonl")):
        ours, theirs = (
            [json.loads(line) for line in (run / "ppo" / name).read_text().splitlines()] for run in (found, wanted)
        )
        assert [without_numbers(row) for row in ours] == [without_numbers(row) for row in theirs]
        for row, other in zip(ours, theirs, strict=True):
            for key in numbers(other):
                assert row[key] == pytest.approx(other[key], rel=1e-3, abs=1e-5), key
    weights, true = (load_file(run / "ppo/adapter/adapter_model.safetensors") for run in (found, wanted))
    # Adam's first steps are as long whatever the gradient, so the rounding of one that is almost 0 shows.
    assert max(float((weights[name] - true[name]).abs().max()) for name in true) < 1e-5
    assert max(float(weight.abs().max()) for name, weight in weights.items() if "lora_B" in name) > 1e-5


def numbers(row: dict[str, Any]) -> list[str]:
    return [key for key, value in row.items() if isinstance(value, float) and "seconds" not in key]


def without_numbers(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if not isinstance(value, float)}


@pytest.mark.parametrize(("shipped", "held"), [("ddp.yaml", "100 %"), ("fsdp2.yaml", "50 %")])
def test_two_processes_end_as_one(
    shipped: str,
    held: str,
    before: Path,
    one: Path,
    launched: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
) -> None:
    run = shutil.copytree(before, tmp_path / "two")
    found = launched(shipped, "ppo", "--run", str(run), "--limit", "4", *VALIDATED)
    assert found.returncode == 0, found.stderr
    assert len((run / "ppo/validation.jsonl").read_text().splitlines()) >= 3
    assert f"2 processes, each with {held.replace(' ', '')} of the layers' frozen weights" in found.stderr
    same(run, one)
    record = RunFolder(run).record("ppo")
    assert record is not None
    assert record.counts["processes"] == 2


@pytest.mark.slow
def test_cut_in_two_processes_and_resumed_in_one_and_the_reverse(
    before: Path, launched: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    reward = "ppo.reward=tests.training.toy_rewards:killed_at_the_fourth_call"
    counter = tmp_path / "counter"
    words = ["ppo", "--limit", "4", "--set", reward, "--run"]
    runs = [shutil.copytree(before, tmp_path / name) for name in ("uncut", "two-one", "one-two")]
    lone = [sys.executable, "-m", "rlaif", *words]
    counter.write_text("xxxx")  # the kill is behind it
    assert command([*lone, str(runs[0])], KILL_COUNTER=str(counter)).returncode == 0
    counter.write_text("")
    assert launched("ddp.yaml", *words, str(runs[1]), KILL_COUNTER=str(counter)).returncode != 0
    assert len(counter.read_text()) == 4  # one process called the function, and it was the one that ended
    assert len((runs[1] / "ppo/metrics.jsonl").read_text().splitlines()) == 3
    assert command([*lone, str(runs[1]), "--resume"], KILL_COUNTER=str(counter)).returncode == 0
    same(runs[1], runs[0])
    counter.write_text("")
    assert command([*lone, str(runs[2])], KILL_COUNTER=str(counter)).returncode == -9
    found = launched("ddp.yaml", *words, str(runs[2]), "--resume", KILL_COUNTER=str(counter))
    assert found.returncode == 0, found.stderr
    same(runs[2], runs[0])


def test_what_goes_wrong_is_told_once_and_by_name(
    before: Path, launched: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    run = shutil.copytree(before, tmp_path / "run")
    odd = launched("ddp.yaml", "ppo", "--run", str(run), "--limit", "4", "--set", "ppo.batch_size=12")
    assert odd.returncode != 0
    assert odd.stderr.count("error: ") == 1
    assert "set ppo.batch_size to 16" in odd.stderr
    wrong = "ppo.reward=tests.training.toy_rewards:fails"
    other_run = shutil.copytree(before, tmp_path / "other")
    failed = launched("ddp.yaml", "ppo", "--run", str(other_run), "--limit", "4", "--set", wrong)
    assert failed.stderr.count("error: ") == 1
    assert "the scorer is down" in failed.stderr
    assert "rank1" not in failed.stderr  # the other process ends without a word
    other = launched("ddp.yaml", "sft", "--run", str(run), "--resume")
    assert other.stderr.count("error: ") == 1
    assert "--until reward" in other.stderr


def test_a_run_goes_until_a_stage(config: RunConfig) -> None:
    assert stages.of_run(config, "reward") == ("card", "revise", "sft", "label", "reward")
    assert stages.of_run(config, "report") == stages.of_run(config)


def test_deepspeed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from rlaif.training.ppo.processes import launched_processes

    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    launched_processes.cache_clear()
    with pytest.raises(ConfigError, match="FSDP"):
        launched_processes()
