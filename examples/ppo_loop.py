"""PPO on a language model in one file: transformers, PEFT and the formulas of rlaif, nothing else.

    python examples/ppo_loop.py                                    # the embedded model, a few minutes on a CPU
    python examples/ppo_loop.py --model ./my-model --steps 50      # a folder or an id of the hub
    python examples/ppo_loop.py --reward my_module:my_function     # f(prompts, responses) -> one number each

The model learns to write what the reward likes, here answers that begin with "The"; a KL penalty holds it near where it
began. Each step prints the mean score, which should rise (on the embedded model from about 0.25 to about 1), and the KL
to the start in nats per response, which should stay below about 5.

This is for reading and for trying things out. What `rlaif ppo` does beside it, and this leaves out:
- checkpoints and an exact resume, validation on prompts that are not trained on, stops for what is not a number;
- merged weights and packed attention for sampling, the samples of a prompt computed once, sharded weights;
- reward models on the same weights, a judge as the reward, several sources, rollouts from a vLLM server;
- a critic of its own: here a linear head on the policy's last hidden states, which is half the compute;
- RLOO, GRPO and their relatives. rlaif/training/ppo/step.py is the same step with all of this.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

import rlaif
from rlaif import ppo_formulas as formulas

QUESTIONS = (
    "How do I bake bread?",
    "What should I do when a friend is sad?",
    "Tell me about the sea.",
    "Why do leaves fall in autumn?",
    "What is a good name for a dog?",
    "How can I sleep better?",
    "Write a line about the moon.",
    "What makes a good teacher?",
)
Reward = Callable[[Sequence[str], Sequence[str]], Sequence[float | None]]


@dataclass(frozen=True)
class Settings:
    """As the config's `ppo` table has them."""

    steps: int = 8
    batch_size: int = 16
    max_new_tokens: int = 6
    num_ppo_epochs: int = 2
    num_mini_batches: int = 2
    learning_rate: float = 5e-4
    kl_coef: float = 0.02
    cliprange: float = 0.2
    cliprange_value: float = 0.2
    vf_coef: float = 0.1
    gamma: float = 1.0
    lam: float = 0.95
    missing_eos_penalty: float = 0.0  # so few tokens that hardly an answer ends
    max_grad_norm: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Rollouts:
    """Prompts on the left, responses on the right: P + T tokens a row."""

    ids: Tensor  # (B, P + T) the prompts padded on the left, the responses on the right
    attention: Tensor  # (B, P + T) 1 = a real token
    mask: Tensor  # (B, T) bool, True = a real response token, its end token included
    ended: Tensor  # (B,) bool, True = the response ended by itself

    @property
    def responses(self) -> Tensor:
        """(B, T) the tokens of the responses."""
        return self.ids[:, -self.mask.shape[1] :]


@dataclass(frozen=True)
class Batch:
    """What the updates need, all measured before the first of them."""

    rollouts: Rollouts
    logprobs: Tensor  # (B, T) of the policy that sampled
    values: Tensor  # (B, T) of the critic at that time
    advantages: Tensor  # (B, T)
    returns: Tensor  # (B, T)


