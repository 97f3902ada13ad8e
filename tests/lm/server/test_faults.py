"""Many requests to a hostile server of which a fifth goes wrong, in a process that is killed again and again: every
comparison ends as the right label or as a failure that says why; none is lost, doubled, invented, or from another host,
and the key shows nowhere."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from rlaif.core.records import PreferenceLabel, from_json
from rlaif.judge.judge import Judge
from rlaif.lm.cache import CachedModel
from rlaif.lm.server import pace
from rlaif.lm.server.client import QUESTION
from tests.fault_server import Answer, FaultServer, chat, client, serving
from tests.judge.cases import KIND, judge, only
from tests.lm.server.hostile import CANARY, FAULTS, SLOW, expected, fate, pairs, right

CONCURRENCY, PART = 64, 250
"""Requests in flight; pairs that are asked together, as a stage does."""
TIMEOUT = 20.0
"""Seconds; so long that a slow machine meets it with what hangs alone."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "FIRST_PAUSE", 0.02)


def judge_at(url: str, folder: Path, **fields: Any) -> Judge:
    model = client(url, **({"concurrency": CONCURRENCY, "max_retries": 2, "timeout": TIMEOUT} | fields))
    return judge(CachedModel(model, folder / "judge.sqlite"), only(KIND), method="pairwise")


class Log:
    """What the server saw and said, by itself: for each body the faults in its answers, None = an honest one. Not
    among them: its answer to the question whether it is there."""

    def __init__(self, elsewhere: str) -> None:
        self.elsewhere = elsewhere
        self.said: dict[str, list[str | None]] = defaultdict(list)

    def answer(self, body: dict[str, Any], before: int) -> Answer:
        if QUESTION[0].content in (message["content"] for message in body["messages"]):
            return chat("A", positions=[("A", -0.7, [("A", -0.7), ("B", -0.7)])])
        name, stays = fate(body)
        if before > 0 and not stays:
            name = None
        self.said[json.dumps(body, sort_keys=True)].append(name)
        return Answer(right(body)) if name is None else FAULTS[name].answer(body, self.elsewhere)

    def by_question(self) -> dict[str, list[list[str | None]]]:
        """Question -> what was said to each of the requests about it."""
        found: dict[str, list[list[str | None]]] = defaultdict(list)
        for body, said in self.said.items():
            shown = " ".join(message["content"] for message in json.loads(body)["messages"])
            found[re.findall(r"Question \d+\?", shown)[0]].append(said)
        return found


def sound(name: str | None) -> bool:
    """Whether the answer is to be read."""
    return name is None or FAULTS[name].says is None


_CHILD = """
import sys
from pathlib import Path
from rlaif.core.errors import BackendError
from rlaif.core.files import JsonlFile
from rlaif.core.records import PreferenceLabel
from rlaif.lm.server import pace
from tests.lm.server.hostile import pairs
from tests.lm.server.test_faults import PART, judge_at

pace.FIRST_PAUSE = 0.02
url, folder, number = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
asking, labels, asked = judge_at(url, folder, **eval(sys.argv[4])), [], pairs(number)
while len(labels) < number:  # a part that ends with an error is asked again, as --resume does
    try:
        labels += asking.label(asked[len(labels) : len(labels) + PART])
    except BackendError as problem:
        print(problem, flush=True)
for label in labels:
    print(label.failure, [verdict.failure for verdict in label.verdicts])
JsonlFile(folder / "labels.jsonl", PreferenceLabel).append(labels)
asking.close()
"""


def command(url: str, folder: Path, number: int, **fields: Any) -> list[str]:
    return [sys.executable, "-c", _CHILD, url, str(folder), str(number), repr(fields)]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OPENAI_API_KEY": CANARY}


def run_with_kills(server: FaultServer, folder: Path, number: int, kills: list[int]) -> None:
    """Runs the child, kills it when the server has seen so many requests, and at last lets it end."""
    for place, at in enumerate([*kills, None]):
        with (folder / f"terminal-{place}.txt").open("wb") as terminal:
            words = command(server.url, folder, number)
            child = subprocess.Popen(words, env=environment(), stdout=terminal, stderr=terminal)
            if at is None:
                assert child.wait(600) == 0, (folder / f"terminal-{place}.txt").read_text()[-3000:]
                return
            while len(server.seen) < at:
                assert child.poll() is None, (folder / f"terminal-{place}.txt").read_text()[-3000:]
                time.sleep(0.01)
            child.send_signal(signal.SIGKILL)
            assert child.wait(60) == -signal.SIGKILL


def test_the_table_has_forty_kinds_of_faults() -> None:
    assert len(FAULTS) >= 40
    assert set(SLOW) <= set(FAULTS)


