"""The command line as a user meets it: exit codes, messages, JSON, and that nothing is overwritten."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from rlaif import __version__
from rlaif.check import config as check
from rlaif.config import RunConfig
from rlaif.core.files import JsonlFile
from rlaif.core.records import (
    Comparison,
    Critique,
    FailedAnswer,
    Failure,
    Message,
    PreferenceLabel,
    Prompt,
    Response,
    Revision,
    RevisionRound,
    RevisionTrace,
    Verdict,
)
from rlaif.inputs.prompt_sets import split_prompts
from rlaif.judge.load import load, parse
from rlaif.run.dry_run import ASSUMED, plan
from rlaif.stages import table as stages
from tests import stub_stages
from tests.fault_server import Answer, Behaviour, chat, error, serving
from tests.output import rlaif
from tests.report.fake_run import write_run


@pytest.fixture
def project(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What `rlaif init` writes, with the tiny model, and the stub in the place of every stage; its rlaif.yaml."""
    stub_stages.install(set_module=lambda name, module: monkeypatch.setitem(sys.modules, name, module))
    assert rlaif("init", tmp_path).exit_code == 0
    file = tmp_path / "rlaif.yaml"
    file.write_text(file.read_text().replace("source: embedded", f"source: {tiny_model}"))
    return file


def test_version_and_help() -> None:
    assert rlaif("--version").output == f"rlaif {__version__}\n"
    listed = rlaif("--help").output
    assert all(verb in listed for verb in ("run", *stages.TABLE, "show", "check", "env", "init"))


def test_init_writes_every_field_with_its_default(project: Path) -> None:
    given = load(project).model_dump()
    defaults = parse({"prompts": given["prompts"]}, where="test").model_dump()
    for name in ("model", "constitution"):
        given.pop(name), defaults.pop(name)
    assert given == defaults
    text = project.read_text()
    assert [part["principles"] for part in given["prompts"].values()] == [
        ["harm", "honesty", "safety", "privacy"],
        ["helpful"],
    ]
    tables = [name for name, info in RunConfig.model_fields.items() if name != "prompts"]
    assert all(f"\n{name}:" in text for name in tables)
    assert "kl_target: null" in text
    assert "clamp: [0.4, 0.6]" in text
    assert "contrast | pairwise | cot | rating | random" in text


def test_init_overwrites_nothing(project: Path) -> None:
    before = project.read_text()
    result = rlaif("init", project.parent)
    assert result.exit_code == 5
    assert "exists and is not overwritten" in result.stderr
    assert project.read_text() == before


def test_what_init_writes_passes_check(project: Path) -> None:
    result = rlaif("check", project)
    assert result.exit_code == 0, result.output
    assert "failed" not in result.stdout
    assert "18 to train on, 6 held out" in result.stdout


@pytest.mark.parametrize(
    ("override", "code", "message"),
    [
        ("constitution=harmles-and-kind", 3, "failed  constitution"),
        ("prompts.mine.principles=[nowhere]", 2, "'nowhere' is no id or tag"),
        ("prompts.mine.source=none.jsonl", 3, "failed  prompts"),
        ("model.source=./nowhere", 4, "failed  model"),
        ("model.source=nobody/nothing", 4, "HF_HUB_OFFLINE"),
        ("judge.source=./nowhere", 4, "failed  judge"),
        ("ppo.reward=shorter", 2, "failed  config"),
        ("ppo.reward=no_such_module:f", 2, "no module 'no_such_module'"),
        ("ppo.kl_coeff=1", 2, "did you mean 'kl_coef'"),
        ("ppo.keep=best", 2, "set eval_steps to 1 or more"),
    ],
)
def test_check_names_what_fails_and_what_to_do(project: Path, override: str, code: int, message: str) -> None:
    result = rlaif("check", project, "--set", override)
    assert result.exit_code == code, result.output
    assert message in result.stdout
    found = json.loads(rlaif("check", project, "--set", override, "--json").stdout)
    assert not found["ok"]
    assert [item["exit_code"] for item in found["checks"] if not item["ok"]] == [code]


def test_check_wants_the_gold_that_chooses_the_policy(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "installed", lambda module: module != "vaderSentiment")
    words = ["check", project, "--set", "ppo.eval_steps=5", "--set", "ppo.gold=[sentiment]"]
    measured = rlaif(*words)
    assert measured.exit_code == 0, measured.output
    assert "sentiment" in measured.stdout
    chosen = rlaif(*words, "--set", "ppo.keep=best", "--set", "ppo.best_by=sentiment")
    assert chosen.exit_code != 0
    assert "pip install vaderSentiment" in chosen.stdout


