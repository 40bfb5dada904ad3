"""A folder of images, a folder of vessel masks, and perhaps one of field-of-view masks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from vesselflow.config.registry import Arguments
from vesselflow.errors import UserError
from vesselflow.stores.importers.grouping import (
    group_of,
    numbers_in,
    one_group,
    read_splits,
    whole_numbers,
)
from vesselflow.stores.importers.listing import (
    Conversion,
    Item,
    Listing,
    PassedOver,
    entries,
    few,
    folder_of,
    images_by_stem,
    is_image,
    missing,
    no_images,
    passed_over,
)
from vesselflow.stores.importers.pairing import Wanted, hint, option

#: Names under which people keep fov masks beside another folder of vessel masks.
_FOV_NAMES = frozenset({"fov", "fovs", "fov_mask", "fov_masks", "mask_fov", "masks_fov", "mask"})


class FolderArguments(Arguments):
    """Any folder of images with a folder of vessel masks, matched by name."""

    images: str = Field("images", description="folder of the images, inside SOURCE")
    masks: str | None = Field(
        "masks",
        description="folder of the vessel masks, inside SOURCE; none: there are no masks, and the "
        "store is for data.unlabelled",
    )
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

    spacing_um: tuple[float, float] | None = Field(
        None,
        description="size of a pixel in micrometres, HEIGHT,WIDTH or one number for both: 9.5; "
        "data.spacing_um of a space then resamples the images to one size of a pixel",
    )

    @field_validator("masks")
    @classmethod
    def _no_masks(cls, value: str | None) -> str | None:
        # The command line gives it as text.
        return None if value == "none" else value

    @field_validator("spacing_um", mode="before")
    @classmethod
    def _height_and_width(cls, value: Any) -> Any:
        if value is None:
            return None
        numbers = numbers_in(value, float)
        if numbers is None or len(numbers) not in (1, 2) or not all(n > 0 for n in numbers):
            raise ValueError("one number above 0 or two, HEIGHT,WIDTH: 9.5 or 9.5,9.4")
        return (*numbers, *numbers) if len(numbers) == 1 else numbers

    @field_validator("window", mode="before")
    @classmethod
    def _low_and_high(cls, value: Any) -> Any:
        if value is None:
            return None
        numbers = numbers_in(value, float)
        if numbers is None or len(numbers) != 2 or not numbers[0] < numbers[1]:
            raise ValueError("LOW,HIGH: two numbers, the first below the second: 0,4095")
        return numbers

    @field_validator("values", mode="before")
    @classmethod
    def _values(cls, value: Any) -> Any:
        return whole_numbers(value)

    @field_validator("group")
    @classmethod
    def _one_group(cls, value: str | None) -> str | None:
        return one_group(value)


def folder(
    *,
    source: Path,
    images: str,
    masks: str | None,
    fov: str | None,
    image_suffix: str,
    mask_suffix: str,
    fov_suffix: str,
    ignore_case: bool,
    recursive: bool,
    group: str | None,
    split: str | None,
    missing_fov: Literal["full", "estimate"],
    window: tuple[float, float] | None,
    threshold: float | None,
    values: tuple[int, ...] | None,
    spacing_um: tuple[float, float] | None,
) -> Listing:
    """List images and the masks of the same stem.

    Two files belong together when their stems without their suffixes are equal; that stem is the
    source's id. DRIVE, for example: ``image_suffix="_training", mask_suffix="_manual1",
    fov_suffix="_training_mask"``. All folders may be one folder when suffixes tell the files apart.

    Args:
        source: The folder that holds the others.
        images: Folder of the images.
        masks: Folder of the vessel masks; None: there are none.
        fov: Folder of the fov masks, or None.
        image_suffix: End of the images' stems that is not part of the id.
        mask_suffix: The same of the masks.
        fov_suffix: The same of the fov masks.
        ignore_case: IMG1.png and img1.PNG belong together; the id is the image's.
        recursive: Read subfolders too; ``left/1.png`` is "left_1", and so is its mask.
        group: Regular expression, searched in the id; its one group (or the one named "group") is
            the source's group. None: each source is a group of its own.
        split: CSV with the columns id and split ("train", "test" or empty), or None.
        missing_fov: Without `fov`: "full" counts every pixel, "estimate" finds the bright disc.
        window: See `Conversion`; passed on, like the next two.
        threshold: See `Conversion`.
        values: See `Conversion`.
        spacing_um: Height and width of a pixel of every image, or None.

    Returns:
        One item per image. Notes say what was passed over (files in subfolders, broken links,
        other formats, masks without image) and whether a folder of fov masks was left unused.

    Raises:
        UserError: no images, an image without mask or fov mask, an id the expression does not
            match, a split file that does not fit.
    """
    folder_of(source)
    wanted = [("images", images, image_suffix)]
    wanted += [("masks", masks, mask_suffix)] if masks is not None else []
    wanted += [("fov", fov, fov_suffix)] if fov is not None else []
    places = [
        _Place(name, label, suffix, _inside(source, name, label)) for name, label, suffix in wanted
    ]
    _tell_apart(places)
    search = _Search(places, recursive=recursive, ignore_case=ignore_case)
    pictures, *partners = [search.files(place) for place in places]
    others = {
        path
        for place, files in zip(places[1:], partners, strict=True)
        if place.suffix != image_suffix
        for path in files.values()
    }
    pictures = {key: path for key, path in pictures.items() if path not in others}
    if not pictures:
        end = f" whose name ends in {image_suffix}" if image_suffix else ""
        expected = f"png, jpg, tif, bmp, gif, ppm, pgm, webp{end}"
        raise no_images(places[0].path, expected, search.passed_over(places[0]))
    found = {
        place.option: search.partners(place, files, pictures)
        for place, files in zip(places[1:], partners, strict=True)
    }
    splits = {} if split is None else read_splits(source / split, places[0].path, pictures)
    items = tuple(
        Item(
            id=key,
            group=key if group is None else group_of(group, key),
            image=image,
            target=found["masks"][key] if masks is not None else None,
            fov=found["fov"][key] if fov is not None else None,
            split=splits.get(key, ""),
            missing_fov=missing_fov,
            spacing_um=spacing_um,
        )
        for key, image in pictures.items()
    )
    notes = search.notes({path for i in items for path in (i.image, i.target, i.fov) if path})
    if fov is None:
        notes += _unused_fov(source, places)
    return Listing(items, tuple(notes), Conversion(window, threshold, values))


@dataclass(frozen=True)
class _Place:
    """One of the folders: its option, its name as given, what its files' names end in."""

    option: str
    label: str
    suffix: str
    path: Path

    @property
    def what(self) -> str:
        return {"images": "image", "masks": "mask", "fov": "fov mask"}[self.option]


