"""Exported rows say what the labels say, and TRL's trainers take them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import load_dataset

from rlaif.core.errors import ConfigError, DataError, StageError
from rlaif.core.files import JsonlFile, RunFolder
from rlaif.core.records import FailedAnswer, Failure, PreferenceLabel, Prompt, to_json
from rlaif.export.card import constitution_of
from rlaif.export.data import SHAPES, DataRequest, Shape, export_data
from rlaif.export.splits import DataSplit
from tests.export.runs import RULES, add_records, label, make_config, record
from tests.gold.needs import needs


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run with labels of known numbers; no model."""
    run = make_config(tmp_path / "my", Path("no-model"))
    add_records(run, constitution_of(run).hash)
    run.finish(record("sft", {}))
    return run


def rows(
    run: RunFolder, out: Path, shape: Shape, file_format: Any = "parquet", *, force: bool = False, **more: Any
) -> list[dict[str, Any]]:
    export_data(run, out, DataRequest(shape, file_format, **more), force=force)
    return list(load_dataset(str(out), split="train"))


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


@pytest.mark.parametrize("file_format", ["parquet", "jsonl"])
def test_preferences(run: RunFolder, tmp_path: Path, file_format: Any) -> None:
    found = rows(run, tmp_path / "out", "preference", file_format)
    assert [round(row["prob_chosen"], 6) for row in found] == [0.9, 0.75, 0.55, 0.8]
    first, second, _, last = found
    assert first["prompt"] == [turn("user", "Hard question 0?")]
    assert (first["prompt_columns"], last["prompt_columns"]) == ('{"n": 0}', "")
    assert (first["chosen"], first["rejected"]) == ([turn("assistant", "I can help you.")], [turn("assistant", "No.")])
    assert [turn["role"] for turn in last["prompt"]] == ["system", "user", "assistant", "user"]
    # B is chosen with 1 - 0.25, and was cut off
    assert second["chosen"] == [turn("assistant", "Let us bake bread.")]
    assert (second["chosen_finished"], second["rejected_finished"]) == (False, True)
    assert second["margin"] == pytest.approx(0.5)
    # "kind" said 0.35 and 0.25 of A in its two orders, "brief" 0.25
    votes = {vote["principle"]: vote["prob_chosen"] for vote in second["principle_votes"]}
    assert votes == {"kind": pytest.approx(0.7), "brief": pytest.approx(0.75)}
    assert {row["constitution_hash"] for row in found} == {constitution_of(run).hash}
    assert {row["judge_card"] for row in found} == {"card"}


def test_the_other_shapes(run: RunFolder, tmp_path: Path) -> None:
    whole = rows(run, tmp_path / "implicit", "implicit")[3]
    assert whole["chosen"][-2:] == [turn("user", "How?"), turn("assistant", "Well, thank you.")]
    assert whole["rejected"][-1] == turn("assistant", "Bad.")
    kto = rows(run, tmp_path / "kto", "kto")
    assert [row["label"] for row in kto] == [True, False] * 4
    assert kto[1]["completion"] == [turn("assistant", "No.")]
    prompts = rows(run, tmp_path / "prompts", "prompt-only")
    assert (len(prompts), prompts[-1]["tags"]) == (5, ["chat"])
    sft = rows(run, tmp_path / "sft", "sft")
    assert [row["messages"][-1]["content"] for row in sft] == ["I would rather help you.", "Well, thank you."]


def test_another_export_of_that_name_is_not_read_from_the_cache(run: RunFolder, tmp_path: Path) -> None:
    assert len(rows(run, tmp_path / "out", "preference")) == 4
    assert len(rows(run, tmp_path / "out", "kto", force=True)) == 8
    assert len(rows(run, tmp_path / "elsewhere" / "out", "preference", min_confidence=0.7)) == 3


def test_what_is_asked_for_and_why_the_rest_is_left_out(run: RunFolder, tmp_path: Path) -> None:
    found = export_data(run, tmp_path / "out", DataRequest(min_confidence=0.7, slices=("hard",)))
    assert found.rows == 2
    assert found.left_out == {
        "another slice": 1,
        "below --min-confidence": 1,
        "a tie": 1,
        "the judge failed: refused": 1,
        "no preference: abstained": 1,
    }
    assert sum(found.left_out.values()) + found.rows == 7


def test_the_card(run: RunFolder, tmp_path: Path) -> None:
    lost = FailedAnswer("p", "sft", 0, Failure("empty", "nothing said"))
    JsonlFile(run.file("label", "failures.jsonl"), FailedAnswer).append([lost])
    export_data(run, tmp_path / "out", DataRequest(min_confidence=0.6))
    text = (tmp_path / "out" / "README.md").read_text()
    for said in (
        f"```yaml\n{RULES}",
        f"hash `{constitution_of(run).hash}`",
        "| left out: the judge failed: refused | 1 | will not say |",
        "| left out: below --min-confidence | 1 |  |",
        "| rows here | 3 |  |",
        "1 answers could not be sampled (1 empty)",
        "| it is the longer one, where one is | 100.0 % |",
        "Asked: judge by `pairwise`",
        "The labels stand on the card `card`, which is not in the run",
        "Cost: 1.5 minutes of the stage label on a CPU, 2 cores, 21 judge calls, 900 judge prompt tokens",
        "rlaif export data --run my --out out --shape preference --format parquet --min-confidence 0.6",
        "temperature 1, at most 80 tokens",
    ):
        assert said in text
    assert str(tmp_path) not in text
    assert json.loads((tmp_path / "out" / "rlaif-export.json").read_text())["rows"] == 3


