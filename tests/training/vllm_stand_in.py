"""A stand-in for vLLM, which needs a GPU: a real HTTP server on 127.0.0.1 that samples from a real model with its wire
format (vllm/entrypoints/openai/completion and models, autumn 2026), and as wrong as a test tells it to."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

SAVED = {"temperature": 0.6, "top_k": 5}
"""What the model's generation config says, which vLLM takes for what a request leaves out."""


@dataclass
class Wrongs:
    """What the server does wrong, or is not told to do."""

    busy: int = 0  # so many completions get a 429 first
    dies_after: int | None = None  # completions, after which nobody listens any more
    loads_adapters: bool = True
    max_lora_rank: int = 16
    applies_adapters: bool = True
    raw_logprobs: bool = False  # vLLM's default: those before the temperature
    forgets: frozenset[str] = frozenset()  # fields of a choice that are left out
    silent: bool = False


@dataclass
class StandIn:
    """The server's state. `seen` are the bodies of the completions, `adapters` the names loaded so far, in order."""

    name: str
    folder: Path
    wrongs: Wrongs
    seen: list[dict[str, Any]] = field(default_factory=list)
    adapters: list[str] = field(default_factory=list)
    url: str = ""

    def __post_init__(self) -> None:
        self.base = AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32).eval()
        self.models = {self.name: self.base}
        self.lock = threading.Lock()
        self.in_memory = ""
        self.stop = lambda: None

    def load(self, body: dict[str, Any]) -> tuple[int, Any]:
        name, path = body["lora_name"], Path(body["lora_path"])
        if name in self.models:
            return 400, f"The lora adapter '{name}' has already been loaded."
        if not (path / "adapter_model.safetensors").is_file():
            return 404, f"Loading lora {name} failed: No adapter found for {path}"
        rank = json.loads((path / "adapter_config.json").read_text())["r"]
        if rank > self.wrongs.max_lora_rank:
            return 500, f"LoRA rank {rank} is greater than max_lora_rank {self.wrongs.max_lora_rank}."
        self.models[name] = self.base
        if self.wrongs.applies_adapters:
            self.models[name] = PeftModel.from_pretrained(copy.deepcopy(self.base), str(path)).merge_and_unload()
        self.adapters.append(name)
        self.in_memory = name  # one, as by default (--max-cpu-loras)
        return 200, f"Success: LoRA adapter '{name}' added successfully."

    def unload(self, body: dict[str, Any]) -> tuple[int, Any]:
        if body["lora_name"] not in self.models:
            return 404, f"The lora adapter '{body['lora_name']}' cannot be found."
        if body["lora_name"] != self.in_memory:
            return 500, f"Failed to remove lora adapter '{body['lora_name']}' from the engine."
        del self.models[body["lora_name"]]
        return 200, "Success"

    @torch.no_grad()
    def complete(self, body: dict[str, Any]) -> tuple[int, Any]:
        if body["model"] not in self.models:
            return 404, f"The model `{body['model']}` does not exist."
        self.seen.append(body)
        asked = {**SAVED, **body}
        generator = torch.Generator().manual_seed(asked["seed"])
        ids: list[int] = []
        logprobs: list[float] = []
        finish = "length"
        while len(ids) < asked["max_tokens"]:
            logits = self.models[body["model"]](torch.tensor([[*body["prompt"], *ids]])).logits[0, -1]
            processed = logits / asked["temperature"]
            if asked["top_k"] > 0:
                processed = processed.masked_fill(processed < processed.topk(asked["top_k"]).values[-1], -torch.inf)
            token = int(torch.multinomial(processed.softmax(0), 1, generator=generator))
            ids.append(token)
            logprobs.append(float((logits if self.wrongs.raw_logprobs else processed).log_softmax(0)[token]))
            if token in body["stop_token_ids"]:
                finish = "stop"
                break
        choice = {
            "index": 0,
            "text": "not to be read",
            "logprobs": {"tokens": ["?"] * len(ids), "token_logprobs": logprobs, "text_offset": [0] * len(ids)},
            "finish_reason": finish,
            "stop_reason": None,
            "token_ids": ids if body.get("return_token_ids") else None,
            "prompt_token_ids": body["prompt"] if body.get("return_token_ids") else None,
        }
        choices = [{name: value for name, value in choice.items() if name not in self.wrongs.forgets}]
        return 200, {"object": "text_completion", "model": body["model"], "choices": choices}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: StandIn

    def do_GET(self) -> None:
        data = [{"id": name, "object": "model"} for name in self.state.models]
        self._send(200, {"object": "list", "data": data})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        state, wrongs = self.state, self.state.wrongs
        with state.lock:
            torch.set_num_threads(1)
            if wrongs.busy > 0 and self.path == "/v1/completions":
                wrongs.busy -= 1
                return self._send(429, "too many requests", {"retry-after-ms": "5"})
            if wrongs.dies_after is not None and len(state.seen) >= wrongs.dies_after:
                self.close_connection = True
                threading.Thread(target=state.stop).start()
                return None
            if wrongs.silent:
                threading.Event().wait(0.5)
            if self.path == "/v1/completions":
                return self._send(*state.complete(body))
            if wrongs.loads_adapters and self.path == "/v1/load_lora_adapter":
                return self._send(*state.load(body))
            if wrongs.loads_adapters and self.path == "/v1/unload_lora_adapter":
                return self._send(*state.unload(body))
        return self._send(404, {"detail": "Not Found"})

    def _send(self, status: int, found: Any, headers: dict[str, str] | None = None) -> None:
        if status >= 400 and isinstance(found, str):
            found = {"error": {"message": found, "type": "SomeError", "param": None, "code": status}}
        content = found.encode() if isinstance(found, str) else json.dumps(found).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def vllm(folder: Path, name: str, *, port: int = 0, **wrongs: Any) -> Iterator[StandIn]:
    """Serves the model in `folder` under the name, like `vllm serve FOLDER --served-model-name NAME --enable-lora`."""
    state = StandIn(name, folder, Wrongs(**wrongs))
    server = ThreadingHTTPServer(("127.0.0.1", port), type("Handler", (_Handler,), {"state": state}))
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()

    def stop() -> None:
        server.shutdown()
        server.server_close()

    state.stop = stop
    try:
        yield state
    finally:
        stop()
        thread.join()
