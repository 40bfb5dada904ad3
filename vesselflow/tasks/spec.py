"""A task with all its settings filled in: by the experiment, and by what the store declares."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

#: One row of widths per class, one number per axis.
Widths = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class TaskSpec:
    """What a run learns; plain data, hashed into its name unless it is a mask for each class.

    Attributes:
        name: Of the registered task.
        version: Of the code behind it.
        classes: Names, one for each channel of the logits.
        axes: Spatial axes.
        ds_factor: Voxels of a cell of the output along each axis; 1 where every voxel has one.
        ds_sigma: Of keypoints: standard deviations of the Gaussians in cells; None: in angstrom.
        sigma_angstrom: The same in angstrom, in its place.
        combine: Of keypoints: what near Gaussians make of each other, "max" or "sum".
        truncate: Of keypoints: standard deviations beyond which a Gaussian is 0; None for never.
        rigid: Of keypoints: augmentation moves the Gaussians and leaves their shape; else it is
            transformed as the image is.
        activation: How logits become probabilities: "sigmoid", that of each class by itself, or
            "softmax" over classes and background, of several masks that exclude each other.
    """

    name: str = "segment"
    version: int = 1
    classes: tuple[str, ...] = ("vessel",)
    axes: int = 2
    ds_factor: tuple[int, ...] = (1, 1)
    ds_sigma: Widths | None = None
    sigma_angstrom: Widths | None = None
    combine: str = "max"
    truncate: float | None = None
    rigid: bool = True
    activation: str = "sigmoid"

    @property
    def stride(self) -> int | tuple[int, ...]:
        """Of the model's output in working px: `ds_factor`, or 1 for any number of axes."""
        return 1 if set(self.ds_factor) == {1} else self.ds_factor

    @property
    def sparse(self) -> bool:
        """Whether next to nothing of an image is foreground, as of heat-maps of keypoints."""
        return self.name != "segment"

    @property
    def identity(self) -> dict[str, Any] | None:
        """What is hashed of it; None for what the store's digest says already."""
        values = dataclasses.asdict(self)
        if self.name != "segment":
            # Keypoints always have a sigmoid for each class.
            del values["activation"]
            return values
        told: dict[str, Any] = (
            {} if self.activation == "sigmoid" else {"activation": self.activation}
        )
        if self.stride != 1:
            told["ds_factor"] = self.ds_factor
        return {"name": self.name, "version": self.version, **told} if told else None
