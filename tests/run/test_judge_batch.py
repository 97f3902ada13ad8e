"""A run judged through batch files: the same labels as by asking the server, and not one request to it."""

from __future__ import annotations

import importlib
import json
import math
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rlaif.core.files import JsonlFile
from rlaif.core.records import Failure, PreferenceLabel, content_id
from rlaif.lm import open as open_model
from rlaif.lm.cache import CachedModel
from rlaif.lm.scripted import ScriptedModel
from rlaif.lm.server.batch_files import read_results
from tests import stub_stages
from tests.fault_server import Answer, FaultServer, chat, serving
from tests.output import done, rlaif


def answer(body: dict[str, Any]) -> dict[str, Any]:
    """What the model says to a request, however it comes."""
    if body["model"] == "n":
        listed = [(str(n), math.log(0.1)) for n in range(1, 10)]
        return chat("5", positions=[("5", math.log(0.1), listed)]).body  # type: ignore[no-any-return]
    if body.get("top_logprobs") is None:
        return chat(f"because of {content_id(body['messages'])}").body  # type: ignore[no-any-return]
    p = (int(content_id(body["messages"]), 16) % 97 + 1) / 99
    listed = [("A", math.log(p)), ("B", math.log(1 - p))]
    return chat("A", positions=[("A", math.log(p), listed)]).body  # type: ignore[no-any-return]


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with serving(lambda body, _: Answer(answer(body))) as running:
        yield running


@pytest.fixture
def make(tmp_path: Path, tiny_model: Path, server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """make(name, method, **more of the judge's table) -> a run folder that is finished up to `sft`; its policy is
    scripted, its judge the server."""
    real_label = importlib.import_module("rlaif.stages.label")
    stub_stages.install(set_module=lambda name, module: monkeypatch.setitem(sys.modules, name, module))
    monkeypatch.setitem(sys.modules, "rlaif.stages.label", real_label)
    policy: Callable[..., CachedModel] = lambda model, adapters, cache: CachedModel(  # noqa: E731
        ScriptedModel(), cache / "policy.sqlite"
    )
    monkeypatch.setattr(open_model, "open_policy", policy)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"Question {n}?"}) + "\n" for n in range(9)))

    def run(name: str, method: str, **more: Any) -> Path:
        config = tmp_path / f"{name}.yaml"
        judge = {"backend": "openai", "source": "m", "base_url": server.url, "method": method, "principles": "one"}
        tables = {
            "model": {"source": str(tiny_model)},
            "judge": judge | {"max_retries": 0} | more,
            "card": {"required": False},
            "prompts": {"mine": {"source": str(prompts), "train": 8, "held_out": 1}},
            "label": {"samples": 3, "pairs": 3, "batch_size": 3},
        }
        config.write_text(json.dumps(tables))
        folder = tmp_path / name
        for stage in ("revise", "sft"):
            assert rlaif(stage, config, "--out", folder).exit_code == 0
        return folder

    return run


def provider(*files: Path, to: Path) -> Path:
    """Answers files of requests as a provider does: in another order."""
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    results = [
        {
            "id": f"batch_req_{n}",
            "custom_id": row["custom_id"],
            "response": {"status_code": 200, "request_id": f"r{n}", "body": answer(row["body"])},
            "error": None,
        }
        for n, row in enumerate(rows)
    ]
    random.Random(1).shuffle(results)
    to.write_text("".join(json.dumps(row) + "\n" for row in results))
    return to


def labels(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "label" / "labels.jsonl").read_text().splitlines()]


