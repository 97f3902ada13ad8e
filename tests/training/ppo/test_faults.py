"""PPO stopped by damage, by numbers that are none, by hand, or by a judge that goes away: the error says what to do,
and what is resumed equals the uncut run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rlaif.core.errors import BackendError, BudgetError, StageError
from rlaif.core.files import JsonlFile
from rlaif.core.records import Response
from rlaif.lm.open import open_judge
from rlaif.lm.server import pace
from rlaif.stages import ppo
from rlaif.stages.context import StageContext
from rlaif.training.ppo import checkpoint, faults
from rlaif.training.ppo.rollout import RolloutBatch
from rlaif.training.ppo.step import PpoTrainer
from tests.fault_server import Answer, chat, error, serving
from tests.training.contexts import Heard, response, stage_context
from tests.training.kills import SHORT
from tests.training.tiny_ppo import PROMPTS, chosen, ppo_context, same_run, trainer

# Numbers that are none


def stop(work: PpoTrainer, folder: Path) -> dict[str, Any]:
    """bad_batch.pt of the first step, in which the stage stops."""
    context = stage_context(folder, folder, "ppo")
    with pytest.raises(StageError, match=r"^.*bad_batch\.pt: step 0: .*saved for inspection") as caught:
        ppo._step(context, work, 0, chosen(work))
    assert "--force" in str(caught.value.remedy)
    assert not context.metrics.read()
    found: dict[str, Any] = torch.load(context.folder / "bad_batch.pt", weights_only=True)
    return {**found, "said": str(caught.value)}


def scores_of_infinity(prompts: list[str], responses: list[str]) -> list[float]:
    return [3e38 if number == 2 else 1.0 for number in range(len(responses))]


def test_what_is_not_a_number_is_named_and_all_that_led_to_it_kept(tiny_model: Path, tmp_path: Path) -> None:
    """A score that float32 can just hold, and a reward that it cannot: less the penalty of a response cut short."""
    work = trainer(tiny_model, function=scores_of_infinity, missing_eos_penalty=3e38, score_clip=None)
    work.config = work.config.model_copy(update={"baseline": "batch"})
    found = stop(work, tmp_path)
    assert "rewards" in found["said"]
    assert found["rows"]
    assert (found["step"], found["seed"], found["kl_coef"]) == (0, 3, 0.05)
    assert found["config"]["learning_rate"] == work.config.learning_rate
    assert len(found["prompt_texts"]) == len(found["response_texts"]) == len(found["responses"]) == 8
    assert found["response_texts"] == [work.text(ids) for ids in found["responses"]]
    assert found["prompt_texts"][0].startswith("Question")
    assert found["weights"].keys() == work.model.trained.keys()
    assert found["rewards"].shape == found["response_mask"].shape


def test_weights_that_have_become_nan_are_told_with_the_step(tiny_model: Path, tmp_path: Path) -> None:
    work = trainer(tiny_model)
    next(iter(work.model.trained.values())).data.fill_(math.nan)
    found = stop(work, tmp_path)
    assert "sampling: the model's output is not a number" in found["said"]
    assert "scores" not in found
    assert any(weight.isnan().any() for weight in found["weights"].values())


def test_a_run_whose_updates_are_all_undone_stops_and_is_not_called_done(
    tmp_path: Path,
    tiny_model: Path,
    sft_adapter: Path,
) -> None:
    context = ppo_context(tmp_path, tiny_model, sft_adapter, PROMPTS, learning_rate=1.0, steps=6)
    with pytest.raises(StageError, match=r"step 2: all updates .*undone.*\n.*ppo.learning_rate \(1\)"):
        ppo.run(context)
    assert [row["step"] for row in context.metrics.read()] == [0, 1, 2]
    assert torch.load(context.folder / "bad_batch.pt", weights_only=True)["step"] == 2
    assert not context.adapter("ppo").exists()


@pytest.mark.parametrize(
    ("kept", "steps", "stops"),
    [([None] * 3, 10, True), ([None, None], 10, False), ([None, 0.1, None, None], 10, False), ([None], 1, True)],
)
def test_three_steps_without_an_update_are_hopeless(kept: list[float | None], steps: int, stops: bool) -> None:
    assert faults.hopeless([{"approx_kl": value} for value in kept], steps) is stops


def test_interrupted_in_a_step_it_keeps_the_steps_before(
    tmp_path: Path,
    tiny_model: Path,
    sft_adapter: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counter = tmp_path / "counter"
    monkeypatch.setenv("KILL_COUNTER", str(counter))
    table = {**SHORT, "save_steps": 10, "reward": "tests.training.toy_rewards:interrupted_at_the_third_call"}
    whole, cut = (ppo_context(tmp_path / part, tiny_model, sft_adapter, PROMPTS, **table) for part in ("whole", "cut"))
    counter.write_text("xxx")  # which is past the interruption
    counts = ppo.run(whole)
    counter.write_text("")
    cut.progress = Heard()
    with pytest.raises(KeyboardInterrupt):
        ppo.run(cut)
    assert cut.progress.lines == ["  ppo: 2 of 3 steps are kept"]
    assert ppo.run(cut) == counts
    assert counter.read_text() == "xxxx"  # the step that was interrupted is all that was done again
    same_run(cut, whole)


def test_a_policy_that_was_ruined_does_not_replace_the_checkpoint(
    tmp_path: Path,
    tiny_model: Path,
    sft_adapter: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    context = ppo_context(tmp_path, tiny_model, sft_adapter, PROMPTS, **{**SHORT, "steps": 4})
    context.progress = Heard()
    update = PpoTrainer.update

    def ruined(work: PpoTrainer, batch: RolloutBatch, step: int) -> Any:
        found = update(work, batch, step)
        if step == 2:
            (context.folder / "best-1").mkdir()
            for parameter in work.state.parameters:
                parameter.data.fill_(float("nan"))
        return found

    monkeypatch.setattr(PpoTrainer, "update", ruined)
    with pytest.raises(StageError, match=r"(?s)step 3: sampling: .*--force, which removes the best policy.*best-1"):
        ppo.run(context)
    assert context.progress.lines[-1] == "  ppo: 2 of 4 steps are kept"
    assert json.loads((context.folder / "checkpoint/facts.json").read_text())["step"] == 2


# A judge that goes away


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "FIRST_PAUSE", 0.01)


def likes_length(body: dict[str, Any], _: int) -> Answer:
    """(A) by the length of the request: a judge's answer that is always the same for the same request."""
    p = 0.2 + 0.6 * (len(json.dumps(body)) % 97) / 97
    listed = [("A", math.log(p)), ("B", math.log(1 - p)), *((f"x{n}", -30.0) for n in range(18))]
    return chat("A", positions=[("A", math.log(p), listed)])


