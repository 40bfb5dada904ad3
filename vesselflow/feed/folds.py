"""Folds: which sources train, which decide (val), which are only scored (test). Split by group.

Everything here is decided before anything starts and without a cluster; an overlap of any kind is
an error, never a warning.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vesselflow.config.fingerprint import canonical_json
from vesselflow.errors import UserError, closest
from vesselflow.feed.order import key
from vesselflow.records.atomic import write_text
from vesselflow.records.paths import AnyPath

if TYPE_CHECKING:
    from vesselflow.stores.store import SourceInfo

PARTS = ("train", "val", "test")
#: First cells that make the first line of a list of sources a header.
_HEADERS = {"id", "source", "source_id", "file", "filename", "image", "name"}


@dataclass(frozen=True)
class Fold:
    """One split of the training store; source ids, each part in store order.

    Attributes:
        index: Number of the fold, from 0.
        train: What weights are fitted to.
        val: What every choice is made on: threshold, epoch, winner.
        test: What takes part in no choice.
        content: Source id -> content digest of the sources of this fold.
    """

    index: int
    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]
    content: Mapping[str, str] = field(repr=False, compare=False)

    @property
    def digest(self) -> str:
        """Names the split by its content: ids and digests of each part, whatever their order."""
        parts = [sorted([i, self.content[i]] for i in getattr(self, part)) for part in PARTS]
        return hashlib.blake2b(canonical_json(parts).encode(), digest_size=16).hexdigest()


def make_folds(
    sources: Sequence[SourceInfo],
    *,
    folds: int,
    val_fraction: float,
    test: Literal["fold", "official"],
    seed: int,
    predefined: Path | str | None = None,
    train_share: float = 1.0,
    inner: int | None = None,
) -> list[Fold]:
    """Split the sources of a store by group; a pure function of its arguments.

    * ``test="fold"``: the groups are dealt into `folds` parts of nearly equal numbers of sources,
      in an order keyed by (seed, group). Fold k tests on part k; `val_fraction` of the other groups
      (at least one, never all), keyed per fold, is val; the rest trains.
    * ``test="official"``: the sources whose split is "test" are the test of every fold. The train
      groups are dealt likewise, part k is val and the others train. With one fold val is
      `val_fraction` of the train groups.
    * `predefined`: a JSON file as `write_folds` makes it, or a folder with train.csv, val.csv and
      test.csv (source ids or file names in the first column); it is taken as it is, if it is sound.

    Of the groups that train, `train_share` are kept (rounded, at least one), in an order keyed by
    (seed, fold): the smaller share is a part of the larger. What validates and tests stays.

    With `inner`, every fold f becomes as many folds as that. The groups that train in f are dealt
    into `inner` parts, keyed by (seed, f); fold f * inner + j trains without part j and tests on
    it. What validates stays, and what f tests on is in none of them. So models of the folds of f
    predict each image that trains in f, all of them by one that has not seen it.

    Args:
        sources: All sources of the training store.
        folds: How many folds, at least 1 (2 for ``test="fold"``).
        val_fraction: Share of groups in (0, 1).
        test: Where test comes from.
        seed: Of the split; not of the runs.
        predefined: Split made by somebody else, or None.
        train_share: Share of the training groups, in (0, 1].
        inner: Parts of each fold's training groups, at least 2; None leaves the folds whole.

    Raises:
        UserError: Too few groups, no official split or a leaking one, a predefined split that names
            an unknown source, leaves a part empty or has a source or group in two parts.
    """
    if not sources:
        raise UserError("the training store has no sources", where="split")
    if predefined is not None:
        made = _predefined(Path(predefined), sources, folds)
    elif test == "official":
        made = _official(sources, folds, val_fraction, seed)
    else:
        made = _by_fold(sources, folds, val_fraction, seed)
    for fold in made:
        _check_parts(fold, sources, "split" if predefined is None else str(predefined))
    made = [_thinned(fold, sources, train_share, seed) for fold in made]
    if inner is None:
        return made
    return [part for fold in made for part in _nested(fold, sources, inner, seed)]


def check_leaks(
    folds: Sequence[Fold],
    sources: Sequence[SourceInfo],
    ood: Mapping[str, Sequence[SourceInfo]],
    *,
    store: str = "the training store",
) -> None:
    """Refuse folds that let anything of a test image be seen in training.

    Compared are the contents of images, not their names: the same image in two parts of a fold, or
    in the training store and in an out-of-distribution store, is an error.

    Args:
        folds: Folds of the training store.
        sources: Its sources.
        ood: Domain name -> sources of that store.
        store: What to call the training store in the error.

    Raises:
        UserError: Names both sources and their stores.
    """
    by_id = {source.id: source for source in sources}
    for fold in folds:
        _check_parts(fold, sources, store)
        seen: dict[str, tuple[str, str]] = {}
        for part in PARTS:
            for source_id in getattr(fold, part):
                image = by_id[source_id].image_digest
                other, other_part = seen.setdefault(image, (source_id, part))
                if other_part != part:
                    raise UserError(
                        f"'{other}' and '{source_id}' are the same image, and fold {fold.index} "
                        f"has one in {other_part} and the other in {part}",
                        where=store,
                        hint="remove one of them from the store",
                    )
    own = {source.image_digest: source.id for source in sources}
    for domain, others in ood.items():
        for source in others:
            if source.image_digest in own:
                raise UserError(
                    f"'{own[source.image_digest]}' of {store} and '{source.id}' of the "
                    f"out-of-distribution store '{domain}' are the same image",
                    where=store,
                    hint="remove it from one of the two stores",
                )


def write_folds(path: AnyPath, folds: Sequence[Fold], sources: Sequence[SourceInfo]) -> None:
    """Write folds as JSON that a person can read; the file is whole or absent."""
    document = {
        "folds": [
            {"index": fold.index, "digest": fold.digest}
            | {part: list(getattr(fold, part)) for part in PARTS}
            for fold in folds
        ],
        "sources": {
            source.id: {"group": source.group, "digest": source.digest} for source in sources
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(document, indent=1) + "\n")


def read_folds(path: Path | str, sources: Sequence[SourceInfo]) -> list[Fold]:
    """Read what `write_folds` wrote, checked against the sources of the store.

    Raises:
        UserError: The file is missing, is no such JSON, or does not fit the store.
    """
    path = Path(path)
    made = [_fold(index, lists, sources, path) for index, lists in enumerate(_read_json(path))]
    for fold in made:
        _check_parts(fold, sources, str(path))
    return made


def _groups(sources: Sequence[SourceInfo]) -> dict[str, list[str]]:
    members: dict[str, list[str]] = defaultdict(list)
    for source in sources:
        members[source.group].append(source.id)
    return dict(members)


def _ordered(members: Mapping[str, list[str]], *parts: int | str) -> list[str]:
    return sorted(members, key=lambda group: (key(*parts, group), group))


def _deal(
    members: Mapping[str, list[str]], parts: int, *keyed: int | str, beside: int
) -> list[set[str]]:
    """Deal groups into parts: largest first, in keyed order, each to the smallest part so far.

    Beside every part at least `beside` groups are left, however unequal the groups are.
    """
    most = len(members) - beside
    order = sorted(_ordered(members, *keyed), key=lambda group: -len(members[group]))
    dealt: list[set[str]] = [set() for _ in range(parts)]
    sizes = [0] * parts
    for group in order:
        open_parts = [part for part in range(parts) if len(dealt[part]) < most]
        smallest = min(open_parts, key=lambda part: sizes[part])
        dealt[smallest].add(group)
        sizes[smallest] += len(members[group])
    return dealt


def _val_groups(
    members: Mapping[str, list[str]], fraction: float, seed: int, fold: int
) -> set[str]:
    wanted = math.floor(fraction * len(members) + 0.5)
    count = min(max(1, wanted), len(members) - 1)
    return set(_ordered(members, seed, "val", fold)[:count])


def _pick(
    index: int, sources: Sequence[SourceInfo], val: set[str], test: set[str], train: set[str]
) -> Fold:
    """A fold out of sets of groups; ids in store order."""
    lists = [tuple(s.id for s in sources if s.group in part) for part in (train, val, test)]
    return _made(index, lists, sources)


def _thinned(fold: Fold, sources: Sequence[SourceInfo], share: float, seed: int) -> Fold:
    """The fold with a share of the groups that train."""
    own = set(fold.train)
    members = _groups([source for source in sources if source.id in own])
    count = max(1, math.floor(share * len(members) + 0.5))
    kept = set(_ordered(members, seed, "train", fold.index)[:count])
    train = tuple(s.id for s in sources if s.id in own and s.group in kept)
    return replace(fold, train=train)


def _nested(fold: Fold, sources: Sequence[SourceInfo], inner: int, seed: int) -> list[Fold]:
    """The folds inside the training part of a fold."""
    ids = set(fold.train)
    own = [source for source in sources if source.id in ids]
    members = _groups(own)
    if len(members) < inner:
        raise UserError(
            f"{len(members)} group{'s' if len(members) != 1 else ''} that train in fold "
            f"{fold.index} are too few for {inner} parts",
            where="split.inner",
            allowed="a group or more in each part",
            hint="lower split.inner, or give the store more groups",
        )
    return [
        replace(
            fold,
            index=fold.index * inner + number,
            train=tuple(source.id for source in own if source.group not in held),
            test=tuple(source.id for source in own if source.group in held),
        )
        for number, held in enumerate(_deal(members, inner, seed, "inner", fold.index, beside=1))
    ]


def _made(index: int, parts: Sequence[tuple[str, ...]], sources: Sequence[SourceInfo]) -> Fold:
    train, val, test = parts
    return Fold(index, train, val, test, {source.id: source.digest for source in sources})


def _too_few(groups: int, folds: int, needed: str, name: str = "groups") -> UserError:
    return UserError(
        f"{groups} {name} are too few for {folds} fold{'s' if folds != 1 else ''}",
        where="split.folds",
        allowed=needed,
        hint="lower split.folds, or give the store more groups",
    )


def _by_fold(
    sources: Sequence[SourceInfo], folds: int, val_fraction: float, seed: int
) -> list[Fold]:
    members = _groups(sources)
    if folds < 2:
        raise UserError(
            f"{folds} is not allowed where the folds are the test parts",
            where="split.folds",
            allowed="2 folds on",
            hint="or set split.test to 'official'",
        )
    # Two groups, for train and val, are left beside each part: folds * (groups - 2) >= groups.
    least = max(folds, -(-2 * folds // (folds - 1)))
    if len(members) < least:
        raise _too_few(len(members), folds, f"at least {least} groups, for train, val and test")
    made = []
    for index, test in enumerate(_deal(members, folds, seed, "folds", beside=2)):
        rest = {group: ids for group, ids in members.items() if group not in test}
        val = _val_groups(rest, val_fraction, seed, index)
        made.append(_pick(index, sources, val, test, set(rest) - val))
    return made


def _official(
    sources: Sequence[SourceInfo], folds: int, val_fraction: float, seed: int
) -> list[Fold]:
    sides = {side: [s for s in sources if s.split == side] for side in ("train", "test")}
    if not sides["train"] or not sides["test"]:
        raise UserError(
            "the store has no official split into train and test",
            where="split.test",
            hint="set split.test to 'fold'",
        )
    for source in sources:
        if source.split not in sides:
            raise UserError(
                f"source '{source.id}' is on no side of the official split", where="split.test"
            )
    members, test = _groups(sides["train"]), set(_groups(sides["test"]))
    both = sorted(test & set(members))
    if both:
        raise UserError(
            f"group '{both[0]}' is on both sides of the official split (the same child)",
            where="split.test",
            hint="set split.test to 'fold', which splits by group",
        )
    if len(members) < max(2, folds):
        raise _too_few(
            len(members), folds, f"at least {max(2, folds)}, for train and val", "train groups"
        )
    if folds < 1:
        raise UserError(f"{folds} is not allowed", where="split.folds", allowed="1 fold on")
    if folds == 1:
        vals = [_val_groups(members, val_fraction, seed, 0)]
    else:
        vals = _deal(members, folds, seed, "folds", beside=1)
    return [_pick(index, sources, val, test, set(members) - val) for index, val in enumerate(vals)]


def _predefined(path: Path, sources: Sequence[SourceInfo], folds: int) -> list[Fold]:
    if path.is_dir():
        known = {source.id for source in sources}
        lists = [{part: _read_list(path / f"{part}.csv", known) for part in PARTS}]
    else:
        lists = _read_json(path)
    if len(lists) != folds:
        raise UserError(
            f"it holds {len(lists)} fold{'s' if len(lists) != 1 else ''}, asked for are {folds}",
            where=str(path),
            hint=f"set split.folds to {len(lists)}",
        )
    return [_fold(index, parts, sources, path) for index, parts in enumerate(lists)]


def _fold(
    index: int, lists: Mapping[str, list[str]], sources: Sequence[SourceInfo], path: Path
) -> Fold:
    known = {source.id for source in sources}
    place = {source.id: position for position, source in enumerate(sources)}
    parts = []
    for part in PARTS:
        ids = []
        for name in lists[part]:
            # Lists often hold file names; an id is one without its ending.
            source_id = name if name in known else Path(name).stem
            if source_id not in known:
                raise UserError(
                    f"unknown source '{name}' in {part} of fold {index}",
                    where=str(path),
                    hint=closest(name, known),
                )
            ids.append(source_id)
        parts.append(tuple(sorted(ids, key=place.__getitem__)))
    return _made(index, parts, sources)


def _check_parts(fold: Fold, sources: Sequence[SourceInfo], where: str) -> None:
    group_of = {source.id: source.group for source in sources}
    ids: dict[str, str] = {}
    groups: dict[str, str] = {}
    for part in PARTS:
        members = getattr(fold, part)
        if not members:
            raise UserError(
                f"{part} of fold {fold.index} is empty",
                where=where,
                allowed="one source or more in each of train, val and test",
            )
        for source_id in members:
            if source_id in ids:
                other = ids[source_id]
                twice = f"twice in {part}" if other == part else f"in {other} and in {part}"
                raise UserError(
                    f"source '{source_id}' is {twice} of fold {fold.index}",
                    where=where,
                    allowed="each source once",
                )
            ids[source_id] = part
            group = group_of[source_id]
            if groups.setdefault(group, part) != part:
                raise UserError(
                    f"group '{group}' is in {groups[group]} and in {part} of fold {fold.index} "
                    "(the same child on both sides)",
                    where=where,
                    allowed="every group in one part of a fold",
                    hint=f"move '{source_id}' to {groups[group]}, with the rest of its group",
                )


def _read_list(path: Path, known: set[str]) -> list[str]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            cells = [row[0].strip() for row in csv.reader(file) if row and row[0].strip()]
    except FileNotFoundError:
        raise UserError(
            "this list of sources is missing",
            where=str(path),
            allowed="a folder with train.csv, val.csv and test.csv",
        ) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot be read as a list: {error}", where=str(path)) from None
    if not cells or cells[0].lower() not in _HEADERS:
        return cells
    # A source may be called like a header; it is one only where its name comes again.
    return cells if cells[0] in known and cells[0] not in cells[1:] else cells[1:]


def _read_json(path: Path) -> list[dict[str, list[str]]]:
    try:
        document: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            "no such file of folds",
            where=str(path),
            allowed="a JSON file of folds, or a folder with train.csv, val.csv and test.csv",
            hint="leave split.file out to have the folds made",
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot be read as JSON: {error}", where=str(path)) from None
    entries = document.get("folds") if isinstance(document, dict) else document
    if not isinstance(entries, list) or not entries or not all(map(_is_entry, entries)):
        raise UserError(
            "this is no file of folds",
            where=str(path),
            allowed="a list of {train, val, test}, each a list of source ids",
        )
    return [{part: entry[part] for part in PARTS} for entry in entries]


def _is_entry(entry: object) -> bool:
    return isinstance(entry, dict) and all(
        isinstance(entry.get(part), list) and all(isinstance(i, str) for i in entry[part])
        for part in PARTS
    )
