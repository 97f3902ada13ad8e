"""A hub on 127.0.0.1 that knows a model, knows none, is silent or is gone, and the cache of what was downloaded."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import huggingface_hub
import pytest
from huggingface_hub import constants

from rlaif.config import ModelConfig
from rlaif.core.errors import ModelError
from rlaif.lm.local import hub
from rlaif.lm.local.headers import read_headers
from rlaif.lm.local.load import load_model

NAME, COMMIT = "somebody/tiny", "0123456789" * 4


class Hub(ThreadingHTTPServer):
    """Serves the files in `folder` as the model NAME; `silent` until it ends."""

    folder: Path
    silent = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.seen: list[str] = []
        self.ended = Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class HubHandler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        if self.path.startswith("/api/models/"):
            self.server.seen.append(self.path)
        if self.server.silent:
            self.server.ended.wait()
        elif self.path.startswith(f"/api/models/{NAME}"):
            names = ", ".join(f'{{"rfilename": "{file.name}"}}' for file in self.server.folder.iterdir())
            self._send(200, f'{{"id": "{NAME}", "sha": "{COMMIT}", "siblings": [{names}]}}'.encode())
        else:
            self._send(404, b"", "RepoNotFound")

    def _send(self, status: int, body: bytes, error: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if error:
            self.send_header("X-Error-Code", error)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The hub that is asked, with the tiny model; the cache is empty."""
    hub.files.cache_clear()
    found = Hub()
    found.folder = tiny_model
    Thread(target=found.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", found.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub, "SECONDS", 60.0)  # the machine may be slow
    yield found
    found.ended.set()
    found.shutdown()
    found.server_close()
    hub.files.cache_clear()


def keep(model: Path, cache: Path, *, without: str = "", commit: str = COMMIT) -> Path:
    """The model's folder in the hub's cache, as a download leaves it."""
    root = cache / f"models--{NAME.replace('/', '--')}"
    folder = Path(shutil.copytree(model, root / "snapshots" / commit, ignore=lambda *_: [without]))
    (root / "refs").mkdir(exist_ok=True)
    (root / "refs" / "main").write_text(commit)
    return folder


def test_a_name_that_the_hub_does_not_know_is_an_error_at_once(server: Hub) -> None:
    with pytest.raises(ModelError, match=r"^nobody/typo: the hub has no such model\n.*check the name"):
        read_headers("nobody/typo")
    assert len(server.seen) == 1


@pytest.mark.parametrize("silent", [True, False])
def test_a_hub_that_cannot_be_reached_is_asked_once(
    server: Hub, silent: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    server.silent = silent
    monkeypatch.setattr(hub, "SECONDS", 0.5)
    if not silent:
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        ModelError, match=r"cannot be reached within 0\.5 s, and its cache on this machine does not hold"
    ):
        load_model(ModelConfig(source=NAME))
    assert len(server.seen) <= silent, "asked once: transformers alone asks six times for each file"
    assert "Retrying" not in "".join(capfd.readouterr())


def test_a_model_in_the_cache_is_loaded_without_a_hub(
    server: Hub, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    folder = keep(tiny_model, tmp_path / "hub")
    loaded = load_model(ModelConfig(source=NAME, dtype="float32", device="cpu"))
    assert loaded.name == NAME
    assert "Retrying" not in "".join(capfd.readouterr())
    assert read_headers(NAME).place == str(folder)


def test_a_model_that_is_half_in_the_cache_does_not_do_without_a_hub(
    server: Hub, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    keep(tiny_model, tmp_path / "hub", without="model.safetensors")
    with pytest.raises(ModelError, match="does not hold all of it"):
        read_headers(NAME)


def test_another_commit_of_a_hub_model_has_another_fingerprint(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    found = set()
    for commit in ("a" * 40, "b" * 40):
        keep(tiny_model, tmp_path, commit=commit)
        found.add(load_model(ModelConfig(source=NAME, dtype="float32", device="cpu")).fingerprint)
    assert len(found) == 2


def test_of_a_model_at_the_hub_the_small_files_are_fetched(
    server: Hub, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(tiny_model, tmp_path / "copy"))
    server.folder, asked = copy, []

    def download(name: str, file: str, **_: object) -> str:
        asked.append(file)
        return str(copy / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    found = read_headers(NAME)
    assert found.place == f"{NAME}, will be downloaded from the hub"
    assert found.tokenizer.chat_template
    assert "config.json" in asked
    assert "model.safetensors" not in asked
    hub.files.cache_clear()
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="the hub has no weights of this model"):
        read_headers(NAME)