def test_labels_by_files_are_those_that_the_server_gives(make: Any, server: FaultServer, tmp_path: Path) -> None:
    live, run, out = make("live", "pairwise"), make("run", "pairwise"), tmp_path / "requests.jsonl"
    done("label", "--run", live)
    sent = {json.dumps(body, sort_keys=True) for body in server.bodies()}
    asked = len(server.seen)

    written = done("judge", "export", "--run", run, "--out", out)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert (written["written"], written["waiting"], written["files"]) == (len(rows), 0, [str(out)])
    assert {json.dumps(row["body"], sort_keys=True) for row in rows} == sent, "the bodies are those of the client"
    assert {(row["method"], row["url"]) for row in rows} == {("POST", "/v1/chat/completions")}
    assert len({row["custom_id"] for row in rows}) == len(rows) == asked

    found = done("judge", "import", "--run", run, provider(out, to=tmp_path / "results.jsonl"))
    assert found == {
        "imported": len(rows), "known": 0, "unknown": 0, "waiting": 0, "failed": {}, "reasons": {}
    }  # fmt: skip
    counts = done("label", "--run", run, "--resume")["stages"]["label"]["counts"]
    assert (counts["judge_calls"], counts["judge_cached"]) == (0, len(rows))
    assert len(server.seen) == asked
    assert labels(run) == labels(live)


def test_pairs_by_contrast_are_asked_under_the_principle_that_made_them(
    make: Any, server: FaultServer, tmp_path: Path
) -> None:
    live, run, out = make("live", "pairwise"), make("run", "pairwise"), tmp_path / "requests.jsonl"
    for folder in (live, run):
        file = folder / "config.yaml"
        file.write_text(file.read_text().replace("answers: policy", "answers: contrast"))
    done("label", "--run", live)
    done("judge", "export", "--run", run, "--out", out)
    done("judge", "import", "--run", run, provider(out, to=tmp_path / "results.jsonl"))
    asked = len(server.seen)
    done("label", "--run", run, "--resume")
    assert len(server.seen) == asked
    assert labels(run) == labels(live)
    assert {len({v["principle_id"] for v in label["verdicts"]}) for label in labels(run)} == {1}
    failed = rlaif("judge", "export", "--run", make("taken", "pairwise"), "--out", out, *unconfirmed())
    assert failed.exit_code == 2
    assert "the labels of this run ask no judge" in failed.stderr


def unconfirmed() -> list[str]:
    return ["--set", "label.answers=contrast", "--set", "label.confirm=false"]


def test_cot_takes_two_rounds(make: Any, server: FaultServer, tmp_path: Path) -> None:
    live, run = make("live", "cot"), make("run", "cot")
    done("label", "--run", live)
    asked = len(server.seen)
    for number in (1, 2):
        out = tmp_path / f"requests{number}.jsonl"
        assert done("judge", "export", "--run", run, "--out", out)["written"] == asked / 2
        bodies = [json.loads(line)["body"] for line in out.read_text().splitlines()]
        assert all(("top_logprobs" in body) is (number == 2) for body in bodies)
        done("judge", "import", "--run", run, provider(out, to=tmp_path / f"results{number}.jsonl"))
    assert done("judge", "export", "--run", run, "--out", tmp_path / "third.jsonl")["written"] == 0
    assert not (tmp_path / "third.jsonl").exists()
    done("label", "--run", run, "--resume")
    assert len(server.seen) == asked
    assert labels(run) == labels(live)


def test_a_panel_is_asked_member_by_member(make: Any, server: FaultServer, tmp_path: Path) -> None:
    second = {"name": "second", "backend": "openai", "source": "n", "base_url": server.url, "method": "rating"}
    rules = {"name": "rules", "backend": "scripted", "method": "pairwise"}
    run = make("run", "pairwise", panel=[second, rules])
    for member, model in (("", "m"), ("second", "n")):
        out = tmp_path / f"requests-{model}.jsonl"
        done("judge", "export", "--run", run, "--out", out, "--member", member)
        assert {json.loads(line)["body"]["model"] for line in out.read_text().splitlines()} == {model}
    for member in ("rules", "nobody"):
        wrong = rlaif("judge", "export", "--run", run, "--out", tmp_path / "x.jsonl", "--member", member)
        assert wrong.exit_code == 2
    files = (tmp_path / "requests-m.jsonl", tmp_path / "requests-n.jsonl")
    found = done("judge", "import", "--run", run, provider(*files, to=tmp_path / "results.jsonl"))
    assert (found["unknown"], found["failed"]) == (0, {})
    done("label", "--run", run, "--resume")
    assert server.seen == [], "only the rules had still to be asked"
    said = [{verdict["member"] for verdict in label["verdicts"]} for label in labels(run)]
    assert said == [{"", "second", "rules"}] * 24


