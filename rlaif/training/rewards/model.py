"""The reward model: a LoRA adapter and a linear head on the SFT weights; one score for a whole response.

The score is read off the final hidden states of the response's own tokens, as `reward.pooling` says: their mean, the
last one, or that of an end-of-turn token that also stands behind answers that were cut off. A finished response ends
with the end-of-turn token, a truncated one does not, so but for the last way the model can tell them apart.

Scores are normalised to mean 0 and standard deviation 1 on reference responses, and the constants travel with the
adapter, as does the head: a reward model that is loaded again gives the same scores to the last bit.

A folder holds PEFT's own two files, `reward_head.safetensors` and `reward.json`. PPO attaches the adapter under
another name to a model of its own and takes the rest from `load_head`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from rlaif.config import LoraTable, Pooling
from rlaif.core.errors import ModelError
from rlaif.core.files import disk_errors, parse_json, write_atomic
from rlaif.core.records import Prompt
from rlaif.lm.local.causal_lm import CausalLM
from rlaif.lm.local.cpu import engine
from rlaif.lm.local.load import (
    LoadedModel,
    adapter_fits,
    autocast,
    check_keys,
    context_length,
    encode_chat,
    encode_text,
    lora_config,
    save_adapter,
    takes_lora,
)
from rlaif.lm.local.packing import Row, packing_order

Targets = Literal["soft", "hard", "margin"]
HEAD_FILE, CONSTANTS_FILE = "reward_head.safetensors", "reward.json"


def response_states(lm: CausalLM, rows: Sequence[Row]) -> tuple[Tensor, ...]:
    """(1 + response tokens, H) of each row: the final hidden states of the prompt's last token and of the response's.

    Equal prompts are computed once.
    """
    # States predict the token that follows, so with one more token behind, which is never read, all of them come.
    flat = lm.predicting_states([(prompt, [*response, 0]) for prompt, response in rows])
    return torch.split(flat, [1 + len(response) for _, response in rows])


def pooled(states: Sequence[Tensor], pooling: Pooling) -> Tensor:
    """(B, H) float32 of the `response_states` of B rows. Where a response is empty, the prompt's last token is read."""
    if pooling == "mean":
        return torch.stack([part[-max(1, len(part) - 1) :].float().mean(0) for part in states])
    return torch.stack([part[-1].float() for part in states])


def read_rows(rows: Sequence[Row], pooling: Pooling, end: int, ends: Collection[int] = ()) -> Sequence[Row]:
    """The rows as a model of this pooling reads them. A response that ended with another of the ids `ends` ends with
    `end`, the only one that training has seen; with the pooling "end" every response does."""
    read = [
        (prompt, [*response[:-1], end] if response and response[-1] in ends else response) for prompt, response in rows
    ]
    if pooling != "end":
        return read
    return [(prompt, response if response and response[-1] == end else [*response, end]) for prompt, response in read]


def raw_scores(state: Tensor, head: nn.Linear) -> Tensor:
    """(B,) scores before normalisation of the states (B, H), in float32.

    A product and a sum instead of `head(state)`: autocast would take the matrix product in bfloat16, and how a
    matrix product sums depends on the number of rows.
    """
    return (state.float() * head.weight[0]).sum(dim=-1)


def normalised(raw: Tensor, *, mean: float, std: float) -> Tensor:
    """The scores in standard deviations from the mean of the reference responses."""
    return (raw - mean) / std


def preference_loss(margins: Tensor, prob_a: Tensor, targets: Targets = "soft") -> Tensor:
    """Mean of -(p log s(d) + (1 - p) log s(-d)) over pairs, with `margins` d = score of A - score of B, (N,).

    The soft-label form of the Bradley-Terry loss (2212.08073, 2309.00267). Its minimum is at d = logit(p); it is
    binary cross-entropy with `prob_a` as target. With "hard" targets p is 1 for the preferred side, with "margin" also
    d must exceed |2p - 1| for it (2307.09288, equation 2); a tie has no side, and `preferences.train` leaves it
    out there.
    """
    prob = prob_a.to(margins.dtype)
    if targets == "soft":
        return nn.functional.binary_cross_entropy_with_logits(margins, prob)
    side = torch.sign(prob - 0.5)
    wanted = margins - (2 * prob - 1 if targets == "margin" else 0.0)
    return nn.functional.binary_cross_entropy_with_logits(wanted, (side + 1) / 2)


class RewardHead(NamedTuple):
    """What makes scores of hidden states: a linear map H -> 1 without bias, the normalisation constants, and where the
    states are read."""

    head: nn.Linear
    mean: float
    std: float
    pooling: Pooling = "last"

    def scores(self, state: Tensor) -> Tensor:
        """(B,) normalised scores of the pooled states (B, H)."""
        return normalised(raw_scores(state, self.head), mean=self.mean, std=self.std)

    def so_far(self, states: Tensor, tokens: int) -> Tensor:
        """(tokens,) before each token of a response the normalised score of what stands there already, 0 before the
        first; `states` (1 + tokens or more, H) are its `response_states`. Without an end token, whatever the pooling:
        none stands there yet."""
        raw = raw_scores(states[1:tokens], self.head)
        if self.pooling == "mean":
            raw = raw.cumsum(0) / torch.arange(1, 1 + len(raw), device=raw.device)
        return torch.cat([raw.new_zeros(1), normalised(raw, mean=self.mean, std=self.std)])