def _asking(url: str) -> list[str]:
    """The options that make a server the judge."""
    fields = ("backend=openai", "method=pairwise", "source=m", "api_key_env=TEST_KEY", f"base_url={url}")
    return [word for field in fields for word in ("--set", f"judge.{field}")]


def _judging(body: dict[str, Any], _: int) -> Answer:
    """Judges by letters, except what is too long for it."""
    shown = body["messages"][-2]["content"]
    if len(shown.split()) > 1000:
        return error(400, "This model's maximum context length is 1000 tokens")
    return chat("A", positions=[("A", -0.5, [("A", -0.5), ("B", -1.0)])])


def test_check_asks_the_judge_about_one_pair(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("TEST_KEY", "right")

    with serving(_judging) as server:
        words = ["check", project, *_asking(server.url)]
        good = rlaif(*words)
        assert good.exit_code == 0, good.stdout
        assert "judged a made-up pair of the longest answers (2 calls, 20 tokens)" in good.stdout
        assert server.seen[0].key == "Bearer right"
        shown = server.bodies()[0]["messages"][-2]["content"]
        assert shown.count("some") >= 80, "as long as label.max_new_tokens lets an answer be"
        overflow = rlaif(*words, "--set", "label.max_new_tokens=600")
        assert (overflow.exit_code, "answers of 600 tokens do not fit" in overflow.stdout) == (4, True)
        assert len(server.seen) == 4
        nothing = rlaif(*words, "--set", "constitution=no-such-file.yaml")
        assert "not asked, because there is nothing to ask about" in nothing.stdout
        assert len(server.seen) == 4


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        (lambda *_: error(401, "bad key"), "TEST_KEY"),
        (lambda *_: error(404, "the model `m` does not exist"), "check judge.source"),
        (lambda *_: chat("A"), "no log-probs"),
        (lambda *_: error(500, "still loading"), "still loading"),
    ],
)
def test_check_says_what_is_wrong_with_a_server(
    project: Path, behaviour: Behaviour, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(behaviour) as server:
        words = ["check", project, *_asking(server.url)]
        wrong = rlaif(*words)
        assert (wrong.exit_code, message in wrong.stdout) == (4, True), wrong.stdout
        assert len(server.seen) <= 2, "nothing is tried again"
    gone = rlaif(*words)
    assert (gone.exit_code, "cannot reach the server" in gone.stdout) == (4, True)


def test_run_resume_and_verbs(project: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = rlaif("revise", project, "--out", out, "--json")
    assert first.exit_code == 0, first.output
    answer = json.loads(first.stdout)
    assert answer["run"] == str(out)
    assert answer["stages"]["revise"]["outcome"] == "done"
    assert answer["stages"]["revise"]["counts"] == {"written": 18.0}
    again = rlaif("revise", project, "--out", out)
    assert again.exit_code == 5
    assert "--resume" in again.stderr
    assert "--force" in again.stderr
    # The verbs find their config in the run.
    assert rlaif("sft", "--run", out).exit_code == 0
    kept = json.loads(rlaif("revise", "--run", out, "--resume", "--json").stdout)
    assert kept["stages"]["revise"]["outcome"] == "kept"
    changed = rlaif("label", "--run", out, "--set", "seed=1")
    assert changed.exit_code == 5
    assert "seed (was 0, now 1)" in changed.stderr


def test_errors_have_no_traceback_and_json_has_them_as_an_object(project: Path, tmp_path: Path) -> None:
    result = rlaif("reward", project, "--out", tmp_path / "out", "--json")
    assert result.exit_code == 6
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr
    error = json.loads(result.stdout)["error"]
    assert error["kind"] == "StageError"
    assert "rlaif sft" in error["remedy"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["run"], 2, "which run?"),
        (["run", "none.yaml"], 2, "no such file"),
        (["sft", "--run", "nowhere"], 5, "not a run of rlaif"),
        (["show", "nowhere"], 5, "not a run of rlaif"),
        (["report", "nowhere"], 5, "not a run of rlaif"),
        (["run", "none.yaml", "--resume", "--force"], 2, "give one of them"),
        (["run", "none.yaml", "--limit", "0"], 2, "limit"),
        (["labl", "none.yaml"], 2, "Did you mean 'label'?"),
        (["trian", "none.yaml"], 2, "There are: init, check, run"),
        (["constitution", "chekc"], 2, "'check'"),
    ],
)
def test_wrong_words_are_answered(words: list[str], code: int, message: str) -> None:
    result = rlaif(*words)
    assert result.exit_code == code
    assert message in result.stderr


def test_a_path_that_cannot_be_one_is_named(tmp_path: Path) -> None:
    result = rlaif("show", tmp_path / ("x" * 300))
    assert result.exit_code == 7
    assert f"error: {tmp_path}" in result.stderr
    assert "File name too long" in result.stderr


