"""CHASE_DB1: both eyes of 14 children, two observers.

Reference: Fraz et al., An ensemble classification-based approach applied to retinal blood vessel
segmentation, IEEE TBME 59(9), 2012. The authors give no split; the usual one is by child, 01 to 10
for training (20 images) and 11 to 14 for test (8).
"""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import Field

from vesselflow.config.registry import Arguments
from vesselflow.errors import UserError
from vesselflow.stores.fundus import spacing_um
from vesselflow.stores.importers.listing import (
    Item,
    Listing,
    folder_of,
    images_by_stem,
    missing,
    no_images,
)

_NAME = re.compile(r"(\d\d)[LR]")
LAST_TRAINING_CHILD = 10
#: 30 degrees across the fov, whose box is 918 px wide (median; 892 to 922).
SPACING_UM = spacing_um(30, 918)


class ChaseArguments(Arguments):
    """CHASE_DB1: both eyes of 14 children, two observers; sorted or flat as published."""

    # Not strict: the command line gives it as text.
    observer: int = Field(1, ge=1, le=2, strict=False, description="whose labels: observer 1 or 2")


def chase(*, source: Path, observer: int) -> Listing:
    """List CHASE_DB1, sorted (images/, labels/, labels_2ndHO/, masks/) or flat as published.

    Args:
        source: The folder.
        observer: 1 or 2.

    Returns:
        One item per image; group is the child's number, split the usual one by child. Without
        masks/ the fov is estimated from the image.

    Raises:
        UserError: no images of this layout, or an image without a label of this observer.
    """
    folder_of(source)
    if (source / "images").is_dir():
        images = images_by_stem(source / "images", prefix="Image_")
        where = source / ("labels" if observer == 1 else "labels_2ndHO")
        targets = images_by_stem(where, prefix="Image_")
        has_fov = (source / "masks").is_dir()
        fovs = images_by_stem(source / "masks", prefix="Image_") if has_fov else {}
    else:
        where, fovs = source, {}
        everything = images_by_stem(source, prefix="Image_")
        images = {key: path for key, path in everything.items() if _NAME.fullmatch(key)}
        suffix = "_1stHO" if observer == 1 else "_2ndHO"
        targets = images_by_stem(source, prefix="Image_", suffix=suffix)
    if not images:
        raise no_images(source, "images/Image_01L.jpg or Image_01L.jpg, and so on")
    items = []
    for key, image in images.items():
        match = _NAME.fullmatch(key)
        if match is None:
            raise UserError(
                f"{image.name} is not a name of CHASE_DB1", where=str(source), allowed="Image_01L"
            )
        if key not in targets:
            raise missing(image, f"label of observer {observer}", where)
        if fovs and key not in fovs:
            raise missing(image, "fov mask", source / "masks")
        child = match[1]
        items.append(
            Item(
                id=f"Image_{key}",
                group=child,
                image=image,
                target=targets[key],
                fov=fovs.get(key),
                spacing_um=SPACING_UM,
                split="train" if int(child) <= LAST_TRAINING_CHILD else "test",
            )
        )
    return Listing(tuple(items))
