"""Rollouts from a vLLM server: it serves the SFT policy, and is given the policy's adapter before every step.

In `ppo/server` of the run lie the SFT policy as a plain model (`sft-FINGERPRINT`) and the adapter in use
(`policy-HASH`). Names tell weights: a server that serves another SFT policy is refused by the name, and cannot
answer for an adapter that it was not given. Nor does vLLM, which keeps cached prefixes by the adapter's name, take up
those of weights that are gone.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from rlaif.config import PpoConfig
from rlaif.core.errors import BackendError
from rlaif.core.files import file_hash, move_folder, remove_folder, write_folder
from rlaif.core.progress import Progress
from rlaif.core.records import Prompt
from rlaif.lm.local.load import LoadedModel, context_length, end_ids
from rlaif.lm.server.rollouts import Drawn, RolloutServer
from rlaif.training.ppo.local_sampler import by_length, seed_of
from rlaif.training.ppo.policy_model import PolicyModel
from rlaif.training.ppo.processes import ALONE, Processes
from rlaif.training.ppo.rollout import Rollouts

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM takes for --max-lora-rank."""


def open_server(loaded: LoadedModel, config: PpoConfig, files: Path, progress: Progress) -> RolloutServer:
    """The server of `ppo.server_url`, seen to serve the SFT policy `loaded`, which is written for it into the folder
    `files` where it is missing. Raises BackendError, with the command that starts the server, where it does not answer
    or serves another model."""
    name = f"sft-{loaded.fingerprint}"
    folder = files / name
    if not folder.exists():
        progress.say(f"  writing the SFT policy for the server to {folder}")
        write_folder(folder, lambda into: _save_model(loaded, into))
    command = vllm_command(config, loaded, name, f"{_as_seen(files, config)}/{name}")
    server = RolloutServer(
        config.server_url,
        timeout=config.server_timeout,
        remedy=f"start the server, then run again with --resume:\n{command}",
    )
    served = server.models()
    if name not in served:
        raise BackendError(
            f"the server serves {', '.join(served) or 'nothing'}, and not the SFT policy of this run, {name}",
            where=config.server_url,
            remedy=server.remedy,
        )
    return server


def _as_seen(files: Path, config: PpoConfig) -> str:
    """The folder of the files under the name that the server knows it by."""
    return config.server_folder or str(files.resolve())


def _save_model(loaded: LoadedModel, folder: Path) -> None:
    """Writes the model, adapters merged, and its tokenizer in transformers' format."""
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)


def vllm_command(config: PpoConfig, loaded: LoadedModel, name: str, path: str) -> str:
    """The command that serves the SFT policy and takes adapters. The dtype is said, for vLLM would make float32
    smaller; log-probs are to be those at the temperature, which vLLM leaves out of them unless told."""
    rank = next((rank for rank in RANKS if rank >= config.lora_r), config.lora_r)
    length = min(config.max_length, context_length(loaded.model))
    return (
        f"VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve {shlex.quote(path)} --served-model-name {name} "
        f"--dtype {str(loaded.dtype).removeprefix('torch.')} --enable-lora --max-lora-rank {rank} "
        f"--max-model-len {length} --logprobs-mode processed_logprobs --port {urlsplit(config.server_url).port or 80}"
    )


class ServerSampler:
    """Samples from the server, which is first given the policy's adapter.

    The first process does it for all, and is the only one to need a `server`.
    """

    def __init__(
        self,
        model: PolicyModel,
        server: RolloutServer | None,
        config: PpoConfig,
        files: Path,
        *,
        seed: int,
        processes: Processes = ALONE,
    ) -> None:
        """The adapters go into the folder `files`."""
        self.model, self.server, self.processes = model, server, processes
        self.config, self.seed = config, seed
        self.folder, self.seen_as = files, _as_seen(files, config)
        self.ends = end_ids(model.loaded.tokenizer, model.loaded.model)
        self.serving: str | None = None

    def sample(self, prompts: Sequence[Prompt], step: int) -> Rollouts:
        """One response per prompt. Prompts of like length stand together."""
        rows = by_length(self.model.loaded.tokenizer, prompts)
        seeds = [seed_of(self.seed, step, place) for _, place, _ in rows]
        drawn = self.processes.from_first(lambda: self._drawn([ids for ids, _, _ in rows], seeds))
        return Rollouts(
            prompts=tuple(prompt for _, _, prompt in rows),
            prompt_ids=tuple(tuple(ids) for ids, _, _ in rows),
            responses=tuple(each.ids for each in drawn),
            finish=tuple(each.finish for each in drawn),
            sampler_logprobs=tuple(each.logprobs for each in drawn),
        )

    def _drawn(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int]) -> list[Drawn]:
        assert self.server is not None
        return self.server.sample(
            self._load(self.server),
            prompts,
            max_new_tokens=self.config.max_new_tokens,
            temperature=self.config.temperature,
            seeds=seeds,
            ends=self.ends,
        )

    def _load(self, server: RolloutServer) -> str:
        """The name of the policy as it is now, which the server has loaded; the one before it has dropped."""
        unnamed = self.folder / "policy"
        write_folder(unnamed, self.model.save_policy)
        name = f"policy-{file_hash(unnamed / 'adapter_model.safetensors')[:12]}"
        remove_folder(self.folder / name)
        move_folder(unnamed, self.folder / name)
        if self.serving == name:
            return name
        if self.serving is not None:  # before the new one: vLLM keeps one at a time, unless told otherwise
            self._drop(server, self.serving)
        server.load_adapter(name, f"{self.seen_as}/{name}")
        self.serving = name
        return name

    def close(self) -> None:
        """Has the server drop the adapter, and ends the connection. The SFT policy stays where it is."""
        if self.server is not None:
            if self.serving is not None:
                with suppress(BackendError):  # it may have gone: nothing is wanted of it any more
                    self._drop(self.server, self.serving)
            self.server.close()

    def _drop(self, server: RolloutServer, name: str) -> None:
        server.unload_adapter(name)
        remove_folder(self.folder / name)
