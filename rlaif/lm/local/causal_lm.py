"""Forward passes of a frozen causal LM on token ids: sampling, and log-probs of given tokens.

Sampling is our own loop, not `model.generate`, for three reasons: every row draws from its own seeded stream (so
that batching and resume cannot change a sample); the inverse of the cumulative distribution costs a sixth of
`torch.multinomial` on a CPU with a large vocabulary; finished rows leave the batch. Nothing but temperature shapes
the distribution: no top-k, no top-p, no repetition penalty, whatever the model's saved generation config says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch

from rlaif.core.errors import ModelError
from rlaif.core.records import FinishReason
from rlaif.lm.local.packing import Row, pack, packing_order

Notify = Callable[[int], None]

SHORT = 128
"""Tokens up to which attention is written out on a CPU: with gradients torch's fused one takes longer there. What is
kept for the gradient grows with the square of the tokens, so longer sequences are left to it."""
PIECE = 1024
"""Rows of float32 logits made at a time when given tokens are scored."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """Sampled token ids; with finish "stop" the last one is the end-of-turn token. `logprobs`: of each in the
    distribution that it was drawn from. Equal samples need not agree in them: they round with who is in the batch."""

    ids: list[int]
    finish: FinishReason
    logprobs: list[float] = field(compare=False)


class CausalLM:
    """A causal LM as a trunk (hidden states) and a head (logits), so that logits are made only where they are needed.

    Models whose logits are more than head(hidden) (soft-capping, scaling) are noticed at construction by comparing
    once with the model's own logits, and are then run whole, unless `states_only` says that no logits are wanted.
    """

    def __init__(self, model: Any, *, states_only: bool = False) -> None:
        self.model = model
        self.trunk = model.base_model
        self.head = model.get_output_embeddings()
        self.split = states_only or self._splits()
        self.shares = self._shares()
        self.attention = model.config.get_text_config()._attn_implementation
        self.packs = self.shares and self.attention in ("sdpa", "eager")
        self.packs = self.packs and self._takes_our_mask()

    @torch.no_grad()
    def _splits(self) -> bool:
        if self.trunk is self.model or self.head is None:
            return False
        vocabulary = self.model.config.get_text_config().vocab_size
        ids = torch.arange(1, 9, device=self.model.device).remainder(vocabulary)[None]
        whole = self.model(input_ids=ids, use_cache=False).logits
        parts = self.head(self.trunk(input_ids=ids, use_cache=False).last_hidden_state)
        # The same operations on the same numbers: a wider tolerance would miss soft-capping, which leaves small logits.
        return bool(torch.allclose(whole.float(), parts.float(), rtol=1e-5, atol=1e-5))

    def _shares(self) -> bool:
        """Whether a prefix's keys and values serve any row: not if a layer sees a window or keeps a running state."""
        from transformers.cache_utils import DynamicCache, DynamicLayer

        return all(type(layer) is DynamicLayer for layer in DynamicCache(config=self.model.config).layers)

    @torch.no_grad()
    def _takes_our_mask(self) -> bool:
        """Whether targets packed behind one context have the states of separate rows; tried out."""
        vocabulary = self.model.config.get_text_config().vocab_size
        rows = [([1 % vocabulary, 2 % vocabulary], [n % vocabulary, 3 % vocabulary, 4 % vocabulary]) for n in (5, 6)]
        apart = self.predicting_states(rows, apart=True).float()
        try:
            together = self.predicting_states(rows).float()
        except (ValueError, TypeError, IndexError, RuntimeError):  # e.g. ALiBi, which is made from a 2-D mask
            return False
        return bool((together - apart).abs().max() <= 0.05 * apart.abs().max())  # bfloat16 rounds a few per cent

    @contextmanager
    def attending(self, attention: str) -> Iterator[None]:
        """Computes with another of transformers' attentions; then with the one before."""
        usual = self.attention
        if attention == usual:
            yield
            return
        try:
            self._attend(attention)
            yield
        finally:
            self._attend(usual)

    def _attend(self, attention: str) -> None:
        self.attention = attention
        self.model.set_attn_implementation(attention)

    def states(self, **inputs: Any) -> torch.Tensor:
        """(B, T, H) final hidden states, or (B, T, V) logits of a model that does not split."""
        output = (self.trunk if self.split else self.model)(**inputs)
        result: torch.Tensor = output.last_hidden_state if self.split else output.logits
        return result

    def predicting_states(
        self,
        rows: Sequence[Row],
        *,
        before: int = 0,
        cache_for: Callable[[int], Any] | None = None,
        apart: bool = False,
    ) -> torch.Tensor:
        """(N, H or V) states that predict the targets' tokens, row after row; equal contexts are computed once, unless
        the rows are to be computed `apart` or the model does not pack.

        `cache_for(n)` makes a key-value cache of n sequences that holds the `before` tokens before every context.
        """
        packed = pack(rows, device=self.model.device, before=before, apart=apart or not self.packs)
        mask = packed.mask
        if mask is not None and self.attention == "eager":
            kind = self.model.dtype
            mask = torch.zeros(mask.shape, dtype=kind, device=mask.device).masked_fill(~mask, torch.finfo(kind).min)
        # Without a mask padding is on the right of a causal model: no real token can see it.
        states = self.states(
            input_ids=packed.ids,
            attention_mask=mask,
            position_ids=packed.positions,
            past_key_values=None if cache_for is None else cache_for(len(packed.ids)),
            use_cache=cache_for is not None,
        )
        return packed.gather(states)

    def last_states(self, **inputs: Any) -> torch.Tensor:
        """The states (B, H or V) of the last position; a model that does not split makes no other logits."""
        return self.states(**inputs, **({} if self.split else {"logits_to_keep": 1}))[:, -1]

    def logits(self, states: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
        """(N, V) float32 logits of (N, H) rows taken from `states`, at the temperature. At 1 nothing is divided: a copy
        of them costs as a softmax does.

        The rows are flat: with a frozen head a 3-D slice makes the matrix product copy the head once per sequence.
        """
        result: torch.Tensor = (self.head(states) if self.split else states).float()
        return result if temperature == 1 else result / temperature


def left_pad(rows: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, T) ids padded on the left and the (B, T) mask, True = real token."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.bool)
    for index, row in enumerate(rows):
        ids[index, width - len(row) :] = torch.tensor(row, dtype=torch.long)
        mask[index, width - len(row) :] = True
    return ids.to(device), mask.to(device)


def pick(logits: torch.Tensor, uniform: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(B,) token ids: the inverse of each row's cumulative distribution at `uniform` (B,) in [0, 1); (B,) their
    log-probs in it.

    `logits` is (B, V) float32; temperature 0 takes the most likely token. A token of probability 0 is never taken.
    Raises ModelError for logits that are not numbers.
    """
    highest = logits.amax(-1, keepdim=True)
    if not torch.isfinite(highest).all():
        raise not_numbers()
    if temperature == 0:
        return logits.argmax(-1), torch.zeros_like(uniform)
    # The highest logit goes first, or a small temperature would make it infinite.
    probabilities = torch.softmax((logits - highest) / temperature, -1)
    cumulative = probabilities.cumsum(-1)
    total = cumulative[:, -1:]
    point = torch.minimum(uniform[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    tokens = torch.searchsorted(cumulative, point, right=True)
    return tokens.squeeze(1), probabilities.gather(1, tokens).log().squeeze(1)


def not_numbers() -> ModelError:
    return ModelError(
        "the model's output is not a number (NaN or infinite)",
        remedy="its weights are damaged, or its training diverged: lower the learning rate of the stage that made it",
    )


def uniforms(seeds: Sequence[int], count: int) -> np.ndarray[Any, Any]:
    """(len(seeds), count) float32 draws in [0, 1), row i from the stream of seeds[i] alone."""
    rows = [np.random.Generator(np.random.Philox(seed)).random(count, dtype=np.float32) for seed in seeds]
    return np.stack(rows)


@torch.no_grad()
def sample(
    lm: CausalLM,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float,
    seeds: Sequence[int],
    ends: Sequence[int],
    prefixes: PrefixCache | None = None,
    decoder: Decoder | None = None,
    notify: Notify | None = None,
) -> list[Sampled]:
    """One continuation per prompt, sampled at `temperature`; `notify(n)` is told of n new tokens at every step.

    Equal prompts are computed once, and so are beginnings that prompts share (system prompt, few-shot examples); with
    `prefixes` these are kept for the next call. With a `decoder` of the model's present weights all tokens after the
    first are its work.
    """
    device = lm.model.device
    draws = torch.from_numpy(uniforms(seeds, max_new_tokens)).to(device)
    asked = list(dict.fromkeys(map(tuple, prompts)))
    groups = prefix_groups(asked) if lm.shares else [((), list(range(len(asked))))]
    cache, before = (prefixes or PrefixCache(lm)).joined([(prefix, len(group)) for prefix, group in groups])
    order = [index for _, group in groups for index in group]
    starts = [len(prefix) for prefix, group in groups for _ in group]
    tails = [asked[index][start:] for index, start in zip(order, starts, strict=True)]
    ids, mask = left_pad(tails, ends[0], device)
    positions = (mask.long().cumsum(1) - 1).clamp(min=0) + torch.tensor(starts, device=device)[:, None]
    mask = torch.cat([before, mask], 1)
    state = lm.last_states(
        input_ids=ids, attention_mask=mask.long(), position_ids=positions, past_key_values=cache, use_cache=True
    )
    rows = torch.tensor(order, device=device)
    if len(asked) < len(prompts):  # from here on every prompt has a row of its own, however often it is asked
        found = {asked[index]: at for at, index in enumerate(order)}
        rows = torch.arange(len(prompts), device=device)
        spread = torch.tensor([found[tuple(prompt)] for prompt in prompts], device=device)
        cache.batch_select_indices(spread)
        state, mask = state[spread], mask[spread]
    going: Sequences
    going = GrowingCache(lm, cache, mask) if decoder is None else decoder.begin(cache, mask, room=max_new_tokens)
    del cache  # a decoder has its own
    out: list[list[int]] = [[] for _ in prompts]
    logprobs: list[list[float]] = [[] for _ in prompts]
    finish: list[FinishReason] = ["length"] * len(prompts)
    end_set = set(ends)
    for step in range(max_new_tokens):
        tokens, chances = pick((decoder or lm).logits(state), draws[rows, step], temperature)
        keep = []
        drawn = zip(rows.tolist(), tokens.tolist(), chances.tolist(), strict=True)
        for place, (row, token, logprob) in enumerate(drawn):
            out[row].append(token)
            logprobs[row].append(logprob)
            if token in end_set:
                finish[row] = "stop"
            else:
                keep.append(place)
        if notify is not None:
            notify(len(tokens))
        if not keep or step == max_new_tokens - 1:
            break
        if len(keep) < len(tokens):
            kept = torch.tensor(places_filled(keep), device=device)
            going.keep(kept)
            rows, tokens = rows[kept], tokens[kept]
        state = going.step(tokens)
    return [Sampled(*each) for each in zip(out, finish, logprobs, strict=True)]


class Sequences(Protocol):
    """A batch of sequences that is being decoded."""

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, H or V) final states after one more token (B,) per sequence."""
        ...

    def keep(self, rows: torch.Tensor) -> None:
        """Goes on with these rows alone, in this order."""
        ...


class Decoder(Protocol):
    """What decodes in the model's place, as the one for CPUs does (rlaif.lm.local.cpu.decoder)."""

    def begin(self, cache: Any, mask: torch.Tensor, *, room: int) -> Sequences: ...

    def logits(self, states: torch.Tensor) -> torch.Tensor: ...


class GrowingCache:
    """Sequences that are decoded by the model itself, with transformers' growing key-value cache."""

    def __init__(self, lm: CausalLM, cache: Any, mask: torch.Tensor) -> None:
        self.lm, self.cache, self.mask, self.positions = lm, cache, mask, mask.sum(1)

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, H or V) final states after one more token (B,) per sequence."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], 1)
        state = self.lm.last_states(
            input_ids=tokens[:, None],
            attention_mask=self.mask.long(),
            position_ids=self.positions[:, None],
            past_key_values=self.cache,
            use_cache=True,
        )
        self.positions = self.positions + 1
        return state

    def keep(self, rows: torch.Tensor) -> None:
        """Goes on with these rows alone, in this order."""
        self.cache.batch_select_indices(rows)
        self.mask, self.positions = self.mask[rows], self.positions[rows]


def places_filled(kept: Sequence[int]) -> list[int]:
    """The kept places in an order that leaves the most of them where they are: the last ones fill the gaps."""
    late = [place for place in kept if place >= len(kept)]
    early = set(kept)
    return [place if place in early else late.pop() for place in range(len(kept))]


@dataclass(slots=True)
class PrefixCache:
    """Keys and values of token prefixes that many rows share, computed once per prefix (last `size` kept)."""

    lm: CausalLM
    size: int = 32
    entries: dict[tuple[int, ...], Any] = field(default_factory=dict)

    @torch.no_grad()
    def expanded(self, prefix: tuple[int, ...], rows: int) -> Any:
        """A key-value cache that holds `prefix` for each of `rows` rows (views of one copy until it grows)."""
        from transformers import DynamicCache

        cache = DynamicCache(config=self.lm.model.config)
        if prefix:
            for index, layer in enumerate(self._entry(prefix).layers):
                cache.update(layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1), index)
        return cache

    @torch.no_grad()
    def joined(self, groups: Sequence[tuple[tuple[int, ...], int]]) -> tuple[Any, torch.Tensor]:
        """One cache for groups of rows, each group under its own prefix, and the (rows, width) mask of what is real.

        Shorter prefixes are padded on the left; the mask hides the padding, and positions are the caller's business.
        """
        from transformers import DynamicCache

        width = max(len(prefix) for prefix, _ in groups)
        total = sum(rows for _, rows in groups)
        mask = torch.zeros((total, width), dtype=torch.bool, device=self.lm.model.device)
        if len(groups) == 1:
            return self.expanded(*groups[0]), ~mask
        row = 0
        for prefix, rows in groups:
            mask[row : row + rows, width - len(prefix) :] = True
            row += rows
        cache = DynamicCache(config=self.lm.model.config)
        entries = [self._entry(prefix) if prefix else None for prefix, _ in groups]
        like = next((entry for entry in entries if entry is not None), None)
        for index, layer in enumerate(like.layers if like is not None else ()):
            keys: list[torch.Tensor] = []
            values: list[torch.Tensor] = []
            for entry, (prefix, rows) in zip(entries, groups, strict=True):
                for out, shape in ((keys, layer.keys), (values, layer.values)):
                    padded = shape.new_zeros((1, shape.shape[1], width, shape.shape[3]))
                    if entry is not None:
                        own = entry.layers[index]
                        padded[:, :, width - len(prefix) :] = own.keys if out is keys else own.values
                    out.append(padded.expand(rows, -1, -1, -1))
            cache.update(torch.cat(keys), torch.cat(values), index)
        return cache, mask

    def _entry(self, prefix: tuple[int, ...]) -> Any:
        from transformers import DynamicCache

        if prefix not in self.entries:
            fresh = DynamicCache(config=self.lm.model.config)
            ids = torch.tensor([prefix], device=self.lm.model.device)
            self.lm.last_states(input_ids=ids, past_key_values=fresh, use_cache=True)
            self.entries[prefix] = fresh
            while len(self.entries) > self.size:
                del self.entries[next(iter(self.entries))]
        return self.entries[prefix]


