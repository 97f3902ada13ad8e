"""One frozen copy of the SFT weights with several LoRA adapters: policy, value, reward. Adapters off = reference.

The base weights are never written to. For sampling, merged weights are swapped in and the originals put back, so the
reference stays what it was to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rlaif.config import PpoConfig
from rlaif.lm.decode import CausalLM, right_pad
from rlaif.models import LoadedModel, autocast, lora_config
from rlaif.training.reward_model import RewardHead, last_token_state, load_head

Adapter = Literal["policy", "value", "reward"]
Row = tuple[Sequence[int], Sequence[int]]
"""(prompt ids, response ids) of one sequence."""


class PolicyModel:
    """Policy, critic, reward model and reference on one base. `value` = "trunk" puts the critic's head on the policy.

    Log-probs are those of the distribution that is sampled from: logits are divided by `temperature` everywhere.
    """

    def __init__(self, loaded: LoadedModel, config: PpoConfig, *, reward: Path | None, seed: int) -> None:
        from peft import get_peft_model

        self.loaded, self.temperature = loaded, config.temperature
        self.critic: Adapter = "value" if config.value == "adapter" else "policy"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.peft = get_peft_model(loaded.model, lora_config(config), adapter_name="policy")
            if self.critic == "value":
                self.peft.add_adapter("value", lora_config(config))
        self.reward_head: RewardHead | None = None
        if reward is not None:
            self.peft.load_adapter(str(reward), adapter_name="reward", is_trainable=False)
            self.reward_head = load_head(reward)
            self.reward_head.head.to(loaded.device)
        self.lm = CausalLM(loaded.model)
        hidden = loaded.model.get_output_embeddings().in_features
        self.value_head = nn.Linear(hidden, 1, dtype=torch.float32, device=loaded.device)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)

    def trainable(self) -> list[nn.Parameter]:
        """Parameters of the policy and value adapters and of the value head; the rest is frozen."""
        chosen = [p for name, p in self.peft.named_parameters() if ".policy." in name or ".value." in name]
        return [p.requires_grad_(True) for p in [*chosen, *self.value_head.parameters()]]

    @contextmanager
    def using(self, adapter: Adapter | None) -> Iterator[None]:
        """Computes with one adapter, or with none (= the reference)."""
        if adapter is None:
            with self.peft.disable_adapter():
                yield
            return
        trained = [(p, p.requires_grad) for p in self.peft.parameters()]
        self.peft.set_adapter(adapter)
        for parameter, flag in trained:  # PEFT freezes what it switches off; what is trained is decided here
            parameter.requires_grad_(flag)
        yield

    @contextmanager
    def merged(self) -> Iterator[CausalLM]:
        """The policy as plain weights, for sampling: LoRA layers would make decoding three times slower."""
        from peft.tuners.lora import LoraLayer

        layers = [module for module in self.peft.modules() if isinstance(module, LoraLayer)]
        originals = [layer.get_base_layer().weight.data for layer in layers]
        try:
            with torch.no_grad():
                for layer, weight in zip(layers, originals, strict=True):
                    merged = weight.float() + layer.get_delta_weight("policy").float()
                    layer.get_base_layer().weight.data = merged.to(weight.dtype)
            with self.using(None):
                yield self.lm
        finally:
            for layer, weight in zip(layers, originals, strict=True):
                layer.get_base_layer().weight.data = weight

    def states(self, rows: Sequence[Row]) -> Tensor:
        """(B, T, H) final hidden states (of the adapter in use) of prompt + response, right-padded."""
        ids, mask = right_pad([[*prompt, *response] for prompt, response in rows], 0, self.loaded.device)
        with autocast(self.loaded):
            return self.lm.states(input_ids=ids, attention_mask=mask.long(), use_cache=False)

    def response_states(self, states: Tensor, rows: Sequence[Row]) -> Tensor:
        """(N, H) states that predict the response tokens of all rows, one after the other."""
        return torch.cat([states[i, len(p) - 1 : len(p) - 1 + len(r)] for i, (p, r) in enumerate(rows)])

    def logprobs(self, flat: Tensor, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        """(N,) float32 log-probs of the response tokens and (N,) entropies (without gradient), at the temperature."""
        with autocast(self.loaded):
            logits = self.lm.logits(flat) / self.temperature
        targets = torch.tensor([token for _, response in rows for token in response], device=logits.device)
        normaliser = logits.logsumexp(1)
        chosen = logits.gather(1, targets[:, None]).squeeze(1) - normaliser
        with torch.no_grad():
            probabilities = (logits - normaliser[:, None]).exp_()
            entropy = normaliser - (probabilities * logits).sum(1)
        return chosen, entropy

    def values(self, flat: Tensor) -> Tensor:
        """(N,) float32 values of states."""
        with torch.autocast(self.loaded.device.type, enabled=False):
            result: Tensor = self.value_head(flat.float()).squeeze(1)
        return result

    @torch.no_grad()
    def scores(self, rows: Sequence[Row]) -> Tensor:
        """(B,) normalised scores of the reward adapter for prompt + response."""
        assert self.reward_head is not None
        with self.using("reward"):
            states = self.states(rows)
        lengths = torch.tensor([len(p) + len(r) for p, r in rows])
        return self.reward_head.scores(last_token_state(states, lengths)).cpu()

    def adapter_state(self) -> dict[str, Any]:
        """All trained weights by name, for a checkpoint."""
        state = {n: p.detach().cpu() for n, p in self.peft.named_parameters() if ".policy." in n or ".value." in n}
        return state | {f"value_head.{name}": p.detach().cpu() for name, p in self.value_head.named_parameters()}

    @torch.no_grad()
    def load_adapter_state(self, state: dict[str, Any]) -> None:
        """Puts the weights of `adapter_state` back."""
        for name, parameter in self.peft.named_parameters():
            if name in state:
                parameter.copy_(state[name])
        for name, parameter in self.value_head.named_parameters():
            parameter.copy_(state[f"value_head.{name}"])

    def save_policy(self, folder: Path) -> None:
        """Writes the policy adapter in PEFT's format into `folder`."""
        self.peft.save_pretrained(str(folder), selected_adapters=["policy"])
        inner = folder / "policy"  # PEFT puts adapters that are not called "default" into a folder of their own
        if inner.is_dir():
            for file in inner.iterdir():
                file.replace(folder / file.name)
            inner.rmdir()
