"""State of a training run as bytes: its many small tensors lie in a few large ones.

Models of this field have hundreds of small tensors, and an optimizer holds two more of each:
`torch.save` takes 20 ms for a megabyte of them, as long as some steps. Packed it takes 3 ms, and
from a GPU they come in one copy instead of hundreds.
"""

from __future__ import annotations

import io
import json
import math
from dataclasses import dataclass
from typing import Any

import torch

#: Elements up to which a tensor is packed; a larger one is kept as it is, without another copy.
SMALL = 1 << 18

_TENSOR, _DICT, _LIST, _TUPLE, _PLAIN = "t", "d", "l", "u", "p"


def dump(state: Any) -> bytes:
    """Serialise tensors, numbers and texts, nested in dictionaries, lists and tuples.

    Tensors come back with their values, types, shapes and layouts (channels last, for example), on
    the CPU; those that shared memory do not share it any more.
    """
    packer = _Packer({}, [])
    tree = packer.add(state)
    small = {
        kind: torch.cat([part.view(-1) for part in parts]).cpu()
        for kind, parts in packer.small.items()
    }
    buffer = io.BytesIO()
    # As text: torch's pickler calls back to Python for every object that it meets.
    torch.save({"tree": json.dumps(tree), "small": small, "large": packer.large}, buffer)
    return buffer.getvalue()


def load(payload: bytes) -> Any:
    """Read what `dump` wrote (nothing in it is executed).

    Raises:
        Exception: Of many types, when it is damaged.
    """
    content = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    return _unpacked(json.loads(content["tree"]), content["small"], content["large"])


@dataclass
class _Packer:
    small: dict[str, list[torch.Tensor]]
    large: list[torch.Tensor]

    def __post_init__(self) -> None:
        self.ends: dict[str, int] = {}

    def add(self, value: Any) -> Any:
        """What stands for a value in the tree."""
        if isinstance(value, torch.Tensor):
            return (_TENSOR, *self._place(value.detach()))
        if isinstance(value, dict):
            return (_DICT, [(key, self.add(entry)) for key, entry in value.items()])
        if isinstance(value, list | tuple):
            kind = _LIST if isinstance(value, list) else _TUPLE
            return (kind, [self.add(entry) for entry in value])
        return (_PLAIN, value)

    def _place(self, tensor: torch.Tensor) -> tuple[Any, ...]:
        # In the order of its memory, and how to come back from there.
        order: list[int] = []
        flat = tensor
        if not tensor.is_contiguous():
            order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
            flat = tensor.permute(order)
        size = tensor.numel()
        if size > SMALL or not flat.is_contiguous():
            self.large.append(tensor.cpu())
            return (len(self.large) - 1,)
        kind = f"{tensor.dtype} {tensor.device}"
        start = self.ends.get(kind, 0)
        self.ends[kind] = start + size
        self.small.setdefault(kind, []).append(flat)
        return (kind, start, flat.shape, order)


def _unpacked(node: Any, small: dict[str, torch.Tensor], large: list[torch.Tensor]) -> Any:
    kind, *rest = node
    if kind == _PLAIN:
        return rest[0]
    if kind == _DICT:
        return {key: _unpacked(entry, small, large) for key, entry in rest[0]}
    if kind == _LIST:
        return [_unpacked(entry, small, large) for entry in rest[0]]
    if kind == _TUPLE:
        return tuple(_unpacked(entry, small, large) for entry in rest[0])
    if len(rest) == 1:
        return large[rest[0]]
    name, start, shape, order = rest
    flat = small[name][start : start + math.prod(shape)].view(shape).clone()
    return flat.permute([order.index(axis) for axis in range(len(order))]) if order else flat
