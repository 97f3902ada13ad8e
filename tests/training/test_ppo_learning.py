"""PPO optimises what it says: a score that can be learnt, and a one-step problem whose optimum is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlaif.config import PpoConfig
from rlaif.training.adapters import PolicyModel
from rlaif.training.ppo_trainer import PpoTrainer
from tests.training.contexts import prompt
from tests.training.rewards import share_of_e
from tests.training.test_adapters import policy_model
from tests.training.test_ppo import chosen, one_thread, trainer

__all__ = ["one_thread"]

WORDS = ["go", "<end>", *"abcdefghij"]
SCORES = {word: place / 11 for place, word in enumerate(WORDS) if word != "<end>"}


@pytest.mark.parametrize("value", ["adapter", "trunk"])
def test_a_planted_score_is_learnt(tiny_model: Path, value: Any) -> None:
    steps = 25
    work = trainer(
        tiny_model,
        function=share_of_e,
        value=value,
        batch_size=32,
        micro_batch_size=32,
        max_new_tokens=8,
        steps=steps,
        learning_rate=1e-2,
        kl_coef=0.02,
    )
    rows = [work.step(step, chosen(work, step))[2] for step in range(steps)]
    first, last = rows[0], {name: sum(row[name] for row in rows[-5:]) / 5 for name in rows[0]}
    assert first["score"] < 0
    assert last["score"] > first["score"] + 2
    assert last["kl"] > 10  # it has gone somewhere, and knows it
    assert last["entropy"] < first["entropy"] - 1
    if value == "adapter":
        assert last["explained_variance"] > 0.2 > first["explained_variance"]


def words_model(folder: Path) -> Path:
    """A Llama of one layer over `WORDS`, wide enough (32 > 12) for the policy to become any distribution on them."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="go"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    template = "{{ messages[0]['content'] }}"
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>", chat_template=template
    ).save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=32,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@torch.no_grad()
def distribution(model: PolicyModel, which: Any) -> Tensor:
    """(V,) probabilities of the answer to "go"."""
    with model.using(which):
        return model.logits(model.states([((0,), (0,))])[:, 0]).softmax(1)[0]


@pytest.mark.parametrize("beta", [0.5, 0.2])
def test_a_one_step_problem_ends_at_its_known_optimum(tmp_path: Path, beta: float) -> None:
    """max over pi of E[r] - beta KL(pi || ref) is reached by pi*(y) ~ ref(y) exp(r(y) / beta)."""
    table: dict[str, Any] = {
        "batch_size": 128,
        "micro_batch_size": 128,
        "max_new_tokens": 1,
        "steps": 50,
        "learning_rate": 1e-2,
        "kl_coef": beta,
        "missing_eos_penalty": 0.0,
        "vf_coef": 1.0,
        "cliprange_value": 10.0,
    }
    model = policy_model(words_model(tmp_path), **table)
    work = PpoTrainer(
        model,
        PpoConfig(**table),
        seed=0,
        function=lambda _, responses: [SCORES.get(text, 0.0) for text in responses],
        sample_batch_size=128,
    )
    scores = torch.tensor([SCORES.get(word, 0.0) for word in WORDS])
    ref = distribution(model, None)
    optimum = ref * (scores / beta).exp()
    optimum /= optimum.sum()
    for step in range(50):
        work.step(step, [prompt("go")] * 128)
    found = distribution(model, "policy")
    assert (ref - optimum).abs().sum() / 2 > 0.3  # total variation at the start
    assert (found - optimum).abs().sum() / 2 < 0.02
    assert found @ scores == pytest.approx((optimum @ scores).item(), abs=0.02)

    def kl(of: Tensor) -> float:
        return float((of * (of / ref).log()).sum())

    assert kl(found) == pytest.approx(kl(optimum), abs=0.05)
    assert torch.equal(distribution(model, None), ref)
