"""Everything before the first run: stores, folds, leak checks, runs and what is done of them.

Imports neither torch nor ray: a sweep that has nothing left to do ends here.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.metadata
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vesselflow import __version__
from vesselflow.config.experiment import Experiment
from vesselflow.config.grid import Expansion
from vesselflow.config.space import Space
from vesselflow.config.store_specs import StoreSpec
from vesselflow.config.yaml_files import dump_yaml
from vesselflow.errors import UserError
from vesselflow.evaluation.long_tables import Scored, score_cell
from vesselflow.feed.folds import Fold, write_folds
from vesselflow.records.atomic import read_json_or_none, write_json, write_text
from vesselflow.runs.cells import Cell, Job, make_cells, make_jobs
from vesselflow.runs.objective import Objective
from vesselflow.runs.specs import StoreFacts, folds_of, split_key
from vesselflow.sweeps import checks

#: Says which space a results folder belongs to.
PROVENANCE = "provenance.json"


@dataclass
class Prepared:
    """A sweep that is ready to run.

    Attributes:
        space: The space.
        file: The YAML file that it came from.
        expansion: Its points.
        results: The results folder.
        folder: The sweep's folder in it.
        stores: Facts of every store that is used, by name.
        folds: Folds by `split_key` of the experiments that use them.
        cells: Points x folds x seeds.
        scored: What is known of each cell, in the same order.
    """

    space: Space
    file: Path
    expansion: Expansion
    results: Path
    folder: Path
    stores: dict[str, StoreFacts]
    folds: dict[str, list[Fold]]
    cells: list[Cell]
    scored: list[Scored]

    @property
    def objective(self) -> Objective:
        """By what validation chooses."""
        return Objective.of(self.space.objective)

    def missing(self) -> list[Cell]:
        """Cells that are not trained, or not scored everywhere."""
        return [row.cell for row in self.scored if not row.complete]

    def jobs(self) -> list[Job]:
        """What completes the missing cells: one job for each run that they need, in their order."""
        return make_jobs(self.missing(), self.objective)

    def rescore(self) -> None:
        """Read again what is known of each cell that was not complete."""
        self.scored = [
            row if row.complete else score_cell(row.cell, self.results, self.objective)
            for row in self.scored
        ]


def sweep_folder(space: Space, profile: str | None, results: Path) -> Path:
    """The sweep's folder; one space's profiles have folders of their own."""
    return results / (f"{space.name}-{profile}" if profile else space.name)


def prepare(
    space: Space,
    file: Path,
    results: Path,
    *,
    profile: str | None = None,
    command: Sequence[str] = (),
    notify: Callable[[str], None] = lambda text: None,
    fresh: bool = False,
    here: bool = True,
) -> Prepared:
    """Make the stores that are made on demand, plan every run, and check everything.

    Args:
        space: The resolved space.
        file: The YAML file that it came from.
        results: The results folder; made when missing.
        profile: Which profile was laid over the file.
        command: For the provenance.
        notify: Gets a line for whatever takes long.
        fresh: Runs that are finished are going to be done again.
        here: Runs are trained on this machine, so that pretrained weights must be on it.

    Raises:
        UserError: A store, a split, a model or the results folder is not as it must be.
    """
    expansion = space.expand()
    folder = sweep_folder(space, profile, results)
    # All that can be refused is looked at before anything is made.
    check_owner(file, folder)
    check_writable(folder)
    stores = known_stores(space, file, results)
    folds = check_space(space, file, stores)
    cells, scored = look_up_runs(space, folds, stores, results)
    left = to_train(space, cells, scored, fresh=fresh)
    checks.check_models(space, file, left, stores, notify)
    if here:
        checks.check_weights(space, file, left, notify, fetch=True)
    if not all(facts.digest for facts in stores.values()):
        stores = open_stores(space, file, results, notify)
        # Of a store that was made just now, more is known than before.
        folds = check_space(space, file, stores)
        cells, scored = look_up_runs(space, folds, stores, results)
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_head(space, file, profile, folder, stores, command)
    write_splits(folder / "splits", expansion, folds, stores)
    return Prepared(space, file, expansion, results, folder, stores, folds, cells, scored)


def look_up_runs(
    space: Space,
    folds: Mapping[str, Sequence[Fold]],
    stores: Mapping[str, StoreFacts],
    results: Path,
) -> tuple[list[Cell], list[Scored]]:
    """Every cell of the sweep and what is known of it; none while a store is not made yet."""
    if not all(facts.digest for facts in stores.values()):
        return [], []
    cells, objective = make_cells(space, folds, stores), Objective.of(space.objective)
    return cells, [score_cell(cell, results, objective) for cell in cells]


def to_train(
    space: Space, cells: Sequence[Cell], scored: Sequence[Scored], *, fresh: bool = False
) -> list[Experiment]:
    """The experiments of the points that have a run left to do."""
    points = space.expand().points
    if fresh or not cells:
        return [point.experiment for point in points]
    open_points = {row.cell.point for row in scored if not row.complete}
    return [point.experiment for point in points if point.name in open_points]


def check_space(
    space: Space, file: Path, stores: Mapping[str, StoreFacts]
) -> dict[str, list[Fold]]:
    """Refuse what no run would survive, as far as the stores are known; return the folds.

    Args:
        space: The space.
        file: The YAML file that it came from.
        stores: Facts of every store in use; those of one that is not made yet have no digest.

    Raises:
        UserError: Folds, leaks, channels, sizes, or patches outside the field of view.
    """
    folds = make_folds_of(space, file, checks.with_names_of_pixels(stores))
    checks.check_channels(space, file, stores)
    checks.check_sizes(space, file, stores)
    checks.check_samples(space, file, stores, folds)
    return folds


def make_folds_of(
    space: Space, file: Path, stores: Mapping[str, StoreFacts]
) -> dict[str, list[Fold]]:
    """The folds of every split that some point uses, by `split_key`."""
    folds: dict[str, list[Fold]] = {}
    for point in space.expand().points:
        name = split_key(point.experiment)
        if name not in folds:
            given = point.experiment.split.file
            split_file = None if given is None else file.parent / given
            try:
                folds[name] = folds_of(point.experiment, stores, split_file)
            except UserError as error:
                raise _located(error, file, point.experiment.data.train, split_file) from None
    return folds


def _located(error: UserError, file: Path, train: str, split_file: Path | None) -> UserError:
    """An error about folds, with the space's file and key before it."""
    if error.where.startswith("split"):
        where, what = error.where, f"{error.what} (store '{train}')"
    elif split_file is not None and error.where.startswith(str(split_file)):
        where, what = "split.file", f"{error.where}: {error.what}"
    else:
        where, what = "data", f"{error.where}: {error.what}" if error.where else error.what
    return UserError(what, where=f"{file.name}: {where}", allowed=error.allowed, hint=error.hint)


