"""What the limits on length leave out, counted by hand on a tokenizer of one token a word."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from rlaif.config import STAGES, RunConfig
from rlaif.core.errors import StageError
from rlaif.core.records import Prompt
from rlaif.judge.load import default_config
from rlaif.run.lengths import Loss, losses


class TokenAWord:
    """A tokenizer whose chats have a token for each word."""

    all_special_tokens: ClassVar[tuple[str, ...]] = ()
    chat_template: ClassVar[str] = ""
    added_tokens_decoder: ClassVar[dict[int, Any]] = {}

    def apply_chat_template(self, chat: Any, **_: Any) -> list[int]:
        return [0 for turn in chat for _ in turn["content"].split()]


def found(config: RunConfig, sizes: list[int], *, context: int = 1000, held_out: int = 1) -> dict[str, Loss]:
    train = [Prompt.of_text("a " * size + str(number)) for number, size in enumerate(sizes)]
    rows = losses(config, STAGES, train, [Prompt.of_text("b " * held_out)], tokenizer=TokenAWord(), context=context)
    return {row.stage: row for row in rows}


def config(**limits: int) -> RunConfig:
    fields = {"revise_max_new_tokens": 80, "label_max_new_tokens": 80, "ppo_max_new_tokens": 80, **limits}
    return default_config([f"{name.replace('_', '.', 1)}={value}" for name, value in fields.items()])


def test_nothing_is_lost_where_everything_fits() -> None:
    assert found(config(), [239]) == {}  # a word more: the prompt has 240 tokens, and 240 + 80 = 320


def test_what_does_not_fit_is_counted_for_each_stage() -> None:
    rows = found(config(sft_max_length=330, ppo_max_length=300), [99, 219, 239, 259, 319])
    # Prompts of 100, 220, 240, 260 and 320 tokens.
    told = {stage: (row.possible, row.certain, row.prompts) for stage, row in rows.items()}
    assert told == {
        "sft": (2, 0, 5),  # 260 + 80 > 330; an answer of 10 tokens would still fit behind 320
        "reward": (2, 1, 5),  # nothing fits behind 320 tokens
        "dpo": (2, 1, 5),
        "ppo": (3, 3, 5),  # room for the longest answer is needed
    }
    assert str(rows["ppo"]) == (
        "ppo would leave out 3 of 5 prompts: the longest has 320 tokens, its answer up to 80, and ppo.max_length is 300"
    )
    assert rows["ppo"].remedy == "ppo.max_length: 400 keeps all"
    assert "up to 2, 1 for sure, of 5 prompts" in str(rows["reward"])


def test_the_context_of_the_model_is_a_limit_too() -> None:
    rows = found(config(), [99, 259], context=300)
    assert set(rows) == {"revise", "sft", "label", "reward", "ppo", "dpo"}
    assert "the model's context is 300" in str(rows["label"])
    assert rows["sft"].remedy.startswith("lower revise.max_new_tokens, take shorter prompts, or a model whose context")


def test_a_stage_that_would_be_left_with_nothing_is_an_error() -> None:
    with pytest.raises(
        StageError, match=r"(?s)^ppo\.max_length: ppo would leave out 2 of 2 .*ppo\.max_length: 330 keeps"
    ):
        found(config(ppo_max_length=100), [199, 249])
    with pytest.raises(StageError, match=r"evaluate would leave out 1 of 1 prompts: .* the model's context is 300"):
        found(config(), [9], context=300, held_out=290)
