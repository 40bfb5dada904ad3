"""Finds the volumes of a folder and the files of their truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from vesselflow.errors import UserError
from vesselflow.stores.importers.grouping import group_of, read_splits
from vesselflow.stores.importers.listing import Listing, entries, few, folder_of, missing
from vesselflow.stores.importers.point_files import POINT_SUFFIXES, Point, read_points
from vesselflow.stores.importers.volume_files import is_volume, volume_stem, volumes_in
from vesselflow.stores.importers.volume_read import Options, VolumeItem, layout_with, read_item

#: The class of keypoints whose file names none.
PARTICLE = "particle"


def volume(
    *,
    source: Path,
    images: str,
    labels: str,
    keypoints: str | None,
    image_suffix: str,
    label_suffix: str,
    keypoint_suffix: str,
    slices: bool,
    class_column: str | None,
    group: str | None,
    split: str | None,
    **reading: Any,
) -> Listing:
    """List volumes with the label volumes, or the keypoints, of the same name.

    Two files belong together when their names without suffixes are equal; that name is the source's
    id. SOURCE may be a single volume. A file of keypoints that names volumes (`source`,
    `rlnTomoName`) serves all of them, one that names none a single volume. Every voxel is inside
    the field of view.

    Args:
        source: The folder that holds the others, or a volume file.
        images: Folder of the volumes, or one of them.
        labels: Folder of the label volumes, or one; not read with `keypoints`.
        keypoints: File or folder of keypoints, or None.
        image_suffix: End of the volumes' names that is not part of the id.
        label_suffix: The same of the labels.
        keypoint_suffix: The same of files of keypoints.
        slices: Volumes, and labels, are folders with a TIFF file for each slice.
        class_column: Column of the keypoints' classes.
        group: Regular expression, searched in the id; None: each source is a group of its own.
        split: CSV with the columns id and split, or None.
        reading: How the files are read, see `volume_read.Options`.

    Returns:
        One item per volume; voxels are read when the store is made, keypoints are read here.

    Raises:
        UserError: no volumes, a volume without labels or keypoints, keypoints of no volume, a file
            of keypoints that does not fit.
    """
    options = Options(**reading)
    if options.spacing_um is not None and options.spacing_angstrom is not None:
        raise UserError("is given beside spacing_angstrom", where="spacing_um", hint="give one")
    single = source.exists() and is_volume(source, slices)
    root = source.parent if single else folder_of(source)
    place = source if single else _there(root, "images", images)
    pictures = volumes_in(place, image_suffix, slices)
    if not pictures:
        raise _no_volumes(place, slices)
    notes: list[str] = []
    classes: tuple[str, ...] = ()
    if keypoints is None:
        targets = _labels(
            root, place, (labels, label_suffix, image_suffix), slices, pictures, options, notes
        )
        found = {key: VolumeItem(key, key, path, targets[key]) for key, path in pictures.items()}
    else:
        named = (keypoints, keypoint_suffix)
        found = _with_points(root, named, class_column, pictures, options.units, notes)
        classes = _classes(list(found.values()), options.classes)
    if not found:  # all of them are labels
        raise _no_volumes(place, slices)
    splits = {} if split is None else read_splits(root / split, place, pictures)
    items = tuple(
        VolumeItem(
            id=key,
            group=key if group is None else group_of(group, key),
            image=item.image,
            target=item.target,
            split=splits.get(key, ""),
            missing_fov="full",
            table=item.table,
            points=item.points,
        )
        for key, item in found.items()
    )
    read = partial(read_item, options=options, classes=classes)
    layout = partial(layout_with, options=options, classes=classes)
    return Listing(items, tuple(notes), read=read, layout=layout)


def _no_volumes(place: Path, slices: bool) -> UserError:
    folders = [] if slices or place.is_file() else [p for p in entries(place) if p.is_dir()]
    sliced = any(is_volume(path, slices=True) for path in [place, *folders])
    return UserError(
        "no volumes found",
        where=str(place),
        allowed="folders of TIFF files" if slices else "tif, h5, mrc, rec, map, nii, zarr",
        hint="--slices takes folders with a TIFF file for each slice" if sliced else "",
    )


def _there(root: Path, name: str, label: str) -> Path:
    """What an option names inside SOURCE; UserError with what is there."""
    path = root / label
    if path.exists():
        return path
    held = [entry.name for entry in entries(root) if not entry.name.startswith(".")]
    near = f"SOURCE holds {few(held, 8)}: --{name} names one of them; . is SOURCE itself"
    raise UserError(
        "no such file or folder", where=str(path), hint=near if held else "SOURCE is empty"
    )


# -- labels ----------------------------------------------------------------------------------------


def _labels(
    root: Path,
    place: Path,
    labels: tuple[str, str, str],
    slices: bool,
    pictures: dict[str, Path],
    options: Options,
    notes: list[str],
) -> dict[str, Path]:
    """The file of each volume's labels; takes those that lie among the volumes out of these.

    Of the labels: their place in SOURCE, the end of their names, and that of the volumes' names.
    """
    if options.label_dataset is not None and not (root / labels[0]).exists():
        return dict(pictures)
    where = _there(root, "labels", labels[0])
    same = where.resolve() == place.resolve()
    if same and labels[1] == labels[2]:
        raise UserError(
            "volumes and labels would be the same files",
            where=str(where),
            hint="--labels names another folder, --label-suffix what tells its files apart",
        )
    found = volumes_in(where, labels[1], slices)
    if same:
        for key in [key for key, path in pictures.items() if path in set(found.values())]:
            del pictures[key]
    if is_volume(where, slices):
        if len(pictures) != 1:
            raise UserError(
                f"one label volume for {len(pictures)} volumes", where=str(where),
                hint="--labels names a folder of them",
            )  # fmt: skip
        return dict.fromkeys(pictures, where)
    for key, path in pictures.items():
        if key not in found:
            raise missing(path, f"label volume ({key}{labels[1]}.*)", where)
    spare = [path.name for key, path in found.items() if key not in pictures]
    if spare:
        notes.append(f"{len(spare)} label volume(s) without volume passed over: {few(spare)}")
    return found


# -- keypoints -------------------------------------------------------------------------------------


def _with_points(
    root: Path,
    keypoints: tuple[str, str],
    class_column: str | None,
    pictures: Mapping[str, Path],
    units: str,
    notes: list[str],
) -> dict[str, VolumeItem]:
    where = _there(root, "keypoints", keypoints[0])
    if where.is_dir():
        files = {
            path.stem.removesuffix(keypoints[1]): path
            for path in entries(where)
            if path.suffix.lower() in POINT_SUFFIXES and path.stem.endswith(keypoints[1])
        }
        found = {}
        for key, path in pictures.items():
            if key not in files:
                raise missing(path, f"keypoints ({key}{keypoints[1]}.csv or .star)", where)
            table = read_points(files[key], units, class_column)
            found[key] = VolumeItem(key, key, path, files[key], table=table, points=table.points)
        spare = [path.name for key, path in files.items() if key not in pictures]
        if spare:
            notes.append(f"{len(spare)} keypoint file(s) without volume passed over: {few(spare)}")
        return found
    table = read_points(where, units, class_column)
    if not table.names_sources and len(pictures) > 1:
        raise UserError(
            f"does not say of which of the {len(pictures)} volumes its keypoints are",
            where=str(where),
            allowed="a column source with their names, or a file for each volume",
        )
    held: dict[str, list[Point]] = {key: [] for key in pictures}
    for point in table.points:
        key = _key(point.of, pictures) if table.names_sources else next(iter(pictures), "")
        if key not in held:
            raise UserError(
                f"no volume is called '{point.of}'",
                where=table.where(point),
                allowed=few(pictures, 8) or "none",
            )
        held[key].append(point)
    empty = [key for key, points in held.items() if not points]
    if empty:
        notes.append(f"{len(empty)} volume(s) without keypoints: {few(empty)}")
    return {
        key: VolumeItem(key, key, path, where, table=table, points=tuple(held[key]))
        for key, path in pictures.items()
    }


def _key(name: str, pictures: Mapping[str, Path]) -> str:
    """The id that a file of keypoints means: an id, a file's name, or a path."""
    last = Path(name.rpartition("@")[2].replace("\\", "/"))
    named = {path.name: key for key, path in pictures.items()}
    tries = (name, named.get(last.name, ""), last.name, volume_stem(last))
    return next((key for key in tries if key in pictures), "")


def _classes(items: Sequence[VolumeItem], given: tuple[str, ...] | None) -> tuple[str, ...]:
    """The store's classes: those given, or those of the files in order."""
    kinds = {point.kind for item in items for point in item.points}
    if given is None:
        # Numbers in their own order: 2 before 10.
        order = {kind: (0, int(kind), kind) if kind.isdecimal() else (1, 0, kind) for kind in kinds}
        named = sorted(kinds - {""}, key=order.__getitem__)
        return tuple(named) or (PARTICLE,)
    for item in items:
        for point in item.points:
            known = point.kind in given if point.kind else len(given) == 1
            if not known and item.table is not None:
                what = f"unknown class '{point.kind}'" if point.kind else "has no class"
                raise UserError(what, where=item.table.where(point), allowed=", ".join(given))
    return given
