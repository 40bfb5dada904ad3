"""From which run another one takes its first weights, and that they have seen nothing they may not.

Imports no torch, but where shapes are compared.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vesselflow.config.experiment import Experiment
from vesselflow.config.fingerprint import canonical_json
from vesselflow.config.space import Space
from vesselflow.errors import UserError, closest
from vesselflow.feed.folds import Fold
from vesselflow.models import MODELS
from vesselflow.records.atomic import read_json_or_none, write_bytes
from vesselflow.records.paths import AnyPath, names_in, there
from vesselflow.records.runs import RunRecord
from vesselflow.records.status import RunState
from vesselflow.runs.cells import Cell
from vesselflow.runs.initial import SUFFIXES, Initial, InitialFile
from vesselflow.runs.specs import StoreFacts
from vesselflow.sweeps.checks import placed

_KEY = "train.init_from"
_WEIGHTS = re.compile(r"[1-9][0-9]*\.pt")
_RUN = re.compile(r"([0-9a-f]{20})(?:@([1-9][0-9]*))?")


class Initials:
    """Finds first weights in a results folder; what was read once is not read again.

    Args:
        results: The results folder.
        stores: Facts of the stores in use, by name.
        key: That names the runs, for errors.
        folder: That files of weights are relative to.
    """

    def __init__(
        self,
        results: AnyPath,
        stores: Mapping[str, StoreFacts],
        *,
        key: str = _KEY,
        folder: Path = Path(),
    ) -> None:
        self._results, self._stores, self._key = results, stores, key
        self._folder = folder
        self._files: dict[str, InitialFile] = {}
        self._tables: dict[str, list[dict[str, Any]]] = {}
        self._seen: dict[str, list[tuple[str, str, str]]] = {}

    def of(self, experiment: Experiment, fold: Fold, seed: int) -> Initial | InitialFile | None:
        """The weights that a run begins with; None where its config names none.

        Args:
            experiment: The run's.
            fold: Its fold.
            seed: Its seed.

        Raises:
            UserError: There is no such file or run, it is not finished, its weights are gone, or it
                was trained on images that this run is not to have seen; the key is in `where`.
        """
        named = experiment.train.init_from
        if named is None:
            return None
        if named.endswith(SUFFIXES):
            return self._file(named)
        match = _RUN.fullmatch(named)
        found = self.run(*match.groups()) if match else self._cell(named, fold.index, seed)
        self._check_unseen(found, experiment, fold)
        return found

    def _file(self, named: str) -> InitialFile:
        if named not in self._files:
            path = self._folder / named
            try:
                self._files[named] = InitialFile.of(path)
            except OSError as error:
                raise UserError(
                    f"{path} cannot be read ({error.strerror or error})",
                    where=self._key,
                    allowed=f"a file of weights ({', '.join(SUFFIXES)}), relative to the space's "
                    "file; SPACE/POINT, RUN or RUN@EPOCH",
                ) from None
        return self._files[named]

    def run(self, run_id: str, epoch: str | None) -> Initial:
        """Weights of a finished run, of its last kept epoch where none is asked for.

        Raises:
            UserError: It is not finished, or they are not there.
        """
        record = RunRecord(self._results, run_id)
        if record.status().state is not RunState.FINISHED:
            raise UserError(
                f"there is no finished run {run_id} in {self._results}",
                where=self._key,
                hint="'vesselflow runs' lists them",
            )
        # The weights that are kept are those of scored epochs.
        names = names_in(record.weights_path(1).parent)
        kept = sorted(int(name[:-3]) for name in names if _WEIGHTS.fullmatch(name))
        if not kept or (epoch is not None and int(epoch) not in kept):
            which = f" of epoch {epoch}" if epoch else ""
            raise UserError(
                f"the weights{which} of run {run_id} are not there",
                where=self._key,
                allowed=", ".join(f"{run_id}@{each}" for each in kept) if kept else "",
                hint="" if kept else "they were removed; train that run again",
            )
        return Initial(run_id, int(epoch) if epoch else kept[-1])

    def rows(self, named: str) -> list[dict[str, Any]]:
        """Runs of a finished sweep's point, SPACE/POINT: run_id, point, fold, seed, epoch.

        Raises:
            UserError: There is no such sweep or point.
        """
        space, _, point = named.partition("/")
        rows = self._table(space)
        points = list(dict.fromkeys(row["point"] for row in rows))
        if point not in points:
            raise UserError(
                f"the sweep '{space}' has no point '{point}'",
                where=self._key,
                allowed=", ".join(f"{space}/{each}" for each in points[:8]),
                hint=closest(point, points),
            )
        return [row for row in rows if row["point"] == point]

    def _cell(self, named: str, fold: int, seed: int) -> Initial:
        own = self.rows(named)
        for row in own:
            if (row["fold"], row["seed"]) == (fold, seed):
                break
        else:
            there = ", ".join(f"fold {row['fold']} seed {row['seed']}" for row in own)
            raise UserError(
                f"{named} was not trained on fold {fold} with seed {seed}",
                where=self._key,
                allowed=there,
                hint="a run begins with the weights of the same fold and seed",
            )
        if row["epoch"] is None:
            raise UserError(
                f"{named} is not finished on fold {fold} with seed {seed}",
                where=self._key,
                hint="bring that sweep to its end first",
            )
        return self.run(row["run_id"], str(row["epoch"]))

    def _table(self, space: str) -> list[dict[str, Any]]:
        if space not in self._tables:
            path = self._results / space / "tables" / "runs.parquet"
            try:
                table = pq.read_table(
                    pa.BufferReader(path.read_bytes()),
                    columns=["run_id", "point", "fold", "seed", "epoch"],
                )
            except (OSError, pa.ArrowException):
                raise UserError(
                    f"there is no answer of a sweep '{space}' in {self._results}",
                    where=self._key,
                    allowed="SPACE/POINT of a sweep in the same results folder"
                    + (", RUN or RUN@EPOCH" if self._key == _KEY else ""),
                    hint="run that sweep first",
                ) from None
            self._tables[space] = table.to_pylist()
        return self._tables[space]

    def _check_unseen(self, initial: Initial, experiment: Experiment, fold: Fold) -> None:
        """Refuse weights that know images which this run is scored on."""
        train = self._stores[experiment.data.train].digest
        outside = {self._stores[name].digest: name for name in experiment.data.ood}
        for run_id, store, split in self.history(initial.run_id):
            if store in outside:
                raise UserError(
                    f"run {run_id} has seen images of '{outside[store]}', which is out of "
                    "distribution here",
                    where=self._key,
                    hint="leave that store out of data.ood",
                )
            if store == train and split != fold.digest:
                raise UserError(
                    f"run {run_id} was trained on another split of '{experiment.data.train}', so "
                    f"that it may know what fold {fold.index} is scored on",
                    where=self._key,
                    allowed="runs of the same fold of the same split",
                    hint="SPACE/POINT takes the run of the same fold",
                )

    def history(self, run_id: str) -> list[tuple[str, str, str]]:
        """(run, digest of its store, of its split) of a run and of those that it began with.

        Of a store whose images a run saw without labels the split is "": it saw all of them.
        """
        if run_id not in self._seen:
            path = RunRecord(self._results, run_id).folder / "identity.json"
            identity = read_json_or_none(path)
            if not isinstance(identity, Mapping):
                raise UserError(
                    f"what run {run_id} was trained on cannot be read",
                    where=self._key,
                    hint=f"{path} is missing or damaged; train that run again",
                )
            own = (run_id, str(identity.get("store")), str(identity.get("split")))
            before = identity.get("init")
            # Of a file's weights nobody knows what they saw.
            run = before.get("run") if isinstance(before, Mapping) else None
            beside = identity.get("unlabelled")
            unlabelled = [(run_id, str(beside.get("store")), "")] if beside else []
            self._seen[run_id] = [own, *unlabelled, *(self.history(run) if run else ())]
        return self._seen[run_id]


def keep_files(cells: Sequence[Cell], results: AnyPath) -> None:
    """Put the files of weights that runs begin with where every worker finds them, once."""
    files = {cell.run.initial for cell in cells if isinstance(cell.run.initial, InitialFile)}
    for file in sorted(files, key=lambda each: each.digest):
        target = file.kept(results)
        if not there(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(target, file.read(results))


def check_shapes(
    space: Space,
    file: Path,
    cells: Sequence[Cell],
    stores: Mapping[str, StoreFacts],
    results: AnyPath,
) -> None:
    """Hold first weights against the models that are to take them; imports torch where there are.

    Args:
        space: The space.
        file: Its file.
        cells: Those that are not done.
        stores: Facts of the stores in use.
        results: The results folder.

    Raises:
        UserError: Weights have other names or shapes than the model.
    """
    wanted: dict[str, Cell] = {}
    for cell in cells:
        if cell.run.initial is not None:
            # Runs of a point have one model each: folds and seeds change no shape.
            what = [MODELS.canonical(cell.run.experiment.model), cell.run.task.identity]
            wanted.setdefault(canonical_json([*what, cell.point]), cell)
    if not wanted:
        return
    import torch

    from vesselflow.training.loop import build_model, first_weights

    for cell in wanted.values():
        run, initial = cell.run, cell.run.initial
        assert initial is not None
        facts = stores[run.experiment.data.train]
        channels = facts.sources[0].channels if facts.sources else 3
        random = {"weights": None} if "weights" in run.experiment.model else {}
        bare = run.experiment.model_copy(update={"model": {**run.experiment.model, **random}})
        with torch.device("meta"):
            model = build_model(bare, channels, 0, run.task)
        with placed(space, file):
            given = first_weights(initial.read(results), initial.label)
            _compare(model.state_dict(), given, cell, initial)


def _compare(
    needed: Mapping[str, Any],
    given: Mapping[str, Any],
    cell: Cell,
    initial: Initial | InitialFile,
) -> None:
    ours = {name: tuple(value.shape) for name, value in needed.items()}
    theirs = {name: tuple(value.shape) for name, value in given.items()}
    for name in sorted({*ours, *theirs}):
        if ours.get(name) == theirs.get(name):
            continue
        if name not in theirs:
            fault = f"it has no {name}"
        elif name not in ours:
            fault = f"only it has {name}"
        else:
            fault = f"its {name} is {theirs[name]}, here {ours[name]}"
        raise UserError(
            f"the weights of {initial.label} do not fit the model of {cell.point}: {fault}",
            where=_KEY,
            hint="take the same model, with the same arguments and classes",
        )
