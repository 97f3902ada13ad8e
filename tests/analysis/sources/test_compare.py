"""`rlaif label --compare`: what it leaves of a run, what it recommends, and by which figure."""

from __future__ import annotations

import importlib
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rlaif.analysis.sources.answer import answer
from rlaif.analysis.sources.compare import SourcesCompared, compared
from rlaif.core.files import RunFolder
from rlaif.core.progress import Silent
from rlaif.core.records import AnswerSource, Comparison, Failure, Message, PreferenceLabel, Prompt, Response
from rlaif.judge.load import parse
from rlaif.lm import open as open_model
from rlaif.lm.cache import CachedModel
from rlaif.lm.scripted import ScriptedModel
from rlaif.view.answer import page
from tests import stub_stages
from tests.output import done, rlaif

WORDS = ["bread", "water", "rain", "stone", "hope", "slow", "green", "river"]
PROMPTS = [Prompt((Message("user", f"Question {n}"),), slice="hard") for n in range(24)]


class Kindness:
    """Gold: how often the word stands there."""

    better, about = "higher", "counts the word kind"

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float | None]:
        return [float(text.split().count("kind")) for text in responses]


def made(kind: AnswerSource, *, by_gold: float, by_word: float = 0.5, seed: int = 0) -> list[PreferenceLabel]:
    """Three labels a prompt; `by_gold` of them prefer the answer with "kind" in it, `by_word` the one with "warm"."""
    draw, found = random.Random(f"{kind}{seed}"), []
    for number in range(3 * len(PROMPTS)):
        prompt = PROMPTS[number % len(PROMPTS)]
        texts = [" ".join(draw.choices(WORDS, k=5)) for _ in "ab"]
        if draw.random() < 0.5:
            preferred, share, word = 0, by_gold, "kind"
        else:
            preferred, share, word = 1, by_word, "warm"
        texts[preferred if draw.random() < share else 1 - preferred] += f" {word}"
        a, b = (Response(prompt.id, text, "sft", number, 1.0, "stop", 5) for text in texts)
        found.append(PreferenceLabel(Comparison(prompt, a, b), 0.9 if preferred == 0 else 0.1, (), answers=kind))
    return found


def ask(labels: list[PreferenceLabel], gold: Sequence[str] = (f"{__name__}:Kindness",)) -> SourcesCompared:
    data = {"prompts": {"hard": {"source": "x"}}, "evaluate": {"gold": list(gold), "bootstrap": 500}}
    return compared(RunFolder(Path("runs/x")), parse(data, where="test"), PROMPTS, labels, Silent())


def test_the_kind_that_gold_agrees_with_is_taken() -> None:
    better = made("contrast", by_gold=0.9)
    found = ask([*made("policy", by_gold=0.5), *better])
    assert found.recommended == "contrast"
    assert found.reason.startswith("gold Kindness agrees with ")
    assert found.gold_difference is not None
    assert found.gold_difference.low is not None
    assert found.gold_difference.low > 0
    turned = ask([*made("policy", by_gold=0.9), *made("contrast", by_gold=0.5)])
    assert turned.recommended == "policy"
    assert "gold Kindness" in turned.reason
    assert (found.contrast.pairs, found.contrast.labelled, found.prompts) == (72, 72, 24)


def test_without_gold_words_decide_and_without_either_the_policy_is_taken() -> None:
    labels = [*made("policy", by_gold=0.5), *made("contrast", by_gold=0.95, by_word=0.95)]
    found = ask(labels, gold=())
    assert (found.recommended, found.gold_difference) == ("contrast", None)
    assert found.reason.startswith("a bag of words learns ")
    alike = ask([*made("policy", by_gold=0.5), *made("contrast", by_gold=0.5)])
    assert (alike.recommended, alike.reason) == ("policy", "no difference between the two is clear on this sample")


def test_a_kind_without_labels_is_not_taken() -> None:
    failed = [
        PreferenceLabel(x.comparison, None, (), None, Failure("disagreed", "no"), answers="contrast")
        for x in made("contrast", by_gold=0.9)
    ]
    found = ask([*made("policy", by_gold=0.5), *failed])
    assert (found.recommended, found.contrast.missing) == ("policy", {"disagreed": 72})
    assert found.contrast.learnable is None
    assert ask(made("contrast", by_gold=0.9)).recommended == "contrast"


def test_a_scorer_that_is_not_there_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vaderSentiment.vaderSentiment", None)
    found = ask(made("contrast", by_gold=0.9), gold=["sentiment"])
    assert found.policy.gold == {}
    assert any(note.startswith("sentiment not measured") for note in found.notes)


def test_the_answer_tells_the_rule_and_both_sides() -> None:
    found = ask([*made("policy", by_gold=0.5), *made("contrast", by_gold=0.9)])
    text = page(answer(found))
    for told in ("Take label.answers: contrast", "gold Kindness agrees", "words tell", "longer wins", "Rule: the kind"):
        assert told in text
    assert json.loads(json.dumps(found.as_json()))["recommended"] == "contrast"


# --- on a run ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that is finished up to `sft`; its policy is scripted and its judge a coin."""
    real_label = importlib.import_module("rlaif.stages.label")
    stub_stages.install(set_module=lambda name, module: monkeypatch.setitem(sys.modules, name, module))
    monkeypatch.setitem(sys.modules, "rlaif.stages.label", real_label)
    policy: Any = lambda model, adapters, cache: CachedModel(ScriptedModel(), cache / "policy.sqlite")  # noqa: E731
    monkeypatch.setattr(open_model, "open_policy", policy)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"Question {n}?"}) + "\n" for n in range(9)))
    tables = {
        "model": {"source": str(tiny_model)},
        "judge": {"method": "random"},
        "card": {"required": False},
        "prompts": {"mine": {"source": str(prompts), "train": 8, "held_out": 1}},
        "label": {"samples": 3, "pairs": 2, "batch_size": 3},
        "evaluate": {"gold": [], "bootstrap": 100},
    }
    config = tmp_path / "run.yaml"
    config.write_text(json.dumps(tables))
    for stage in ("revise", "sft"):
        assert rlaif(stage, config, "--out", tmp_path / "run").exit_code == 0
    return tmp_path / "run"


def kept(run: Path) -> dict[str, bytes]:
    files = (path for path in run.rglob("*") if path.is_file() and "cache" not in path.parts)
    return {str(path.relative_to(run)): path.read_bytes() for path in files if path.name != ".lock"}


def test_a_run_is_left_as_it_was(run: Path) -> None:
    before = kept(run)
    found = done("label", "--run", run, "--compare", "--prompts", 5)
    assert kept(run) == before
    assert (found["prompts"], found["policy"]["pairs"], found["contrast"]["pairs"]) == (5, 10, 10)
    assert found["recommended"] in ("policy", "contrast")
    printed = rlaif("label", "--run", run, "--compare", "--prompts", 5).stdout
    assert "Take label.answers: " in printed
    assert "by contrast" in printed
    assert done("label", "--run", run, "--compare", "--prompts", 5, "--set", "label.pairs=1")["contrast"]["pairs"] == 5


def test_what_cannot_be_compared_is_told(run: Path) -> None:
    both = rlaif("label", "--run", run, "--compare", "--force")
    assert both.exit_code == 2
    assert "--compare looks at a run that is there" in both.stderr
    (run / "sft" / "stage.json").unlink()
    early = rlaif("label", "--run", run, "--compare")
    assert early.exit_code == 6
    assert "the sft stage is not finished" in early.stderr
