"""PPO with rollouts from a server: the whole stage against a stand-in for vLLM, right and wrong ones."""

from __future__ import annotations

import re
import shlex
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from rlaif.core.errors import BackendError, RlaifError, StageError
from rlaif.lm.local.load import load_model
from rlaif.lm.server import pace
from rlaif.stages import ppo
from rlaif.stages.context import StageContext
from rlaif.training.ppo.policy_model import PolicyModel
from rlaif.training.ppo.schedule import step_prompts
from rlaif.training.ppo.server_sampler import ServerSampler, open_server
from tests.training.contexts import Heard
from tests.training.tiny_ppo import PROMPTS, ppo_context
from tests.training.vllm_stand_in import StandIn, vllm

TABLE = {
    "rollouts": "server",
    "learning_rate": 1e-2,
    "value": "trunk",
    "max_new_tokens": 3,
    "steps": 3,
    "save_steps": 1,
}
LEARNING = {
    **{"steps": 8, "batch_size": 16, "micro_batch_size": 16, "max_new_tokens": 2, "missing_eos_penalty": 0.0},
    **{"algorithm": "reinforce", "baseline": "batch", "learning_rate": 3e-2, "max_approx_kl": 5.0, "kl_coef": 0.01},
    **{"temperature": 1.1},
}


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "FIRST_PAUSE", 0.01)


@pytest.fixture
def context(tmp_path: Path, tiny_model: Path, sft_adapter: Path) -> StageContext:
    return a_run(tmp_path, tiny_model, sft_adapter)


def a_run(root: Path, source: Path, sft_adapter: Path, **table: Any) -> StageContext:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    return ppo_context(root, source, sft_adapter, PROMPTS, **{**TABLE, "server_url": url, **table})


@contextmanager
def started(context: StageContext, **wrongs: Any) -> Iterator[StandIn]:
    """The server of the command that the stage asks for: a user's first run."""
    with pytest.raises(BackendError, match="tried 1 time") as problem:
        ppo.run(context)
    assert "--resume" in str(problem.value)
    words = shlex.split(str(problem.value).splitlines()[-1])
    assert words[:3] == ["VLLM_ALLOW_RUNTIME_LORA_UPDATING=True", "vllm", "serve"]
    options = dict(zip(words[4::2], words[5::2], strict=False))
    port = int(context.config.ppo.server_url.split(":")[2].removesuffix("/v1"))
    with vllm(Path(words[3]), options["--served-model-name"], port=port, **wrongs) as server:
        yield server


def rows(context: StageContext) -> list[dict[str, Any]]:
    return context.metrics.read()


def test_a_run_through_a_server_learns_and_samples_from_the_policy(context: StageContext) -> None:
    context.config.ppo.__dict__.update(LEARNING)
    context.progress = Heard()
    with started(context) as server:
        ppo.run(context)
    assert [line for line in context.progress.lines if "writing the SFT policy" in line]
    found = rows(context)
    assert [row["step"] for row in found] == list(range(8))
    for row in found:  # float32 on both sides: what the server says is what the policy says
        assert abs(row["sampler_kl"]) < 1e-6
        assert row["sampler_gap"] < 1e-3
        assert row["importance_mean"] == pytest.approx(1, abs=1e-3)
        assert row["importance_capped"] == 0
    assert found[0]["kl"] == 0
    assert found[-1]["kl"] > 1
    assert sum(row["score"] for row in found[-3:]) / 3 > found[0]["score"] + 1.5
    # A name for every step, and nothing left on the server or in the folder but the SFT policy.
    assert len(set(server.adapters)) == len(server.adapters) == 8  # each step's weights have a name of their own
    assert all(name.startswith("policy-") for name in server.adapters)
    assert list(server.models) == [server.name]
    assert [path.name for path in (context.folder / "server").iterdir()] == [server.name]
    # Every response has a seed of its own, and nothing but the temperature shapes the distribution.
    assert len({body["seed"] for body in server.seen}) == len(server.seen) == 8 * 16
    assert {(b["top_k"], b["top_p"], b["min_p"], b["repetition_penalty"]) for b in server.seen} == {(0, 1.0, 0.0, 1.0)}


def test_what_is_served_is_the_sft_policy(context: StageContext) -> None:
    with started(context) as server:
        loaded = load_model(context.config.model, (context.adapter("sft"),))
        ids = torch.tensor([[5, 6, 7, 8]])
        torch.testing.assert_close(server.base(ids).logits, loaded.model(ids).logits)
        plain = load_model(context.config.model).model(ids).logits
        assert (server.base(ids).logits - plain).abs().max() > 0.1