def judged(root: Path, source: Path, adapter: Path, url: str, **judge: Any) -> StageContext:
    """The stage with a judge at `url` as its reward, on two answers to each prompt."""
    table = {"reward": "judge", **SHORT, "save_steps": 10}
    asked = {"backend": "openai", "source": "m", "method": "pairwise", "base_url": url, "max_retries": 1, **judge}
    context = stage_context(root, source, "ppo", ppo=table, judge={**asked, "concurrency": 2, "timeout": 5})
    if not context.adapter("sft").exists():
        context.adapter("sft").parent.mkdir(parents=True)
        context.adapter("sft").symlink_to(adapter)
        JsonlFile(context.run.file("prompts", "train.jsonl"), type(PROMPTS[0])).append(PROMPTS)
        answers = [response(to, text, seed=n) for to in PROMPTS for n, text in enumerate(("Bread.", "No."))]
        JsonlFile(context.run.file("label", "responses.jsonl"), Response).append(answers)
    context.open_judge = lambda asking: open_judge(asking, context.config.model, context.run.cache_path)
    context.progress = Heard()
    return context


class Failing:
    """`likes_length` until so many requests are answered, then what `after` says."""

    def __init__(self, answered: int, after: Callable[[dict[str, Any], int], Answer]) -> None:
        self.left, self.after = answered, after
        self.answered: list[str] = []

    def __call__(self, body: dict[str, Any], before: int) -> Answer:
        if self.left == 0:
            return self.after(body, before)
        self.left -= 1
        self.answered.append(json.dumps(body, sort_keys=True))
        return likes_length(body, before)


def down(_: dict[str, Any], __: int) -> Answer:
    return Answer(b"", cut=0)


def later(body: dict[str, Any], before: int) -> Answer:
    """Too many requests, at the first asking of each."""
    return error(429, "slow down", retry_after_ms="5") if before == 0 else likes_length(body, before)


def test_a_judge_that_goes_away_pauses_the_run_and_is_asked_nothing_twice(
    tmp_path: Path,
    tiny_model: Path,
    sft_adapter: Path,
) -> None:
    with serving(likes_length) as server:
        whole = judged(tmp_path / "whole", tiny_model, sft_adapter, server.url)
        counts = ppo.run(whole)
        calls = [json.dumps(body, sort_keys=True) for body in server.bodies()]
    assert len(set(calls)) == len(calls) > 20
    failing = Failing(len(calls) - 3, down)
    with serving(failing) as server:
        cut = judged(tmp_path / "cut", tiny_model, sft_adapter, server.url)
        with pytest.raises((StageError, BackendError)) as caught:
            ppo.run(cut)
    assert caught.value.remedy
    assert isinstance(cut.progress, Heard)
    assert cut.progress.lines[-1] == "  ppo: 2 of 3 steps are kept"  # though save_steps is 10
    assert checkpoint.restore(cut.folder / "checkpoint") is not None
    with serving(later) as server:  # somewhere else, and short of breath
        again = judged(tmp_path / "cut", tiny_model, sft_adapter, server.url)
        assert ppo.run(again) == counts
        asked = {json.dumps(body, sort_keys=True) for body in server.bodies()}
    same_run(again, whole)
    assert not asked & set(failing.answered)
    assert asked | set(failing.answered) == set(calls)


def test_a_spent_budget_pauses_the_run(
    tmp_path: Path,
    tiny_model: Path,
    sft_adapter: Path,
) -> None:
    with serving(likes_length) as server:
        context = judged(tmp_path, tiny_model, sft_adapter, server.url, max_calls=18)
        with pytest.raises(BudgetError, match="--resume"):
            ppo.run(context)
        assert len(server.seen) == 18
        ppo.run(judged(tmp_path, tiny_model, sft_adapter, server.url, max_calls=100))
        calls = [json.dumps(body, sort_keys=True) for body in server.bodies()]
        assert len(set(calls)) == len(calls)
