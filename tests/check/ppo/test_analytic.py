"""The whole loop ends at the optimum that is known in closed form, by every algorithm."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML

from rlaif.check.ppo.analytic import (
    WORDS,
    answers,
    closed_form,
    distribution,
    objective,
    solve,
    table_of_rewards,
    text,
    write_model,
)
from rlaif.check.ppo.subject import rows_of
from rlaif.config import PpoConfig
from rlaif.core.records import Prompt
from rlaif.lm.local.load import load_model
from rlaif.training.ppo.formulas import token_logprobs
from rlaif.training.ppo.local_sampler import LocalSampler
from rlaif.training.ppo.policy_model import PolicyModel
from rlaif.training.ppo.rollout import Rollouts
from rlaif.training.ppo.step import PpoTrainer
from rlaif.training.rewards.sources import Rewards
from tests.training.contexts import prompt
from tests.training.tiny_ppo import model_config, ppo_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_model(tmp_path_factory.mktemp("analytic"))


def test_answers_are_all_there_are(folder: Path) -> None:
    assert len(answers(1)) == len(WORDS)
    assert len(answers(2)) == 1 + 5 * 6
    assert len({text(answer) for answer in answers(2)}) == 31
    assert len(table_of_rewards(answers(2))) == 31
    model = PolicyModel(load_model(model_config(folder)), ppo_config(algorithm="reinforce"), seed=0)
    assert distribution(model, "policy", answers(2)).sum().item() == pytest.approx(1, abs=1e-6)


def test_the_closed_form_by_hand_and_as_a_maximum() -> None:
    ref, rewards, beta = torch.tensor([0.5, 0.5]), torch.tensor([0.0, 0.2 * math.log(3)]), 0.2
    best = closed_form(ref, rewards, beta)
    assert best.tolist() == pytest.approx([0.25, 0.75])
    found = objective(best, ref, rewards, beta)
    assert found.kl == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5))
    for other in ([0.24, 0.76], [0.26, 0.74], [0.5, 0.5]):
        assert objective(torch.tensor(other), ref, rewards, beta).value < found.value
    # A bonus for entropy draws it towards even: (ref^beta exp(r))^(1 / (beta + c)), here 3^(1/2) to 1.
    assert closed_form(ref, rewards, beta, 0.2).tolist() == pytest.approx([1 / (1 + 3**0.5), 3**0.5 / (1 + 3**0.5)])


RUNS: list[tuple[float, int, dict[str, Any]]] = [
    (0.5, 1, {"algorithm": "ppo"}),
    (0.2, 1, {"algorithm": "ppo", "value": "trunk", "loss_type": "dapo"}),
    (0.2, 1, {"algorithm": "reinforce", "baseline": "batch"}),
    (0.2, 1, {"algorithm": "reinforce", "baseline": "batch", "entropy_coef": 0.1}),
    (0.2, 1, {"algorithm": "grpo", "scale_rewards": "none", "samples_per_prompt": 8}),
    (0.2, 2, {"algorithm": "rloo", "samples_per_prompt": 8}),
]


@pytest.mark.parametrize(("beta", "tokens", "fields"), RUNS)
def test_training_ends_at_the_optimum(folder: Path, beta: float, tokens: int, fields: dict[str, Any]) -> None:
    size = {"steps": 60, "batch_size": 256, "micro_batch_size": 256, "learning_rate": 5e-3}
    found = solve(folder, beta=beta, tokens=tokens, **size, **fields)
    assert found.distance_at_start > 0.15
    assert found.distance < 0.02
    assert found.found.reward == pytest.approx(found.optimum.reward, abs=0.01)
    assert found.found.kl == pytest.approx(found.optimum.kl, abs=0.03)
    assert found.optimum.value - 0.002 < found.found.value <= found.optimum.value + 1e-9


class Tempered:
    """Samples at a temperature that is not the policy's, as a sampler with other arithmetic would, and says truly how
    likely it found each token."""

    def __init__(self, model: PolicyModel, config: PpoConfig) -> None:
        self.model, self.temperature = model, 2.0
        off = config.model_copy(update={"temperature": self.temperature})
        self.sampler = LocalSampler(model, off, seed=0, batch_size=config.batch_size)

    @torch.no_grad()
    def sample(self, prompts: Sequence[Prompt], step: int) -> Rollouts:
        rollouts = self.sampler.sample(prompts, step)
        with self.model.using("policy"):
            logits = self.model.lm.logits(self.model.response_states(rows_of(rollouts))) / self.temperature
        tokens = torch.tensor([token for response in rollouts.responses for token in response])
        found = token_logprobs(logits, tokens).split([len(response) for response in rollouts.responses])
        return replace(rollouts, sampler_logprobs=tuple(tuple(row.tolist()) for row in found))


def test_importance_weights_find_the_optimum_with_a_sampler_that_is_not_the_policy(folder: Path) -> None:
    """Without a baseline, which would hide the bias: a centred advantage is 0 at the optimum, whoever samples."""
    size = {"steps": 60, "batch_size": 256, "micro_batch_size": 256, "learning_rate": 5e-3, "max_sampler_gap": 10.0}
    table = {"algorithm": "reinforce", "rollouts": "server", **size}
    runs = [
        solve(folder, beta=0.2, tokens=1, sampler=Tempered, importance_cap=cap, **table).distance for cap in (None, 4.0)
    ]
    assert runs[1] < 0.03 < 0.1 < runs[0]


def test_scores_over_their_deviation_leave_the_optimum_behind(folder: Path) -> None:
    """GRPO's own scaling: the more alike the samples, the less the KL costs; the policy ends far beyond the optimum."""
    size = {"steps": 30, "batch_size": 256, "micro_batch_size": 256, "learning_rate": 5e-3}
    found = solve(folder, beta=0.2, tokens=1, algorithm="grpo", samples_per_prompt=8, **size)
    assert found.found.kl > 1.3 * found.optimum.kl


def test_the_first_reward_of_the_page_is_learnt(folder: Path) -> None:
    """The code and the table of docs/train.md as they stand there, on a model that knows the word."""
    page = (Path(__file__).parents[3] / "docs" / "train.md").read_text(encoding="utf-8")
    blocks = [re.findall(rf"^```{kind}\n(.*?)^```", page, re.M | re.S) for kind in ("python", "yaml")]
    code, table = (next(text for text in found if "cats" in text) for found in blocks)
    names: dict[str, Any] = {}
    exec(code, names)
    fields = YAML(typ="safe").load(table)["ppo"]
    assert fields.pop("reward") == "cats:cats"
    size = {"steps": 30, "batch_size": 64, "micro_batch_size": 64, "learning_rate": 5e-3, "max_new_tokens": 3}
    config = ppo_config(**{**fields, **size, "missing_eos_penalty": 0.0})
    model = PolicyModel(load_model(model_config(folder)), config, seed=0)
    work = PpoTrainer(model, config, seed=0, rewards=Rewards.of_function(names["cats"]))
    rows = [work.step(step, [prompt("go")] * 64)[2] for step in range(30)]
    assert rows[0]["score"] < 1 < 2.5 < rows[-1]["score"] <= 3
