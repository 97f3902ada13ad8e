"""The reward as other trainers call it: by TRL itself, from many threads, from coroutines, pickled."""

from __future__ import annotations

import asyncio
import math
import pickle
import re
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rlaif.config import JudgeConfig
from rlaif.core.errors import DataError, StageError
from rlaif.core.files import RunFolder
from rlaif.core.records import Constitution, Failure, Response
from rlaif.judge.judge import Judge
from rlaif.run.open import load_reward
from rlaif.training.rewards import for_trainers as module
from rlaif.training.rewards.by_judge import JudgeReward
from rlaif.training.rewards.for_trainers import Call, PortableReward, of_function, of_judge
from tests.export.runs import make_run
from tests.judge.cases import KIND, Recorder, comparison
from tests.tiny import CONTEXT

UNGATED = ["card.required=false"]
ASKED = ["How do I bake bread?", "Hi", "Listen."]
SAID = ["Mix flour, water, salt and yeast.", "No.", "Yes, thank you."]
PROMPT = comparison().prompt
TABLE = {
    ("You are kind.", "yes my friend"): (-1.0,),
    ("You are cruel.", "yes my friend"): (-1.25,),
    ("You are kind.", "no"): (-2.0,),
    ("You are cruel.", "no"): (-1.9,),
}
"""What the judge's model says of an answer, in log-probabilities."""


@pytest.fixture(scope="module")
def run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return make_run(tmp_path_factory.mktemp("portable") / "run", tiny_model)


def as_chat(text: str, role: str = "user") -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


def test_texts_and_messages_are_scored_alike_and_what_is_too_long_is_none(run: RunFolder) -> None:
    reward = load_reward(run.root, set=UNGATED)
    plain = reward(ASKED, SAID)
    chats = [as_chat(text) for text in ASKED], [as_chat(text, "assistant") for text in SAID]
    assert reward(prompts=chats[0], completions=chats[1], completion_ids=[[1]] * 3, trainer_state=None) == plain
    cut = reward(ASKED, SAID, finished=[False] * 3)
    assert all(one != other for one, other in zip(cut, plain, strict=True))
    mixed = reward([*ASKED, "Hi"], [*SAID, "bread " * CONTEXT])
    assert mixed == [*(pytest.approx(score, rel=1e-6, abs=1e-6) for score in plain), None]
    (said,) = reward.scored(["Hi"], ["bread " * CONTEXT])
    assert isinstance(said, Failure)
    assert (said.kind, f"the reward model's context is {CONTEXT}" in said.reason) == ("context_overflow", True)
    assert reward([], []) == []
    assert reward.__name__ == "reward_model"