# RLAIF_FAULTS=10000: more of them. With so many, requests that fail for good come to stand in a row when the call is
# resumed, which looks like a server that is down.
@pytest.mark.parametrize("number", sorted({500, int(os.environ.get("RLAIF_FAULTS", 500))}))
def test_every_comparison_ends_as_the_right_label_or_as_a_failure_with_its_reason(tmp_path: Path, number: int) -> None:
    kills = [number // 2, number, 3 * number // 2]
    with serving(lambda *_: chat("B", positions=[("B", -0.01, [("B", -0.01), ("A", -5.0)])])) as other:
        log = Log(other.url + "/chat/completions")
        with serving(log.answer) as server:
            run_with_kills(server, tmp_path, number, kills)
        assert other.seen == [], "nothing is asked elsewhere"
    rows = [json.loads(line) for line in (tmp_path / "labels.jsonl").read_text().splitlines()]
    labels, asked = [from_json(PreferenceLabel, row) for row in rows], pairs(number)

    # none lost, none doubled, each the right label or a failure that the server's own log explains
    assert [label.comparison for label in labels] == asked
    assert len({label.id for label in labels}) == number
    told = log.by_question()
    for label, pair in zip(labels, asked, strict=True):
        said = told[pair.prompt.text]
        assert len(said) == 2, "both orders were asked"
        bad = [name for one in said if (name := one[-1]) is not None and not sound(name)]
        if not bad:
            assert label.failure is None, (label.failure, said)
            assert label.prob_a == pytest.approx(expected(pair), abs=1e-9)
        else:
            assert label.prob_a is None
            assert label.failure is not None
            assert any(str(FAULTS[name].says) in label.failure.reason for name in bad), (label.failure, said)

    # the server's own count
    right_ends = sum(sound(said[-1]) for said in log.said.values())
    with sqlite3.connect(tmp_path / "judge.sqlite") as database:
        assert database.execute("SELECT count(*) FROM answers").fetchone() == (right_ends,)
    paid_again = sum(max(0, sum(map(sound, said)) - 1) for said in log.said.values())
    assert paid_again <= CONCURRENCY * len(kills), "at most what was in flight at a kill is asked twice"
    met = Counter(name for said in log.said.values() for name in said)
    wrong = sum(fate(json.loads(body))[0] is not None for body in log.said)
    assert 0.15 < wrong / (2 * number) < 0.25
    if number >= 10_000:
        assert set(met) == {None, *FAULTS}
    print(f"{len(server.seen):,} requests, {sum(met.values()) - met[None]:,} faults of {len(met) - 1} kinds")
    print(f"{sum(label.failure is None for label in labels):,} labels, {right_ends:,} answers, {paid_again} twice")

    # the key
    assert {seen.key for seen in server.seen} == {f"Bearer {CANARY}"}, "the server did get it"
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) >= 6
    assert [path.name for path in written if CANARY.encode() in path.read_bytes()] == []


def test_what_got_an_answer_is_not_asked_again_and_what_failed_is(tmp_path: Path) -> None:
    asked = pairs(100)

    def behaviour(body: dict[str, Any], before: int) -> Answer:
        name, stays = fate(body)
        wrong = name is not None and not FAULTS[name].ends and name not in SLOW and (stays or not before)
        return FAULTS[str(name)].answer(body, "") if wrong else Answer(right(body))

    with serving(behaviour) as server:
        asking = judge_at(server.url, tmp_path)
        labels = asking.label(asked)
        before = Counter(server.times)
        again = asking.label(asked)
        repeated = {raw for raw in before if server.times[raw] > before[raw]}
        kinds = {raw: fate(json.loads(raw)) for raw in before}
        wrong = {raw for raw, (name, _) in kinds.items() if name is not None and not _passes(name)}
        failed = {raw for raw in wrong if kinds[raw][1] or not FAULTS[str(kinds[raw][0])].again}
        assert repeated == failed
        assert len(repeated) > 3
        unlabelled = [label for label in labels if label.failure is not None]
        assert 0 < len([label for label in again if label.failure is not None]) < len(unlabelled)
        asking.close()


def _passes(name: str) -> bool:
    return FAULTS[name].says is None or FAULTS[name].ends or name in SLOW


def test_killed_in_the_middle_and_resumed_no_finished_call_is_paid_twice(tmp_path: Path) -> None:
    concurrency, number = 8, 300
    kill = threading.Event()

    def behaviour(body: dict[str, Any], before: int) -> Answer:
        if len(server.seen) == number:  # half of the requests
            kill.set()
        return Answer(right(body), hang=0.005)

    with serving(behaviour) as server:
        words = command(server.url, tmp_path, number, concurrency=concurrency)
        child = subprocess.Popen(words, env=environment(), stdout=subprocess.DEVNULL)
        assert kill.wait(600)
        child.send_signal(signal.SIGKILL)
        assert child.wait(600) == -signal.SIGKILL
        time.sleep(0.1)
        assert not (tmp_path / "labels.jsonl").exists()
        assert number <= len(server.seen) < 2 * number, "it was killed in the middle"
        assert subprocess.run(words, env=environment(), timeout=600, stdout=subprocess.DEVNULL).returncode == 0
        labels = [json.loads(line) for line in (tmp_path / "labels.jsonl").read_text().splitlines()]
        assert [label["prob_a"] for label in labels] == pytest.approx([expected(pair) for pair in pairs(number)])
        assert len(server.times) == 2 * number
        assert len(server.seen) - 2 * number <= concurrency, "at most what was in flight is asked twice"
