"""Whether a model that was loaded can do what every stage asks of it; what cannot be mended later is told at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rlaif.core.errors import ModelError

NUMBERS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_sound(model: Any, tokenizer: Any, name: str) -> None:
    """Raises ModelError for weights that are not numbers, a model that looks ahead, or tokens it has no place for."""
    _check_weights(model, name)
    _check_output(model, name)
    _check_tokens(model, tokenizer, name)


def _check_weights(model: Any, name: str) -> None:
    bad = [of for of, weight in model.named_parameters() if weight.dtype in NUMBERS and not _finite(weight)]
    if bad:
        raise ModelError(
            f"{len(bad)} of its weight tensors hold NaN or infinite values, among them {bad[0]}",
            where=name,
            remedy="fetch or convert the model again; if an adapter of the run did it, lower the learning rate of the "
            "stage that made it and redo that stage with --force",
        )


def _finite(weight: Tensor) -> bool:
    """Whether no value is NaN or infinite, in one pass that allocates nothing: extremes of NaN are NaN."""
    if weight.numel() == 0:
        return True
    low, high = torch.aminmax(weight.detach())
    return bool(torch.isfinite(low) & torch.isfinite(high))


@torch.no_grad()
def _check_output(model: Any, name: str) -> None:
    """Two rows that differ in their last token alone: before it a causal model must say the same of both."""
    size = model.get_input_embeddings().num_embeddings
    ids = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 5]], device=model.device).remainder(size)
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
    if logits.isnan().any():
        raise ModelError("its output is NaN though its weights are not", where=name, remedy="set model.dtype: float32")
    exact = model.dtype in (torch.float32, torch.float64)
    if (logits[0] - logits[1]).abs().max() > (1e-4 if exact else 0.05) * logits.abs().max():
        raise ModelError(
            "looks ahead: what it says of a token depends on those that follow, as in an encoder",
            where=name,
            remedy="set model.source to a causal (decoder-only) language model",
        )


def _check_tokens(model: Any, tokenizer: Any, name: str) -> None:
    """Tokens without an embedding may exist as long as nothing that is written makes them: Gemma 3 has one."""
    size = model.get_input_embeddings().num_embeddings
    if len(tokenizer) <= size:
        return
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    outside = {token: index for token, index in tokenizer.get_vocab().items() if index >= size}
    needed = [token for token in outside if token not in special or token == tokenizer.eos_token]
    needed += [token for token in outside if token in special and token in (tokenizer.chat_template or "")]
    if needed:
        raise ModelError(
            f"the tokenizer has {len(needed)} tokens for which the model has no embedding (it has {size}), among them "
            f"{needed[0]!r}",
            where=name,
            remedy="use the tokenizer that belongs to these weights; for tokens that you added, "
            "model.resize_token_embeddings(len(tokenizer)) and train them",
        )
