"""Many requests to a server of which a fifth goes wrong: every comparison ends as the right label or as a failure that
says why, none is lost, none is there twice, and a kill in the middle costs no finished call."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rlaif.core.records import Comparison, PreferenceLabel
from rlaif.judge.judge import Judge
from rlaif.lm.cache import CachedModel
from rlaif.lm.server import pace
from tests.fault_server import Answer, FaultServer, chat, client, error, serving
from tests.judge.cases import KIND, comparison, judge, logistic, only


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "FIRST_PAUSE", 0.02)


def pairs(number: int) -> list[Comparison]:
    """Pair n asks question n about two answers whose quality stands in them."""
    return [
        comparison(f"The answer of quality {n % 13}.", f"The answer of quality {n % 7} or so.", f"Question {n}?")
        for n in range(number)
    ]


def expected(pair: Comparison) -> float:
    """P(A) of a judge that sees the qualities: exact, so that an answer given to the wrong request shows."""
    a, b = (int(re.findall(r"quality (\d+)", response.text)[0]) for response in (pair.a, pair.b))
    return logistic((a - b) / 10)


def right(body: dict[str, Any]) -> Any:
    """The judge's honest answer to the request."""
    shown = " ".join(message["content"] for message in body["messages"])
    first, second = (int(found) for found in re.findall(r"answer of quality (\d+)", shown))
    p = logistic((first - second) / 10)
    listed = [("A", math.log(p)), ("B", math.log(1 - p)), *((f"x{n}", -30.0) for n in range(18))]
    return chat("A", positions=[("A", math.log(p), listed)]).body


def _short(body: dict[str, Any]) -> Any:
    answer = right(body)
    entry = answer["choices"][0]["logprobs"]["content"][0]
    entry["top_logprobs"] = [{"token": "A", "logprob": math.log(0.5)}]
    return answer


def _missing(body: dict[str, Any]) -> Any:
    answer = right(body)
    answer["choices"][0]["logprobs"] = None
    return answer


def _wrong_order(body: dict[str, Any]) -> Any:
    """Two choices, the second first; the second is about nothing that was asked."""
    answer = right(body)
    stray = chat("B", positions=[("B", -0.01, [("B", -0.01), ("A", -9.0)])]).body["choices"][0]
    answer["choices"] = [{**stray, "index": 1}, answer["choices"][0]]
    return answer


def _twice(body: dict[str, Any]) -> Any:
    """The answer is there twice, and every likely token too."""
    answer = right(body)
    answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"] *= 2
    answer["choices"] *= 2
    return answer


