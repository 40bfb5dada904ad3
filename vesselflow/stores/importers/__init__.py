"""Importers, one file per source layout, by name.

An importer only lists files: it gets the folder and its own arguments and returns a
`listing.Listing`. Reading, checking and writing are shared (`read.py`, `run.py`).
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator

from vesselflow.config.registry import Arguments, Registry

IMPORTERS = Registry("layout")


class ChaseArguments(Arguments):
    """CHASE_DB1: both eyes of 14 children, two observers; sorted or flat as published."""

    observer: int = Field(1, ge=1, le=2, description="whose labels: observer 1 or 2")


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
    group: str | None = Field(
        None, description="regular expression; its group is the source's group: '^(p[0-9]+)'"
    )
    split: str | None = Field(None, description="CSV inside SOURCE with columns id,split")
    missing_fov: Literal["full", "estimate"] = Field(
        "full", description="without fov masks: every pixel counts, or estimate the bright disc"
    )

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


_HERE = "vesselflow.stores.importers"
IMPORTERS.add("chase", target=f"{_HERE}.chase:chase", arguments=ChaseArguments)
IMPORTERS.add("stare", target=f"{_HERE}.stare:stare", arguments=StareArguments)
IMPORTERS.add("folder", target=f"{_HERE}.folder:folder", arguments=FolderArguments)