def test_labels_of_the_user_s_own_are_not_said_to_be_a_judge_s(tmp_path: Path) -> None:
    run = make_config(tmp_path / "my", Path("no-model"), given="mine.jsonl")
    add_records(run, "of another run")
    assert export_data(run, tmp_path / "out", DataRequest()).rows == 4
    text = (tmp_path / "out" / "README.md").read_text()
    assert "by labels that were given to a run" in text
    assert "Labels: given to the run in mine.jsonl; no judge made them" in text
    assert "## The judge" not in text
    assert "```yaml" not in text


def test_texts_of_a_model_stay_texts(run: RunFolder, tmp_path: Path) -> None:
    """Half a character, which JSON can hold, is written out; Markdown and a fence in the constitution do nothing."""
    run.constitution_path.write_text(RULES.replace("Be kind.", "'```Be [kind](x).'"))
    run.file("label", "labels.jsonl").unlink()
    labels = add_records(run, constitution_of(run).hash)
    odd = json.dumps({**to_json(labels[0]), "id": "odd"}).replace("I can help you.", "half \\ud83d")
    with run.file("label", "labels.jsonl").open("a") as file:
        file.write(odd + "\n")
    for file_format in ("parquet", "jsonl"):
        found = rows(run, tmp_path / file_format, "preference", file_format)
        assert found[-1]["chosen"] == [turn("assistant", "half \\ud83d")]
    assert "````yaml\n" in (tmp_path / "jsonl" / "README.md").read_text()


# --- sifting and splits -----------------------------------------------------------------------------------------------


def add_pairs(run: RunFolder, *pairs: tuple[str, str, str, float]) -> None:
    """More labels: prompt, answers A and B, P(A)."""
    made = [
        label(Prompt.of_text(text, "hard"), a, b, prob_a, constitution_of(run).hash) for text, a, b, prob_a in pairs
    ]
    JsonlFile(run.file("label", "labels.jsonl"), PreferenceLabel).append(made)


def test_agreement_and_principles(run: RunFolder, tmp_path: Path) -> None:
    """Of the run's four labels with a preference, both principles prefer the chosen answer but in one: there, with P(A)
    0.48 for "brief" and 0.53 for "kind", only "brief" prefers B."""
    add_pairs(run, ("Anything else?", "Aha.", "Well.", 0.48))
    found = export_data(run, tmp_path / "all", DataRequest(min_agreement=0.5))
    assert found.rows == 5
    found = export_data(run, tmp_path / "agreed", DataRequest(min_agreement=0.6))
    assert (found.rows, found.left_out["below --min-agreement"]) == (4, 1)
    assert export_data(run, tmp_path / "brief", DataRequest(principles=("brief",))).rows == 5
    found = export_data(run, tmp_path / "kind", DataRequest(principles=("kind", "brief")))
    assert (found.rows, found.left_out["a principle of --principle does not prefer the chosen answer"]) == (4, 1)
    with pytest.raises(ConfigError, match=r"no principle 'kid', did you mean 'kind'"):
        export_data(run, tmp_path / "out", DataRequest(principles=("kid",)))


def test_balance(run: RunFolder, tmp_path: Path) -> None:
    """In "hard" two pairs prefer the longer answer and two the shorter one, and one an answer that alone was cut; in
    "easy" the only pair prefers the longer answer."""
    add_pairs(run, ("One?", "Short.", "Rather long.", 0.9), ("Two?", "Rather long.", "Short.", 0.8))
    found = export_data(run, tmp_path / "out", DataRequest(balance=True))
    data = list(load_dataset(str(tmp_path / "out"), split="train"))
    longer = [len(row["chosen"][0]["content"]) > len(row["rejected"][0]["content"]) for row in data]
    ended = [row["chosen_finished"] for row in data]
    assert (sum(longer), len(longer), found.rows) == (2, 4, 4)
    assert all(ended)
    assert {row["slice"] for row in data} == {"hard"}
    assert "| it is the longer one, where one is | 50.0 % |" in (tmp_path / "out" / "README.md").read_text()
    assert sum(found.left_out.values()) + found.rows == 9