def test_the_command_says_what_the_server_needs(context: StageContext) -> None:
    context.config.ppo.__dict__.update(lora_r=20, max_length=100, server_folder="/mnt/run's")
    with pytest.raises(BackendError) as problem:
        ppo.run(context)
    command = str(problem.value).splitlines()[-1]
    words = shlex.split(command)
    assert re.fullmatch(r"/mnt/run's/sft-[0-9a-f]{16}", words[3])
    assert words[4:] == [
        *("--served-model-name", words[3].rpartition("/")[2], "--dtype", "float32", "--enable-lora"),
        *("--max-lora-rank", "32", "--max-model-len", "100", "--logprobs-mode", "processed_logprobs"),
        *("--port", context.config.ppo.server_url.split(":")[2].removesuffix("/v1")),
    ]


def test_a_server_that_is_killed_in_the_middle_and_started_again(context: StageContext) -> None:
    with started(context, dies_after=2 * 8 + 3), pytest.raises(BackendError, match="no answer from the server"):
        ppo.run(context)
    assert [row["step"] for row in rows(context)] == [0, 1]
    first = rows(context)[:2]
    with started(context) as server:
        ppo.run(context)
    assert rows(context)[:2] == first  # the checkpoint was taken up
    assert [row["step"] for row in rows(context)] == [0, 1, 2]
    assert len(server.adapters) == 1
    assert max(row["sampler_gap"] for row in rows(context)) < 1e-3


def test_a_server_that_has_the_adapter_already(context: StageContext) -> None:
    """The run was killed, the server was not: names tell weights, so a name that is there is what is wanted."""
    with started(context) as server:
        server.wrongs.forgets = frozenset({"logprobs"})
        with pytest.raises(BackendError, match="log-prob"):
            ppo.run(context)
        server.wrongs.forgets = frozenset()
        ppo.run(context)
        assert len(server.adapters) == 3
        assert list(server.models) == [server.name]


def test_a_busy_server_is_asked_again(context: StageContext) -> None:
    context.config.ppo.__dict__.update(steps=1)
    with started(context, busy=12) as server:
        ppo.run(context)
        assert server.wrongs.busy == 0
    assert len(rows(context)) == 1


WRONG: list[tuple[dict[str, Any], dict[str, Any], type[RlaifError], str]] = [
    ({"loads_adapters": False}, {}, BackendError, "does not load the policy's adapter .*Not Found"),
    ({"max_lora_rank": 8}, {}, BackendError, r"rank 16 is greater than max_lora_rank 8"),
    ({"silent": True}, {"server_timeout": 0.05}, BackendError, "no answer within 0.05 s"),
    ({"applies_adapters": False}, {}, StageError, "from the SFT model and not from the policy"),
    ({"raw_logprobs": True}, {"temperature": 2.0}, StageError, "processed_logprobs"),
]


@pytest.mark.parametrize(("wrongs", "table", "kind", "message"), WRONG)
def test_a_server_that_does_it_wrong(
    context: StageContext, wrongs: dict[str, Any], table: dict[str, Any], kind: type[RlaifError], message: str
) -> None:
    context.config.ppo.__dict__.update(table)
    with started(context, **wrongs), pytest.raises(kind, match=message) as problem:
        ppo.run(context)
    assert problem.value.remedy


def test_a_server_of_another_model(context: StageContext, tiny_model: Path) -> None:
    port = int(context.config.ppo.server_url.split(":")[2].removesuffix("/v1"))
    with vllm(tiny_model, "llama", port=port), pytest.raises(BackendError, match="serves llama, and not the SFT"):
        ppo.run(context)


def test_the_folder_under_the_name_that_the_server_knows(context: StageContext, tmp_path: Path) -> None:
    elsewhere = tmp_path / "mounted"
    elsewhere.symlink_to(context.folder / "server")
    context.config.ppo.__dict__.update(server_folder=str(elsewhere), steps=1)
    with started(context) as server:
        assert server.folder.parent == elsewhere
        ppo.run(context)
        assert len(server.adapters) == 1


def test_the_same_step_sampled_again_is_the_same(context: StageContext) -> None:
    with started(context) as server:
        loaded = load_model(context.config.model, (context.adapter("sft"),))
        config, files = context.config.ppo, context.folder / "server"
        client = open_server(loaded, config, files, context.progress)
        sampler = ServerSampler(PolicyModel(loaded, config, seed=0), client, config, files, seed=context.config.seed)
        asked = step_prompts(PROMPTS, config, 0, 0)
        first, again, other = (sampler.sample(asked, step) for step in (0, 0, 1))
        sampler.close()
    assert first == again
    assert first.responses != other.responses
    assert len(server.adapters) == 1  # the weights are the same, and so is their name
    assert list(server.models) == [server.name]
