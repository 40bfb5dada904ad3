"""Where a network has squeeze-and-excitation: gates by place and level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from vesselflow.models.layers import EXCITATIONS


class Gates(nn.ModuleDict):
    """The excitations of a network, by place ("encoder", "skip", "decoder") and level.

    Made after all other layers of a network have drawn their weights, so that networks with and
    without them, and with different ones, start from the same weights elsewhere.

    Args:
        name: Of the excitation; None for none.
        places: Where.
        widths: Place -> level -> channels of the map there.
        axes: Of the maps.
        reduction: Of the bottleneck, where the excitation has one; None for its own.
    """

    def __init__(
        self,
        name: str | None,
        places: Sequence[str],
        widths: Mapping[str, Mapping[int, int]],
        *,
        axes: int,
        reduction: int | None,
    ) -> None:
        super().__init__()
        if name is None:
            return
        spec: dict[str, Any] = {"name": name}
        if reduction is not None and "reduction" in EXCITATIONS.part(name).arguments.model_fields:
            spec |= {"reduction": reduction}
        for place in places:
            for level, channels in widths[place].items():
                self[f"{place}{level}"] = EXCITATIONS.build(spec, channels=channels, axes=axes)

    def forward(self, place: str, level: int, x: Tensor) -> Tensor:
        """The map of a place and level, gated where there is a gate."""
        key = f"{place}{level}"
        return self[key](x) if key in self else x

    def each(self, place: str, maps: Sequence[Tensor]) -> list[Tensor]:
        """All maps of a place, by level from 0 on, gated where there are gates."""
        return [self(place, level, x) for level, x in enumerate(maps)]


@dataclass(frozen=True)
class Hook:
    """A forward hook that gates what a module gives; copied and pickled with its network."""

    gates: Gates
    place: str
    level: int

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        """The gated output."""
        gated: Tensor = self.gates(self.place, self.level, output)
        return gated


@dataclass(frozen=True)
class SkipHook:
    """A hook before a decoder that gates the maps that it is given, by their level."""

    gates: Gates

    def __call__(self, module: nn.Module, inputs: tuple[Sequence[Tensor]]) -> tuple[list[Tensor]]:
        """The maps, finest first, those with gates gated."""
        (maps,) = inputs
        return (self.gates.each("skip", maps),)
