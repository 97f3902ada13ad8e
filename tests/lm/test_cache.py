"""The cache: nothing is paid for twice, failures are asked again, finished batches survive a kill."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from rlaif.core.errors import BackendError, BudgetError, DataError, DiskError
from rlaif.core.records import Message, content_id
from rlaif.lm.budget import Budget
from rlaif.lm.cache import REQUESTS_PER_CALL, CachedModel, request_key, settle, spent_on, take_in
from rlaif.lm.protocol import ChoiceRequest, GenerateRequest, Request, ScoreRequest, Usage
from rlaif.lm.scripted import ScriptedModel
from tests.fakes import Listener

REPLIES = {"down": "", "surrogate": "half \ud800 a pair"}


def listener(name: str = "scripted") -> Listener:
    """A scripted model that fails at "down"."""

    def reply(request: Request) -> str | None:
        return REPLIES.get(request.messages[-1].content) if isinstance(request, GenerateRequest) else None

    return Listener(reply, name)


def fail(_: object) -> None:
    raise BackendError("server down")


def texts(model: Listener) -> list[list[str]]:
    """The batches that the model was asked."""
    return [[request.messages[-1].content for request in batch] for batch in model.batches]


def ask(text: str, seed: int = 1) -> GenerateRequest:
    return GenerateRequest((Message("user", text),), 20, 1.0, seed)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "judge.sqlite"


@pytest.fixture
def inner() -> Listener:
    return listener()


@pytest.fixture
def model(inner: Listener, path: Path) -> Iterator[CachedModel]:
    cached = CachedModel(inner, path)
    yield cached
    cached.close()


def test_only_what_is_missing_is_asked_and_the_order_is_kept(model: CachedModel, inner: Listener) -> None:
    first = model.ask([ask("b"), ask("d")])
    mixed = model.ask([ask("a"), ask("b"), ask("c"), ask("d")])
    assert texts(inner) == [["b", "d"], ["a", "c"]]
    assert mixed == listener().ask([ask("a"), ask("b"), ask("c"), ask("d")])
    assert [mixed[1], mixed[3]] == first
    assert (model.usage.calls, model.usage.cached) == (4, 2)


def test_what_was_asked_for_a_work_is_counted_over_sessions_and_files(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.sqlite"
    assert spent_on(path, "label") == Usage()
    for number, where in enumerate((path, path, other)):  # the last one counts in the first file
        model = CachedModel(listener(), where)
        model.count_for("label", path)
        model.ask([ask(f"a{number}"), ask("shared")])
        model.close()
    beside = CachedModel(listener(), path)
    beside.ask([ask("for nothing in particular")])
    beside.close()
    assert spent_on(path, "label").calls == 2 + 1 + 2
    assert spent_on(path, "label").generated_tokens > 0
    assert (spent_on(path, "card"), spent_on(other, "label")) == (Usage(), Usage())


def test_equal_requests_of_a_batch_are_asked_once(model: CachedModel, inner: Listener) -> None:
    a, b, again = model.ask([ask("a"), ask("b"), ask("a")])
    assert a == again != b
    assert texts(inner) == [["a", "b"]]
    assert (model.usage.calls, model.usage.cached) == (2, 1)


def test_nothing_missing_means_no_inner_call(model: CachedModel, inner: Listener) -> None:
    model.ask([ask("a")])
    model.ask([ask("a")])
    assert model.ask([]) == []
    assert texts(inner) == [["a"]]


def test_seed_kind_and_model_are_part_of_the_question(model: CachedModel, inner: Listener, path: Path) -> None:
    messages = (Message("user", "a"),)
    model.ask([ask("a", seed=1), ask("a", seed=2)])
    choices = model.ask([ChoiceRequest(messages, ("A", "B"))])
    scores = model.ask([ScoreRequest(messages, "A B")])
    assert model.usage.cached == 0
    other = CachedModel(listener("other"), path)
    other.ask([ask("a", seed=1)])
    assert (other.usage.calls, other.usage.cached) == (1, 0)
    other.close()

    reopened = CachedModel(listener(), path)
    assert reopened.ask([ChoiceRequest(messages, ("A", "B"))]) == choices  # bit for bit
    assert reopened.ask([ScoreRequest(messages, "A B")]) == scores
    assert (reopened.usage.calls, reopened.usage.cached) == (0, 2)
    reopened.close()


def test_scores_are_found_under_the_keys_of_before_they_had_a_temperature() -> None:
    messages = (Message("user", "a"),)
    old = {"messages": [{"role": "user", "content": "a"}], "response": "A B", "first_tokens": None}
    assert request_key("model", ScoreRequest(messages, "A B")) == content_id("model", "response_logprobs", old)
    assert request_key("model", ScoreRequest(messages, "A B", temperature=0.7)) == content_id(
        "model", "response_logprobs", {**old, "temperature": 0.7}
    )


def test_failures_are_never_kept(model: CachedModel, inner: Listener) -> None:
    good, failed = model.ask([ask("up"), ask("down")])
    assert good.failure is None
    assert failed.failure is not None
    assert model.ask([ask("up"), ask("down")]) == [good, failed]
    assert texts(inner) == [["up", "down"], ["down"]]


def test_text_that_is_not_valid_unicode_comes_back_as_it_was(model: CachedModel, path: Path) -> None:
    model.ask([ask("surrogate")])
    assert model.ask([ask("surrogate")])[0].text == "half \ud800 a pair"
    assert model.usage.cached == 1


def test_a_batch_larger_than_one_query(model: CachedModel) -> None:
    requests = [ask(str(n)) for n in range(1201)]
    assert model.ask(requests) == model.ask(requests)
    assert (model.usage.calls, model.usage.cached) == (1201, 1201)


def test_an_error_of_the_inner_model_passes_and_keeps_earlier_batches(model: CachedModel, inner: Listener) -> None:
    model.ask([ask("a")])
    inner.before = fail
    with pytest.raises(BackendError):
        model.ask([ask("a"), ask("b")])
    assert model.ask([ask("a")])[0].text is not None


def test_a_server_that_goes_down_inside_a_large_batch_costs_one_inner_call(model: CachedModel, inner: Listener) -> None:
    requests = [ask(str(n)) for n in range(3 * REQUESTS_PER_CALL)]
    inner.before = lambda _: fail(_) if len(inner.batches) == 2 else None
    with pytest.raises(BackendError):
        model.ask(requests)
    assert [len(batch) for batch in inner.batches] == [REQUESTS_PER_CALL] * 2
    model.ask(requests[: 2 * REQUESTS_PER_CALL])
    assert model.usage.cached == 2 * REQUESTS_PER_CALL


def test_close_closes_both(inner: Listener, path: Path) -> None:
    model = CachedModel(inner, path)
    model.close()
    assert inner.closed
    with pytest.raises(sqlite3.ProgrammingError):
        model.ask([ask("a")])


# -- other processes

_CHILD = """
import os, sys
from pathlib import Path
from rlaif.lm.cache import CachedModel
from rlaif.lm.protocol import GenerateRequest
from rlaif.lm.scripted import ScriptedModel
from rlaif.core.records import Message