class RewardModel(nn.Module):
    """A base model with the adapter and head on it. The base is changed in place: give it one of its own."""

    def __init__(self, loaded: LoadedModel, peft_model: Any, head: RewardHead) -> None:
        super().__init__()
        self.peft_model = peft_model
        self.head = head.head.to(loaded.device)
        self.mean, self.std, self.pooling = head.mean, head.std, head.pooling
        self.loaded = loaded
        self.lm = [CausalLM(loaded.model, states_only=True)]  # in a list, or its weights would be registered twice
        self.writes_out = False
        """Whether attention is written out where gradients are wanted; set by who knows how long sequences are."""

    @classmethod
    def new(cls, loaded: LoadedModel, table: LoraTable, *, seed: int, pooling: Pooling = "mean") -> RewardModel:
        """An untrained one. The head starts at zero, so that every margin does: the loss begins at log 2, and no
        random preference has to be unlearnt."""
        from peft import get_peft_model
        from peft.tuners.lora import LoraLayer

        with torch.random.fork_rng():
            torch.manual_seed(seed)
            with takes_lora(loaded.name):
                peft_model = get_peft_model(loaded.model, lora_config(table))
        engine.speed_up_lora(module for module in peft_model.modules() if isinstance(module, LoraLayer))
        head = nn.Linear(_hidden_size(loaded.model), 1, bias=False, dtype=torch.float32)
        nn.init.zeros_(head.weight)
        return cls(loaded, peft_model, RewardHead(head, 0.0, 1.0, pooling))

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
            save_adapter(self.peft_model, folder, merged=self.loaded.merged)
            save_file({"weight": self.head.weight.detach().cpu().contiguous()}, str(folder / HEAD_FILE))
        constants = {
            "mean": self.mean,
            "std": self.std,
            "pooling": self.pooling,
            "base_fingerprint": self.loaded.fingerprint,
        }
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
        self.mean, self.std, self.pooling = found.mean, found.std, found.pooling

    def forward(self, rows: Sequence[Row]) -> Tensor:
        """(B,) raw scores of the rows (prompt ids, response ids)."""
        lm, written = self.lm[0], self.writes_out and torch.is_grad_enabled()
        with autocast(self.loaded), lm.attending("eager" if written else lm.attention):
            states = response_states(lm, read_rows(rows, self.pooling, self.loaded.tokenizer.eos_token_id))
        return raw_scores(pooled(states, self.pooling), self.head)

    def encode(self, prompt: Prompt, response: str, *, finished: bool) -> Row:
        """See `encoded`."""
        return encoded(self.loaded, prompt, response, finished=finished)

    @torch.no_grad()
    def raw_of(self, rows: Sequence[Row], batch_size: int = 32) -> list[float]:
        """Raw scores of the rows, in their order, whatever the batches (up to the rounding of the dtype).

        Raises ModelError for a row longer than the model's context.
        """
        longest, context = max(map(row_length, rows), default=0), context_length(self.loaded.model)
        if longest > context:
            raise ModelError(
                f"cannot score {longest} tokens: the model's context is {context}",
                where=self.loaded.name,
                remedy="lower max_new_tokens, or use shorter prompts",
            )
        self.eval()
        order = packing_order(rows)
        result = [0.0] * len(rows)
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            for row, value in zip(chosen, self([rows[i] for i in chosen]).tolist(), strict=True):
                result[row] = value
        return result

    def score_texts(
        self, prompts: Sequence[Prompt], responses: Sequence[str], finished: Sequence[bool], batch_size: int = 32
    ) -> list[float]:
        """Normalised score of each response to its prompt; `finished` says which ended by themselves."""
        rows = [
            self.encode(prompt, response, finished=ended)
            for prompt, response, ended in zip(prompts, responses, finished, strict=True)
        ]
        return self.scores_of(rows, batch_size)

    def scores_of(self, rows: Sequence[Row], batch_size: int = 32) -> list[float]:
        """Normalised score of each row; raises as `raw_of` does."""
        return [(raw - self.mean) / self.std for raw in self.raw_of(rows, batch_size)]


def encoded(loaded: LoadedModel, prompt: Prompt, response: str, *, finished: bool) -> Row:
    """Ids of the chat, and of the response with the end-of-turn token if it ended by itself."""
    ids = encode_text(loaded.tokenizer, response)
    return encode_chat(loaded.tokenizer, prompt.messages), [*ids, loaded.tokenizer.eos_token_id] if finished else ids


def row_length(row: Row) -> int:
    """Tokens of prompt and response, and of the end-of-turn token that may be read behind them."""
    return len(row[0]) + len(row[1]) + 1


@torch.no_grad()
def frozen_states(loaded: LoadedModel, rows: Sequence[Row], batch_size: int = 32) -> dict[Pooling, Tensor]:
    """Pooling -> (B, H) float32 pooled states of the rows by the model as it is: what a probe can learn from."""
    lm, end = CausalLM(loaded.model, states_only=True), loaded.tokenizer.eos_token_id
    order, ways = packing_order(rows), get_args(Pooling)
    found: dict[Pooling, list[Tensor]] = {way: [torch.empty(0)] * len(rows) for way in ways}
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        own = [rows[i] for i in chosen]
        with autocast(loaded):
            states = response_states(lm, read_rows(own, "end", end))
        cut = [part[: 1 + len(row[1])] for part, row in zip(states, own, strict=True)]
        for way in ways:
            for place, state in zip(chosen, pooled(states if way == "end" else cut, way), strict=True):
                found[way][place] = state.cpu()
    return {way: torch.stack(states) for way, states in found.items()}


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
    return RewardHead(head, float(constants["mean"]), float(constants["std"]), constants.get("pooling", "last"))


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
        constants: dict[str, Any] = parse_json(path.read_text(encoding="utf-8"))
        mean, std = float(constants["mean"]), float(constants["std"])
        read = constants.get("pooling", "last") in get_args(Pooling)  # older models have none, and read the last token
        if math.isfinite(mean) and 0 < std < math.inf and read and "base_fingerprint" in constants:
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
