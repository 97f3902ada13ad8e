"""The frozen weights cut into pieces, one for each process, and gathered layer by layer where they are used (FSDP2).

Adapters and heads, which are small, stay whole in every process, as do embeddings and the output layer; so optimiser,
checkpoints and gradients are what they are without. Gathering changes no number.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from rlaif.core.errors import ModelError
from rlaif.training.ppo.processes import Processes


class Shards:
    """The layers of a model's trunk, each in pieces; of a model that is whole: none."""

    def __init__(self, layers: list[Any]) -> None:
        self.layers = layers

    @classmethod
    def of(cls, trunk: nn.Module, processes: Processes) -> Shards:
        """Cuts the frozen weights of the layers in the trunk, in place."""
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        device = next(trunk.parameters()).device
        mesh = init_device_mesh(device.type, (processes.count,))
        layers = list(_layers(trunk))
        inside = {id(p) for layer in layers for name, p in layer.named_parameters() if "lora_" not in name}
        whole = {p for p in trunk.parameters() if id(p) not in inside}
        for module in (*layers, trunk):
            fully_shard(module, mesh=mesh, ignored_params=whole)
        return cls(layers)

    @property
    def held(self) -> float:
        """The part of the layers' frozen weights that this process holds."""
        cut = [p for layer in self.layers for name, p in layer.named_parameters() if "lora_" not in name]
        return sum(p.to_local().numel() for p in cut) / sum(p.numel() for p in cut) if cut else 1.0

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """All layers whole, for as long as this lasts: decoding would gather them anew for every token, and processes
        do not decode equally many."""
        for layer in self.layers:
            layer.set_reshard_after_forward(False)
            layer.unshard()
        try:
            yield
        finally:
            for layer in self.layers:
                layer.set_reshard_after_forward(True)
                layer.reshard()


def _layers(trunk: nn.Module) -> nn.ModuleList:
    """The trunk's layers: the list of modules that holds most of its weights; raises ModelError where there is none."""
    lists = [module for module in trunk.modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise ModelError(
            f"{type(trunk).__name__} has no list of layers whose weights could be shared out",
            where="accelerate launch",
            remedy="launch without FSDP, with scripts/accelerate/ddp.yaml",
        )
    return max(lists, key=lambda child: sum(p.numel() for p in child.parameters()))