def test_without_a_card_that_passes_nothing_is_exported(make: Any, tmp_path: Path) -> None:
    run = make("run", "pairwise")
    words = ["judge", "export", "--run", run, "--out", tmp_path / "x.jsonl"]
    refused = rlaif(*words, "--set", "card.required=true")
    assert (refused.exit_code, "--accept-uncarded-judge" in refused.stderr) == (6, True)
    assert rlaif(*words, "--set", "card.required=true", "--accept-uncarded-judge").exit_code == 0


def test_missing_failed_doubled_unknown_and_cut_results(make: Any, server: FaultServer, tmp_path: Path) -> None:
    run, out, results = make("run", "pairwise"), tmp_path / "requests.jsonl", tmp_path / "results.jsonl"
    total = done("judge", "export", "--run", run, "--out", out)["written"]
    lines = provider(out, to=results).read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    rows[0]["response"] = {"status_code": 429, "body": {"error": {"message": "slow \x1b[2Jdown", "code": "rate"}}}
    rows[1] |= {"response": None, "error": {"code": "batch_expired", "message": "This request could not be executed"}}
    rows[2]["response"]["body"]["choices"][0]["logprobs"] = None
    rows[3]["response"]["body"] = {"choices": "none"}
    rows[4]["custom_id"] = "somebody else's"
    text = [json.dumps(row) for row in [*rows[:-2], rows[9], rows[9]]] + ["", lines[-1][:50]]
    results.write_text("\n".join(text))

    printed = rlaif("judge", "import", "--run", run, results)
    assert printed.exit_code == 0
    assert f"{total - 7} answers imported, 2 were there already, 1 of unknown id" in printed.stdout
    assert "3 failed (backend): status 429: slow" in printed.stdout
    assert "1 failed (missing_logprobs)" in printed.stdout
    assert "3 exported requests have no result yet" in printed.stdout  # the stranger's, the last two
    assert "\x1b[2J" not in printed.stdout

    # what failed is exported again, what may still come is not, unless asked for
    second = done("judge", "export", "--run", run, "--out", tmp_path / "second.jsonl")
    assert (second["written"], second["waiting"]) == (4, 3)
    third = done("judge", "export", "--run", run, "--out", tmp_path / "third.jsonl", "--again")
    assert (third["written"], third["waiting"]) == (7, 0)
    done("judge", "import", "--run", run, provider(tmp_path / "third.jsonl", to=results))
    assert done("label", "--run", run, "--resume")["stages"]["label"]["counts"]["judge_calls"] == 0
    assert server.seen == []


def test_an_error_of_vllm_s_run_batch_is_read(tmp_path: Path) -> None:
    """As the source of vLLM 0.32.0 has it (tests/test_vllm.py asks vLLM): no body, and the error one level deeper."""
    said = "This model's maximum context length is 512 tokens. However, your request has 2017 input tokens."
    error = {"error": {"message": said, "type": "BadRequestError", "param": "input_tokens", "code": 400}}
    other = {"error": {"message": "no such thing", "type": "BadRequestError", "param": None, "code": 400}}
    rows = [
        {
            "id": "vllm-1",
            "custom_id": key,
            "response": {"status_code": 400, "request_id": "r", "body": None},
            "error": e,
        }
        for key, e in (("long", error), ("other", other), ("words", "Request must not be sent in stream mode"))
    ]
    file = tmp_path / "results.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = {result.key: result.reply for result in read_results(file)}
    assert found["long"] == Failure("context_overflow", f"status 400: {said}")
    assert found["other"] == Failure("backend", "status 400: no such thing")
    assert found["words"] == Failure("backend", "status 400: Request must not be sent in stream mode")


