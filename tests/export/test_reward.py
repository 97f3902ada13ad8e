"""A reward model that is exported gives in plain transformers the scores that it gives in its run."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer

from rlaif.config import Pooling
from rlaif.core.errors import ConfigError, ModelError, StageError
from rlaif.core.files import RunFolder
from rlaif.export import reward as module
from rlaif.export.reward import RewardExport, export_reward
from rlaif.lm.local.load import load_model
from rlaif.run.open import load_reward, open_run
from rlaif.training.rewards.model import RewardModel
from tests.export.runs import MEAN, STD, make_run
from tests.tiny import make_tiny_model
from tests.training.contexts import prompt

ASKED = ["How do I bake bread?", "Hi", "Listen."]
SAID = ["Mix flour, water, salt and yeast.", "No.", "Yes, thank you. One, two, three"]
ENDED = [True, True, False]


def tensor(numbers: list[float | None]) -> torch.Tensor:
    return torch.tensor([float(number) for number in numbers if number is not None])


def own(run: RunFolder, ended: list[bool]) -> torch.Tensor:
    base = load_model(open_run(run.root).config.model, (run.file("sft", "adapter"),))
    reward = RewardModel.load(run.file("reward", "adapter"), base)
    return tensor(list(reward.score_texts([prompt(text) for text in ASKED], SAID, ended)))


def example(folder: Path, monkeypatch: pytest.MonkeyPatch) -> float:
    """The score that the card's own Python computes."""
    (block,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    monkeypatch.chdir(folder.parent)
    exec(block, names)
    return float(names["score"])


def chats() -> list[list[dict[str, str]]]:
    return [
        [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
        for asked, said in zip(ASKED, SAID, strict=True)
    ]


@pytest.mark.parametrize(("pooling", "arch"), [("end", "llama"), ("last", "gpt2"), ("end", "qwen3")])
def test_the_last_token_s_score_by_sequence_classification(
    pooling: Pooling, arch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run", make_tiny_model(tmp_path / "model", arch), pooling=pooling)
    found = export_reward(run, tmp_path / "out")
    assert found == RewardExport(tmp_path / "out", "AutoModelForSequenceClassification", pooling, -MEAN / STD)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert model.config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id
    # a whole batch, padded, as TRL and a pipeline read it: by the chat template
    batch = tokenizer.apply_chat_template(chats(), padding=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        scores = model(**batch).logits[:, 0] + found.offset
    wanted = own(run, [True] * 3)
    torch.testing.assert_close(scores, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))
    known = tensor(load_reward(run.root, set=["card.required=false"])(["How are you?"], ["Well, thank you."]))
    assert example(tmp_path / "out", monkeypatch) == pytest.approx(known.item(), abs=1e-5 * max(1, abs(known.item())))


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_the_mean_over_the_answer_by_token_classification(
    arch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run", make_tiny_model(tmp_path / "model", arch))
    found = export_reward(run, tmp_path / "out")
    assert found == RewardExport(tmp_path / "out", "AutoModelForTokenClassification", "mean", 0.0)
    model = AutoModelForTokenClassification.from_pretrained(tmp_path / "out", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    scores = []
    for chat, said, ended in zip(chats(), SAID, ENDED, strict=True):
        before = tokenizer.apply_chat_template(chat[:-1], add_generation_prompt=True, return_dict=False)
        after = tokenizer.encode(said, add_special_tokens=False) + [tokenizer.eos_token_id] * ended
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([before + after])).logits[0, len(before) :, 0]
        scores.append(logits.mean())
    wanted = own(run, ENDED)
    torch.testing.assert_close(torch.stack(scores), wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))
    known = tensor(load_reward(run.root, set=["card.required=false"])(["How are you?"], ["Well, thank you."]))
    assert example(tmp_path / "out", monkeypatch) == pytest.approx(known.item(), abs=1e-5 * max(1, abs(known.item())))


def test_a_reward_model_that_stands_on_the_model_itself(tiny_model: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", tiny_model, given="mine.jsonl")
    export_reward(run, tmp_path / "out")  # which tries its scores itself
    assert "labels that were given to the run" in (tmp_path / "out" / "README.md").read_text()


def test_the_card_says_how_scores_are_read(tiny_model: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", tiny_model)
    export_reward(run, tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "Do not load it as `AutoModelForSequenceClassification`" in text
    assert "The run has not measured it on labels that it was not trained on." in text


def test_a_template_without_an_end_is_given_one(tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path / "model")
    template = "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}"
    (model / "chat_template.jinja").write_text(template)
    run = make_run(tmp_path / "run", model, pooling="last")
    export_reward(run, tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.apply_chat_template(chats()[1], tokenize=False) == "user: Hi\nassistant: No.<|im_end|>"
    asking = tokenizer.apply_chat_template(chats()[1][:1], tokenize=False, add_generation_prompt=True)
    assert asking == "user: Hi\n"


# --- what is refused --------------------------------------------------------------------------------------------------


def test_scores_that_would_differ_are_not_written(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run", tiny_model, pooling="end")
    monkeypatch.setattr(module, "_pads_otherwise", lambda tokenizer: None)  # so that the end is taken for padding
    with pytest.raises(ModelError, match=r"cannot score as this reward model does: it gives(.|\n)*rlaif.load_reward"):
        export_reward(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_reward_model_of_other_weights_or_none(tiny_model: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", tiny_model)
    other = RunFolder(Path(shutil.copytree(run.root, tmp_path / "other")))
    (other.file("sft", "adapter") / "README.md").write_text("another")
    with pytest.raises(StageError, match="reward was made on another SFT adapter"):
        export_reward(other, tmp_path / "out")
    run.file("reward", "stage.json").unlink()
    with pytest.raises(StageError, match="the reward stage is not finished"):
        export_reward(run, tmp_path / "out")


def test_of_an_ensemble_one_is_chosen(tiny_model: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", tiny_model)
    run.config_path.write_text(run.config_path.read_text().replace("members: 1", "members: 2"))
    shutil.copytree(run.file("reward", "adapter"), run.file("reward", "adapter-2"))
    with pytest.raises(ConfigError, match=r"an ensemble is no single one\n  -> choose one: --member 1 to 2"):
        export_reward(run, tmp_path / "out")
    with pytest.raises(ConfigError, match="there is no member 3"):
        export_reward(run, tmp_path / "out", member=3)
    export_reward(run, tmp_path / "out", member=2)
