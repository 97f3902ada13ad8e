"""Policies that are exported answer elsewhere as they do in their run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlaif.config import NAMED
from rlaif.core.errors import ModelError, RunFolderError, StageError
from rlaif.core.evaluation import Cell, Measure, Summary
from rlaif.core.files import RunFolder, path_hash
from rlaif.core.records import WinRate
from rlaif.export import policy
from rlaif.export.policy import export_policy
from rlaif.export.source import adapters_of, base_of, finished
from rlaif.judge.load import parse
from rlaif.lm.local.load import load_model
from rlaif.run.open import open_run
from tests.export.runs import RANKS, make_run, record, write_adapter
from tests.tiny import make_tiny_model

IDS = torch.arange(5, 45).reshape(2, 20)


@pytest.fixture(scope="module")
def run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return make_run(tmp_path_factory.mktemp("export") / "my", tiny_model)


@pytest.fixture
def copied(run: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy of the run, to be damaged."""
    return RunFolder(Path(shutil.copytree(run.root, tmp_path / "copy")))


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS).logits
    return found.float()


def same(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """Equal up to the rounding of float32."""
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))


def own(run: RunFolder, which: Any) -> torch.Tensor:
    """By the run's own loading."""
    config = open_run(run.root).config
    return logits(load_model(config.model, adapters_of(run, config, which)[0]).model)


@pytest.mark.parametrize("which", ["sft", "policy"])
def test_an_adapter_answers_in_plain_peft_as_in_the_run(run: RunFolder, which: Any, tmp_path: Path) -> None:
    export_policy(run, which, tmp_path / "out", form="adapter")
    loaded = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    same(logits(loaded), own(run, which))
    assert (own(run, "policy") - own(run, "sft")).abs().max() > 0.1
    wanted = RANKS["sft"] if which == "sft" else RANKS["sft"] + RANKS["ppo"]
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["r"] == wanted
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template


@pytest.mark.parametrize("which", ["sft", "policy"])
def test_a_merged_model_answers_in_plain_transformers_as_in_the_run(run: RunFolder, which: Any, tmp_path: Path) -> None:
    export_policy(run, which, tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert loaded.dtype == torch.float32
    assert torch.equal(logits(loaded), own(run, which))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.chat_template
    assert tokenizer.eos_token_id in [loaded.generation_config.eos_token_id]
    assert list((tmp_path / "out").glob("*.safetensors"))


@pytest.mark.parametrize("arch", ["gpt2", "qwen3"])
def test_other_architectures(arch: Any, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", make_tiny_model(tmp_path / "model", arch))
    export_policy(run, "policy", tmp_path / "adapter", form="adapter")
    export_policy(run, "policy", tmp_path / "merged")
    wanted = own(run, "policy")
    one = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter", dtype=torch.float32)
    same(logits(one.eval()), wanted)
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype="auto")), wanted)


