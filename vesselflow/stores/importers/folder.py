"""A folder of images, a folder of vessel masks, and perhaps one of field-of-view masks."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Literal

from vesselflow.errors import UserError
from vesselflow.stores.importers.listing import (
    Item,
    Listing,
    few,
    folder_of,
    images_by_stem,
    missing,
    no_images,
    stem_of,
)


def folder(
    *,
    source: Path,
    images: str,
    masks: str,
    fov: str | None,
    image_suffix: str,
    mask_suffix: str,
    fov_suffix: str,
    group: str | None,
    split: str | None,
    missing_fov: Literal["full", "estimate"],
) -> Listing:
    """List images and the masks of the same stem.

    Two files belong together when their stems without their suffixes are equal; that stem is the
    source's id. DRIVE, for example: ``image_suffix="_training", mask_suffix="_manual1",
    fov_suffix="_training_mask"``. All folders may be one folder when suffixes tell the files apart.

    Args:
        source: The folder that holds the others.
        images: Folder of the images.
        masks: Folder of the vessel masks.
        fov: Folder of the fov masks, or None.
        image_suffix: End of the images' stems that is not part of the id.
        mask_suffix: The same of the masks.
        fov_suffix: The same of the fov masks.
        group: Regular expression, searched in the id; its one group (or the one named "group") is
            the source's group. None: each source is a group of its own.
        split: CSV with the columns id and split ("train", "test" or empty), or None.
        missing_fov: Without `fov`: "full" counts every pixel, "estimate" finds the bright disc.

    Returns:
        One item per image. Masks without image are passed over and counted in a note.

    Raises:
        UserError: no images, an image without mask or fov mask, an id the expression does not
            match, a split file that does not fit.
    """
    folder_of(source)
    image_folder, mask_folder = source / images, source / masks
    pictures = images_by_stem(image_folder, suffix=image_suffix)
    targets = images_by_stem(mask_folder, suffix=mask_suffix)
    fovs = {} if fov is None else images_by_stem(source / fov, suffix=fov_suffix)
    others = {path for path in targets.values() if mask_suffix != image_suffix}
    others |= {path for path in fovs.values() if fov_suffix != image_suffix}
    pictures = {key: path for key, path in pictures.items() if path not in others}
    if not pictures:
        end = f" whose name ends in {image_suffix}" if image_suffix else ""
        raise no_images(image_folder, f"png, jpg, tif, bmp, gif, ppm, pgm, webp{end}")
    splits = {} if split is None else _read_splits(source / split, pictures)
    items = []
    for key, image in pictures.items():
        if key not in targets:
            raise missing(image, f"mask ({key}{mask_suffix}.*)", mask_folder)
        if fov is not None and key not in fovs:
            raise missing(image, f"fov mask ({key}{fov_suffix}.*)", source / fov)
        items.append(
            Item(
                id=key,
                group=key if group is None else _group(group, key),
                image=image,
                target=targets[key],
                fov=fovs.get(key),
                split=splits.get(key, ""),
                missing_fov=missing_fov,
            )
        )
    spare = [path.name for key, path in targets.items() if key not in pictures]
    notes = [f"{len(spare)} mask(s) without image passed over: {few(spare)}"] if spare else []
    return Listing(tuple(items), tuple(notes))


def _group(pattern: str, key: str) -> str:
    match = re.search(pattern, key)
    found = match and (match["group"] if "group" in match.re.groupindex else match[1])
    if not found:
        raise UserError(f"'{pattern}' finds no group in '{key}'", where="group")
    return found


def _read_splits(path: Path, pictures: dict[str, Path]) -> dict[str, str]:
    """Ids (or file names) to splits, as a CSV gives them."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot be read: {reason}", where=str(path)) from error
    if not rows or not {"id", "split"} <= set(rows[0]):
        raise UserError("needs the columns id and split", where=str(path))
    by_stem = {stem_of(image): key for key, image in pictures.items()}
    splits: dict[str, str] = {}
    for number, row in enumerate(rows, start=2):
        name, value = (row["id"] or "").strip(), (row["split"] or "").strip()
        key = name if name in pictures else by_stem.get(stem_of(Path(name)))
        if key is None:
            raise UserError(f"no image is called '{name}'", where=f"{path}: line {number}")
        if value not in ("train", "test", ""):
            raise UserError(
                f"split '{value}' is not allowed",
                where=f"{path}: line {number}",
                allowed="train, test or empty",
            )
        splits[key] = value
    return splits