def test_what_the_files_lack_the_server_is_asked(make: Any, server: FaultServer, tmp_path: Path) -> None:
    run, out = make("run", "pairwise"), tmp_path / "requests.jsonl"
    done("judge", "export", "--run", run, "--out", out)
    results = provider(out, to=tmp_path / "results.jsonl")
    results.write_text("\n".join(results.read_text().splitlines()[5:]))  # and no newline at the end: still a line
    done("judge", "import", "--run", run, results)
    assert done("label", "--run", run, "--resume")["stages"]["label"]["counts"]["judge_calls"] == 5
    assert len(server.seen) == 5


def test_a_deleted_cache_is_no_loss(make: Any, tmp_path: Path) -> None:
    run, out = make("run", "pairwise"), tmp_path / "requests.jsonl"
    total = done("judge", "export", "--run", run, "--out", out)["written"]
    results = provider(out, to=tmp_path / "results.jsonl")
    for file in (run / "cache").glob("*"):
        file.unlink()
    lost = rlaif("judge", "import", "--run", run, results)
    assert (lost.exit_code, "rlaif judge export" in lost.stderr) == (3, True)
    done("judge", "export", "--run", run, "--out", tmp_path / "same.jsonl")
    assert (tmp_path / "same.jsonl").read_text() == out.read_text()
    assert done("judge", "import", "--run", run, results)["imported"] == total


@pytest.mark.parametrize(
    ("line", "message"),
    [("{broken", "is not a line of JSON"), ("[]", "no custom_id"), ('{"custom_id": "x", "body": {}}', "is a request")],
)
def test_a_line_that_is_no_result_is_named(make: Any, tmp_path: Path, line: str, message: str) -> None:
    run, out = make("run", "pairwise"), tmp_path / "requests.jsonl"
    total = done("judge", "export", "--run", run, "--out", out)["written"]
    good = provider(out, to=tmp_path / "results.jsonl").read_text()
    (tmp_path / "results.jsonl").write_text(line + "\n" + good)
    wrong = rlaif("judge", "import", "--run", run, tmp_path / "results.jsonl")
    assert (wrong.exit_code, message in wrong.stderr, "results.jsonl:1" in wrong.stderr) == (3, True, True)
    (tmp_path / "results.jsonl").write_text(good)
    assert done("judge", "import", "--run", run, tmp_path / "results.jsonl")["imported"] == total


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (["judge.backend=scripted"], "only requests to a server"),
        (["judge.method=random"], "asks nothing"),
        (["judge.method=contrast", "judge.api=completions"], "no log-probs of given text"),
    ],
)
def test_judges_that_no_file_can_ask_are_refused(make: Any, tmp_path: Path, fields: list[str], message: str) -> None:
    run = make("run", "pairwise")
    words = [word for field in fields for word in ("--set", field)]
    refused = rlaif("judge", "export", "--run", run, "--out", tmp_path / "x.jsonl", *words)
    assert (refused.exit_code, message in refused.stderr) == (2, True)


def test_what_is_there_is_not_overwritten_and_finished_labels_are_not_asked_again(make: Any, tmp_path: Path) -> None:
    run, out = make("run", "pairwise"), tmp_path / "requests.jsonl"
    out.write_text("mine")
    assert rlaif("judge", "export", "--run", run, "--out", out).exit_code == 5
    assert out.read_text() == "mine"
    done("label", "--run", run, "--resume")
    finished = rlaif("judge", "export", "--run", run, "--out", tmp_path / "new.jsonl")
    assert (finished.exit_code, "are finished" in finished.stderr) == (5, True)
    assert len(JsonlFile(run / "label" / "labels.jsonl", PreferenceLabel).read()) == 24
