"""The workers that train one run together: one plain process, or a torch.distributed group."""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.distributed as dist


class Group(Protocol):
    """What the loop needs to know of its fellow workers."""

    rank: int
    size: int

    def gather(self, vector: torch.Tensor) -> list[torch.Tensor]:
        """The float32 vectors of all ranks, in rank order; all have the same length."""

    def share(self, value: Any) -> Any:
        """The object that rank 0 passes, on every rank."""


class Solo:
    """A group of one: no communication."""

    rank = 0
    size = 1

    def gather(self, vector: torch.Tensor) -> list[torch.Tensor]:
        """Return the own vector alone."""
        return [vector]

    def share(self, value: Any) -> Any:
        """Return the own value."""
        return value


class Distributed:
    """The default process group of torch.distributed, set up by whoever started the workers."""

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()

    def gather(self, vector: torch.Tensor) -> list[torch.Tensor]:
        """All ranks' vectors in rank order (a collective call: every rank must make it)."""
        vectors = [torch.empty_like(vector) for _ in range(self.size)]
        dist.all_gather(vectors, vector)
        return vectors

    def share(self, value: Any) -> Any:
        """Broadcast a picklable object from rank 0 (a collective call)."""
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]


def current_group() -> Group:
    """The group of this process: `Distributed` when torch.distributed runs with more than one."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        return Distributed()
    return Solo()
