"""The source `on_topic`: whether a response tells something of the prompt that it answers.

The reference policy says how many nats likelier a response is after its own prompt than after another one: their
pointwise mutual information, as in the MMI objective of Li et al. (arXiv 1510.03055). Kind words that fit every
question are as likely after both and have next to none. Only tokens that the prompt does not contain count, so that
"I'd be happy to help you with" and the question again has next to none either; an answer has dozens. From
`ppo.on_topic_nats` on all responses score alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rlaif.core.errors import ConfigError
from rlaif.core.records import Prompt


def other_prompts(prompts: Sequence[Prompt]) -> dict[str, Prompt]:
    """Prompt id -> the prompt to compare with: the next one of its slice, after the last one the first; of a slice with
    one prompt the next of all. It hangs on no batch, so a response's score does not either. ConfigError for one prompt.
    """
    distinct = list({prompt.id: prompt for prompt in prompts}.values())
    if len(distinct) < 2:
        raise ConfigError(
            "on_topic compares each prompt with another one, and there is one alone",
            where="ppo.reward",
            remedy="give two prompts or more, or leave on_topic out",
        )
    slices: dict[str, list[Prompt]] = {}
    for prompt in distinct:
        slices.setdefault(prompt.slice, []).append(prompt)
    found = _following(distinct)
    for part in slices.values():
        found |= _following(part) if len(part) > 1 else {}
    return found


def _following(prompts: Sequence[Prompt]) -> dict[str, Prompt]:
    return {prompt.id: other for prompt, other in zip(prompts, [*prompts[1:], prompts[0]], strict=True)}


def new_tokens(prompts: Sequence[Prompt], responses: Sequence[Sequence[int]], text_of: Callable[[int], str]) -> Tensor:
    """(B, T) bool, True = a response's token that its prompt does not contain, blanks and capitals aside; False under
    padding. `text_of` gives the text of a token."""
    pieces = {token: text_of(token).strip().lower() for response in responses for token in response}
    found = torch.zeros(len(responses), max(map(len, responses), default=0), dtype=torch.bool)
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        said = "\n".join(message.content for message in prompt.messages).lower()
        found[row, : len(response)] = torch.tensor([pieces[token] not in said for token in response])
    return found


def topic_scores(own: Tensor, other: Tensor, counts: Tensor, enough: float) -> Tensor:
    """(B, T) scores of the response up to each token, the whole one's last: from -1 (nothing of the prompt) to 0
    (`enough` nats or more), of (B, T) log-probs of its tokens after its own prompt and after another one, over those
    that count; NaN where these are."""
    nats = torch.where(counts, own - other, 0.0).cumsum(1)
    return (nats / enough).clamp(0.0, 1.0) - 1.0
