"""The reward model: a LoRA adapter and a linear head on the SFT weights; one score for a whole response.

The score is read off the hidden state of the last real token. A finished response ends with the end-of-turn token, a
truncated one does not, so the model can tell them apart. Scores are normalised to mean 0 and standard deviation 1 on
reference responses, and the constants travel with the adapter, as does the head: a reward model that is loaded again
gives the same scores to the last bit.

A folder holds PEFT's own two files, `reward_head.safetensors` and `reward.json`. PPO attaches the adapter under
another name to a model of its own and takes the rest from `load_head`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rlaif.config import LoraTable
from rlaif.core.errors import ModelError
from rlaif.core.files import disk_errors, write_atomic
from rlaif.core.records import Prompt
from rlaif.lm.local.load import (
    LoadedModel,
    adapter_fits,
    autocast,
    check_keys,
    context_length,
    encode_chat,
    encode_text,
    lora_config,
    takes_lora,
)

HEAD_FILE, CONSTANTS_FILE = "reward_head.safetensors", "reward.json"


def last_token_state(hidden: Tensor, lengths: Tensor) -> Tensor:
    """(B, H) state of the last real token of each row. `hidden` (B, T, H) right-padded, `lengths` (B,) real tokens."""
    rows = torch.arange(hidden.shape[0], device=hidden.device)
    return hidden[rows, lengths.to(hidden.device) - 1]


def raw_scores(state: Tensor, head: nn.Linear) -> Tensor:
    """(B,) scores before normalisation of the states (B, H), in float32.

    A product and a sum instead of `head(state)`: autocast would take the matrix product in bfloat16, and how a
    matrix product sums depends on the number of rows.
    """
    return (state.float() * head.weight[0]).sum(dim=-1)


def normalised(raw: Tensor, *, mean: float, std: float) -> Tensor:
    """The scores in standard deviations from the mean of the reference responses."""
    return (raw - mean) / std


def preference_loss(margins: Tensor, prob_a: Tensor) -> Tensor:
    """Mean of -(p log s(d) + (1 - p) log s(-d)) over pairs, with `margins` d = score of A - score of B, (N,).

    The soft-label form of the Bradley-Terry loss (2212.08073, 2309.00267). Its minimum is at d = logit(p); it is
    binary cross-entropy with `prob_a` as target.
    """
    return nn.functional.binary_cross_entropy_with_logits(margins, prob_a.to(margins.dtype))


class RewardHead(NamedTuple):
    """What makes scores of hidden states: a linear map H -> 1 without bias, and the normalisation constants."""

    head: nn.Linear
    mean: float
    std: float

    def scores(self, state: Tensor) -> Tensor:
        """(B,) normalised scores of the last-token states (B, H)."""
        return normalised(raw_scores(state, self.head), mean=self.mean, std=self.std)


class RewardModel(nn.Module):
    """A base model with the adapter and head on it. The base is changed in place: give it one of its own."""

    def __init__(self, loaded: LoadedModel, peft_model: Any, head: RewardHead) -> None:
        super().__init__()
        self.peft_model = peft_model
        self.head = head.head.to(loaded.device)
        self.mean, self.std = head.mean, head.std
        self.loaded = loaded

    @classmethod
    def new(cls, loaded: LoadedModel, table: LoraTable, *, seed: int) -> RewardModel:
        """An untrained one. The head starts at zero, so that every margin does: the loss begins at log 2, and no
        random preference has to be unlearnt."""
        from peft import get_peft_model

        with torch.random.fork_rng():
            torch.manual_seed(seed)
            with takes_lora(loaded.name):
                peft_model = get_peft_model(loaded.model, lora_config(table))
        head = nn.Linear(_hidden_size(loaded.model), 1, bias=False, dtype=torch.float32)
        nn.init.zeros_(head.weight)
        return cls(loaded, peft_model, RewardHead(head, 0.0, 1.0))

    @classmethod
    def load(cls, folder: Path, loaded: LoadedModel) -> RewardModel:
        """The one in `folder`, frozen. Raises ModelError if it was trained on other weights than `loaded`."""
        from peft import PeftModel

        head = load_head(folder)
        check_base(folder, loaded)
        with adapter_fits(folder):
            wrapped = PeftModel.from_pretrained(loaded.model, str(folder))
            check_keys(wrapped, folder)
        model = cls(loaded, wrapped, head)
        model.requires_grad_(False)
        return model.eval()

    def save(self, folder: Path) -> None:
        """Writes the adapter in PEFT's format, the head and the constants into `folder`."""
        from safetensors.torch import save_file

        with disk_errors(folder):
            self.peft_model.save_pretrained(str(folder))
            save_file({"weight": self.head.weight.detach().cpu().contiguous()}, str(folder / HEAD_FILE))
        constants = {"mean": self.mean, "std": self.std, "base_fingerprint": self.loaded.fingerprint}
        write_atomic(folder / CONSTANTS_FILE, json.dumps(constants, indent=1))

    def unload(self) -> None:
        """Gives the base back as it was, for another adapter to stand on."""
        self.peft_model.unload()

    def restore(self, folder: Path) -> None:
        """Takes what `folder` holds (as `save` left it) into this model and goes on training it."""
        from peft import set_peft_model_state_dict
        from safetensors.torch import load_file

        set_peft_model_state_dict(self.peft_model, load_file(str(folder / "adapter_model.safetensors")))
        found = load_head(folder)
        self.head.load_state_dict(found.head.state_dict())
        self.mean, self.std = found.mean, found.std

    def forward(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """(B,) raw scores of right-padded `input_ids` (B, T), of which the first `lengths` (B,) of a row are real.

        The mask comes from the lengths, never from `ids != pad`: pad is often the end-of-turn token. Padding stands
        on the right, so the default positions are those of the real tokens.
        """
        attention_mask = (torch.arange(input_ids.shape[1], device=input_ids.device) < lengths[:, None]).long()
        trunk = self.peft_model.get_base_model().base_model
        with autocast(self.loaded):
            hidden = trunk(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
        return raw_scores(last_token_state(hidden, lengths), self.head)

    def encode(self, prompt: Prompt, response: str, *, finished: bool) -> list[int]:
        """See `encoded`."""
        return encoded(self.loaded, prompt, response, finished=finished)

    @torch.no_grad()
    def raw_of(self, sequences: Sequence[Sequence[int]], batch_size: int = 32) -> list[float]:
        """Raw scores of token sequences, in their order, whatever the batches (up to the rounding of the dtype).

        Raises ModelError for a sequence longer than the model's context.
        """
        longest, context = max(map(len, sequences), default=0), context_length(self.loaded.model)
        if longest > context:
            raise ModelError(
                f"cannot score {longest} tokens: the model's context is {context}",
                where=self.loaded.name,
                remedy="lower max_new_tokens, or use shorter prompts",
            )
        self.eval()
        order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
        result = [0.0] * len(sequences)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            ids, lengths = pad_right([sequences[i] for i in rows])
            device = self.head.weight.device
            raw = self(ids.to(device), lengths.to(device))
            for row, value in zip(rows, raw.tolist(), strict=True):
                result[row] = value
        return result

    def score_texts(
        self, prompts: Sequence[Prompt], responses: Sequence[str], finished: Sequence[bool], batch_size: int = 32
    ) -> list[float]:
        """Normalised score of each response to its prompt; `finished` says which ended by themselves."""
        sequences = [
            self.encode(prompt, response, finished=ended)
            for prompt, response, ended in zip(prompts, responses, finished, strict=True)
        ]
        return [(raw - self.mean) / self.std for raw in self.raw_of(sequences, batch_size)]


def encoded(loaded: LoadedModel, prompt: Prompt, response: str, *, finished: bool) -> list[int]:
    """Ids of chat and response, and of the end-of-turn token if the response ended by itself."""
    tokenizer = loaded.tokenizer
    ids = encode_chat(tokenizer, prompt.messages) + encode_text(tokenizer, response)
    return [*ids, tokenizer.eos_token_id] if finished else ids


def pad_right(sequences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """(ids (B, T) padded on the right with 0, lengths (B,)). What the padding holds has no effect: it is masked."""
    lengths = torch.tensor([len(ids) for ids in sequences])
    padded = torch.zeros((len(sequences), int(lengths.max())), dtype=torch.long)
    for row, ids in enumerate(sequences):
        padded[row, : len(ids)] = torch.tensor(ids)
    return padded, lengths


def load_head(folder: Path) -> RewardHead:
    """Head and normalisation constants of a saved reward model; raises ModelError naming the file that is missing or
    damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    constants = _constants(folder)
    try:
        weight = load_file(str(folder / HEAD_FILE))["weight"]
    except (OSError, KeyError, SafetensorError) as problem:
        raise _incomplete(folder / HEAD_FILE) from problem
    if weight.ndim != 2 or len(weight) != 1 or not weight.isfinite().all():
        raise _incomplete(folder / HEAD_FILE)
    head = nn.Linear(weight.shape[1], 1, bias=False, dtype=torch.float32)
    head.weight = nn.Parameter(weight.float())
    return RewardHead(head, float(constants["mean"]), float(constants["std"]))


def check_base(folder: Path, loaded: LoadedModel) -> None:
    """Raises ModelError if the reward model in `folder` was trained on other weights than `loaded`."""
    trained_on = _constants(folder)["base_fingerprint"]
    if trained_on != loaded.fingerprint:
        raise ModelError(
            f"the reward model was trained on other weights (fingerprint {trained_on}) than {loaded.name} "
            f"({loaded.fingerprint})",
            where=str(folder),
            remedy="load it onto the SFT model of its own run, or run the reward stage again with --force",
        )
    if load_head(folder).head.in_features != _hidden_size(loaded.model):
        raise _incomplete(folder / HEAD_FILE)


def _constants(folder: Path) -> dict[str, Any]:
    path = folder / CONSTANTS_FILE
    try:
        constants: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        mean, std = float(constants["mean"]), float(constants["std"])
        if math.isfinite(mean) and 0 < std < math.inf and "base_fingerprint" in constants:
            return constants
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise _incomplete(path)


def _incomplete(path: Path) -> ModelError:
    return ModelError(
        "this file of a reward model is missing or damaged",
        where=str(path),
        remedy="point at the reward/adapter folder of a finished run, or run the reward stage again with --force",
    )


def _hidden_size(model: Any) -> int:
    return int(model.get_input_embeddings().embedding_dim)
