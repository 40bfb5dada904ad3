"""Importers, one file per source layout, by name.

An importer only lists files: it gets the folder and its own arguments and returns a
`listing.Listing`. Reading, checking and writing are shared (`read.py`, `run.py`).
"""

from __future__ import annotations

import math
import re
from typing import Any, Literal

from pydantic import Field, field_validator

from vesselflow.config.registry import Arguments, Registry

IMPORTERS = Registry("layout")


class ChaseArguments(Arguments):
    """CHASE_DB1: both eyes of 14 children, two observers; sorted or flat as published."""

    # Not strict: the command line gives it as text.
    observer: int = Field(1, ge=1, le=2, strict=False, description="whose labels: observer 1 or 2")


class StareArguments(Arguments):
    """STARE: 20 images, two annotators; sorted or flat as published (.ppm.gz)."""

    observer: Literal["ah", "vk"] = Field(
        "ah", description="whose labels: ah (Hoover) or vk (Kouznetsova)"
    )


class FolderArguments(Arguments):
    """Any folder of images with a folder of vessel masks, matched by name."""

    images: str = Field("images", description="folder of the images, inside SOURCE")
    masks: str = Field("masks", description="folder of the vessel masks, inside SOURCE")
    fov: str | None = Field(None, description="folder of the field-of-view masks, inside SOURCE")
    image_suffix: str = Field("", description="what image names carry beyond the id: _training")
    mask_suffix: str = Field("", description="what mask names carry beyond the id: _manual1")
    fov_suffix: str = Field("", description="what fov names carry beyond the id: _training_mask")
    ignore_case: bool = Field(False, description="IMG1.png and img1.PNG belong together")
    recursive: bool = Field(
        False, description="read subfolders too: left/1.png becomes left_1, and so does its mask"
    )
    group: str | None = Field(
        None, description="regular expression; its group is the source's group: '^(p[0-9]+)'"
    )
    split: str | None = Field(None, description="CSV inside SOURCE with columns id,split")
    missing_fov: Literal["full", "estimate"] = Field(
        "full", description="without fov masks: every pixel counts, or estimate the bright disc"
    )

    window: tuple[float, float] | None = Field(
        None,
        description="LOW,HIGH: in images deeper than 8 bits these values become 0 and 255, those "
        "between in proportion, those beyond are clipped; 8-bit images stay: 0,4095",
    )
    # Not strict: the command line gives it as text.
    threshold: float | None = Field(
        None,
        gt=0,
        strict=False,
        description="in masks and fov masks that are not binary, pixels of this value or more "
        "(the file's own: 128 is half of 8 bits) are set",
    )
    values: tuple[int, ...] | None = Field(
        None,
        description="vessel masks are label images, in which these values (of palette images: "
        "indices) are vessel and all others are not; with a threshold, only palette images: 1,3",
    )

    @field_validator("window", mode="before")
    @classmethod
    def _low_and_high(cls, value: Any) -> Any:
        if value is None:
            return None
        numbers = _numbers(value, float)
        if numbers is None or len(numbers) != 2 or not numbers[0] < numbers[1]:
            raise ValueError("LOW,HIGH: two numbers, the first below the second: 0,4095")
        return numbers

    @field_validator("values", mode="before")
    @classmethod
    def _whole_numbers(cls, value: Any) -> Any:
        if value is None:
            return None
        numbers = _numbers(value, int)
        if not numbers:
            raise ValueError("whole numbers with commas between: 1,3")
        return tuple(dict.fromkeys(numbers))

    @field_validator("group")
    @classmethod
    def _one_group(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            pattern = re.compile(value)
        except re.error as error:
            raise ValueError(f"a regular expression ({error})") from None
        if pattern.groups != 1 and "group" not in pattern.groupindex:
            raise ValueError("a regular expression with one group, or one named (?P<group>...)")
        return value


def _numbers(value: Any, kind: type[float] | type[int]) -> tuple[float, ...] | None:
    """Numbers of a list or of a text with commas; None when it is neither or one is no number."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        parts = [parts]
    if any(isinstance(part, bool) or not isinstance(part, str | int | float) for part in parts):
        return None
    try:
        numbers = tuple(kind(part) for part in parts)
    except (ValueError, OverflowError):
        return None
    same = all(isinstance(p, str) or p == n for p, n in zip(parts, numbers, strict=True))
    return numbers if same and all(map(math.isfinite, numbers)) else None


_HERE = "vesselflow.stores.importers"
IMPORTERS.add("chase", target=f"{_HERE}.chase:chase", arguments=ChaseArguments)
IMPORTERS.add("stare", target=f"{_HERE}.stare:stare", arguments=StareArguments)
IMPORTERS.add("folder", target=f"{_HERE}.folder:folder", arguments=FolderArguments)