def test_bfloat16_stays_what_the_run_computed_in(tiny_model: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", tiny_model, dtype="bfloat16")
    export_policy(run, "policy", tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert loaded.dtype == torch.bfloat16
    config = open_run(run.root).config
    wanted = load_model(config.model, adapters_of(run, config, "policy")[0]).model.state_dict()
    found = loaded.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_the_dtype_is_the_run_s_and_not_this_machine_s(run: RunFolder) -> None:
    config = open_run(run.root).config
    auto = config.model_copy(update={"model": config.model.model_copy(update={"dtype": "auto", "device": "cuda:7"})})
    assert base_of(auto, finished(run, "sft")).dtype == "float32"


def test_a_run_with_labels_of_its_own_has_no_sft(tiny_model: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", tiny_model, given="mine.jsonl")
    with pytest.raises(StageError, match="this run has no SFT"):
        export_policy(run, "sft", tmp_path / "out")
    for form in ("adapter", "merged"):
        export_policy(run, "policy", tmp_path / form, form=form)  # type: ignore[arg-type]
    one = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter", dtype=torch.float32)
    same(logits(one), own(run, "policy"))
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype="auto")
    assert torch.equal(logits(merged), own(run, "policy"))
    text = (tmp_path / "merged" / "README.md").read_text()
    assert "Labels: given to the run in mine.jsonl" in text
    assert "rewrote" not in text


def aligned_by(run: RunFolder, *names: str) -> None:
    """The run's config from now on."""
    text = run.config_path.read_text()
    assert text.count("align_by:\n- ppo\n") == 1
    run.config_path.write_text(text.replace("align_by:\n- ppo\n", f"align_by: [{', '.join(names)}]\n"))


def test_a_policy_after_dpo(copied: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(
        StageError, match=r"no DPO: it is aligned by ppo\n  -> export policy, or run it: rlaif dpo --run"
    ):
        export_policy(copied, "dpo", tmp_path / "none")
    aligned_by(copied, "dpo")
    with pytest.raises(StageError, match=r"no PPO: it is aligned by dpo\n  -> export dpo"):
        export_policy(copied, "policy", tmp_path / "none")
    with pytest.raises(StageError, match="the dpo stage is not finished"):
        export_policy(copied, "dpo", tmp_path / "none")
    ppo = finished(copied, "ppo")
    write_adapter(copied, "dpo", open_run(copied.root).config.model, (copied.file("sft", "adapter"),), 5)
    copied.finish(record("dpo", ppo.inputs))
    export_policy(copied, "dpo", tmp_path / "adapter", form="adapter")
    export_policy(copied, "dpo", tmp_path / "merged")
    same(
        logits(AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter", dtype=torch.float32)), own(copied, "dpo")
    )
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype="auto")
    assert torch.equal(logits(merged), own(copied, "dpo"))
    text = (tmp_path / "merged" / "README.md").read_text()
    assert "then trained by DPO on the run's labels, with rlaif." in text
    assert "PPO" not in text


def test_how_a_turn_ends_is_written_down(tiny_model: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": [0], "temperature": 0.6, "top_p": 0.9}))
    run = make_run(tmp_path / "run", model)
    export_policy(run, "sft", tmp_path / "out")
    settings = AutoModelForCausalLM.from_pretrained(tmp_path / "out").generation_config
    assert settings.eos_token_id == [0, 2]
    assert (settings.do_sample, settings.temperature) == (True, 0.6)


# --- the card ---------------------------------------------------------------------------------------------------------


def evaluated(run: RunFolder) -> None:
    """Puts an evaluation into the run, of a slice whose name is hostile."""
    part = "a|b <img src=x>"
    cells = (
        Cell("sft", part, "harm", 20, 0.5, 0.4, 0.6),
        Cell("ppo", part, "harm", 20, 0.25, 0.2, 0.3, -0.25, -0.3, -0.2),
    )
    rates = (WinRate("ppo", "sft", part, 0.75, 0.6, 0.9, 20, 0),)
    summary = Summary(("sft", "ppo"), (part,), {"harm": Measure("gold harm (lower is better)", "lower")}, cells, rates)
    run.stage("evaluate")
    summary.write(run.file("evaluate", "summary.json"))
    hashes = {name: path_hash(run.root / name) for name in ("sft/adapter", "ppo/adapter")}
    run.finish(record("evaluate", hashes))


def test_the_card_has_the_evaluation_as_the_hub_reads_it(copied: RunFolder, tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    evaluated(copied)
    export_policy(copied, "policy", tmp_path / "out")
    card = ModelCard.load(tmp_path / "out" / "README.md")
    found = {(each.metric_type, each.metric_value) for each in card.data.eval_results}
    assert found == {("harm", 0.25), ("win_rate", 0.75)}
    assert card.data.library_name == "transformers"
    text = (tmp_path / "out" / "README.md").read_text()
    assert "then trained by PPO against the reward of a reward model, with rlaif." in text
    assert "Constitution: ours, version 2, 2 principles, hash `" in text
    assert "rlaif export policy --run copy --out out --form merged" in text
    assert r"| a\|b \<img src=x\> | gold harm (lower is better) | 20 | 0.250 (0.200 to 0.300) | −0.250 (" in text
    assert str(tmp_path) not in text


@pytest.mark.parametrize("name", NAMED)
def test_a_reward_with_a_name_of_its_own_is_told_in_words(name: str) -> None:
    config = parse({"prompts": {"a": {"source": "everyday"}}, "ppo": {"reward": name}}, where="test")
    assert "the function" not in policy._about("policy", config)


def test_an_evaluation_of_other_adapters_is_not_shown(copied: RunFolder, tmp_path: Path) -> None:
    evaluated(copied)
    (copied.file("ppo", "adapter") / "more.txt").write_text("changed")
    export_policy(copied, "policy", tmp_path / "out")
    assert "The run has no evaluation of these weights." in (tmp_path / "out" / "README.md").read_text()


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_stage_that_is_missing(copied: RunFolder, tmp_path: Path) -> None:
    copied.file("ppo", "stage.json").unlink()
    with pytest.raises(StageError, match=r"the ppo stage is not finished\n  -> rlaif ppo --run"):
        export_policy(copied, "policy", tmp_path / "out")
    export_policy(copied, "sft", tmp_path / "out")


def test_a_base_that_has_changed(tiny_model: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    run = make_run(tmp_path / "run", model)
    make_tiny_model(model, seed=1)
    with pytest.raises(ModelError, match="is not the one that the ppo stage stood on"):
        export_policy(run, "policy", tmp_path / "out")
    shutil.rmtree(model)
    with pytest.raises(ModelError, match="no such model folder"):
        export_policy(run, "policy", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_sft_adapter_that_ppo_did_not_stand_on(copied: RunFolder, tmp_path: Path) -> None:
    (copied.file("sft", "adapter") / "README.md").write_text("another")
    with pytest.raises(StageError, match="ppo was made on another SFT adapter"):
        export_policy(copied, "policy", tmp_path / "out")


def test_a_damaged_adapter_leaves_nothing_behind(copied: RunFolder, tmp_path: Path) -> None:
    file = copied.file("ppo", "adapter") / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    for form in ("adapter", "merged"):
        with pytest.raises(ModelError, match="adapter"):
            export_policy(copied, "policy", tmp_path / "out", form=form)  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_a_gguf_base_has_no_name_for_an_adapter(copied: RunFolder, tmp_path: Path, monkeypatch: Any) -> None:
    from rlaif.export import policy

    monkeypatch.setattr(policy, "source_of", lambda base: "gguf")
    with pytest.raises(ModelError, match=r"which no hub has(.|\n)*--form merged"):
        export_policy(copied, "policy", tmp_path / "out", form="adapter")
    export_policy(copied, "policy", tmp_path / "out", form="merged")
    assert "de-quantised from a GGUF file" in (tmp_path / "out" / "README.md").read_text()


def test_a_place_that_is_taken(run: RunFolder, tmp_path: Path) -> None:
    export_policy(run, "sft", tmp_path / "out", form="adapter")
    with pytest.raises(RunFolderError, match="exists and is not overwritten"):
        export_policy(run, "sft", tmp_path / "out", form="adapter")
    export_policy(run, "policy", tmp_path / "out", form="adapter", force=True)
    assert json.loads((tmp_path / "out" / "rlaif-export.json").read_text())["export"] == "policy"
