"""One frozen copy of the SFT weights with several LoRA adapters: policy, value, rewards. Adapters off = reference.

The base weights are never written to. For sampling, merged weights are swapped in and the originals put back, so the
reference stays what it was to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint

from rlaif.config import PpoConfig
from rlaif.core.errors import ModelError
from rlaif.lm.local.causal_lm import SHORT, CausalLM
from rlaif.lm.local.cpu import engine
from rlaif.lm.local.load import (
    LoadedModel,
    adapter_fits,
    autocast,
    check_keys,
    end_ids,
    lora_config,
    save_adapter,
    takes_lora,
)
from rlaif.lm.local.packing import Row
from rlaif.training.ppo.formulas import entropies, token_logprobs
from rlaif.training.ppo.processes import Processes
from rlaif.training.ppo.sharding import Shards
from rlaif.training.rewards.model import RewardHead, check_base, load_head, pooled, read_rows, response_states

Adapter = str
"""The policy, the value adapter or one of the members of the reward: "policy", "value", "reward-1", "reward-2", ..."""

LOGITS = 1 << 26
"""Logits that are held at a time (a quarter of a gigabyte in float32, several times that in a backward pass)."""


def _critic(config: PpoConfig) -> Adapter | None:
    """The adapter whose states the trained critic reads; None where there is none to train."""
    if config.algorithm != "ppo" or config.reward_is_critic:
        return None
    return "value" if config.value == "adapter" else "policy"


class PolicyModel:
    """Policy, critic, reward models (from the folders `rewards`) and reference on one base. `value` = "trunk" puts the
    critic's head on the policy; with "reward", and for algorithms but "ppo", no critic is trained.

    Log-probs are those of the distribution that is sampled from: logits are divided by `temperature` everywhere.
    `longest`: tokens of the longest prompt and response to come; None = `max_length`.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        config: PpoConfig,
        *,
        rewards: Sequence[Path] = (),
        seed: int,
        longest: int | None = None,
    ) -> None:
        from peft import get_peft_model
        from peft.tuners.lora import LoraLayer

        self.loaded, self.temperature = loaded, config.temperature
        self.critic = _critic(config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            with takes_lora(loaded.name):
                self.peft = get_peft_model(loaded.model, lora_config(config), adapter_name="policy")
            if self.critic == "value":
                self.peft.add_adapter("value", lora_config(config))
        self.members: dict[Adapter, RewardHead] = {}
        for number, folder in enumerate(rewards, start=1):
            check_base(folder, loaded)
            with adapter_fits(folder):
                self.peft.load_adapter(str(folder), adapter_name=f"reward-{number}", is_trainable=False)
                check_keys(self.peft, folder, f"reward-{number}")
            self.members[f"reward-{number}"] = head = load_head(folder)
            head.head.to(loaded.device)
            if config.reward_is_critic and head.pooling == "end":
                raise ModelError(
                    "this reward model reads the end of a response alone: it says nothing before that, and so "
                    "cannot be the critic",
                    where=str(folder),
                    remedy="set ppo.value: trunk, or run the reward stage again with reward.pooling: mean and --force",
                )
        self.lm, self.ends = CausalLM(loaded.model), end_ids(loaded.tokenizer, loaded.model)
        self.vocabulary = int(loaded.model.get_output_embeddings().weight.shape[0])
        # Decided once: in bfloat16 the two ways to compute attention differ, and a token's ratio would not start at 1
        # if one of them were taken when it is measured and the other when it is trained on.
        short = (config.max_length if longest is None else longest) <= SHORT
        written = short and engine.takes_eager_attention(self.lm)
        self.attention = "eager" if written else self.lm.attention  # sampling keeps its own
        if not self.lm.split:
            raise ModelError(
                "the logits of this model are more than a linear map of its last hidden states",
                where=loaded.name,
                remedy="PPO needs hidden states for the critic: choose a model without soft-capped or scaled logits",
            )
        hidden = loaded.model.get_output_embeddings().in_features
        self.value_head: nn.Linear | None = None
        if self.critic is not None:
            self.value_head = nn.Linear(hidden, 1, dtype=torch.float32, device=loaded.device)
            nn.init.zeros_(self.value_head.weight)
            nn.init.zeros_(self.value_head.bias)
        self.layers = [module for module in self.peft.modules() if isinstance(module, LoraLayer)]
        engine.speed_up_lora(self.layers)
        # By name: the parameters of the policy and value adapters and of the value head. The rest is frozen.
        self.trained: dict[str, nn.Parameter] = {
            **{n: p for n, p in self.peft.named_parameters() if ".policy." in n or ".value." in n},
        }
        if self.value_head is not None:
            self.trained |= {f"value_head.{n}": p for n, p in self.value_head.named_parameters()}
        self.shards = Shards([])
        self.active: Adapter | None = None
        self._switch("policy")

    def shard(self, processes: Processes) -> None:
        """Leaves each process a part of the frozen weights; nothing that is computed changes."""
        self.shards = Shards.of(self.lm.trunk, processes)

    def _switch(self, adapter: Adapter | None) -> None:
        for layer in self.layers:
            if adapter is None:
                layer.enable_adapters(False)
                continue
            if self.active is None:
                layer.enable_adapters(True)
            layer.set_adapter(adapter, inference_mode=True)
        for parameter in self.trained.values():  # PEFT freezes what it switches off; what is trained is decided here
            parameter.requires_grad_(True)
        self.active = adapter

    @contextmanager
    def using(self, adapter: Adapter | None) -> Iterator[None]:
        """Computes with one adapter, or with none (= the reference); then with the one before."""
        before = self.active
        try:
            if adapter != before:
                self._switch(adapter)
            yield
        finally:
            if adapter != before:
                self._switch(before)

    @contextmanager
    def merged(self) -> Iterator[CausalLM]:
        """The policy as plain weights, for sampling: LoRA layers would make decoding three times slower."""
        with self.shards.gathered(), self._merged():
            yield self.lm

    @contextmanager
    def _merged(self) -> Iterator[None]:
        originals = [layer.get_base_layer().weight.data for layer in self.layers]
        try:
            with torch.no_grad():
                for layer, weight in zip(self.layers, originals, strict=True):
                    merged = weight.float() + layer.get_delta_weight("policy").float()
                    layer.get_base_layer().weight.data = merged.to(weight.dtype)
            with self.using(None):
                yield
        finally:
            for layer, weight in zip(self.layers, originals, strict=True):
                layer.get_base_layer().weight.data = weight

    def states(self, rows: Sequence[Row]) -> Tensor:
        """(B, T, H) final hidden states (of the adapter in use) of prompt + response, right-padded.

        No mask is needed: padding is on the right of a causal model, and no real token can see it.
        """
        whole = [torch.tensor([*prompt, *response]) for prompt, response in rows]
        ids = pad_sequence(whole, batch_first=True).to(self.loaded.device)
        with autocast(self.loaded), self.lm.attending(self.attention):
            return self.lm.states(input_ids=ids, use_cache=False)

    def response_states(self, rows: Sequence[Row]) -> Tensor:
        """(N, H) states that predict the response tokens of all rows, one after the other.

        Responses to one prompt share its computation if their rows are given together.
        """
        with autocast(self.loaded), self.lm.attending(self.attention):
            return self.lm.predicting_states(rows)

    def logits(self, flat: Tensor) -> Tensor:
        """(N, V) float32 logits at the temperature."""
        with autocast(self.loaded):
            return self.lm.logits(flat, self.temperature)

    def logprobs(self, flat: Tensor, rows: Sequence[Row]) -> Tensor:
        """(N,) float32 log-probs of the response tokens, at the temperature."""
        (found,) = self._in_pieces(flat, rows, lambda logits, tokens: (token_logprobs(logits, tokens),))
        return found

    def logprobs_and_entropies(self, flat: Tensor, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        """(N,) float32 log-probs of the response tokens and (N,) entropies, at the temperature."""
        logprobs, found = self._in_pieces(flat, rows, lambda logits, t: (token_logprobs(logits, t), entropies(logits)))
        return logprobs, found

    def _in_pieces(
        self, flat: Tensor, rows: Sequence[Row], compute: Callable[[Tensor, Tensor], tuple[Tensor, ...]]
    ) -> list[Tensor]:
        """(N,) each: what `compute` makes of logits and tokens, of so many tokens at a time that their logits fit.

        Where gradients are wanted, the logits of a piece are forgotten and made again in the backward pass: over a
        large vocabulary they would take more memory than the model. One piece is computed as if there were none.
        """
        tokens = torch.tensor([token for _, response in rows for token in response], device=flat.device)

        def piece(states: Tensor, wanted: Tensor) -> tuple[Tensor, ...]:
            return compute(self.logits(states), wanted)

        size = max(1, LOGITS // self.vocabulary)
        if len(flat) <= size:
            return list(piece(flat, tokens))
        parts = zip(torch.split(flat, size), torch.split(tokens, size), strict=True)
        if torch.is_grad_enabled():
            found = [checkpoint(piece, states, wanted, use_reentrant=False) for states, wanted in parts]
        else:
            found = [piece(states, wanted) for states, wanted in parts]
        return [torch.cat(values) for values in zip(*found, strict=True)]

    def values(self, flat: Tensor) -> Tensor:
        """(N,) float32 values of states; zeros where there is no critic."""
        if self.value_head is None:
            return flat.new_zeros(len(flat), dtype=torch.float32)
        with torch.autocast(self.loaded.device.type, enabled=False):
            result: Tensor = self.value_head(flat.float()).squeeze(1)
        return result

    @torch.no_grad()
    def scores(self, rows: Sequence[Row], member: Adapter = "reward-1") -> tuple[Tensor, list[Tensor]]:
        """(B,) normalised scores of one reward model for prompt + response; (T,) for each row, those before each token
        (`RewardHead.so_far`)."""
        head = self.members[member]
        with self.using(member), autocast(self.loaded), self.lm.attending(self.attention):
            end = self.loaded.tokenizer.eos_token_id
            states = response_states(self.lm, read_rows(rows, head.pooling, end, self.ends))
        so_far = [head.so_far(part, len(response)).cpu() for part, (_, response) in zip(states, rows, strict=True)]
        return head.scores(pooled(states, head.pooling)).cpu(), so_far

    def adapter_state(self) -> dict[str, Any]:
        """A copy of all trained weights by name, for a checkpoint."""
        return {name: parameter.detach().to("cpu", copy=True) for name, parameter in self.trained.items()}

    @torch.no_grad()
    def load_adapter_state(self, state: dict[str, Any]) -> None:
        """Puts the weights of `adapter_state` back."""
        for name, parameter in self.trained.items():
            parameter.copy_(state[name])

    def save_policy(self, folder: Path) -> None:
        """Writes the policy adapter in PEFT's format into `folder`."""
        save_adapter(self.peft, folder, "policy", merged=self.loaded.merged)