@torch.no_grad()
def target_logprobs(
    lm: CausalLM,
    rows: Sequence[Row],
    *,
    batch_size: int,
    prefixes: PrefixCache | None = None,
    notify: Notify | None = None,
    temperature: float = 1.0,
) -> list[torch.Tensor]:
    """For every (context ids, target ids): (len(target),) float32 log-probabilities of the target tokens.

    Rows stand in batches of like length; where the model packs, those with equal contexts stand side by side, and each
    context is computed once per batch. With `prefixes`, a prefix that all contexts share is computed once.
    """
    sharing = prefixes is not None and lm.shares and len(rows) > 1
    shared = common_prefix([context[:-1] for context, _ in rows]) if sharing else ()
    start = len(shared) if len(shared) >= 16 else 0
    if lm.packs:
        order = packing_order(rows)
    else:
        order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]) + len(rows[i][1]))
    results: list[torch.Tensor] = [torch.empty(0)] * len(rows)
    for begin in range(0, len(order), batch_size):
        chosen = order[begin : begin + batch_size]
        batch = [rows[i] for i in chosen]
        for index, values in zip(chosen, _score_batch(lm, batch, shared[:start], prefixes, temperature), strict=True):
            results[index] = values
        if notify is not None:
            notify(sum(len(context) + len(target) - start for context, target in batch))
    return results