def test_an_unexpected_error_keeps_its_traceback(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(_: object) -> dict[str, float]:
        raise ZeroDivisionError

    monkeypatch.setattr(sys.modules["rlaif.stages.revise"], "run", breaks)
    assert isinstance(rlaif("revise", project, "--out", tmp_path / "out").exception, ZeroDivisionError)


def test_ctrl_c_where_nothing_can_be_resumed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(_: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rlaif.run.init.init_project", interrupted)
    result = rlaif("init", tmp_path)
    assert (result.exit_code, result.stderr) == (130, "interrupted\n")


def test_report_verb_builds_from_the_folder_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_run(out)
    result = rlaif("report", out)
    assert result.exit_code == 0, result.output
    assert "Content-Security-Policy" in (out / "report.html").read_text()
    assert json.loads(rlaif("report", out, "--json").stdout) == {"report": str(out / "report.html")}
    assert rlaif("report", tmp_path).exit_code != 0


def test_env_says_what_the_machine_has() -> None:
    found = json.loads(rlaif("env", "--json").stdout)
    assert found["rlaif"] == __version__
    assert found["dtype"] in ("bfloat16", "float32")
    assert {"hardware", "threads", "cache", "garak"} <= found.keys()


# --- dry run ----------------------------------------------------------------------------------------------------------


def test_dry_run_counts_by_hand(project: Path) -> None:
    config = load(project)
    train, held_out = split_prompts(config.prompts, config.seed)
    work = {row.stage: row for row in plan(config, train, held_out, principles=7, limit=None, gold=24).stages}
    # 24 unit tests, 20 of them again, 17 attacks on 12: each of two answers, read twice under one principle.
    assert work["card"].judge_calls == (24 + 20 + 17 * 12) * 2 * 2
    # 18 training prompts, 6 of them revised: 18 answers, 6 critiques, 6 revisions; the judge reads 12 texts twice
    # under each of 7 principles.
    assert (work["revise"].generations, work["revise"].judge_calls) == (30, 12 * 2 * 7)
    assert work["revise"].generated_tokens == 24 * 80 + 6 * 48
    assert (work["label"].generations, work["label"].judge_calls) == (72, 72 * 2 * 7)
    assert work["ppo"].generations == 10 * 32
    validating = config.model_copy(update={"ppo": config.ppo.model_copy(update={"eval_steps": 4})})
    more = {row.stage: row for row in plan(validating, train, held_out, principles=7, limit=None).stages}["ppo"]
    assert more.generations == 10 * 32 + 9 * 4  # after 0, 4, 8 and 10 steps; half of the prompts are set aside
    assert more.trained_tokens == work["ppo"].trained_tokens
    assert work["evaluate"].generations == 6 * 2 * 3
    assert work["evaluate"].seconds(ASSUMED) > 0
    limited = plan(config, train, held_out, principles=7, limit=2).stages[1]
    assert (limited.prompts, limited.generations) == (4, 4 + 2 + 2)


def test_dry_run_of_the_judge_as_the_reward(project: Path) -> None:
    words = ["run", project, "--dry-run", "--json", "--set", "ppo.reward=judge"]
    contrast = json.loads(rlaif(*words).stdout)["stages"][5]
    by_model = json.loads(rlaif(*words[:-2]).stdout)["stages"][5]
    # 10 steps of 32 rollouts, each read twice under each of 8 principles, or put beside 4 references in both orders.
    assert (by_model["judge_calls"], contrast["judge_calls"]) == (0, 320 * 2 * 8)
    assert contrast["scored_tokens"] > by_model["scored_tokens"]
    pairwise = json.loads(rlaif(*words, "--set", "judge.method=pairwise").stdout)["stages"][5]
    assert pairwise["judge_calls"] == 320 * 4 * 2 * 8


def test_dry_run_of_other_judges(project: Path) -> None:
    words = ["run", project, "--dry-run", "--json", "--set"]
    pairwise = json.loads(rlaif(*words, "judge.method=pairwise").stdout)
    assert pairwise["stages"][3]["judge_calls"] == 18 * 6 * 2 * 8
    cot = json.loads(rlaif(*words, "judge.method=cot", "--set", "judge.rationale_tokens=50").stdout)["stages"][3]
    sides = 18 * 6 * 2 * 8  # for each a rationale and then a letter
    assert cot["judge_calls"] == 2 * sides
    assert cot["generated_tokens"] == pairwise["stages"][3]["generated_tokens"] + sides * 50
    assert cot["scored_tokens"] == 2 * pairwise["stages"][3]["scored_tokens"] + sides * 50
    rating = json.loads(rlaif(*words, "judge.method=rating").stdout)["stages"][3]
    assert rating["judge_calls"] == 18 * 4 * 8
    assert rating["scored_tokens"] == 18 * 4 * 8 * (120 + 80)
    assert "assumed" in pairwise["basis"]
    assert json.loads(rlaif(*words, "judge.method=random").stdout)["stages"][3]["judge_calls"] == 0
    assert not (Path("runs") / "rlaif").exists()
    table = rlaif("run", project, "--dry-run").stdout
    assert "label" in table
    assert "guess from assumed rates" in table


# --- show -------------------------------------------------------------------------------------------------------------

NASTY = "[red]not red[/red] \x1b[31mnor this\x1b[0m [/]"


@pytest.fixture
def filled_run(project: Path, tmp_path: Path) -> Path:
    """A run folder with one good and one failed trace and label, of text that tries to be markup."""
    out = tmp_path / "out"
    assert rlaif("revise", project, "--out", out).exit_code == 0
    prompt = Prompt((Message("user", NASTY),), slice="mine")

    def answer(text: str) -> Response:
        return Response(prompt.id, text, "sft", 1, 1.0, "stop", 5)

    def trace(text: str, failure: Failure | None) -> RevisionTrace:
        revision = Revision(answer("revised " + text), 0.75, accepted=failure is None)
        turn = RevisionRound(1, "kind", Critique("harsh", no_change=False, seed=1, failure=failure), (revision,))
        return RevisionTrace(prompt, answer(text), (turn,), "h")

    def label(text: str, failure: Failure | None) -> PreferenceLabel:
        pair = Comparison(prompt, answer(text), answer("other"))
        prob = None if failure is not None else 0.625
        said = {"rationale": "A is [bold]warm[/bold]\x1b[31m", "raw": "it was cut"}
        seen = Verdict(pair.id, "kind", "h", "cot", "ab", "judge", prob, failure=failure, **said)
        return PreferenceLabel(pair, prob, (seen,), failure=failure)

    failure = Failure("parse", "no letter")
    (out / "revise" / "traces.jsonl").unlink()
    JsonlFile(out / "revise" / "traces.jsonl", RevisionTrace).append([trace("good", None), trace("bad", failure)])
    JsonlFile(out / "label" / "labels.jsonl", PreferenceLabel).append([label("good", None), label("bad", failure)])
    return out


def test_show_renders_text_literally(filled_run: Path) -> None:
    result = rlaif("show", filled_run, "revise")
    assert result.exit_code == 0, result.output
    assert "[red]not red[/red]" in result.stdout
    assert "\x1b[31m" not in result.stdout
    assert "revised good" in result.stdout


def test_show_has_what_the_judge_wrote(filled_run: Path) -> None:
    shown = rlaif("show", filled_run, "label").stdout
    assert "kind, ab: A is [bold]warm[/bold]" in shown
    assert "kind, ab: it was cut" in shown
    assert "\x1b[31m" not in shown


def test_show_can_be_narrowed(filled_run: Path) -> None:
    assert "revised bad" not in rlaif("show", filled_run, "revise", "-n", "1").stdout
    failed = rlaif("show", filled_run, "revise", "--failed").stdout
    assert "failed (parse): no letter" in failed
    assert "revised good" not in failed
    labels = rlaif("show", filled_run, "label", "--failed").stdout
    assert "P(A is better): not measured" in labels
    assert "0.625" not in labels


def test_show_has_the_answers_that_were_never_given(filled_run: Path) -> None:
    lost = FailedAnswer("prompt-1", "sft", 1, Failure("context_overflow", "the prompt is too long"))
    JsonlFile(filled_run / "label" / "failures.jsonl", FailedAnswer).append([lost])
    failed = rlaif("show", filled_run, "label", "--failed").stdout
    assert "no answer to prompt prompt-1" in failed
    assert "failed (context_overflow): the prompt is too long" in failed
    assert "no answer" not in rlaif("show", filled_run, "label").stdout


def test_show_finds_records_by_the_beginning_of_an_id(filled_run: Path) -> None:
    label = JsonlFile(filled_run / "label" / "labels.jsonl", PreferenceLabel).read()[0]
    shown = rlaif("show", filled_run, label.id[:8]).stdout
    assert "0.625" in shown
    assert "trace" not in shown
    by_prompt = rlaif("show", filled_run, label.comparison.prompt.id).stdout
    assert by_prompt.count("trace ") == 2
    missing = rlaif("show", filled_run, "ffffff")
    assert missing.exit_code == 3
    assert "no stage and no record" in missing.stderr
    assert "did you mean 'label'?" in rlaif("show", filled_run, "labels").stderr


def test_show_without_a_word_gives_the_overview(filled_run: Path) -> None:
    shown = rlaif("show", filled_run).stdout
    assert "finished" in shown
    assert "written 18" in shown
    assert "begun" in shown  # label has records and no stage.json
    assert rlaif("show", filled_run, "sft").exit_code == 6