class _Search:
    """Finds the files of each folder, and says what it passed over."""

    def __init__(self, places: Sequence[_Place], *, recursive: bool, ignore_case: bool) -> None:
        self.places, self.recursive, self.ignore_case = places, recursive, ignore_case

    def files(self, place: _Place) -> dict[str, Path]:
        return images_by_stem(
            place.path,
            suffix=place.suffix,
            recursive=self.recursive,
            ignore_case=self.ignore_case,
            skip=self._elsewhere(place),
        )

    def passed_over(self, place: _Place) -> PassedOver:
        skip = self._elsewhere(place)
        return passed_over(place.path, recursive=self.recursive, skip=skip)

    def _elsewhere(self, place: _Place) -> set[Path]:
        # With images in "." and masks in "masks", the masks are no images of a subfolder.
        return {other.path.resolve() for other in self.places} - {place.path.resolve()}

    def partners(
        self, place: _Place, found: Mapping[str, Path], pictures: Mapping[str, Path]
    ) -> dict[str, Path]:
        """The mask of each image; UserError for the first image without one."""
        fold = str.casefold if self.ignore_case else str
        by_name = {fold(key): path for key, path in found.items()}
        for key, image in pictures.items():
            if fold(key) not in by_name:
                kind = "mask" if place.option == "masks" else "fov"
                wanted = Wanted(key, place.suffix, place.path, place.label, kind)
                near = hint(wanted, pictures, self.places[0].suffix)
                raise missing(image, f"{place.what} ({key}{place.suffix}.*)", place.path, near)
        return {key: by_name[fold(key)] for key in pictures}

    def notes(self, used: Collection[Path]) -> list[str]:
        """What was passed over, folder by folder; `used` are the files that were not."""
        notes = []
        kinds: dict[Path, list[_Place]] = {}
        for place in self.places:
            kinds.setdefault(place.path.resolve(), []).append(place)
        for here in kinds.values():
            first = here[0]
            passed = self.passed_over(first)
            where = "" if first.label in ("", ".") else f"{first.label.rstrip('/')}/"
            for phrase in passed.phrases():
                notes.append(f"{where or 'SOURCE'}: passed over {phrase}")
            if passed.subfolders:
                one = option(first.option, where + next(iter(passed.subfolders)))
                at = len(notes) - len(passed.phrases())
                notes[at] += f" (--recursive reads them all, {one} the first)"
            everything = entries(first.path, recursive=self.recursive, skip=self._elsewhere(first))
            spare = [path.name for path in everything if is_image(path) and path not in used]
            if not spare:
                continue
            if len(here) > 1:
                notes.append(f"{len(spare)} file(s) of no image passed over: {few(spare)}")
            elif first.option == "images":
                why = f"images whose names do not end in {first.suffix}"
                notes.append(f"{len(spare)} {why} passed over: {few(spare)}")
            else:
                notes.append(
                    f"{len(spare)} {first.what}(s) without image passed over: {few(spare)}"
                )
        return notes


def _inside(source: Path, name: str, label: str) -> Path:
    """The folder that an option names; UserError with those that are there."""
    path = source / label
    if path.exists():
        return folder_of(path)
    there = [entry.name for entry in entries(source) if entry.is_dir() and entry.name[0] != "."]
    itself = f"--{name} . takes the files of SOURCE itself"
    near = f"SOURCE holds {few(there, 8)}: --{name} names one of them" if there else itself
    raise UserError("no such folder", where=str(path), hint=near)


def _tell_apart(places: Sequence[_Place]) -> None:
    """UserError when one file would be image and mask, or mask and fov mask."""
    taken: dict[tuple[Path, str], _Place] = {}
    for place in places:
        other = taken.setdefault((place.path.resolve(), place.suffix), place)
        if other is not place:
            raise UserError(
                f"{other.what} and {place.what} would be the same files",
                where=str(place.path),
                hint=f"--{place.option} names another folder, "
                f"--{place.what.split()[0]}-suffix what tells its files apart",
            )


def _unused_fov(source: Path, places: Sequence[_Place]) -> list[str]:
    """A note for each folder beside the others that is called like one of fov masks."""
    used = {place.path.resolve() for place in places}
    return [
        f"{path.name}/ is not used: {option('fov', path.name)} reads it as field-of-view masks"
        for path in entries(source)
        if path.name.lower() in _FOV_NAMES
        and path.is_dir()
        and path.resolve() not in used
        and any(is_image(inside) for inside in entries(path))
    ]