def prefix_groups(prompts: Sequence[Sequence[int]], least: int = 48) -> list[tuple[tuple[int, ...], list[int]]]:
    """(shared prefix, indices of its prompts): neighbours in sorted order that share `least` ids or more.

    The prefix leaves each prompt at least its last id. A prompt that would cut the group's prefix by half begins a
    group of its own; one that shares nothing stands under the empty prefix.
    """
    groups: list[tuple[tuple[int, ...], list[int]]] = []
    for index in sorted(range(len(prompts)), key=lambda i: list(prompts[i])):
        body = tuple(prompts[index][:-1])
        if groups:
            prefix, group = groups[-1]
            shared = common_prefix([prefix, body])
            if len(shared) >= least and (len(group) == 1 or 2 * len(shared) >= len(prefix)):
                groups[-1] = (shared, [*group, index])
                continue
        groups.append((body, [index]))
    return [(prefix if len(group) > 1 else (), group) for prefix, group in groups]


def common_prefix(rows: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The longest run of ids that every row begins with."""
    low, high = min(map(list, rows)), max(map(list, rows))
    size = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))
    return tuple(low[:size])


def _score_batch(
    lm: CausalLM,
    batch: Sequence[Row],
    shared: tuple[int, ...],
    prefixes: PrefixCache | None,
    temperature: float,
) -> list[torch.Tensor]:
    start, device = len(shared), lm.model.device
    cache = partial(prefixes.expanded, shared) if start and prefixes is not None else None
    own = [(context[start:], target) for context, target in batch]
    states = lm.predicting_states(own, before=start, cache_for=cache)
    targets = [token for _, target in batch for token in target]
    wanted = torch.tensor(targets, device=device)
    # In pieces: the float32 logits of a large batch over a large vocabulary would take gigabytes.
    pieces = []
    for part, tokens in zip(torch.split(states, PIECE), torch.split(wanted, PIECE), strict=True):
        logits = lm.logits(part, temperature)
        pieces.append(logits.gather(1, tokens[:, None]).squeeze(1) - logits.logsumexp(1))
    chosen = torch.cat(pieces)
    if not torch.isfinite(chosen).all():
        raise not_numbers()
    return list(torch.split(chosen.cpu(), [len(target) for _, target in batch]))
