"""What every source of a store is made of: axes, type, channels, classes, kind of target."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vesselflow.errors import UserError

KINDS = ("patch", "keypoint")
AXES = ("yx", "zyx")
DTYPES = ("uint8", "uint16", "float16", "float32")
#: What the target of a patch store is: one mask, a mask for each class, or one class a voxel.
TARGETS = ("binary", "planes", "labels")
#: Voxels of the image along one side of a cell of the heat-map.
DS_FACTOR = 16

#: One number for all classes, one for each, or not said.
Sigma = float | tuple[float, ...] | None


@dataclass(frozen=True)
class Layout:
    """What a store declares about all of its sources.

    S stands for the spatial sizes, (H, W) or (D, H, W), which may differ from source to source.

    Attributes:
        kind: "patch" (a target mask) or "keypoint" (points).
        axes: "yx" or "zyx".
        dtype: Of the image (*S, C): uint8, uint16, float16 or float32.
        channels: C.
        classes: Names; of a binary target the one name, of a keypoint store the points' classes.
        target: Of a patch store "binary" (uint8 (*S), 0 or 1), "planes" (uint8 (*S, K), 0 or 1;
            classes may overlap) or "labels" (uint8 (*S), 0 for none, k for class k - 1). Of a
            keypoint store "".
        ds_factor: Of a keypoint store: voxels along a cell of the target's grid, by default.
        ds_sigma: The same: standard deviation of a point's Gaussian in cells of that grid.
        sigma_angstrom: The same in angstrom, for sources whose spacing is known.
        heatmaps: Of a keypoint store: every source has a heat-map rendered beforehand as well.
    """

    kind: str = "patch"
    axes: str = "yx"
    dtype: str = "uint8"
    channels: int = 1
    classes: tuple[str, ...] = ("vessel",)
    target: str = "binary"
    ds_factor: int = DS_FACTOR
    ds_sigma: Sigma = None
    sigma_angstrom: Sigma = None
    heatmaps: bool = False

    def __post_init__(self) -> None:
        """Refuse what is no layout.

        Raises:
            UserError: a value that is not allowed.
        """
        allowed = {"kind": KINDS, "axes": AXES, "dtype": DTYPES}
        allowed["target"] = TARGETS if self.kind == "patch" else ("",)
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise _refused(name, getattr(self, name), ", ".join(values) or "''")
        for name in ("channels", "ds_factor"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise _refused(name, value, "a whole number, 1 or more")
        self._check_classes()
        for name in ("ds_sigma", "sigma_angstrom"):
            self._check_sigma(name, getattr(self, name))

    def _check_classes(self) -> None:
        names = self.classes
        if not names or not all(
            isinstance(name, str) and name.strip() and name.isprintable() for name in names
        ):
            raise _refused("classes", list(names), "one name or more")
        if len(set(names)) < len(names):
            raise _refused("classes", list(names), "names of which each stands once")
        if self.target == "binary" and len(names) > 1:
            raise _refused("classes", list(names), "one name, because the target is binary")
        if self.target == "labels" and len(names) > 255:
            raise _refused("classes", f"of {len(names)} names", "at most 255, as labels")

    def _check_sigma(self, name: str, value: Sigma) -> None:
        if value is None:
            return
        numbers = value if isinstance(value, tuple) else (value,)
        fits = not isinstance(value, tuple) or len(value) == len(self.classes)
        if not fits or not all(math.isfinite(n) and n > 0 for n in numbers):
            raise _refused(name, value, "a number above 0, or one for each class")

    @property
    def dims(self) -> int:
        """How many spatial axes: 2 or 3."""
        return len(self.axes)

    @property
    def schema(self) -> int:
        """The oldest schema that can hold it: 1 for images of 8 bits with one mask, else 2."""
        plain = (self.kind, self.axes, self.dtype, self.classes, self.target)
        return 1 if plain == ("patch", "yx", "uint8", ("vessel",), "binary") else 2

    @property
    def sizes(self) -> str:
        """The spatial sizes in words: "H, W" or "D, H, W"."""
        return ", ".join("DHW"[-self.dims :])

    def arrays(self) -> tuple[str, ...]:
        """The names of what each source holds, in the order in which digests take them."""
        if self.kind == "patch":
            return ("image", "target", "fov")
        heatmap = ("heatmap",) if self.heatmaps else ()
        return ("image", "fov", "keypoints", "classes", *heatmap)

    def coarse(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Cells of the grid of heat-maps that covers a source; the last may reach over its edge."""
        return tuple(-(-side // self.ds_factor) for side in shape)

    def plain(self) -> dict[str, Any]:
        """The layout as plain data; what does not concern a patch store is left out."""
        values = dataclasses.asdict(self)
        if self.kind == "patch":
            for name in ("ds_factor", "ds_sigma", "sigma_angstrom", "heatmaps"):
                del values[name]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Layout:
        """The layout of plain data.

        Raises:
            UserError: a value that is not allowed.
            TypeError: an unknown key.
        """
        held: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        return cls(**held)


def _refused(name: str, value: object, allowed: str) -> UserError:
    return UserError(f"{name} {value!r} is not allowed", where="layout", allowed=allowed)