@needs("datasketch")
def test_near_duplicates_and_splits(run: RunFolder, tmp_path: Path) -> None:
    base = "Which of the {} breads from the corner shop keeps fresh for the longest time?"
    names = ["rye", "white", "wheat", "oat", "spelt", "corn", "rice", "barley", "millet", "potato"]
    texts = [f"{name} {name[::-1]} {name * 3} {base[n : n + 12]}" for n, name in enumerate(names)]
    add_pairs(run, *((text, "Yes.", "No, no.", 0.9) for text in texts))
    add_pairs(run, *((f"{text.upper()}?!", "Aye.", "Never.", 0.8) for text in texts))  # each nearly once more
    add_pairs(run, (texts[0], "Indeed.", "Hardly.", 0.7))  # the prompt itself once more, which is none

    request = DataRequest(splits=(DataSplit("test", 0.2), DataSplit("dev", 0.2)))
    found = export_data(run, tmp_path / "out", request)
    data = load_dataset(str(tmp_path / "out"))
    assert {name: len(part) for name, part in data.items()} == found.splits
    assert found.rows == 25 == sum(found.splits.values())
    said = {name: {plain(row["prompt"][-1]["content"]) for row in part} for name, part in data.items()}
    for one, other in (("train", "test"), ("train", "dev"), ("test", "dev")):
        assert not said[one] & said[other]
    assert all(said.values())
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"| of these in test | {found.splits['test']} |" in card
    assert "The splits are by prompt, drawn with the seed 0" in card
    assert "--split test=0.2 --split dev=0.2" in card

    once = export_data(run, tmp_path / "once", DataRequest(near_duplicates=0.8, splits=request.splits))
    assert (once.rows, once.left_out["the prompt nearly repeats an earlier one"]) == (13, 12), (
        "the run's three hard questions differ in a digit alone"
    )
    card = (tmp_path / "once" / "README.md").read_text()
    assert "| left out: the prompt nearly repeats an earlier one | 12 |" in card
    assert "share at least 80% of their pieces of five letters" in card

    prompts = export_data(run, tmp_path / "prompts", DataRequest("prompt-only", splits=(DataSplit("test", 0.3),)))
    assert prompts.splits == {"train": 4, "test": 1}, "and four of them are one group"


def plain(text: str) -> str:
    return text.lower().rstrip("?!")


# --- what is refused --------------------------------------------------------------------------------------------------


def test_what_cannot_be_asked_for(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no slice 'hart', did you mean 'hard'"):
        export_data(run, tmp_path / "out", DataRequest(slices=("hart",)))
    with pytest.raises(ConfigError, match="rows of the shape sft have no label"):
        export_data(run, tmp_path / "out", DataRequest("sft", min_confidence=0.7))
    with pytest.raises(DataError, match=r"no row is left \(4 below --min-confidence"):
        export_data(run, tmp_path / "out", DataRequest(min_confidence=0.99))
    assert not (tmp_path / "out").exists()


def test_labels_under_another_constitution_than_the_one_that_would_be_shown(run: RunFolder, tmp_path: Path) -> None:
    run.constitution_path.write_text(RULES.replace("Be kind.", "Be cruel."))
    with pytest.raises(DataError, match="is not the constitution that the records were made under"):
        export_data(run, tmp_path / "out", DataRequest())


def test_a_stage_that_is_not_finished(run: RunFolder, tmp_path: Path) -> None:
    run.file("label", "stage.json").unlink()
    run.file("sft", "stage.json").unlink()
    for shape, stage in (("kto", "label"), ("sft", "sft")):
        with pytest.raises(StageError, match=f"the {stage} stage is not finished"):
            export_data(run, tmp_path / "out", DataRequest(shape))  # type: ignore[arg-type]


# --- TRL --------------------------------------------------------------------------------------------------------------


def trainer(shape: Shape, model: Path, data: Any, folder: Path) -> Any:
    """The trainer of TRL that takes the shape, about to do one step."""
    import trl
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    plan = {
        "output_dir": str(folder),
        "max_steps": 1,
        "per_device_train_batch_size": 4,
        "report_to": [],
        "use_cpu": True,
    }
    plan |= {"bf16": False, "gradient_checkpointing": False, "save_strategy": "no", "disable_tqdm": True}
    tokenizer = AutoTokenizer.from_pretrained(model)
    if shape == "implicit":
        scorer = AutoModelForSequenceClassification.from_pretrained(model, num_labels=1)
        return trl.RewardTrainer(scorer, trl.RewardConfig(**plan), train_dataset=data, processing_class=tokenizer)
    made: dict[str, tuple[Any, Any]] = {
        "preference": (trl.DPOTrainer, trl.DPOConfig),
        "kto": (trl.KTOTrainer, trl.KTOConfig),
        "sft": (trl.SFTTrainer, trl.SFTConfig),
    }
    kind, config = made[shape]
    return kind(str(model), args=config(**plan), train_dataset=data, processing_class=tokenizer)


@pytest.mark.slow
@pytest.mark.parametrize("file_format", ["parquet", "jsonl"])
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape != "prompt-only"])
def test_the_trainers_of_trl_take_the_files(
    run: RunFolder, tiny_model: Path, tmp_path: Path, shape: Shape, file_format: Any
) -> None:
    export_data(run, tmp_path / "out", DataRequest(shape, file_format))
    data = load_dataset(str(tmp_path / "out"), split="train")
    assert len(data) == {"kto": 8, "sft": 2}.get(shape, 4)
    done = trainer(shape, tiny_model, data, tmp_path / "trained").train()
    assert done.global_step == 1
    assert done.training_loss > 0
