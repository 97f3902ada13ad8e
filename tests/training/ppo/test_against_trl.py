"""`algorithm: grpo` and `rloo` against the code of the installed TRL: the same rollouts, scores and weights give the
same log-probs, advantages, losses and gradients of every LoRA weight.

TRL's trainers are made as a user makes them and asked by their own methods; only what would be sampled is given. Where
we depart on purpose (the head of rlaif/training/ppo/step.py) the test takes the case in which both are the same:

- KL stands in the reward for every algorithm (4). TRL's RLOO has it there too; its GRPO puts another estimate into the
  loss, so GRPO is compared without KL.
- The ratio is clipped token by token (5). TRL's RLOO clips that of the whole response, so RLOO is compared where both
  are 1: at the first update of a step. Its loss is the sum over a response's tokens: our `dr_grpo` times the longest.
- A response that did not end loses `missing_eos_penalty` (6): 0 here.
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from rlaif.lm.local.load import lora_config
from rlaif.training.ppo.rollout import RolloutBatch
from rlaif.training.ppo.step import PpoTrainer
from tests.training.tiny_ppo import chosen, disturb, gradient, trainer

LENGTHS = (6, 3, 5, 1, 4, 6, 2, 5)
FIELDS: dict[str, Any] = {
    **{
        "samples_per_prompt": 4,
        "num_mini_batches": 1,
        "temperature": 0.8,
        "cliprange": 0.1,
        "max_grad_norm": 1e9,
        "missing_eos_penalty": 0.0,
    },
}


def ours(source: Path, **table: Any) -> tuple[PpoTrainer, RolloutBatch]:
    """A trainer whose policy has left the reference, and a measured batch of two prompts with four samples each, of
    several lengths; those at even places end by themselves."""
    work = trainer(source, **{**FIELDS, **table})
    disturb(work.model, std=0.03)
    drawn = work.sampler.sample(chosen(work), 0)
    end = work.model.loaded.tokenizer.eos_token_id
    rows = zip(drawn.responses, LENGTHS, strict=True)
    responses = tuple((*row[: n - 1], end if i % 2 == 0 else row[n - 1]) for i, (row, n) in enumerate(rows))
    finish = tuple("stop" if i % 2 == 0 else "length" for i in range(len(LENGTHS)))
    return work, work.measure(replace(drawn, responses=responses, finish=finish))[0]  # type: ignore[arg-type]


def trls(
    kind: Any, settings: Any, work: PpoTrainer, batch: RolloutBatch, source: Path, folder: Path, **more: Any
) -> Any:
    """TRL's trainer on the same base with the same adapter weights, which is given our rollouts and scores."""
    rollouts, tokenizer = batch.rollouts, AutoTokenizer.from_pretrained(source)
    asked = [[{"role": m.role, "content": m.content} for m in prompt.messages] for prompt in rollouts.prompts]
    made = kind(
        model=AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32),
        reward_funcs=lambda completions, **_: batch.scores.tolist(),
        args=settings(
            output_dir=str(folder),
            use_cpu=True,
            bf16=False,
            report_to=[],
            gradient_checkpointing=False,
            per_device_train_batch_size=len(LENGTHS),
            num_generations=FIELDS["samples_per_prompt"],
            num_iterations=2,
            temperature=FIELDS["temperature"],
            epsilon=FIELDS["cliprange"],
            max_completion_length=work.config.max_new_tokens,
            **more,
        ),
        train_dataset=Dataset.from_list([{"prompt": one} for one in asked]),
        processing_class=tokenizer,
        peft_config=lora_config(work.config),
    )
    given = [list(ids) for ids in rollouts.prompt_ids], [list(ids) for ids in rollouts.responses]
    texts = [[{"role": "assistant", "content": tokenizer.decode(ids)}] for ids in given[1]]
    of_grpo = (*given, None, texts, None, {}, None, [])
    made._generate = lambda prompts: of_grpo if kind is GRPOTrainer else (*given, texts)
    made.current_gradient_accumulation_steps = 1
    made.model.train()
    take(work, made)
    return made, made._generate_and_score_completions([{"prompt": one} for one in asked])


