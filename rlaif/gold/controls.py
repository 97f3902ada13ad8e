"""Controls: rewards that know nothing of the constitution. A gain that a control reaches too proves nothing.

"Length-only reward": a reward for longer answers reproduces most of the gains reported for RLHF (arXiv 2310.03716).
Run PPO on it with `ppo: {reward: "rlaif.gold.controls:length_reward"}`, all else equal, and set its row beside
the real one. The other control, the random judge, is `judge: {method: random}`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlaif.gold.text import words

FULL_LENGTH = 50
"""Words at which the length-only reward is at its most, so that the policy is not driven against the token limit."""


def length_reward(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
    """One score per response, 0..1: its number of words over 50, capped; the control "length-only reward".

    Signature of a TRL reward function; a completion is a text, or a list of messages whose contents are counted.
    """
    return [min(1.0, len(words(_text(completion))) / FULL_LENGTH) for completion in completions]


def _text(completion: Any) -> str:
    if isinstance(completion, str):
        return completion
    return " ".join(str(message["content"]) for message in completion)
