"""Several processes that train one network, as ``torchrun`` starts them.

Every process draws samples of its own and computes its own gradients; their mean is what each
steps by, so that the weights stay the same in all. One process alone does nothing here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn

__all__ = ["Group", "local_device", "process_group"]

# The first process validates while the others wait.
_PATIENCE = timedelta(hours=2)


@dataclass(frozen=True, slots=True)
class Group:
    """This process among those that train together."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        """Whether this process writes checkpoints, logs and validates."""
        return self.rank == 0

    def average_gradients(self, network: nn.Module) -> None:
        """Replace every gradient by its mean over the processes."""
        if self.size == 1:
            return
        gradients = [one.grad for one in network.parameters() if one.grad is not None]
        joined = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(joined)
        joined /= self.size
        start = 0
        for gradient in gradients:
            gradient.copy_(joined[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()

    def mean(self, value: float) -> float:
        """The mean of a number over the processes."""
        if self.size == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return float(total) / self.size

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        """Run a block in the first process, then in the others, who find what it has left on disk."""
        if self.size > 1 and not self.is_first:
            dist.barrier()
        yield
        if self.size > 1 and self.is_first:
            dist.barrier()


def local_device(device: torch.device) -> torch.device:
    """The GPU of this process among those of its machine, where no GPU was named."""
    if device.type == "cuda" and device.index is None and "LOCAL_RANK" in os.environ:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return device


@contextmanager
def process_group(device: torch.device) -> Iterator[Group]:
    """Join the processes that torchrun started; a group of one where it did not start this one."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Group(device=device)
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield Group(dist.get_rank(), size, device)
    finally:
        dist.destroy_process_group()
