"""What `import rlaif` offers: a sorted list of names, each of them there, documented and in use, and nothing else."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from shutil import copytree

import pytest

import rlaif
from rlaif.core.errors import ConfigError, DataError, ModelError, StageError
from rlaif.core.records import Comparison, Message
from rlaif.core.yaml import dump_yaml
from rlaif.judge.load import load

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "python.md"


def test_every_name_is_there_and_nothing_else_is_public() -> None:
    assert rlaif.__all__ == sorted(rlaif.__all__)
    assert dir(rlaif) == rlaif.__all__
    assert [name for name in rlaif.__all__ if not hasattr(rlaif, name)] == []
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = rlaif.nothing


def test_the_names_for_type_checkers_are_the_names() -> None:
    tree = ast.parse(Path(rlaif.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    named = [alias.asname or alias.name for node in block.body for alias in node.names]  # type: ignore[attr-defined]
    assert sorted([*named, "__version__"]) == rlaif.__all__


def test_every_name_is_documented() -> None:
    code = re.findall(r"`[^`\n]+`|^```python.*?^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"\b\w+\b", " ".join(code)))
    assert [name for name in rlaif.__all__ if name not in named] == []


def test_importing_it_loads_no_library() -> None:
    heavy = ("torch", "pydantic", "numpy", "rich", "typer", "rlaif.core", "json")
    code = f"import sys, rlaif; print(*[name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == []


@pytest.mark.parametrize("page", ["docs/python.md", "README.md"])
def test_what_a_page_shows_works_from_top_to_bottom(page: str, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished)
    names: dict[str, object] = {}
    codes = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    ours = [code for code in codes if "load_dataset" not in code]
    assert ours
    for code in ours:
        exec(compile(code, page, "exec"), names)


def test_a_run_is_read_as_it_stands(finished: Path, tmp_path: Path) -> None:
    run = rlaif.open_run(finished / "runs" / "my")
    assert {label.comparison.prompt.id for label in run.labels()} <= {prompt.id for prompt in run.prompts()}
    assert {answer.model for answer in run.responses()} == {"base", "sft", "ppo"}
    assert {answer.model for answer in run.responses("label")} == {"sft"}
    assert [row["step"] for row in run.metrics("ppo")] == [0]
    with pytest.raises(rlaif.RlaifError, match="not a run"):
        rlaif.open_run(tmp_path)
    (tmp_path / "config.yaml").write_bytes((run.path / "config.yaml").read_bytes())
    (tmp_path / "constitution.yaml").write_bytes((run.path / "constitution.yaml").read_bytes())
    begun = rlaif.open_run(tmp_path)
    assert (begun.labels(), begun.stage("label")) == ([], None)
    with pytest.raises(DataError, match="rlaif evaluate --run"):
        begun.summary()
    with pytest.raises(DataError, match="rlaif sft --run"):
        begun.policy()


@pytest.mark.parametrize(
    ("method", "name", "said"),
    [
        ("stage", "labels", "there is no 'labels' here, did you mean 'label'?"),
        ("prompts", "test", "give one of train, held_out"),
        ("labels", "reward", "give one of label, evaluate"),
        ("responses", "evalute", "did you mean 'evaluate'?"),
        ("metrics", "label", "give one of sft, reward, ppo"),
        ("policy", "rl", "give one of base, sft, ppo"),
    ],
)
def test_a_wrong_name_is_no_empty_answer(finished: Path, method: str, name: str, said: str) -> None:
    with pytest.raises(rlaif.RlaifError) as caught:
        getattr(rlaif.open_run(finished / "runs" / "my"), method)(name)
    assert said in str(caught.value)


def test_a_run_is_read_without_its_plug_in(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    copytree(finished / "runs" / "my", run)
    config = load(run / "config.yaml").model_dump(mode="json", exclude_defaults=True)
    config["judge"] = {"method": "gone:METHOD"}
    (run / "config.yaml").write_text(dump_yaml(config), encoding="utf-8")
    assert rlaif.open_run(run).labels()
    with pytest.raises(ConfigError, match="cannot import the judging method 'gone:METHOD'"):
        rlaif.load_judge(run)


def test_a_judge_of_a_run_gives_its_labels_again(finished: Path) -> None:
    run = rlaif.open_run(finished / "runs" / "my")
    judge = rlaif.load_judge(run)
    kept = run.labels()
    again = judge.label([label.comparison for label in kept])
    assert [label.prob_a for label in again] == [label.prob_a for label in kept]
    assert judge.asks_model
    assert judge.usage.calls == 0  # what was asked once is in the cache


def test_a_judge_of_a_config_and_by_the_defaults(finished: Path) -> None:
    pair = Comparison.of_texts("How?", "So.", "Otherwise.")
    by_file = rlaif.load_judge(finished / "rlaif.yaml", set=["judge.method=random"])
    assert not by_file.asks_model
    (label,) = by_file.label([pair])
    assert label.prob_a is not None
    assert label.constitution_hash == rlaif.load_constitution(finished / "constitution.yaml").hash
    own = rlaif.load_judge(model=rlaif.open_model(backend="scripted"), set=["judge.method=pairwise"])
    assert own.label([pair])[0].prob_a is not None


def test_rewards_take_texts_and_messages(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = rlaif.open_run(finished / "runs" / "my")
    reward = rlaif.load_reward(run)
    plain = reward(["How do I bake bread?", "Why?"], ["Mix flour and water.", "So."])
    chats = [[{"role": "user", "content": text}] for text in ("How do I bake bread?", "Why?")]
    answers = [[{"role": "assistant", "content": text}] for text in ("Mix flour and water.", "So.")]
    assert reward(prompts=chats, completions=answers, completion_ids=[[1], [2]]) == plain
    assert len(set(plain)) == 2
    by_judge = rlaif.load_reward(run.path, "judge")
    with pytest.raises(DataError, match="no answer to compare with"):
        by_judge(["never asked"], ["So."])
    asked = {prompt.id: prompt.text for prompt in run.prompts()}
    answer = run.responses("label")[0]
    assert None not in by_judge([asked[answer.prompt_id]] * 2, [answer.text, "So."])
    with pytest.raises(ConfigError, match=r"belongs to a run(.|\n)*write load_reward\(run, \"model\"\)"):
        rlaif.load_reward()
    with pytest.raises(ConfigError, match=r"and 'judge' is none(.|\n)*write load_reward\(run, "):
        rlaif.load_reward("judge")
    with pytest.raises(ConfigError, match=r"write load_reward\(source=\"own_rewards:odd\"\)"):
        rlaif.load_reward("own_rewards:odd")
    (finished / "own_rewards.py").write_text(
        "def odd(prompts, completion_ids, responses):\n"
        "    return [None if text == 'So.' else len(ids) for ids, text in zip(completion_ids, responses)]\n"
    )
    monkeypatch.syspath_prepend(finished)
    own = rlaif.load_reward(source="own_rewards:odd")
    assert own.__name__ == "odd"
    assert own(["a", "b"], ["x", "So."], completion_ids=[[1, 2, 3], [4]]) == [3.0, None]


def copy_of(finished: Path, tmp_path: Path) -> rlaif.Run:
    return rlaif.open_run(copytree(finished / "runs" / "my", tmp_path / "run"))


def test_a_reward_of_half_a_run_or_on_another_base_is_refused(finished: Path, tmp_path: Path) -> None:
    run = copy_of(finished, tmp_path)
    head = run.path / "reward" / "adapter" / "reward_head.safetensors"
    kept = head.read_bytes()
    head.unlink()
    with pytest.raises(ModelError, match="this file of a reward model is missing or damaged"):
        rlaif.load_reward(run)
    head.write_bytes(kept)
    base = copytree(finished / "model", tmp_path / "model")
    rlaif.load_reward(run, set=[f"model.source={base}"])  # the same one, at another place
    (base / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    with pytest.raises(ModelError, match="the base model is not the one that the reward stage stood on"):
        rlaif.load_reward(run, set=[f"model.source={base}"])
    with pytest.raises(StageError, match="the judge model is not the one that the run's labels were made by"):
        rlaif.load_reward(run, "judge", set=[f"model.source={base}"])
    rules = run.path / "constitution.yaml"
    written = rules.read_text()
    rules.write_text(written.replace("statement: ", "statement: Above all, ", 1))
    with pytest.raises(StageError, match=r"the constitution is not the one(.|\n)*rlaif label --run"):
        rlaif.load_reward(run.path)
    rules.write_text(written)
    (run.path / "sft" / "adapter" / "more.json").write_text("{}")
    with pytest.raises(StageError, match="made on another SFT adapter"):
        rlaif.load_reward(run)
    (run.path / "reward" / "stage.json").unlink()
    with pytest.raises(StageError, match=r"the reward stage is not finished\n  -> rlaif reward --run"):
        rlaif.load_reward(run)
    (run.path / "label" / "stage.json").unlink()
    with pytest.raises(StageError, match="the label stage is not finished"):
        rlaif.load_reward(run, "judge")
    with pytest.raises(rlaif.RlaifError, match="is not a run of rlaif"):
        rlaif.load_reward(tmp_path)


def test_a_reward_says_on_whose_word_it_stands(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy_of(finished, tmp_path)
    with pytest.raises(StageError, match=r"the judge has no card yet(.|\n)*in Python set=\[\"card.required=false\"\]"):
        rlaif.load_reward(run, set=["card.required=true"])
    reward = rlaif.load_reward(run)
    assert reward.about["constitution"] == {"name": run.constitution.name, "hash": run.constitution.hash}
    said = capsys.readouterr().err
    assert said.startswith("run, model: a judge without a card")
    assert said.endswith(f"{reward.about['says']}\n")


def test_records_of_plain_texts() -> None:
    pair = rlaif.Comparison.of_texts("How?", "So.", "Otherwise.")
    assert pair.prompt.messages == (Message("user", "How?"),)
    assert (pair.a.text, pair.b.text, pair.a.prompt_id) == ("So.", "Otherwise.", pair.prompt.id)
    assert rlaif.Comparison.of_texts(pair.prompt, "So.", "Otherwise.").id == pair.id


def test_a_wrong_field_of_a_model_is_an_error_of_ours() -> None:
    with pytest.raises(ConfigError, match="did you mean 'batch_size'"):
        rlaif.open_model("embedded", batchsize=3)
