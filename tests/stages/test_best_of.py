"""The best of n answers of SFT under the reward of PPO: chosen by its scores, kept, and measured as a model."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlaif.config import RunConfig
from rlaif.core.evaluation import read_summary
from rlaif.core.files import JsonlFile, RunFolder
from rlaif.core.records import Message, Prompt, Response
from rlaif.judge.load import parse
from rlaif.stages import evaluate
from rlaif.stages.best_of import Reward, choose
from rlaif.stages.context import StageContext
from rlaif.training.rewards.model import RewardModel
from tests.stages.evaluation_run import PROMPTS, config, context_in, summary_in
from tests.training import planted_labels
from tests.training.planted_labels import Trained


def most_hope(completions: list[str], completion_ids: list[list[int]]) -> list[float]:
    """A reward: how often the answer says hope."""
    assert all(completion_ids), "a function that asks for the tokens has them"
    return [float(text.split().count("hope")) for text in completions]


def settings(model: Path, reward: str = f"{__name__}:most_hope", **more: Any) -> RunConfig:
    data = config("contrast", best_of=4).model_dump(mode="json", exclude_defaults=True)
    return parse(data | {"model": {"source": str(model)}, "ppo": {"reward": reward, **more}}, where="test")


def stored(folder: Path, name: str) -> list[Response]:
    return JsonlFile(folder / "evaluate" / name, Response).read()


def test_best_of_n_is_a_model_beside_the_others(tmp_path: Path, tiny_model: Path) -> None:
    counts = evaluate.run(context_in(tmp_path, [], settings=settings(tiny_model)))
    drawn, answers = stored(tmp_path, "best_of.jsonl"), stored(tmp_path, "responses.jsonl")
    best = [row for row in answers if row.model == "best-of-4"]
    assert (len(drawn), len(best), counts["responses"]) == (8 * 4, 8, 48 + 8)
    for row in best:
        same = [other for other in drawn if other.prompt_id == row.prompt_id]
        assert len(same) == 4
        assert row in same

        def score(answer: Response) -> float:  # ppo.missing_eos_penalty is 1
            return answer.text.split().count("hope") - (answer.finish != "stop")

        assert score(row) == max(map(score, same))
    summary = read_summary(RunFolder(tmp_path))
    assert summary is not None
    assert summary.models == ("base", "sft", "ppo", "best-of-4")
    for part, n in (("harmful", 5), ("harmless", 3)):
        distance = summary.divergence("best-of-4", part)
        assert distance is not None
        assert (distance.n, distance.low) == (n, None)
        assert distance.mean == pytest.approx(math.log(4) - 0.75)
        cells = [summary.cell("best-of-4", part, name) for name in ("toxicity", "words", "base_logprob")]
        assert [cell.n if cell else None for cell in cells] == [n, n, n]
        assert all(cell is not None and cell.difference is not None for cell in cells)
        assert summary.at_equal_length("best-of-4", part, "toxicity") is not None


def test_answers_of_the_others_stay_and_a_second_start_asks_nothing(tmp_path: Path, tiny_model: Path) -> None:
    evaluate.run(context_in(tmp_path / "without", [], settings=config("contrast")))
    first = evaluate.run(context_in(tmp_path / "with", [], settings=settings(tiny_model)))
    plain, beside = (stored(tmp_path / name, "responses.jsonl") for name in ("without", "with"))
    assert plain == [row for row in beside if row.model != "best-of-4"]
    log: list[tuple[str, str, int]] = []
    assert evaluate.run(context_in(tmp_path / "with", log, settings=settings(tiny_model))) == first
    assert log == []


def test_lost_choices_are_made_again_from_the_same_answers(tmp_path: Path, tiny_model: Path) -> None:
    evaluate.run(context_in(tmp_path, [], settings=settings(tiny_model)))
    path = tmp_path / "evaluate/responses.jsonl"
    before, lines = set(path.read_text().splitlines()), path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if '"best-of-4"' not in line))
    log: list[tuple[str, str, int]] = []
    evaluate.run(context_in(tmp_path, log, settings=settings(tiny_model)))
    assert set(path.read_text().splitlines()) == before
    assert log == []


def test_a_cut_answer_costs_what_it_costs_ppo(tmp_path: Path, tiny_model: Path) -> None:
    prompt = PROMPTS[0]
    cut, whole = (answer(prompt, text, finish) for text, finish in (("hope hope", "length"), ("hope", "stop")))
    for penalty, expected in ((0.5, cut), (1.5, whole)):
        context = context_in(tmp_path / str(penalty), [], settings=settings(tiny_model, missing_eos_penalty=penalty))
        assert choose(context, [prompt], [cut, whole], []) == [expected]


def test_a_judge_as_the_reward_compares_with_the_answers_of_sft(tmp_path: Path, tiny_model: Path) -> None:
    """The judge finds all answers alike, and so the first that ended wins; an empty one loses to every other."""
    first, second = PROMPTS[:2]
    context = context_in(tmp_path, [], settings=settings(tiny_model, "judge"))
    rows = [answer(first, text, finish) for text, finish in (("", "stop"), ("cut", "length"), ("ended", "stop"))]
    chosen = choose(context, [first, second], [*rows, answer(second, "alone", "stop")], [answer(first, "sft", "stop")])
    assert [row.text for row in chosen] == ["ended"], "without an answer of SFT there is nothing to compare with"


def test_answers_that_failed_leave_the_prompt_without_a_best_one(tmp_path: Path, tiny_model: Path) -> None:
    prompts = (*PROMPTS, Prompt((Message("user", "fail please"),), slice="harmful"))
    counts = evaluate.run(context_in(tmp_path, [], prompts=prompts, settings=settings(tiny_model)))
    assert counts["failed_context_overflow"] == 3 * 2 + 4
    assert sum(row.model == "best-of-4" for row in stored(tmp_path, "responses.jsonl")) == 8


def test_without_its_reward_model_it_is_left_out_with_a_note(tmp_path: Path, tiny_model: Path) -> None:
    evaluate.run(context_in(tmp_path, [], settings=settings(tiny_model, "model")))
    found = summary_in(tmp_path)
    assert found["models"] == ["base", "sft", "ppo"]
    assert "best-of-4 not evaluated: there is no adapter of the stage reward" in found["notes"]
    assert not (tmp_path / "evaluate/best_of.jsonl").exists()


def test_reward_model_of_the_run_chooses_what_it_has_learnt_to_prefer(trained: Trained, tmp_path: Path) -> None:
    """Its labels prefer answers with the word kind; of four answers two have it."""
    context = evaluating(trained[0], tmp_path)
    candidates, prompts = [], []
    for label in planted_labels.planted(80)[-60:]:  # of prompts that it was not trained on
        prompts.append(label.comparison.prompt)
        candidates += [label.comparison.a, label.comparison.b]
    prompts = list({prompt.id: prompt for prompt in prompts}.values())
    candidates = list({row.id: row for row in candidates}.values())
    chosen = choose(context, prompts, candidates, [])
    assert len(chosen) == len(prompts) >= 15
    assert sum("kind" in row.text for row in chosen) >= 0.9 * len(chosen)
    # the score is that of the reward model, less the penalty of a cut answer
    prompt, row = prompts[0], candidates[0]
    member = RewardModel.load(context.run.file("reward", "adapter"), planted_labels.base(context))
    (plain,) = member.score_texts([prompt], [row.text], [False])
    assert Reward(context, {}).scores([(prompt, replace(row, finish="length"))]) == [pytest.approx(plain - 1.0)]


def answer(prompt: Prompt, text: str, finish: Any) -> Response:
    return Response(prompt.id, text, "best-of-4", 0, 1.0, finish, len(text.split()))


def evaluating(trained: StageContext, root: Path) -> StageContext:
    """The stage evaluate on the run of a trained reward model, in a folder of its own."""
    run = RunFolder(root / "run")
    for stage in ("sft", "reward"):
        run.stage(stage)
        run.file(stage, "adapter").symlink_to(trained.run.file(stage, "adapter").resolve())
    table = trained.config.evaluate.model_copy(update={"best_of": 4})
    return replace(trained, stage="evaluate", run=run, config=trained.config.model_copy(update={"evaluate": table}))
