"""Log-probs of given tokens on a CPU: a walk over sorted rows with one buffer of keys and values.

The tokens of many rows stand in one sequence without padding, which keeps the matrix products large; only attention
goes row by row, with an attention function of our own behind transformers' interface for them.

A token's numbers depend on the tokens before it and on nothing else, so that a row asked again beside other rows gets
the same answer. Two things see to that: attention works on a grid of lengths, with what is not there masked; and no
matrix product has fewer than LEAST rows, below which some libraries add up in another order. Beyond that it rests on
what the libraries do, not on what they promise; `benchmarks/judging.py` measures it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from rlaif.lm.local.causal_lm import CausalLM, not_numbers
from rlaif.lm.local.cpu.walk_plan import Ids, WalkStep, passes, plan
from rlaif.lm.local.packing import Row

NAME = "rlaif_walk"
"""The name of our attention function in transformers."""
GRID = 128
"""Positions attended from together. A query sees the keys up to the end of its stretch of the grid, later ones masked:
a sum over another number of keys would be rounded elsewhere."""
LEAST = 16
"""Rows of the smallest matrix product."""
PIECE = 256
"""Rows of float32 logits made at a time: few enough to stay near the cache with a large vocabulary."""
KEPT = 512 << 20
"""Bytes of keys and values kept for later calls."""

Pair = tuple[Tensor, Tensor]
"""Keys and values of a layer, (heads, tokens, size) each."""


@dataclass(frozen=True, slots=True)
class Tile:
    """Attention of `count` queries from `at` on in a pass over the keys of the buffer that the mask spans."""

    at: int
    count: int
    mask: Tensor  # (padded count, width), added to the scores


@dataclass(slots=True)
class Pass:
    """Inputs of a forward pass over the tokens of some steps; each step with the place of its first token."""

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    steps: list[tuple[int, WalkStep, list[Tile]]] = field(default_factory=list)


class Walker:
    """Scores rows with one model, and keeps the beginnings that rows share for the next call."""

    def __init__(self, lm: CausalLM, *, tokens: int, limit: int = KEPT) -> None:
        """At most `tokens` tokens stand in one forward pass; `limit` bytes are kept between calls."""
        from transformers import AttentionInterface

        AttentionInterface.register(NAME, _attention)
        self.lm, self.tokens, self.limit = lm, max(tokens, LEAST), limit
        self.held: Ids = ()  # what the buffers hold
        self.kept: dict[Ids, dict[int, Pair]] = {}  # those used last stand last
        self._fresh: dict[Ids, dict[int, Pair]] = {}
        self._buffers: dict[int, Pair] = {}
        self._room = 0

    @torch.no_grad()
    def fits(self) -> bool:
        """Whether the model's states are those of plain rows; tried out.

        Not on another device than a CPU, where many small attentions are slow, nor for a model that takes no attention
        of ours or whose attention is more than softmax(q k) v.
        """
        lm = self.lm
        if not (lm.split and lm.packs and lm.model.device.type == "cpu"):
            return False
        size = lm.model.config.get_text_config().vocab_size
        ids = [size * part // 16 for part in range(1, 16)]  # ordinary tokens: the first few are often special
        rows: list[Row] = [(ids[:9], [*ids[9:12], size // 2]), (ids[:9], [*ids[12:], size // 2])]
        try:
            states, lines = self._states(rows)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError):
            return False
        apart = lm.predicting_states(rows, apart=True).float()
        allowed = 0.2 if lm.model.dtype == torch.bfloat16 else 0.01  # with another attention it is about 1
        return bool((states[lines].float() - apart).abs().mean() <= allowed * apart.abs().mean())

    @torch.no_grad()
    def logprobs(self, rows: Sequence[Row], temperature: float = 1.0) -> list[Tensor]:
        """For every (context ids, target ids): (len(target),) float32 log-probabilities of the target tokens."""
        states, lines = self._states(rows)
        found = self._read(states, lines, [token for _, target in rows for token in target], temperature)
        return list(torch.split(found, [len(target) for _, target in rows]))

    def _states(self, rows: Sequence[Row]) -> tuple[Tensor, list[int]]:
        """(S, H) states, each once, and for every target token, row after row, which of them predicts it."""
        self._make_room(max((len(context) + len(target) for context, target in rows), default=0))
        walk = plan(rows, self.held, self.kept)
        wanted = sorted({place for row in walk.places for place in row})
        self.held, self._fresh = (), {}  # nothing is known of the buffer should a pass fail
        states, done, taken = [torch.empty(0)] if not wanted else [], 0, 0
        with self._own_attention():
            for steps in passes(walk.steps, self.tokens):
                size, first = sum(len(step.ids) for step in steps), taken
                while taken < len(wanted) and wanted[taken] < done + size:
                    taken += 1
                states.append(self._forward(steps)[torch.tensor(wanted[first:taken], dtype=torch.long) - done])
                done += size
        self.held = walk.held
        self._keep([step.load[0] for step in walk.steps if step.load is not None])
        line = {place: number for number, place in enumerate(wanted)}
        return torch.cat(states), [line[place] for row in walk.places for place in row]

    def _read(self, states: Tensor, lines: list[int], tokens: list[int], temperature: float) -> Tensor:
        """(len(lines),) log-probs: of tokens[i] by states[lines[i]]; each state goes through the head once."""
        found = torch.empty(len(lines))
        at, token = torch.tensor(lines), torch.tensor(tokens)
        for begin in range(0, len(states), PIECE):
            piece = states[begin : begin + PIECE]
            if len(piece) < LEAST:
                piece = torch.cat([piece, piece.new_zeros(LEAST - len(piece), piece.shape[1])])
            logits = self.lm.logits(piece, temperature)
            here = ((at >= begin) & (at < begin + PIECE)).nonzero().squeeze(1)
            place = at[here] - begin
            found[here] = logits[place, token[here]] - logits.logsumexp(1)[place]
        if not torch.isfinite(found).all():
            raise not_numbers()
        return found

    def _forward(self, steps: Sequence[WalkStep]) -> Tensor:
        """(tokens of the steps, H) states; leaves their keys and values in the buffer."""
        part = self._pass(steps)
        return self.lm.states(
            input_ids=torch.tensor([part.ids]),
            position_ids=torch.tensor([part.positions]),
            attention_mask=None,
            use_cache=False,
            walker=self,
            steps=part.steps,
        )[0]

    def _pass(self, steps: Sequence[WalkStep]) -> Pass:
        part = Pass()
        end = 0
        for step in steps:
            at, tiles = len(part.ids), []
            start = step.start
            while start < step.end:
                stop = min(_up(start + 1, GRID), step.end)
                end = at + start - step.start + _up(stop - start, LEAST)
                seen = torch.arange(_up(stop, GRID)) <= torch.arange(start, start + _up(stop - start, LEAST))[:, None]
                mask = torch.zeros(seen.shape, dtype=self.lm.model.dtype).masked_fill_(~seen, -torch.inf)
                tiles.append(Tile(at + start - step.start, stop - start, mask))
                start = stop
            part.steps.append((at, step, tiles))
            part.ids += step.ids
            part.positions += range(step.start, step.end)
        # A tile is filled up with whatever stands behind it; behind the last one something has to.
        missing = max(0, end - len(part.ids))
        part.ids += [0] * missing
        part.positions += [0] * missing
        return part

    def attend(
        self,
        layer: int,
        steps: Sequence[tuple[int, WalkStep, list[Tile]]],
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scale: float | None,
    ) -> Tensor:
        """(1, T, heads, size) attention of a pass's queries (1, heads, T, size) over the layer's buffer, into which
        the pass's keys and values (1, key heads, T, size) go step by step."""
        result = query.new_zeros(query.shape[2], query.shape[1], query.shape[3])
        keys, values = self._buffer(layer, key, value)
        shared = query.shape[1] // key.shape[1]  # query heads of a key head, which stand side by side
        query = query.view(key.shape[1], shared, *query.shape[2:])
        for at, step, tiles in steps:
            if step.load is not None:
                for part, kept in zip((keys, values), self.kept[step.load[0]][layer], strict=True):
                    part[:, : step.load[1]] = kept[:, : step.load[1]]
            keys[:, step.start : step.end] = key[0, :, at : at + len(step.ids)]
            values[:, step.start : step.end] = value[0, :, at : at + len(step.ids)]
            for tile in tiles:
                padded, width = tile.mask.shape
                found = scaled_dot_product_attention(
                    query[:, :, tile.at : tile.at + padded],
                    keys[:, None, :width].expand(-1, shared, -1, -1),
                    values[:, None, :width].expand(-1, shared, -1, -1),
                    attn_mask=tile.mask,
                    scale=scale,
                )
                result[tile.at : tile.at + tile.count] = found[:, :, : tile.count].flatten(0, 1).transpose(0, 1)
            if step.keep is not None:
                pair = keys[:, : len(step.keep)].clone(), values[:, : len(step.keep)].clone()
                self._fresh.setdefault(step.keep, {})[layer] = pair
        return result[None]

    def _buffer(self, layer: int, key: Tensor, value: Tensor) -> Pair:
        if layer not in self._buffers:
            sizes = [(part.shape[1], self._room, part.shape[3]) for part in (key, value)]
            self._buffers[layer] = key.new_zeros(sizes[0]), value.new_zeros(sizes[1])
        return self._buffers[layer]

    def _make_room(self, tokens: int) -> None:
        if tokens > self._room:
            self._room, self._buffers, self.held = _up(tokens, GRID), {}, ()

    def _keep(self, used: Sequence[Ids]) -> None:
        """Keeps what the last walk set apart, in the place of what was used longest ago."""
        for ids in used:
            self.kept[ids] = self.kept.pop(ids)
        self.kept |= self._fresh
        self._fresh = {}
        sizes = {ids: sum(t.nbytes for pair in kept.values() for t in pair) for ids, kept in self.kept.items()}
        excess = sum(sizes.values()) - self.limit
        for ids, size in sizes.items():
            if excess > 0:
                del self.kept[ids]
                excess -= size

    @contextmanager
    def _own_attention(self) -> Iterator[None]:
        model = self.lm.model
        model.set_attn_implementation(NAME)
        try:
            yield
        finally:
            model.set_attn_implementation(self.lm.attention)


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    walker: Walker,
    steps: list[tuple[int, WalkStep, list[Tile]]],
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """The attention function that transformers calls in every layer of a walk."""
    if any(options.get(name) is not None for name in ("softcap", "s_aux", "sliding_window", "position_bias")):
        raise ValueError("this attention is more than softmax(q k) v")
    return walker.attend(module.layer_idx, steps, query, key, value, scaling), None


def _up(number: int, grid: int) -> int:
    return -(-number // grid) * grid
