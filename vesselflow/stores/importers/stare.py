"""STARE: 20 images with vessels traced by two annotators, Hoover (ah) and Kouznetsova (vk).

Reference: Hoover et al., Locating blood vessels in retinal images by piecewise threshold probing of
a matched filter response, IEEE TMI 19(3), 2000. No split and no fov masks were published.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import Field

from vesselflow.config.registry import Arguments
from vesselflow.stores.fundus import spacing_um
from vesselflow.stores.importers.listing import (
    Item,
    Listing,
    few,
    folder_of,
    images_by_stem,
    missing,
    no_images,
)

_NAME = re.compile(r"im\d{4}")
#: 35 degrees across the fov, which is 649 px wide (median; 647 to 686) and cut above and below.
SPACING_UM = spacing_um(35, 649)


class StareArguments(Arguments):
    """STARE: 20 images, two annotators; sorted or flat as published (.ppm.gz)."""

    observer: Literal["ah", "vk"] = Field(
        "ah", description="whose labels: ah (Hoover) or vk (Kouznetsova)"
    )


def stare(*, source: Path, observer: str) -> Listing:
    """List STARE, sorted (images/, labels/, labels_vk/, masks/) or flat as published (.ppm[.gz]).

    Args:
        source: The folder.
        observer: "ah" or "vk".

    Returns:
        One item per image that has labels; group is the image's id. In the flat layout, the
        pictures without labels (STARE has 400) are passed over and counted in a note. Without
        masks/ the fov is estimated from the image.

    Raises:
        UserError: no images of this layout, or an image of the sorted layout without label.
    """
    folder_of(source)
    sorted_layout = (source / "images").is_dir()
    if sorted_layout:
        images = images_by_stem(source / "images")
        where = source / ("labels" if observer == "ah" else "labels_vk")
        targets = images_by_stem(where)
        has_fov = (source / "masks").is_dir()
        fovs = images_by_stem(source / "masks") if has_fov else {}
    else:
        where, fovs = source, {}
        everything = images_by_stem(source)
        images = {key: path for key, path in everything.items() if _NAME.fullmatch(key)}
        targets = images_by_stem(source, suffix=f".{observer}")
    if not images:
        raise no_images(source, "images/im0001.png or im0001.ppm[.gz], and so on")
    unlabelled = [key for key in images if key not in targets]
    notes = []
    if unlabelled:
        if sorted_layout or len(unlabelled) == len(images):
            raise missing(images[unlabelled[0]], f"label of annotator {observer}", where)
        notes.append(f"{len(unlabelled)} image(s) without label passed over: {few(unlabelled)}")
    items = []
    for key, image in images.items():
        if key not in targets:
            continue
        if fovs and key not in fovs:
            raise missing(image, "fov mask", source / "masks")
        items.append(
            Item(
                id=key,
                group=key,
                image=image,
                target=targets[key],
                fov=fovs.get(key),
                spacing_um=SPACING_UM,
            )
        )
    return Listing(tuple(items), tuple(notes))