@torch.no_grad()
def take(work: PpoTrainer, made: Any) -> None:
    """Gives TRL's adapter the weights that our policy has now."""
    theirs = dict(made.model.named_parameters())
    for name, weight in work.model.trained.items():
        theirs[name.replace(".policy.", ".default.")].copy_(weight)


def loss_and_gradient(made: Any, inputs: Any) -> tuple[float, dict[str, Tensor]]:
    made.model.zero_grad()
    loss = made._compute_loss(made.model, inputs)
    loss.backward()
    found = {n.replace(".default.", ".policy."): p.grad for n, p in made.model.named_parameters() if p.grad is not None}
    return float(loss), found


def same(own: dict[str, Tensor], theirs: dict[str, Tensor], times: float = 1.0) -> None:
    assert own.keys() == theirs.keys()
    assert max(float(slope.abs().max()) for slope in theirs.values()) > 1e-3
    for name, slope in theirs.items():
        torch.testing.assert_close(own[name] * times, slope, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize(("loss_type", "scale"), [("dapo", "group"), ("grpo", "batch"), ("dr_grpo", "none")])
def test_grpo_is_trls(tiny_model: Path, tmp_path: Path, loss_type: str, scale: str) -> None:
    work, batch = ours(tiny_model, algorithm="grpo", loss_type=loss_type, scale_rewards=scale, kl_coef=0.0)
    more = {"beta": 0.0, "loss_type": loss_type, "scale_rewards": scale}
    made, inputs = trls(GRPOTrainer, GRPOConfig, work, batch, tiny_model, tmp_path, **more)

    mask = batch.response_mask
    assert torch.equal(inputs["completion_mask"].bool(), mask)
    torch.testing.assert_close(inputs["old_per_token_logps"][mask], batch.logprobs[mask], rtol=1e-4, atol=1e-5)
    every = inputs["advantages"][:, None].expand_as(batch.advantages)
    torch.testing.assert_close(batch.advantages[mask], every[mask], rtol=1e-4, atol=1e-5)
    assert batch.advantages.abs().max() > 0.01

    for moved in (False, True):  # the first update of the step, and one after which some tokens are clipped
        if moved:
            disturb(work.model, std=0.01)
            take(work, made)
        loss, slopes = loss_and_gradient(made, inputs)
        stats, own = gradient(work, batch, range(len(LENGTHS)))
        assert stats["policy_loss"] == pytest.approx(loss, rel=1e-4, abs=1e-6)
        assert (0.1 < stats["clip_fraction"] < 0.9) == moved
        same(own, slopes)


def test_rloo_is_trls_at_the_first_update_of_a_step_kl_and_all(tiny_model: Path, tmp_path: Path) -> None:
    work, batch = ours(tiny_model, algorithm="rloo", loss_type="dr_grpo", kl_coef=0.1)
    made, inputs = trls(RLOOTrainer, RLOOConfig, work, batch, tiny_model, tmp_path, beta=0.1)

    mask = batch.response_mask
    kl = torch.where(mask, batch.logprobs - batch.ref_logprobs, 0.0).sum(1)
    assert kl.abs().max() > 0.1  # or the penalty would not be compared
    every = inputs["advantages"][:, None].expand_as(batch.advantages)
    torch.testing.assert_close(batch.advantages[mask], every[mask], rtol=1e-4, atol=1e-5)

    loss, slopes = loss_and_gradient(made, inputs)
    assert loss == pytest.approx(-float(inputs["advantages"].mean()), abs=1e-5)  # all ratios are 1
    _, own = gradient(work, batch, range(len(LENGTHS)))
    same(own, slopes, times=work.config.max_new_tokens)


def test_what_is_asked_of_trl_is_still_its_own() -> None:
    """These are TRL's internals: should a release move them, this says so by name."""
    for kind in (GRPOTrainer, RLOOTrainer):
        for name in ("_generate", "_generate_and_score_completions", "_compute_loss"):
            assert inspect.isfunction(getattr(kind, name)), name