path, start, stop, end = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
model = CachedModel(ScriptedModel(), path)
for first in range(start, stop, 5):
    texts = [str(n) for n in range(first, first + 5)]
    got = model.ask([GenerateRequest((Message("user", text),), 20, 1.0, 1) for text in texts])
    assert all(g.text is not None for g in got)
if end == "kill":
    os._exit(9)
model.close()
"""


def _child(path: Path, start: int, stop: int, end: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", _CHILD, str(path), str(start), str(stop), end]
    return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})


def test_finished_batches_survive_a_kill(path: Path) -> None:
    assert _child(path, 0, 20, "kill").wait(30) == 9
    model = CachedModel(ScriptedModel(), path)
    model.ask([ask(str(n)) for n in range(25)])
    assert (model.usage.calls, model.usage.cached) == (5, 20)
    model.close()


def test_two_processes_share_one_cache(path: Path) -> None:
    children = [_child(path, 0, 200, "close"), _child(path, 100, 300, "close")]
    assert [child.wait(30) for child in children] == [0, 0]
    model = CachedModel(ScriptedModel(), path)
    asked = [ask(str(n)) for n in range(300)]
    assert model.ask(asked) == ScriptedModel().ask(asked)
    assert model.usage.calls == 0
    assert 300 <= model.spent().calls <= 400, "both count into one sum; what both had, one of them may have asked twice"
    assert model._database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    model.close()


def test_many_processes_may_open_a_new_cache_at_once(path: Path) -> None:
    children = [_child(path, 0, 50, "close") for _ in range(4)]
    assert [child.wait(60) for child in children] == [0] * 4
    model = CachedModel(ScriptedModel(), path)
    assert model._database.execute("SELECT count(*) FROM answers").fetchone() == (50,)
    model.close()


# -- a bad file


@pytest.mark.parametrize("content", [b"this is not a database, but it is long enough to look at" * 20, b"x" * 4096])
def test_a_file_that_is_no_cache_is_named_with_the_remedy(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(DataError, match="delete the file") as caught:
        CachedModel(ScriptedModel(), path)
    assert caught.value.where == str(path)
    assert path.read_bytes() == content  # nothing was overwritten


def test_a_damaged_page_is_named_with_the_remedy(path: Path) -> None:
    model = CachedModel(ScriptedModel(), path)
    model.ask([ask(str(n)) for n in range(500)])
    model.close()
    raw = bytearray(path.read_bytes())
    raw[4096:] = b"\xff" * (len(raw) - 4096)
    path.write_bytes(raw)
    with pytest.raises(DataError, match="delete the file"):
        CachedModel(ScriptedModel(), path).ask([ask("1")])


@pytest.mark.parametrize("answer", ["{", "[]", '{"text": 3}'])
def test_an_unreadable_answer_is_named_with_the_remedy(model: CachedModel, path: Path, answer: str) -> None:
    model.ask([ask("a")])
    with sqlite3.connect(path) as database:
        database.execute("UPDATE answers SET answer = ?", (answer,))
    with pytest.raises(DataError, match="delete the file"):
        model.ask([ask("a")])


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (ask("a"), '{"text": null, "finish": "stop", "n_tokens": 3}'),
        (ask("a"), '{"text": "b", "finish": "stop", "n_tokens": -3}'),
        (ChoiceRequest((Message("user", "a"),), ("x", "y")), '{"logprobs": [-1.0, NaN]}'),
        (ChoiceRequest((Message("user", "a"),), ("x", "y")), '{"logprobs": [3.0, 0.0]}'),
        (ScoreRequest((Message("user", "a"),), "x y"), '{"token_logprobs": [-0.5, 2.0]}'),
        (ScoreRequest((Message("user", "a"),), "x y"), '{"token_logprobs": null}'),
    ],
)
def test_an_impossible_answer_is_refused(model: CachedModel, path: Path, request_: Request, answer: str) -> None:
    model.ask([request_])
    with sqlite3.connect(path) as database:
        database.execute("UPDATE answers SET answer = ?", (answer,))
    with pytest.raises(DataError, match="holds an answer that no model gives"):
        model.ask([request_])


def test_a_full_disk_keeps_what_was_written(model: CachedModel) -> None:
    model.ask([ask("a")])
    # SQLite's own limit on the size of the file gives the very error of a full disk
    model._database.execute("PRAGMA max_page_count = 4")
    with pytest.raises(DiskError, match="make room"):
        model.ask([ask(str(n)) for n in range(500)])
    calls = model.usage.calls
    model.ask([ask("a")])
    assert model.usage.calls == calls


def test_a_folder_that_cannot_be_written_is_a_disk_error(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(DiskError):
        CachedModel(ScriptedModel(), tmp_path / "taken")


# --- shards -----------------------------------------------------------------------------------------------------------


def test_a_shard_knows_what_the_run_knows_writes_only_to_its_own_and_is_taken_in_once(tmp_path: Path) -> None:
    run, own = tmp_path / "run" / "judge.sqlite", tmp_path / "shard" / "judge.sqlite"
    first = CachedModel(listener(), run)
    first.count_for("before")
    first.ask([ask("old")])
    first.close()
    before = run.read_bytes()
    for session in range(2):
        inner = listener()
        shard = CachedModel(inner, own, budget=Budget(max_calls=9))
        shard.count_for("label")
        shard.share(run, 2)
        assert shard.spent().calls == 1 + session
        shard.ask([ask("old"), ask("new"), ask(f"new {session}")][: 2 + session])
        shard.close()
        assert texts(inner) == ([["new"]] if session == 0 else [["new 1"]])
    assert run.read_bytes() == before
    copy = own.read_bytes()
    for _ in range(2):
        take_in(run, own)
        assert not own.exists()
        assert [spent_on(run, work).calls for work in ("before", "label")] == [1, 2]
        whole = CachedModel(listener(), run)
        assert whole.spent().calls == 3
        assert len(whole.holds([request_key(whole.fingerprint, ask(text)) for text in ("old", "new", "new 1")])) == 3
        whole.close()
        own.write_bytes(copy)  # as if a kill had come before the removal
    take_in(run, tmp_path / "nothing.sqlite")


def test_what_is_asked_after_a_cache_was_taken_in_counts_alone(tmp_path: Path) -> None:
    run, own = tmp_path / "run" / "judge.sqlite", tmp_path / "shard" / "judge.sqlite"
    for session in range(2):  # the second does the shard again, after a merge that was refused
        shard = CachedModel(listener(), own)
        shard.count_for(f"work {session}")
        shard.share(run, 2)
        shard.ask([ask("old"), ask("older"), ask(f"new {session}")])
        shard.close()
        take_in(run, own)
    whole = CachedModel(listener(), run)
    assert whole.spent().calls == 3 + 1
    whole.close()
    assert [spent_on(run, f"work {session}").calls for session in range(2)] == [3, 1]


@pytest.mark.parametrize("answer", ["{", '{"text": null, "finish": "stop", "n_tokens": 3}'])
def test_an_answer_that_is_wrong_in_the_cache_of_the_run_is_said_of_that_cache(tmp_path: Path, answer: str) -> None:
    run, own = tmp_path / "run.sqlite", tmp_path / "shard.sqlite"
    first = CachedModel(listener(), run)
    first.ask([ask("old")])
    first.close()
    with closing(sqlite3.connect(run)) as database, database:
        database.execute("UPDATE answers SET answer = ?", (answer,))
    shard = CachedModel(listener(), own)
    shard.share(run, 2)
    with pytest.raises(DataError, match="delete the file") as caught:
        shard.ask([ask("old")])
    assert caught.value.where == str(run)
    shard.close()


@pytest.mark.parametrize("damage", ["at once", "by reading"])
def test_a_cache_of_the_run_that_is_damaged_is_named(tmp_path: Path, damage: str) -> None:
    run, own = tmp_path / "run.sqlite", tmp_path / "shard.sqlite"
    shard = CachedModel(listener(), own)
    if damage == "at once":
        run.write_bytes(b"this is no database" * 100)
        with pytest.raises(DataError, match="delete the file") as caught:
            shard.share(run, 2)
    else:
        first = CachedModel(listener(), run)
        first.ask([ask(str(n)) for n in range(500)])
        first.close()
        raw, page = bytearray(run.read_bytes()), _root_page(run, "answers", "index")
        raw[page] = b"\xff" * (page.stop - page.start)
        run.write_bytes(raw)
        shard.share(run, 2)
        with pytest.raises(DataError, match="delete the file") as caught:
            shard.ask([ask("1")])
    assert caught.value.where == str(run)
    shard.close()


def _root_page(path: Path, table: str, kind: str) -> slice:
    """Where the first page of the table, or of its index, lies in the file."""
    with closing(sqlite3.connect(path)) as database:
        (size,) = database.execute("PRAGMA page_size").fetchone()
        (root,) = database.execute(
            "SELECT rootpage FROM sqlite_master WHERE type = ? AND tbl_name = ?", (kind, table)
        ).fetchone()
    return slice((root - 1) * size, root * size)


def test_counts_for_a_work_in_a_file_that_is_no_cache_name_that_file(model: CachedModel, tmp_path: Path) -> None:
    books = tmp_path / "books.sqlite"
    books.write_bytes(b"this is no database" * 100)
    with pytest.raises(DataError, match="delete the file") as caught:
        model.count_for("label", books)
    assert caught.value.where == str(books)


def test_shards_stop_at_their_part_of_the_budget(tmp_path: Path) -> None:
    run = tmp_path / "run" / "judge.sqlite"
    first = CachedModel(listener(), run)
    first.ask([ask("old")])
    first.close()
    asked = []
    for number in (0, 1, 0, 1):
        inner = listener()
        shard = CachedModel(inner, tmp_path / str(number) / "judge.sqlite", budget=Budget(max_calls=6))
        shard.share(run, 2)
        with pytest.raises(BudgetError, match=r"max_calls \(3 for one of 2 shards\)"):
            shard.ask([ask(f"{number} {n}") for n in range(4)])
        shard.close()
        asked.append(len(inner.asked))
    assert asked == [2, 2, 0, 0], "started again, a shard has no more to spend"


def test_what_is_no_cache_is_not_taken_in(tmp_path: Path) -> None:
    own = tmp_path / "judge.sqlite"
    own.write_bytes(b"this is no database" * 100)
    with pytest.raises(DataError, match="damaged or not a cache"):
        take_in(tmp_path / "run" / "judge.sqlite", own)
    assert own.exists()


def test_damage_in_what_is_taken_in_is_said_of_it_and_nothing_changes(tmp_path: Path) -> None:
    run, own = tmp_path / "run.sqlite", tmp_path / "shard.sqlite"
    for path, text in ((run, "run"), (own, "shard")):
        first = CachedModel(listener(), path)
        first.count_for(text)
        first.ask([ask(f"{text} {n}") for n in range(500)])
        first.close()
    raw, page = bytearray(own.read_bytes()), _root_page(own, "answers", "table")
    raw[page] = b"\xff" * (page.stop - page.start)
    own.write_bytes(raw)
    with pytest.raises(DataError, match="delete the file") as caught:
        take_in(run, own)
    assert caught.value.where == str(own)
    assert own.read_bytes() == raw
    whole = CachedModel(listener(), run)
    assert whole.spent().calls == 500
    assert whole._database.execute("SELECT count(*) FROM answers").fetchone() == (500,)
    whole.close()


def test_what_a_kill_left_in_the_log_is_there_once_settled(tmp_path: Path) -> None:
    path = tmp_path / "judge.sqlite"
    killed = "import os, signal, sys; from pathlib import Path; from rlaif.lm.cache import CachedModel; "
    killed += "from rlaif.lm.scripted import ScriptedModel; CachedModel(ScriptedModel(), Path(sys.argv[1])).keep("
    killed += "{'key': __import__('rlaif.lm.protocol').lm.protocol.Generation('text', 'stop', 1)}); "
    killed += "os.kill(os.getpid(), signal.SIGKILL)"
    subprocess.run([sys.executable, "-c", killed, str(path)])
    assert path.with_name("judge.sqlite-wal").stat().st_size > 0
    settle(path)
    assert not path.with_name("judge.sqlite-wal").exists()
    shard = CachedModel(listener(), tmp_path / "shard.sqlite")
    shard.share(path, 2)
    assert shard.holds(["key"]) == {"key"}
    shard.close()