def check_owner(file: Path, folder: Path) -> None:
    """Refuse a sweep's folder that belongs to another space, or to no sweep at all."""
    head = folder / PROVENANCE
    if not folder.is_dir():
        return
    if not head.exists():
        # What a killed process left under a hidden name is nobody's.
        if any(not entry.name.startswith(".") for entry in folder.iterdir()):
            raise UserError(
                f"this folder holds files, and no {PROVENANCE} that says whose results they are",
                where=str(folder),
                allowed="an empty or a new folder",
                hint="choose another with --results DIR, or another name: in the space",
            )
        return
    content = read_json_or_none(head)
    owner = content.get("space_file") if isinstance(content, dict) else None
    if not isinstance(owner, str):
        raise UserError(
            "this file does not say whose results these are (it is damaged)",
            where=str(head),
            hint="choose another folder with --results DIR, or move this one away",
        )
    if owner != file.name:
        raise UserError(
            f"this results folder belongs to the space '{owner}', not to '{file.name}'",
            where=str(folder),
            hint="give the space another name (its key name:), or choose another --results DIR",
        )


def check_writable(folder: Path, *, probe: bool = True) -> None:
    """Refuse a folder that cannot be written or made; nothing is made, nothing is left.

    Args:
        folder: The folder; it need not be there.
        probe: Write a file and remove it again; without, only the permissions are asked for.
    """
    with _writing(folder):
        base = next(entry for entry in (folder, *folder.parents) if os.path.lexists(entry))
        if not base.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(base))
        if not probe:
            if not os.access(base, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(base))
            return
        # Asking for the permission bits would not see a read-only file system.
        handle, name = tempfile.mkstemp(prefix=".probe-", dir=base)
        os.close(handle)
        os.unlink(name)


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write here ({error.strerror or error})",
            where=str(folder),
            allowed="a folder with write permission",
            hint="choose another with --results DIR",
        ) from None


def known_stores(space: Space, file: Path, results: Path) -> dict[str, StoreFacts]:
    """What is known of every store that the space uses, before any is made.

    Raises:
        UserError: A store is neither there nor can be made.
    """
    facts = {}
    for name in used_stores(space):
        path, declared = store_path(space, name, results), space.stores[name]
        where = f"{file.name}: stores.{name}"
        if path.exists():
            facts[name] = _opened(name, path, where)
        elif declared.importer is not None:
            if not Path(declared.importer.source).is_dir():
                raise UserError(
                    f"no such folder: {declared.importer.source}",
                    where=f"{where}.import.source",
                    allowed="the folder of the data set, as it was published",
                    hint=f"or make the store itself: {path}",
                )
            facts[name] = checks.planned(declared, name, path, where)
        elif declared.synth is None:
            raise missing_store(path, where)
        else:
            facts[name] = checks.planned(declared, name, path, where)
    return facts


