"""The workers that train one run together: one plain process, or a torch.distributed group.

Two kinds of exchange. Tensors (`gather`) are exchanged in every step, in the group that whoever
started the workers made, with its limit on how long one waits for another. Everything else
(`share`, `collect`) may have to wait long: for rank 0 to score, or for a disk that is full. It goes
through a group of its own that is patient, and through the CPU.

An error on one rank must not leave the others waiting. So what a rank does by itself is done
`together`: each tells the others how it went, and where one failed, all raise.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist

from vesselflow.training.failures import PeerError, Told, tell

T = TypeVar("T")

#: How long one rank waits for another to share something: a full disk may stay so over a weekend.
#: A peer that dies is noticed at once, by its closed connection.
PATIENCE = timedelta(days=30)


class Group(Protocol):
    """What the loop needs to know of its fellow workers."""

    rank: int
    size: int

    def gather(self, vector: torch.Tensor) -> list[torch.Tensor]:
        """The float32 vectors of all ranks, in rank order; all have the same length."""

    def share(self, value: Any) -> Any:
        """The object that rank 0 passes, on every rank; waits for it as long as it takes."""

    def collect(self, value: Any) -> list[Any]:
        """The objects of all ranks, in rank order; waits for them as long as it takes."""


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

    def collect(self, value: Any) -> list[Any]:
        """Return the own value alone."""
        return [value]


class Distributed:
    """The default process group of torch.distributed, set up by whoever started the workers.

    Making one is a collective call: every rank makes it, and once.
    """

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()
        patient = dist.new_group(backend="gloo", timeout=PATIENCE)
        assert not isinstance(patient, int)  # every rank is in it
        self._patient = patient

    def gather(self, vector: torch.Tensor) -> list[torch.Tensor]:
        """All ranks' vectors in rank order (a collective call: every rank must make it)."""
        vectors = [torch.empty_like(vector) for _ in range(self.size)]
        dist.all_gather(vectors, vector)
        return vectors

    def share(self, value: Any) -> Any:
        """Broadcast a picklable object from rank 0 (a collective call)."""
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self._patient)
        return box[0]

    def collect(self, value: Any) -> list[Any]:
        """Gather the picklable objects of all ranks (a collective call)."""
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self._patient)
        return values


def current_group() -> Group:
    """The group of this process: `Distributed` when torch.distributed runs with more than one."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        return Distributed()
    return Solo()


def together(group: Group, action: Callable[[], T]) -> list[T]:
    """Do something on every rank; when it fails on one of them, it fails on all.

    Args:
        group: The ranks; each calls this with an action of its own (a collective call).
        action: May take as long as it likes; what it returns must be picklable.

    Returns:
        What the action returned on each rank, in rank order.

    Raises:
        PeerError: It failed on another rank; on the one where it failed, its own error is raised.
    """
    if group.size == 1:
        return [action()]
    try:
        value, error = action(), None
    except Exception as own:
        value, error = None, own
    answers: list[tuple[Any, Told | None]] = group.collect(
        (value, None if error is None else tell(error, group.rank))
    )
    raise_first(error, [told for _, told in answers])
    return [value for value, _ in answers]


def lead(group: Group, action: Callable[[], T]) -> T:
    """Do something on rank 0 alone, while the others wait; its result, or its failure, on all."""
    result = together(group, action if group.rank == 0 else lambda: None)[0]
    return result  # type: ignore[return-value]  # rank 0's, which did the action


def raise_first(error: BaseException | None, told: list[Told | None]) -> None:
    """Raise the own error, else that of the first rank that told one, if any did."""
    if error is not None:
        raise error
    for one in told:
        if one is not None:
            raise PeerError(one)