FAULTS: dict[str, tuple[Any, str | None]] = {
    "429 with Retry-After": (lambda _: error(429, "slow down", retry_after_ms="5"), "slow down"),
    "429 with a date": (lambda _: error(429, "later", Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"), "later"),
    "429": (lambda _: error(429, "too many"), "too many"),
    "500": (lambda _: error(500, "oh"), "oh"),
    "503": (lambda _: error(503, "overloaded"), "overloaded"),
    "cut": (lambda body: Answer(json.dumps(right(body)).encode(), cut=60), "connection lost"),
    "truncated": (lambda body: Answer(json.dumps(right(body)).encode()[:200]), "not JSON"),
    "malformed": (lambda _: Answer({"choices": [{"message": {"content": ["x"]}}]}), "malformed"),
    "missing log-probs": (lambda body: Answer(_missing(body)), "no log-probs"),
    "short log-probs": (lambda body: Answer(_short(body)), "1 of 20 likely tokens"),
    "wrong order": (lambda body: Answer(_wrong_order(body)), None),
    "twice": (lambda body: Answer(_twice(body)), None),
    "hang": (lambda body: Answer(right(body), hang=30.0), "no answer within"),
    "drip": (lambda body: Answer(right(body), drip=0.1), "no answer within"),
}
"""Name -> (what the server does, what the failure says; None where the answer is right all the same)."""
SLOW = ("hang", "drip")
AT_ONCE = ("malformed", "missing log-probs", "short log-probs")
"""Another try is of no use: the server has said what it has to say."""


def fate(body: dict[str, Any]) -> tuple[str | None, bool]:
    """(fault or None, whether it stays) of a request: a fifth goes wrong, a quarter of those for good."""
    number = int(hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:12], 16)
    point, stays = number % 2000, number // 2000 % 4 == 0
    if point >= 400:
        return None, False
    if point < 10:  # each costs a timeout
        return SLOW[point % 2], stays
    quick = [name for name in FAULTS if name not in SLOW]
    return quick[point % len(quick)], stays


def faulty(body: dict[str, Any], before: int) -> Answer:
    name, stays = fate(body)
    if name is None or (before > 0 and not stays):
        return Answer(right(body))
    answer: Answer = FAULTS[name][0](body)
    return answer


def judge_at(server: FaultServer, folder: Path, **fields: Any) -> Judge:
    model = client(server.url, **({"concurrency": 64, "max_retries": 2, "timeout": 1.0} | fields))
    return judge(CachedModel(model, folder / "judge.sqlite"), only(KIND), method="pairwise")


def check(label: PreferenceLabel, pair: Comparison, befell: dict[str, list[tuple[str | None, bool]]]) -> str | None:
    """Looks at one label; returns the kind of its failure."""
    assert label.comparison == pair
    bad = [
        FAULTS[name][1]
        for name, stays in befell[pair.prompt.text]
        if name is not None and FAULTS[name][1] is not None and (stays or name in AT_ONCE)
    ]
    if not bad:
        assert label.failure is None, label.failure
        assert label.prob_a == pytest.approx(expected(pair), abs=1e-9)
        return None
    assert label.prob_a is None
    assert label.failure is not None
    assert any(reason is not None and reason in label.failure.reason for reason in bad), (label.failure, bad)
    return label.failure.kind


def fates(server: FaultServer) -> dict[str, list[tuple[str | None, bool]]]:
    """Question -> what befell each of the requests that were made about it."""
    found: dict[str, list[tuple[str | None, bool]]] = {}
    for raw in server.times:
        body = json.loads(raw)
        shown = " ".join(message["content"] for message in body["messages"])
        found.setdefault(re.findall(r"Question \d+\?", shown)[0], []).append(fate(body))
    return found


@pytest.mark.parametrize("number", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_every_comparison_ends_as_the_right_label_or_as_a_failure_with_its_reason(tmp_path: Path, number: int) -> None:
    asked = pairs(number // 2)
    with serving(faulty) as server:
        asking = judge_at(server, tmp_path)
        labels = asking.label(asked)
        befell = fates(server)
        assert len(labels) == len({label.id for label in labels}) == len(asked)
        assert all(len(found) == 2 for found in befell.values()), "both orders were asked, each as one request"
        ends = Counter(check(label, pair, befell) for label, pair in zip(labels, asked, strict=True))
        assert set(ends) == {None, "backend", "missing_logprobs"}
        assert ends[None] > 0.8 * len(asked)
        asking.close()


def test_what_got_an_answer_is_not_asked_again_and_what_failed_is(tmp_path: Path) -> None:
    asked = pairs(100)
    with serving(faulty) as server:
        asking = judge_at(server, tmp_path)
        labels = asking.label(asked)
        before = Counter(server.times)
        again = asking.label(asked)
        repeated = {raw for raw in before if server.times[raw] > before[raw]}
        lasting = {raw for raw in before if (found := fate(json.loads(raw)))[0] is not None and found[1]}
        passing = {raw for raw in before.keys() - lasting if fate(json.loads(raw))[0] in AT_ONCE}
        harmless = {raw for raw in lasting if FAULTS[str(fate(json.loads(raw))[0])][1] is None}
        assert repeated == (lasting - harmless) | passing
        assert len(repeated) > 3
        unlabelled = [label for label in labels if label.failure is not None]
        assert 0 < len([label for label in again if label.failure is not None]) < len(unlabelled)
        asking.close()


_CHILD = """
import sys
from pathlib import Path
from rlaif.core.files import JsonlFile
from rlaif.core.records import PreferenceLabel
from rlaif.lm.server import pace
from tests.lm.server.test_faults import judge_at, pairs

pace.FIRST_PAUSE = 0.02


class Server:
    url = sys.argv[1]


folder = Path(sys.argv[2])
asking = judge_at(Server(), folder, concurrency=int(sys.argv[3]))
labels = asking.label(pairs(int(sys.argv[4])))
JsonlFile(folder / "labels.jsonl", PreferenceLabel).append(labels)
asking.close()
"""


def test_killed_in_the_middle_and_resumed_no_finished_call_is_paid_twice(tmp_path: Path) -> None:
    concurrency, number = 8, 300
    kill = threading.Event()

    def behaviour(body: dict[str, Any], before: int) -> Answer:
        if len(server.seen) == number:  # half of the requests
            kill.set()
        return Answer(right(body), hang=0.005)

    with serving(behaviour) as server:
        command = [sys.executable, "-c", _CHILD, server.url, str(tmp_path), str(concurrency), str(number)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        child = subprocess.Popen(command, env=environment)
        assert kill.wait(600)
        child.send_signal(signal.SIGKILL)
        assert child.wait(600) == -signal.SIGKILL
        time.sleep(0.1)
        assert not (tmp_path / "labels.jsonl").exists()
        assert number <= len(server.seen) < 2 * number, "it was killed in the middle"
        assert subprocess.run(command, env=environment, timeout=600).returncode == 0
        labels = [json.loads(line) for line in (tmp_path / "labels.jsonl").read_text().splitlines()]
        assert [label["prob_a"] for label in labels] == pytest.approx([expected(pair) for pair in pairs(number)])
        assert len(server.times) == 2 * number
        assert len(server.seen) - 2 * number <= concurrency, "at most what was in flight is asked twice"
