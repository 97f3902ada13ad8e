"""The processes of `accelerate launch`, as far as PPO needs them: who does which rows, and the sums over all.

Every process holds the trained weights and the whole batch of numbers, and does its share of the forward passes: its
rows are sampled, measured and differentiated by it alone. What it found is gathered, gradients are summed, and all go
on with the same numbers. So a step is what one process would have made of it, and the number of processes may change
between a checkpoint and its resume. Only the first process writes, asks a judge or calls a reward function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import lru_cache
from typing import Any, TypeVar

import torch
from torch import Tensor

from rlaif.core.errors import ConfigError
from rlaif.core.launch import deepspeed, place

T = TypeVar("T")
PATIENCE = timedelta(days=7)
"""How long a process waits for another: a judge may take hours over a batch, and the launcher ends those whose fellow
has died."""


class FirstFailedError(Exception):
    """The first process has failed at something that all wait for; it tells why."""


class Processes:
    """All processes, seen from one of them. Alone, nothing is sent anywhere."""

    def __init__(self, state: Any = None) -> None:
        """`state` is accelerate's PartialState; None for a process on its own."""
        self.index: int = 0 if state is None else state.process_index
        self.count: int = 1 if state is None else state.num_processes
        self.state = state
        self.begun = False

    @property
    def first(self) -> bool:
        return self.index == 0

    def share(self, items: int, together: int = 1) -> list[int]:
        """The numbers of the items, out of so many groups of `together` neighbours, that are this process's work: each
        n-th group. All processes have equally many, for sharded weights are gathered by all of them at once; where that
        does not come out even, some groups are the work of two."""
        if self.count == 1:
            return list(range(items))
        assert items % together == 0, "a process would have fewer"
        groups = -(-items // together)
        rounds = -(-groups // self.count)
        mine = [(turn * self.count + self.index) % groups for turn in range(rounds)]
        return [item for group in mine for item in range(group * together, min((group + 1) * together, items))]

    def joined(self, numbers: Sequence[int], found: Sequence[T]) -> list[T]:
        """What every process found of its share, in the order of the items."""
        pairs = list(zip(numbers, found, strict=True))
        if self.count > 1:
            from accelerate.utils import gather_object

            pairs = gather_object(pairs)
        whole = dict(pairs)
        return [whole[number] for number in sorted(whole)]

    def from_first(self, make: Callable[[], T]) -> T:
        """What `make` gives in the first process; it is not called in the others, which raise FirstFailedError where it
        fails there."""
        if self.count == 1:
            return make()
        from accelerate.utils import broadcast_object_list

        made: list[tuple[T] | None] = [None]
        problem: Exception | None = None
        if self.first:
            try:
                made = [(make(),)]
            except Exception as error:
                problem = error
        broadcast_object_list(made)
        if problem is not None:
            raise problem
        if made[0] is None:
            raise FirstFailedError
        return made[0][0]

    def summed(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The sums of each tensor over all processes, the same to the last bit in each of them."""
        if self.count == 1 or not tensors:
            return list(tensors)
        from accelerate.utils import reduce

        flat = reduce(torch.cat([tensor.flatten() for tensor in tensors]), "sum")
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]

    def summed_up(self, sums: dict[str, float], parameters: Sequence[Tensor], device: torch.device) -> dict[str, float]:
        """The sums over all processes; those of the gradients are left in the parameters."""
        if self.count == 1:
            return sums
        trained = [parameter for parameter in parameters if parameter.grad is not None]
        own = torch.tensor(list(sums.values()), device=device)
        *gradients, whole = self.summed([*(p.grad for p in trained if p.grad is not None), own])
        for parameter, gradient in zip(trained, gradients, strict=True):
            parameter.grad = gradient
        return dict(zip(sums, whole.tolist(), strict=True))

    def wait(self) -> None:
        """Until all processes are here."""
        if self.state is not None:
            self.state.wait_for_everyone()

    # --- the others wait until the first has looked at the run folder ---

    def begin(self) -> None:
        """Called by the first process when the stage begins: the others begin it too."""
        if not self.begun:
            self.begun = self.from_first(lambda: True)

    def told_to_begin(self) -> bool:
        """Whether the first process has begun the stage; False if it found that there was nothing to do."""
        self.begun = self.from_first(lambda: False)
        return self.begun

    def end(self) -> None:
        """Called by every process when its work is done."""
        if self.first and not self.begun:
            self.from_first(lambda: False)
        if self.state is not None:
            self.wait()  # one that leaves while another still talks to it can be aborted by its own threads
            self.state.destroy_process_group()


ALONE = Processes()


@lru_cache(maxsize=1)
def launched_processes() -> Processes:
    """Those that this one was launched with, by `accelerate launch` or torchrun."""
    if place()[1] == 1:
        return ALONE
    if deepspeed():
        raise ConfigError(
            "DeepSpeed is not supported: it would take over the optimiser, whose state here is that of small adapters",
            where="accelerate launch",
            remedy="launch with MULTI_GPU, or with FSDP version 2 where the frozen weights do not fit on one device",
        )
    from accelerate import PartialState

    state = PartialState(cpu=not torch.accelerator.is_available(), timeout=PATIENCE)
    if (state.process_index, state.num_processes) != place():
        raise ConfigError(
            f"accelerate sees process {state.process_index} of {state.num_processes}, the launcher said {place()}",
            where="accelerate launch",
        )
    return Processes(state)