class Learner:
    """The policy (LoRA on frozen weights; adapters off = the reference), the critic's head and the optimiser."""

    def __init__(self, source: str, settings: Settings) -> None:
        torch.manual_seed(settings.seed)
        loaded: Any = rlaif.open_model(source, dtype="float32").loaded  # type: ignore[attr-defined]
        self.tokenizer, self.settings = loaded.tokenizer, settings
        self.model = get_peft_model(loaded.model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"))
        self.model.eval()  # no dropout: the policy that is trained must be the one that sampled
        # A critic that begins at 0 does no harm; a random one would send the first updates anywhere.
        self.critic = nn.Linear(loaded.model.get_output_embeddings().in_features, 1).to(loaded.device)
        nn.init.zeros_(self.critic.weight)
        nn.init.zeros_(self.critic.bias)
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.parameters = [*trained, *self.critic.parameters()]
        # The usual eps of 1e-8 lets the first steps, whose gradients are tiny, be as large as the later ones.
        self.optimiser = torch.optim.AdamW(self.parameters, lr=settings.learning_rate, eps=1e-5, weight_decay=0.0)

    def forward(self, rollouts: Rollouts) -> tuple[Tensor, Tensor]:
        """(log-probs, values), each (B, T), of the response tokens; of the adapters that are on."""
        positions = (rollouts.attention.cumsum(1) - 1).clamp(min=0)  # the padding on the left counts for nothing
        out = self.model(
            input_ids=rollouts.ids,
            attention_mask=rollouts.attention,
            position_ids=positions,
            output_hidden_states=True,
        )
        width = rollouts.mask.shape[1]
        logits, states = out.logits[:, -width - 1 : -1].float(), out.hidden_states[-1][:, -width - 1 : -1].float()
        flat = formulas.token_logprobs(logits.flatten(0, 1), rollouts.responses.flatten())
        return flat.view(rollouts.mask.shape), self.critic(states).squeeze(2)


def sample(learner: Learner, questions: Sequence[str]) -> Rollouts:
    """One response to each question, drawn from the policy as it is."""
    tokenizer, settings = learner.tokenizer, learner.settings
    tokenizer.padding_side = "left"
    chats = [[{"role": "user", "content": question}] for question in questions]
    asked = tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    ).to(learner.model.device)
    with torch.no_grad():
        # Whatever the model's own generation settings say: cut or reshape the distribution, and the policy that is
        # differentiated is no longer the one that sampled.
        ids = learner.model.generate(
            input_ids=asked["input_ids"],
            attention_mask=asked["attention_mask"],
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            repetition_penalty=1.0,
            max_new_tokens=settings.max_new_tokens,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    # The mask comes from the first end token of the *response*: prompts hold end tokens too, and pad is often the same.
    responses = ids[:, asked["input_ids"].shape[1] :]
    is_end = responses == tokenizer.eos_token_id
    mask = (is_end.cumsum(1) - is_end.long()) == 0
    attention = torch.cat([asked["attention_mask"], mask.long()], 1)
    return Rollouts(ids, attention, mask, (is_end & mask).any(1))


def measure(
    learner: Learner, reward: Reward, questions: Sequence[str], rollouts: Rollouts
) -> tuple[Batch, dict[str, float]]:
    """The batch, and the figures to print."""
    settings, mask = learner.settings, rollouts.mask
    with torch.no_grad():
        logprobs, values = learner.forward(rollouts)
        with learner.model.disable_adapter():
            ref_logprobs, _ = learner.forward(rollouts)
    texts = [
        learner.tokenizer.decode(row[real], skip_special_tokens=True)
        for row, real in zip(rollouts.responses, mask, strict=True)
    ]
    found = torch.tensor([0.0 if score is None else score for score in reward(questions, texts)])
    scores = found.to(mask.device) - settings.missing_eos_penalty * ~rollouts.ended
    # The score lands on the last real token, and every token pays for having moved away from the reference.
    rewards = formulas.shaped_rewards(scores, logprobs, ref_logprobs, mask, settings.kl_coef)
    advantages, returns = formulas.gae(rewards, values, mask, gamma=settings.gamma, lam=settings.lam)
    figures = {
        "score": float(scores.mean()),
        "kl": float(torch.where(mask, logprobs - ref_logprobs, 0.0).sum(1).mean()),
        "length": float(mask.sum(1).float().mean()),
    }
    return Batch(rollouts, logprobs, values, advantages, returns), figures


def update(learner: Learner, batch: Batch, step: int) -> float:
    """Several clipped updates on one batch; returns the share of tokens whose ratio was clipped in the last of them."""
    settings, size = learner.settings, len(batch.logprobs)
    clipped = 0.0
    for group in learner.optimiser.param_groups:
        group["lr"] = settings.learning_rate * (1 - step / settings.steps)
    for _ in range(settings.num_ppo_epochs):
        for rows in torch.randperm(size).chunk(settings.num_mini_batches):
            of = batch.rollouts
            part = Rollouts(of.ids[rows], of.attention[rows], of.mask[rows], of.ended[rows])
            old, mask = batch.logprobs[rows], part.mask
            logprobs, values = learner.forward(part)
            # Whitened over the tokens of the mini-batch: the size of the rewards does not matter, their order does.
            advantages = formulas.whiten(batch.advantages[rows], mask)
            policy = formulas.policy_loss(logprobs, old, advantages, settings.cliprange)
            value = formulas.value_loss(values, batch.values[rows], batch.returns[rows], settings.cliprange_value)
            loss = formulas.masked_mean(policy + settings.vf_coef * value, mask)
            learner.optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(learner.parameters, settings.max_grad_norm)
            learner.optimiser.step()
            clipped = float(formulas.masked_mean(formulas.clipped(logprobs, old, settings.cliprange).float(), mask))
    return clipped


def train(source: str, reward: Reward, settings: Settings) -> list[dict[str, float]]:
    """The figures of every step, printed as they come."""
    learner, draw = Learner(source, settings), random.Random(settings.seed)
    rows = []
    for step in range(settings.steps):
        questions = draw.choices(QUESTIONS, k=settings.batch_size)
        rollouts = sample(learner, questions)  # 1. sample
        batch, figures = measure(learner, reward, questions, rollouts)  # 2. measure, 3. advantages
        figures["clipped"] = update(learner, batch, step)  # 4. clipped updates
        rows.append(figures)  # 5. log
        print(f"step {step:3}  " + "  ".join(f"{name} {value:7.3f}" for name, value in figures.items()), flush=True)
    return rows


def begins_with_the(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    """1 for an answer that begins with "The", else 0: something that a model can learn in a few steps."""
    return [float(text.lstrip().startswith("The")) for text in responses]


def main() -> None:
    asked = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    asked.add_argument("--model", default="embedded", help="embedded, a folder or an id of the hub")
    asked.add_argument("--reward", help='"module:function"; default: 1 for answers that begin with The')
    asked.add_argument("--steps", type=int, default=Settings.steps)
    asked.add_argument("--learning-rate", type=float, default=Settings.learning_rate)
    given = asked.parse_args()
    reward: Reward = begins_with_the if given.reward is None else rlaif.load_reward(source=given.reward)
    train(given.model, reward, Settings(steps=given.steps, learning_rate=given.learning_rate))


if __name__ == "__main__":
    main()
