"""What the layout of volumes takes; `volume_listing.py` finds the files, as it imports numpy."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from vesselflow.config.registry import Arguments
from vesselflow.stores.importers.grouping import numbers_in, one_group, whole_numbers


class VolumeArguments(Arguments):
    """TIFF stacks, HDF5, MRC, NIfTI or Zarr volumes, with keypoints or label volumes."""

    images: str = Field("images", description="folder of the volumes, or one file, inside SOURCE")
    labels: str = Field("labels", description="folder of the label volumes, or one file")
    keypoints: str | None = Field(
        None, description="CSV or STAR file of keypoints, or a folder of them; labels are not read"
    )
    image_suffix: str = Field("", description="what volumes' names carry beyond the id: _rec")
    label_suffix: str = Field("", description="what labels' names carry beyond the id: _seg")
    keypoint_suffix: str = Field("", description="what keypoint files' names carry beyond the id")
    slices: bool = Field(
        False, description="each volume is a folder with a TIFF file for each slice: 0001.tif"
    )
    dataset: str | None = Field(None, description="which array of an HDF5 or Zarr file")
    label_dataset: str | None = Field(
        None, description="which array of the label files; without a folder of labels, of the image"
    )
    channels: Literal["none", "first", "last"] = Field(
        "none", description="whether an axis of the volumes is channels, and which"
    )
    dtype: Literal["uint8", "uint16", "float16", "float32"] | None = Field(
        None, description="type in the store; without it that of the files, where a store has it"
    )
    values: tuple[int, ...] | None = Field(
        None, description="in label volumes these values are vessel and all others are not: 1,3"
    )
    classes: tuple[str, ...] | None = Field(
        None,
        description="classes of the keypoints, in order; of label volumes the names of 1, 2 and so "
        "on, which then exclude each other: shell,rod",
    )
    class_column: str | None = Field(
        None, description="column of the keypoints' classes; of a CSV class where there is one"
    )
    units: Literal["voxel", "angstrom"] = Field("voxel", description="of the keypoints")
    spacing_um: tuple[float, ...] | None = Field(
        None, description="micrometres a voxel, Z,Y,X or one number; else what the files say"
    )
    spacing_angstrom: tuple[float, ...] | None = Field(None, description="the same in angstrom: 10")
    ds_factor: int = Field(
        16, ge=1, strict=False, description="voxels along a cell of the keypoints' target"
    )
    ds_sigma: float | None = Field(
        None, gt=0, strict=False, description="standard deviation of a keypoint in these cells"
    )
    sigma_angstrom: float | None = Field(
        None, gt=0, strict=False, description="the same in angstrom"
    )
    group: str | None = Field(
        None, description="regular expression; its group is the source's group: '^(grid[0-9]+)'"
    )
    split: str | None = Field(None, description="CSV inside SOURCE with columns id,split")

    @field_validator("spacing_um", "spacing_angstrom", mode="before")
    @classmethod
    def _sides(cls, value: Any) -> Any:
        if value is None:
            return None
        numbers = numbers_in(value, float)
        if numbers is None or len(numbers) not in (1, 2, 3) or not all(n > 0 for n in numbers):
            raise ValueError("one number above 0, or one for each axis: 10 or 4,2,2")
        return numbers

    @field_validator("values", mode="before")
    @classmethod
    def _values(cls, value: Any) -> Any:
        return whole_numbers(value)

    @field_validator("classes", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        if value is None:
            return None
        parts = value.split(",") if isinstance(value, str) else value
        if not isinstance(parts, list | tuple):
            raise ValueError("names with commas between: shell,rod")
        names = tuple(part.strip() if isinstance(part, str) else part for part in parts)
        if not all(isinstance(name, str) and name for name in names) or len(set(names)) < len(
            names
        ):
            raise ValueError("names with commas between, each once: shell,rod")
        return names

    @field_validator("group")
    @classmethod
    def _one_group(cls, value: str | None) -> str | None:
        return one_group(value)
