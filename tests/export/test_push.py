"""An export goes to a hub that stands on 127.0.0.1."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from huggingface_hub import constants

from rlaif.core.errors import BackendError, ConfigError
from rlaif.export import push

TOKEN, COMMIT = "hf_right", "0123456789" * 4


class Hub(ThreadingHTTPServer):
    """Takes commits of files that are small; refuses whoever has not the token, and every commit if it is `full`."""

    full = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.created: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class HubHandler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def _answer(self, body: bytes) -> None:
        hub, path = self.server, self.path.partition("?")[0]
        hub.asked.append(path)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._send(401, {"error": "Invalid username or password."})
        elif path == "/api/whoami-v2":
            self._send(200, {"type": "user", "name": "somebody"})
        elif path == "/api/repos/create":
            hub.created.append(json.loads(body))
            kind = "datasets/" if hub.created[-1].get("type") == "dataset" else ""
            self._send(200, {"url": f"{hub.url}/{kind}somebody/mine"})
        elif path == "/api/validate-yaml":
            self._send(200, {"errors": [], "warnings": []})
        elif "/preupload/" in path:
            names = [file["path"] for file in json.loads(body)["files"]]
            mode = {"uploadMode": "regular", "shouldIgnore": False}
            self._send(200, {"files": [{"path": name, **mode} for name in names]})
        elif "/commit/" in path and hub.full:
            self._send(403, {"error": "Private repository storage limit reached"})
        elif "/commit/" in path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    hub.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            address = f"{hub.url}/somebody/mine/commit/{COMMIT}"
            self._send(200, {"success": True, "commitOid": COMMIT, "commitUrl": address})
        else:
            self._send(200, {"id": "somebody/mine", "sha": COMMIT, "siblings": []})

    def _send(self, status: int, answer: dict[str, Any]) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    found = Hub()
    Thread(target=found.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", found.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield found
    found.shutdown()
    found.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine" / "data").mkdir(parents=True)
    (tmp_path / "mine" / "README.md").write_text("---\ntags: [rlaif]\n---\n# mine\n")
    (tmp_path / "mine" / "data" / "train.parquet").write_bytes(b"PAR1 rows")
    return tmp_path / "mine"


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_a_folder_is_put_into_a_private_repository(hub: Hub, folder: Path, kind: Any) -> None:
    push.refuse_hub("somebody/mine")
    url = push.push(folder, "somebody/mine", kind)
    assert url == f"{hub.url}/{'datasets/' * (kind == 'dataset')}somebody/mine"
    assert hub.created[0]["visibility"] == "private", hub.created
    assert hub.files == {"README.md": (folder / "README.md").read_bytes(), "data/train.parquet": b"PAR1 rows"}


def test_what_is_refused_before_anything_is_written(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="'a/b/c' is no name of a repository"):
        push.refuse_hub("a/b/c")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(BackendError, match="the hub refuses: "):
        push.refuse_hub("somebody/mine")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nowhere")
    with pytest.raises(BackendError, match="there is no token for the hub"):
        push.refuse_hub("somebody/mine")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(BackendError, match="HF_HUB_OFFLINE"):
        push.refuse_hub("somebody/mine")


def test_what_the_hub_refuses_stays_here(hub: Hub, folder: Path) -> None:
    hub.full = True
    said = r"written to .*mine, but the hub refuses(.|\n)*hf upload somebody/mine"
    with pytest.raises(BackendError, match=said) as told:
        push.push(folder, "somebody/mine", "model")
    assert TOKEN not in str(told.value)
    assert (folder / "README.md").is_file()
