"""A faster decoding step for models of Llama's shape on a CPU: packed weights, keys and values in place.

transformers spends most of a step of one token per sequence outside the arithmetic: on packing the weights anew at
every product, on growing the key-value cache by a copy of it, and on Python. Here the weights are packed once (a second
copy of them, as long as the decoder lives), projections that read the same states are one product, and keys and values
are written into memory that is already there. The prompt is left to the model itself.

Which models these are is decided by the very classes of their modules, and then tried out: a decoder whose states are
not the model's own is not made, and the caller goes on without. On other devices than a CPU none is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlaif.lm.local.causal_lm import CausalLM

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""Those of transformers' model families whose modules compute what is computed here."""
TRUNK = {"embed_tokens", "layers", "norm", "rotary_emb"}
LAYER = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
MLP = {"gate_proj", "up_proj", "down_proj", "act_fn"}
LARGEST = 4 << 30
"""Bytes of weights that are copied at most."""


class NotTheShape(Exception):
    """The model has a part that is not computed here."""


class Fused:
    """Linear layers that read the same states, as one; its weight is packed for `rows` rows where torch does that."""

    def __init__(self, modules: Sequence[Any], rows: int) -> None:
        layers = [_plain(module) for module in modules]
        biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
        if len(biases) not in (0, len(layers)):
            raise NotTheShape("a bias on some of the projections")
        self.bias = torch.cat(biases) if biases else None
        self.weight = torch.cat([layer.weight.detach() for layer in layers]) if len(layers) > 1 else layers[0].weight
        self.packed = _packs(self.weight)
        if self.packed:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach(), rows)

    def __call__(self, states: Tensor) -> Tensor:
        if self.packed:
            made: Tensor = torch.ops.mkldnn._linear_pointwise(states, self.weight, self.bias, "none", [], "")
            return made
        return F.linear(states, self.weight, self.bias)


def _plain(module: Any) -> nn.Linear:
    """The linear layer that the module is, or that a switched-off LoRA layer stands before."""
    inner = module.base_layer if getattr(module, "disable_adapters", False) else module
    if type(inner) is not nn.Linear:  # a subclass may keep its weight in another form
        raise NotTheShape(f"a {type(inner).__name__} for a linear layer")
    return inner


def _packs(weight: Tensor) -> bool:
    """Whether oneDNN packs the weight. Its operators have no public name in torch, so they may go."""
    names = ("_reorder_linear_weight", "_linear_pointwise")
    if weight.device.type != "cpu" or not torch._C._has_mkldnn:
        return False
    if not all(hasattr(torch.ops.mkldnn, name) for name in names):
        return False
    if weight.dtype == torch.bfloat16:  # emulated, it would be slower than what it replaces
        return bool(getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)())
    return weight.dtype == torch.float32


@dataclass(frozen=True, slots=True)
class Norm:
    """An RMSNorm."""

    weight: Tensor
    epsilon: float

    @classmethod
    def of(cls, module: Any) -> Norm:
        return cls(module.weight.detach(), float(module.variance_epsilon))

    def __call__(self, states: Tensor) -> Tensor:
        return F.rms_norm(states, self.weight.shape, self.weight, self.epsilon)