def _opened(name: str, path: Path, where: str) -> StoreFacts:
    from vesselflow.stores.store import Store

    try:
        with Store.open(path) as store:
            return StoreFacts(name, path, store.digest, tuple(store.sources))
    except UserError as error:
        raise UserError(str(error), where=where) from None


def missing_store(path: Path, where: str) -> UserError:
    """The error for a store that nobody said how to make."""
    return UserError(
        f"no such file: {path}",
        where=where,
        allowed="an HDF5 store, or a synthetic one such as synth:fundus",
        hint=f"make it with: vesselflow data import LAYOUT SOURCE {path}",
    )


def open_stores(
    space: Space, file: Path, results: Path, notify: Callable[[str], None]
) -> dict[str, StoreFacts]:
    """Open every store that the space uses; make those that are declared as synthetic."""
    facts = {}
    for name in used_stores(space):
        path = store_path(space, name, results)
        where = f"{file.name}: stores.{name}"
        try:
            if not path.exists():
                make_store(space.stores[name], name, path, where, notify)
        except UserError as error:
            if error.where.startswith(where):
                raise
            raise UserError(str(error), where=where) from None
        facts[name] = _opened(name, path, where)
    return facts


def used_stores(space: Space) -> list[str]:
    """Names of the stores that some point trains or scores on, in order of first use."""
    names: dict[str, None] = {}
    for point in space.expand().points:
        data = point.experiment.data
        names.update(dict.fromkeys((data.train, *data.ood)))
    return list(names)


def store_path(space: Space, name: str, results: Path) -> Path:
    """Where a store stands; a synthetic one stands in the results folder, named by content."""
    from vesselflow.stores.synth import file_name

    declared = space.stores[name]
    if declared.synth is not None:
        return results / "stores" / file_name(declared.synth.arguments)
    assert declared.path is not None
    return Path(declared.path)


def make_store(
    declared: StoreSpec, name: str, path: Path, where: str, notify: Callable[[str], None]
) -> None:
    """Make a synthetic store, or import one that says how; UserError for any other."""
    if declared.synth is not None:
        from vesselflow.stores.synth import make_synth

        drawn = declared.synth.arguments
        notify(f"making the synthetic store '{name}' ({drawn['sources']} images)")
        make_synth(path, **drawn)
        return
    if declared.importer is not None:
        from vesselflow.stores.importers.run import import_store

        notify(f"importing the store '{name}' from {declared.importer.source}")
        arguments = declared.importer.model_extra or {}
        made = import_store(
            declared.importer.layout, declared.importer.source, path, arguments, domain=name
        )
        for note in made.notes:
            notify(f"store '{name}': {note}")
        return
    raise missing_store(path, where)


def write_head(
    space: Space,
    file: Path,
    profile: str | None,
    folder: Path,
    stores: Mapping[str, StoreFacts],
    command: Sequence[str],
) -> None:
    """Write what the sweep is: provenance, space, resolved space."""
    # First of all files: a folder without it is taken for somebody else's.
    write_json(
        folder / PROVENANCE,
        {
            "space_file": file.name,
            "name": space.name,
            "profile": profile,
            "command": list(command),
            "vesselflow": __version__,
            "commit": _commit(),
            "python": sys.version.split()[0],
            "platform": platform.platform(),
            "packages": _versions(),
            "stores": {
                name: {"path": str(fact.path), "digest": fact.digest, "sources": len(fact.sources)}
                for name, fact in stores.items()
            },
        },
    )
    write_text(folder / "space.yaml", file.read_text(encoding="utf-8"))
    write_text(folder / "resolved.yaml", dump_yaml(space.resolved()))


def write_splits(
    folder: Path,
    expansion: Expansion,
    folds: Mapping[str, list[Fold]],
    stores: Mapping[str, StoreFacts],
) -> None:
    """Write every split that some point uses, for people and for `split.file`."""
    folder.mkdir(exist_ok=True)
    trains = {
        split_key(point.experiment): point.experiment.data.train for point in expansion.points
    }
    for number, (name, entry) in enumerate(folds.items()):
        train = trains[name]
        suffix = f"-{number}" if number else ""
        write_folds(folder / f"{train}{suffix}.json", entry, stores[train].sources)


def _versions() -> dict[str, str]:
    names = ("torch", "ray", "optuna", "numpy", "kornia", "segmentation-models-pytorch", "h5py")
    return {name: importlib.metadata.version(name) for name in names}


def _commit() -> str | None:
    """The commit of the code, where it runs from a checkout."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