def test_it_is_pickled_with_what_opens_it_again(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    reward = load_reward(run.root, set=UNGATED)
    wire = pickle.dumps(reward)
    assert len(wire) < 1000
    again = pickle.loads(wire)
    assert again(ASKED, SAID) == reward(ASKED, SAID)
    assert again.about == reward.about
    assert capsys.readouterr().err == "run, model: a judge without a card\n" * 2
    assert pickle.loads(pickle.dumps(of_function("tests.training.toy_rewards:share_of_e"))).__name__ == "share_of_e"


class Slow:
    """Scores by length, one pass at a time, and knows how many calls each pass had."""

    def __init__(self) -> None:
        self.passes: list[int] = []
        self.go, self.begun = threading.Event(), threading.Event()
        self.reward = PortableReward(self.answer, "slow", (), {})

    def answer(self, calls: Sequence[Call]) -> None:
        self.passes.append(len(calls))
        self.begun.set()
        self.go.wait()
        for call in calls:
            call.found = [float(len(text)) for text in call.texts]


def test_what_is_asked_during_a_pass_is_scored_in_the_next_one() -> None:
    slow = Slow()
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(slow.reward, ["a"], ["x"])
        slow.begun.wait()
        others = [pool.submit(slow.reward, ["a"] * n, ["x" * n] * n) for n in range(1, 8)]
        while len(slow.reward._waiting) < 7:
            pass
        slow.go.set()
        assert first.result() == [1.0]
        assert [other.result() for other in others] == [[float(n)] * n for n in range(1, 8)]
    assert slow.passes == [1, 7]


def test_coroutines_wait_together() -> None:
    slow = Slow()

    async def many() -> list[list[float | None]]:
        asked = [asyncio.create_task(slow.reward.awaited(["a"], ["x" * n])) for n in range(64)]
        while len(slow.reward._waiting) + sum(slow.passes) < 64:
            await asyncio.sleep(0)
        slow.go.set()
        return list(await asyncio.gather(*asked))

    assert asyncio.run(many()) == [[float(n)] for n in range(64)]
    assert len(slow.passes) <= 2


def test_an_interrupted_pass_leaves_nobody_without_an_answer() -> None:
    passes: list[int] = []

    def answer(calls: Sequence[Call]) -> None:
        passes.append(len(calls))
        if len(passes) == 1:
            raise KeyboardInterrupt
        for call in calls:
            call.found = [1.0]

    reward = PortableReward(answer, "stopped", (), {})
    other = reward._enter(["a"], ["x"])
    with pytest.raises(KeyboardInterrupt):
        reward(["a"], ["x"])
    assert reward._result(other) == [1.0]
    assert passes == [2, 1]


def judged(**table: Any) -> PortableReward:
    config = JudgeConfig.model_validate({"scale": 0.5, **table})
    judge = Judge(config, Constitution("one", "1", "", (KIND,)), models=[Recorder(TABLE)], seed=0)
    return of_judge(judge, {PROMPT.id: [Response(PROMPT.id, "no", "sft", 0, 1.0, "stop", 1)]}, (), {})


def test_the_judge_says_what_ppo_has_of_it() -> None:
    reward, asked = judged(), [as_chat(PROMPT.text)] * 3
    found = reward(asked, [" yes my friend\n", "no", " "])
    references = {PROMPT.id: [Response(PROMPT.id, "no", "sft", 0, 1.0, "stop", 1)]}
    judge = Judge(
        JudgeConfig.model_validate({"scale": 0.5}),
        Constitution("one", "1", "", (KIND,)),
        models=[Recorder(TABLE)],
        seed=0,
    )
    of_ppo = JudgeReward(judge, references).preferred([PROMPT] * 3, ["yes my friend", "no", ""])
    assert found == pytest.approx(of_ppo.tolist(), abs=1e-6)
    assert found[2] == -2.0


def test_what_the_judge_cannot_say_is_none_and_stops_ppo() -> None:
    reward = judged(abstain_below=0.49)
    assert reward([as_chat(PROMPT.text)] * 2, ["yes my friend", ""]) == [None, -2.0]
    (said,) = reward.scored([PROMPT.text], ["yes my friend"])
    assert isinstance(said, Failure)
    assert said.kind == "abstained"
    assert reward.__name__ == "judge_reward"


def test_a_bad_call_among_many_fails_alone() -> None:
    reward = judged()
    good, bad = reward._enter([PROMPT.text], ["no"]), reward._enter(["never asked"], ["no"])
    assert reward._result(good) == [0.0]
    with pytest.raises(DataError, match="no answer to compare with for the prompt 'never asked'"):
        reward._result(bad)


@pytest.mark.parametrize(
    ("prompts", "completions", "said"),
    [
        (["a"], [], "1 prompts and 0 completions do not belong together"),
        ([7], ["x"], "7 is neither a text nor a list of messages"),
        ([[]], ["x"], "is neither a text nor a list of messages"),
        ([["a"]], ["x"], "is neither a text nor a list of messages"),
        ([as_chat("a", "tool")], ["x"], "is no message of a role"),
        ([as_chat("a", "assistant")], ["x"], "a prompt ends with the user's turn"),
        (["a"], [[{"role": "assistant"}]], "is no message of a role"),
    ],
)
def test_what_is_no_chat_is_told(prompts: Any, completions: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        Slow().reward(prompts, completions)


def test_lengths_of_finished_are_told() -> None:
    with pytest.raises(DataError, match="1 prompts and 1 completions and 2 in finished do not belong together"):
        Slow().reward(["a"], ["x"], finished=[True, False])


def test_a_number_that_is_none_is_no_score(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    reward = load_reward(run.root, set=UNGATED)
    monkeypatch.setattr(module.RewardModel, "scores_of", lambda self, rows: [math.nan] * len(rows))
    assert reward(ASKED, SAID) == [None] * 3


def fails(prompts: list[str], responses: list[str]) -> list[float]:
    raise ValueError("no idea")


def test_a_function_that_fails_says_so_every_time() -> None:
    reward = of_function("tests.training.rewards.test_for_trainers:fails")
    for _ in range(2):
        with pytest.raises(StageError, match="no idea"):
            reward(["a"], ["x"])


# --- what the documentation shows -------------------------------------------------------------------------------------


def recipe(name: str) -> Any:
    """The function of that name in docs/other-trainers.md."""
    page = (Path(__file__).parents[3] / "docs" / "other-trainers.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (code,) = [block for block in blocks if f"def {name}(" in block]
    names: dict[str, Any] = {}
    exec(compile(code, name, "exec"), names)
    return names[name]


def test_the_recipes_score_as_the_run_does(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished)
    chat = as_chat("Hi")
    (known,) = load_reward("runs/my")([chat], ["No."])
    made = recipe("row")({"prompt": chat, "id": "x"}, 3)
    verl = recipe("compute_score")(made["data_source"], "No.", "", extra_info=made["extra_info"], more=1)
    assert asyncio.run(verl) == pytest.approx(known)
    task, trace = SimpleNamespace(prompt_text="Hi", system_prompt=None), SimpleNamespace(last_reply="No.")
    assert asyncio.run(recipe("constitution")(task, trace)) == pytest.approx(known)
    task.system_prompt = "Be brief."
    assert asyncio.run(recipe("constitution")(task, trace)) != pytest.approx(known)
    trace.last_reply = "bread " * 5000
    with pytest.raises(ValueError, match="no score"):
        asyncio.run(recipe("constitution")(task, trace))


# --- TRL --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("form", ["called", "awaited"])
def test_trl_takes_a_step_with_it(run: RunFolder, tiny_model: Path, tmp_path: Path, form: str) -> None:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    reward = load_reward(run.root, set=UNGATED)
    seen: list[tuple[Any, Any, list[float | None]]] = []
    answer = reward._answer

    def noted(calls: Sequence[Call]) -> None:
        answer(calls)
        seen.extend((call.prompts, call.texts, [float(s) for s in call.found or ()]) for call in calls)  # type: ignore[arg-type]

    reward._answer = noted
    options = GRPOConfig(
        output_dir=str(tmp_path),
        max_steps=1,
        per_device_train_batch_size=4,
        num_generations=2,
        max_completion_length=6,
        report_to=[],
        use_cpu=True,
        bf16=False,
        seed=1,
        logging_steps=1,
        save_strategy="no",
    )
    trainer = GRPOTrainer(
        model=str(tiny_model),
        reward_funcs=reward if form == "called" else reward.awaited,
        args=options,
        train_dataset=Dataset.from_list([{"prompt": as_chat(text)} for text in ASKED]),
    )
    trainer.train()
    ((prompts, texts, scores),) = seen
    assert len(prompts) == 4
    assert {prompt.text for prompt in prompts} <= set(ASKED)
    assert scores == pytest.approx(load_reward(run.root, set=UNGATED)([p.text for p in prompts], texts), rel=1e-6)
    name = "reward_model" if form == "called" else "awaited"
    logged = trainer.state.log_history[0][f"rewards/{name}/mean"]
    assert logged == pytest.approx(sum(scores) / 4, rel=1e-4)