class Layer:
    """One layer with its fused weights."""

    def __init__(self, module: Any, rows: int) -> None:
        attention, mlp = module.self_attn, module.mlp
        self.before_attention = Norm.of(module.input_layernorm)
        self.before_mlp = Norm.of(module.post_attention_layernorm)
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        self.size = int(attention.head_dim)
        self.queries, self.keys = (_plain(p).out_features // self.size for p in projections[:2])
        self.project = Fused(projections, rows)
        self.out = Fused([attention.o_proj], rows)
        self.norms = [Norm.of(getattr(attention, n)) for n in ("q_norm", "k_norm") if hasattr(attention, n)]
        self.scaling = float(attention.scaling)
        self.widen, self.narrow = Fused([mlp.gate_proj, mlp.up_proj], rows), Fused([mlp.down_proj], rows)
        self.act = mlp.act_fn

    def __call__(self, states: Tensor, turn: tuple[Tensor, Tensor], slot: Slot, mask: Tensor | None) -> Tensor:
        """(B, H) states of one token per sequence; its keys and values are written into the slot."""
        heads = self.project(self.before_attention(states)).view(len(states), -1, self.size)
        turning, value = heads[:, : self.queries + self.keys], heads[:, self.queries + self.keys :]
        if self.norms:
            parts = zip(self.norms, torch.split(turning, [self.queries, self.keys], 1), strict=True)
            turning = torch.cat([norm(part) for norm, part in parts], 1)
        query, key = torch.split(_turned(turning, turn), [self.queries, self.keys], 1)
        slot.keys[:, :, slot.at], slot.values[:, :, slot.at] = key, value
        # The queries that share a key stand where a sequence's positions would: no key is copied for them.
        grouped = query.reshape(len(states), self.keys, -1, self.size)
        seen = slice(0, slot.at + 1)
        # Not by torch's fused attention: for so few queries a sequence it takes up to three times as long on a CPU.
        scores = torch.matmul(grouped, slot.keys[:, :, seen].transpose(2, 3)).float() * self.scaling
        weights = torch.softmax(scores if mask is None else scores + mask, -1)
        found = torch.matmul(weights.to(value.dtype), slot.values[:, :, seen])
        states = states + self.out(found.flatten(1))
        gate, up = self.widen(self.before_mlp(states)).chunk(2, 1)
        return states + self.narrow(self.act(gate) * up)


@dataclass(frozen=True, slots=True)
class Slot:
    """Keys and values (B, K, T, D) of one layer, and the place of the new token."""

    keys: Tensor
    values: Tensor
    at: int


def _turned(heads: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """(B, heads, D) with the rotary positions in them. `turn`: cosine and sine, (B, 1, D) each."""
    cosine, sine = turn
    first, second = heads.chunk(2, -1)
    return heads * cosine + torch.cat([-second, first], -1) * sine


class LlamaDecoder:
    """The model's layers for decoding `rows` sequences (any other number goes, more slowly); a copy of its weights."""

    def __init__(self, lm: CausalLM, rows: int) -> None:
        trunk = lm.trunk
        self.embedding, self.rotary = trunk.embed_tokens, trunk.rotary_emb
        self.layers = [Layer(module, rows) for module in trunk.layers]
        self.norm = Norm.of(trunk.norm)
        self.head = Fused([lm.head], rows)

    @classmethod
    def of(cls, lm: CausalLM, rows: int) -> LlamaDecoder | None:
        """The decoder of the model as its weights are now; None for a model of another shape, for one of more than
        `LARGEST` bytes, and where the model is not on a CPU."""
        if not (lm.split and lm.shares and lm.model.device.type == "cpu" and is_of_llamas_shape(lm.trunk)):
            return None
        if sum(parameter.nbytes for parameter in lm.model.parameters()) > LARGEST:
            return None
        try:
            decoder = cls(lm, rows)
            return decoder if decoder._agrees(lm) else None
        except (NotTheShape, AttributeError, RuntimeError, TypeError, ValueError):
            return None

    @torch.no_grad()
    def _agrees(self, lm: CausalLM) -> bool:
        """Whether the states of a padded batch, at near and far positions, are the model's own within rounding."""
        from transformers import DynamicCache

        config = lm.model.config.get_text_config()
        ids = torch.arange(1, 13).mul(config.vocab_size // 13).view(2, 6)
        mask = torch.tensor([[0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
        last = min(150, config.max_position_embeddings - 1)
        positions = torch.tensor([[0, 0, 1, 2, 3, 4], [0, 1, last // 9, last // 3, last - 2, last - 1]])
        cache = DynamicCache(config=lm.model.config)
        given = {"past_key_values": cache, "use_cache": True}
        lm.last_states(input_ids=ids[:, :5], attention_mask=mask[:, :5], position_ids=positions[:, :5], **given)
        sequences = self.begin(cache, mask[:, :5].bool(), room=1)
        sequences.positions = positions[:, 5]
        found = sequences.step(ids[:, 5]).float()
        own = lm.last_states(input_ids=ids[:, 5:], attention_mask=mask, position_ids=positions[:, 5:], **given).float()
        allowed = 1e-4 if lm.model.dtype == torch.float32 else 0.05
        return bool((found - own).abs().max() <= allowed * own.abs().max())

    def begin(self, cache: Any, mask: Tensor, *, room: int) -> LlamaSequences:
        """Sequences that go on after those in a DynamicCache, by up to `room` tokens each.

        `mask` (B, T) bool, True = real token; padding stands on the left or between.
        """
        return LlamaSequences(self, cache, mask, room)

    def logits(self, states: Tensor) -> Tensor:
        """(B, V) float32 logits of states."""
        return self.head(states).float()


class LlamaSequences:
    """A batch that is being decoded: keys and values of all layers, in memory that has room for what will come.

    Room for tokens that are not made is asked of the system, but never touched, and so takes no memory.
    """

    def __init__(self, decoder: LlamaDecoder, cache: Any, mask: Tensor, room: int) -> None:
        self.decoder, self.at = decoder, mask.shape[1]
        self.positions = mask.sum(1)
        shown = F.pad(mask, (0, room), value=True)[:, None, None]
        self.mask = torch.zeros(shown.shape).masked_fill(~shown, -torch.inf)
        self.plain = bool(mask.all())
        self.keys, self.values = (
            [self._roomy(getattr(layer, name), room) for layer in cache.layers] for name in ("keys", "values")
        )

    def _roomy(self, stored: Tensor, room: int) -> Tensor:
        rows, heads, tokens, size = stored.shape
        made = stored.new_empty(rows, heads, tokens + room, size)
        made[:, :, :tokens] = stored
        return made

    @torch.no_grad()
    def step(self, tokens: Tensor) -> Tensor:
        """(B, H) final states after one more token (B,) per sequence."""
        decoder = self.decoder
        states = decoder.embedding(tokens)
        turn = decoder.rotary(states, self.positions[:, None])
        mask = None if self.plain else self.mask[..., : self.at + 1]
        for layer, keys, values in zip(decoder.layers, self.keys, self.values, strict=True):
            states = layer(states, turn, Slot(keys, values, self.at), mask)
        self.at += 1
        self.positions = self.positions + 1
        return decoder.norm(states)

    def keep(self, rows: Tensor) -> None:
        """Goes on with these rows alone, in this order. Only those that change their place are copied."""
        places = torch.arange(len(rows))
        moved = rows != places
        source, target = rows[moved], places[moved]
        for stored in (self.keys, self.values):
            for layer, whole in enumerate(stored):
                if len(source):
                    whole[target, :, : self.at] = whole[source, :, : self.at]
                stored[layer] = whole[: len(rows)]
        self.mask, self.positions = self.mask[rows], self.positions[rows]


def is_of_llamas_shape(trunk: Any) -> bool:
    """Whether the trunk and its layers are of a known family and have the parts computed here, and no others."""

    def parts(module: Any) -> set[str]:
        return {name for name, _ in module.named_children()}

    family = type(trunk).__module__
    if family not in {f"transformers.models.{name}.modeling_{name}" for name in FAMILIES} or parts(trunk) != TRUNK:
        return False
    for layer in trunk.layers:
        if parts(layer) != LAYER or parts(layer.mlp) != MLP:
            return False
        if parts(layer.self_attn) not in (ATTENTION, ATTENTION | {"q_norm", "k_norm"}):
            return False
        own = [layer, *(module for name, module in layer.named_modules() if name.endswith(("norm", "attn", "mlp")))]
        if any(type(module).__module__ != family for module in own):
            return False
    return all(type(module).__module__ == family for module in (trunk.norm, trunk.rotary_emb))
