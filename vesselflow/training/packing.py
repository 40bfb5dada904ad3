"""State of a training run as bytes: a copy in one buffer that is reused, ready to be written.

Models of this field have hundreds of small tensors, and an optimizer holds two more of each. They
are copied into one buffer, one after the other, which costs what copying memory costs: 0.03 s for
the 293 MB of a U-Net with resnet34 and AdamW, of which `torch.save` took 0.3 to 1 s and two more
copies. From a GPU the small ones come in one transfer instead of hundreds.

The bytes: length of the description (8 bytes, little-endian), the tensors' values (each group of
one type begins at a multiple of 64), the description (JSON).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

#: Elements up to which tensors of a GPU are joined there before they are transferred.
SMALL = 1 << 18

_TENSOR, _DICT, _LIST, _TUPLE, _PLAIN = "t", "d", "l", "u", "p"
_LENGTH_BYTES, _ALIGNED = 8, 64


def dump(state: Any) -> bytes:
    """`Snapshot.take` as bytes of their own."""
    return bytes(Snapshot().take(state))


def load(payload: bytes | memoryview) -> Any:
    """Read what `Snapshot.take` gave (nothing in it is executed); shares no memory with it.

    Raises:
        Exception: Of many types, when it is damaged.
    """
    view = memoryview(payload)
    length = int.from_bytes(view[:_LENGTH_BYTES], "little")
    if not 0 < length <= len(view) - _LENGTH_BYTES:
        raise ValueError(f"a description of {length} bytes in a state of {len(view)}")
    content = json.loads(bytes(view[len(view) - length :]))
    return _unpacked(content["tree"], content["groups"], view)


class Snapshot:
    """Copies of a training state, one after the other, in one buffer.

    The buffer is as large as the state: what model, optimizer and averaged weights hold, once more.
    It is made at the first copy; in page-locked memory where the state lives on a GPU.
    """

    def __init__(self) -> None:
        self._buffer = torch.empty(0, dtype=torch.uint8)

    def take(self, state: Any) -> memoryview:
        """Copy tensors, numbers and texts, nested in dictionaries, lists and tuples.

        Tensors come back with their values, types, shapes and layouts (channels last, for example;
        one with gaps comes back without), on the CPU; those that shared memory do not share it any
        more.

        Returns:
            The copy as `load` reads it; nothing of the state is shared with it. It holds until the
            next `take`, which writes over it.
        """
        packing = _Packing()
        tree = packing.add(state)
        ends = packing.place(_LENGTH_BYTES)
        text = json.dumps({"tree": tree, "groups": packing.starts}).encode()
        buffer = self._reserved(ends + len(text), packing.from_gpu)
        for key, group in packing.groups.items():
            start = packing.starts[key]
            target = buffer[start : start + group.count * group.dtype.itemsize].view(group.dtype)
            _copy(group.parts, target)
        if packing.from_gpu:
            _settle()
        view: memoryview = buffer.numpy().data
        view[:_LENGTH_BYTES] = len(text).to_bytes(_LENGTH_BYTES, "little")
        view[ends : ends + len(text)] = text
        return view[: ends + len(text)].toreadonly()

    def _reserved(self, size: int, locked: bool) -> torch.Tensor:
        if len(self._buffer) < size:
            # The description grows by some digits from one time to the next.
            size += size // 64 + 4096
            self._buffer = torch.empty(0, dtype=torch.uint8)  # let go before the next one is made
            locked = locked and torch.cuda.is_available()
            self._buffer = torch.empty(size, dtype=torch.uint8, pin_memory=locked)
        return self._buffer


@dataclass
class _Group:
    """Tensors of one type that lie one behind the other."""

    dtype: torch.dtype
    parts: list[torch.Tensor] = field(default_factory=list)
    count: int = 0


class _Packing:
    """What is copied where."""

    def __init__(self) -> None:
        self.groups: dict[str, _Group] = {}
        self.starts: dict[str, int] = {}
        self.from_gpu = False

    def add(self, value: Any) -> Any:
        """What stands for a value in the tree."""
        if isinstance(value, torch.Tensor):
            return (_TENSOR, *self._add_tensor(value.detach()))
        if isinstance(value, dict):
            return (_DICT, [(key, self.add(entry)) for key, entry in value.items()])
        if isinstance(value, list | tuple):
            kind = _LIST if isinstance(value, list) else _TUPLE
            return (kind, [self.add(entry) for entry in value])
        return (_PLAIN, value)

    def place(self, end: int) -> int:
        """Give each group its place behind `end`; returns where the last one ends."""
        for key, group in self.groups.items():
            start = -(-end // _ALIGNED) * _ALIGNED
            self.starts[key] = start
            end = start + group.count * group.dtype.itemsize
        return end

    def _add_tensor(self, tensor: torch.Tensor) -> tuple[Any, ...]:
        # In the order of its memory, and how to come back from there.
        order: list[int] = []
        flat = tensor
        if not tensor.is_contiguous():
            order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
            flat = tensor.permute(order)
        kind = str(tensor.dtype).removeprefix("torch.")
        key = f"{kind} {tensor.device}"
        if _on_gpu(tensor):
            self.from_gpu = True
            if tensor.numel() > SMALL:
                key += f" {len(self.groups)}"
        group = self.groups.setdefault(key, _Group(tensor.dtype))
        start = group.count
        group.count += tensor.numel()
        group.parts.append(flat.reshape(-1))
        return (key, start, list(flat.shape), order)


def _copy(parts: list[torch.Tensor], target: torch.Tensor) -> None:
    if not _on_gpu(parts[0]):
        torch.cat(parts, out=target)
    else:
        joined = parts[0] if len(parts) == 1 else torch.cat(parts)
        target.copy_(joined, non_blocking=True)


def _on_gpu(tensor: torch.Tensor) -> bool:
    return tensor.device.type == "cuda"


def _settle() -> None:
    """Wait for the copies that the GPU was asked for."""
    torch.cuda.synchronize()


def _unpacked(node: Any, groups: dict[str, int], view: memoryview) -> Any:
    kind, *rest = node
    if kind == _PLAIN:
        return rest[0]
    if kind == _DICT:
        return {key: _unpacked(entry, groups, view) for key, entry in rest[0]}
    if kind == _LIST:
        return list(_all(rest[0], groups, view))
    if kind == _TUPLE:
        return tuple(_all(rest[0], groups, view))
    key, first, shape, order = rest
    dtype = getattr(torch, key.split()[0])
    flat = torch.empty(shape, dtype=dtype)
    if size := math.prod(shape) * dtype.itemsize:
        start = groups[key] + first * dtype.itemsize
        values: memoryview = flat.view(-1).view(torch.uint8).numpy().data
        values[:] = view[start : start + size]
    return flat.permute([order.index(axis) for axis in range(len(order))]) if order else flat


def _all(nodes: list[Any], groups: dict[str, int], view: memoryview) -> Iterator[Any]:
    return (_unpacked(node, groups, view) for node in nodes)
