"""On which runs another one is stacked, and that none has seen what it may not."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from vesselflow.config.experiment import Experiment, load_experiment
from vesselflow.config.yaml_files import parse_yaml
from vesselflow.errors import UserError
from vesselflow.feed.folds import PARTS, Fold
from vesselflow.feed.view import told
from vesselflow.models.needs import divisor_of, needs
from vesselflow.records.atomic import read_json_or_none
from vesselflow.records.paths import AnyPath, names_in
from vesselflow.records.runs import RunRecord
from vesselflow.runs.registries import REGISTRIES
from vesselflow.runs.resolved import task_of
from vesselflow.runs.specs import StoreFacts
from vesselflow.runs.stacked import Base
from vesselflow.sweeps.checks import image_sizes, seen_as, training_size
from vesselflow.sweeps.initial_weights import Initials

_KEY = "train.stack"


class Bases:
    """Finds the runs that others are stacked on; what was read once is not read again.

    Args:
        results: The results folder.
        stores: Facts of the stores in use, by name.
    """

    def __init__(self, results: AnyPath, stores: Mapping[str, StoreFacts]) -> None:
        self._results, self._stores = results, stores
        self._answers = Initials(results, stores, key=_KEY)
        self._folds: dict[tuple[str, str], dict[str, Fold]] = {}
        self._experiments: dict[str, Experiment] = {}

    def of(self, experiment: Experiment, fold: Fold, seed: int) -> tuple[Base, ...]:
        """The runs that a run is stacked on; none where its config names none.

        They are found by what they were trained on, not by their numbers: those that saw and held
        out only training images of this fold, and chose by its validation part alone.

        Args:
            experiment: The run's.
            fold: Its fold.
            seed: Its seed.

        Raises:
            UserError: There are no such runs, they do not hold out each training image once, or
                what they predict is nothing that this run can take; the key is in `where`.
        """
        named = experiment.train.stack
        if named is None:
            return ()
        facts = self._stores[experiment.data.train]
        rows = [row for row in self._answers.rows(named) if row["seed"] == seed]
        if not rows:
            raise UserError(
                f"{named} was not trained with seed {seed}",
                where=_KEY,
                hint="a run is stacked on runs of the same seed",
            )
        train, val = set(fold.train), set(fold.val)
        inside = []
        for row in rows:
            if row["epoch"] is None:
                raise UserError(
                    f"{named} is not finished on fold {row['fold']} with seed {seed}",
                    where=_KEY,
                    hint="bring that sweep to its end first",
                )
            self._check_stores(row["run_id"], experiment, facts)
            seen = self._split(named.partition("/")[0], row["run_id"], facts)
            if {*seen.train, *seen.test} <= train and {*seen.val} <= val:
                inside.append((row, seen))
        held = Counter(name for _, seen in inside for name in seen.test)
        if set(held) != train or set(held.values()) != {1}:
            raise UserError(
                f"the runs of {named} do not predict each training image of fold {fold.index} once "
                f"by a run that has seen only other training images of it",
                where=_KEY,
                allowed="runs of the same split with split.inner, on all its folds",
            )
        bases = [
            Base(
                found.run_id,
                found.epoch,
                self._experiment(found.run_id),
                seed,
                tuple(sorted(facts.index[name] for name in seen.test)),
                self._results,
            )
            for row, seen in inside
            for found in [self._answers.run(row["run_id"], str(row["epoch"]))]
        ]
        for base in bases:
            self._check_fits(base, experiment, facts)
        # Their mean does not depend on how the folds were numbered.
        return tuple(sorted(bases, key=lambda base: base.held))

    def _check_stores(self, run_id: str, experiment: Experiment, facts: StoreFacts) -> None:
        """Refuse runs that know images on which this run is scored, or none of its own."""
        outside = {self._stores[name].digest: name for name in experiment.data.ood}
        (_, own, _), *before = self._answers.history(run_id)
        for _, store, _ in before:
            if store in outside:
                raise UserError(
                    f"run {run_id} has seen images of '{outside[store]}', which is out of "
                    "distribution here",
                    where=_KEY,
                    hint="leave that store out of data.ood",
                )
        if own != facts.digest:
            raise UserError(
                f"run {run_id} was trained on another store than '{facts.name}'",
                where=_KEY,
                allowed="runs of the same store, of the same split",
            )

    def _split(self, space: str, run_id: str, facts: StoreFacts) -> Fold:
        """What a run was trained on, by the digest that its name holds."""
        known = self._written(space, facts)
        *_, split = self._answers.history(run_id)[0]
        if split not in known:
            raise UserError(
                f"what run {run_id} was trained on stands no more in the sweep '{space}'",
                where=_KEY,
                hint="run that sweep again, as it was",
            )
        return known[split]

    def _written(self, space: str, facts: StoreFacts) -> dict[str, Fold]:
        """Digest -> fold of all splits beside a sweep's answer; each digest is made anew."""
        if (space, facts.name) not in self._folds:
            content = {source.id: source.digest for source in facts.sources}
            folder = self._results / space / "splits"
            found = {}
            for name in sorted(names_in(folder)):
                for entry in _entries(folder / name):
                    train, val, test = (tuple(entry[part]) for part in PARTS)
                    if content.keys() >= {*train, *val, *test}:
                        fold = Fold(0, train, val, test, content)
                        found[fold.digest] = fold
            self._folds[space, facts.name] = found
        return self._folds[space, facts.name]

    def _experiment(self, run_id: str) -> Experiment:
        if run_id not in self._experiments:
            path = RunRecord(self._results, run_id).config_path
            try:
                data: Any = parse_yaml(path.read_text(encoding="utf-8"), where="config.yaml")
                self._experiments[run_id] = load_experiment(data, registries=REGISTRIES)
            except (OSError, ValueError, UserError) as error:
                raise UserError(
                    f"the config of run {run_id} cannot be read: {error}",
                    where=_KEY,
                    hint="train that run again",
                ) from None
        return self._experiments[run_id]

    def _check_fits(self, base: Base, experiment: Experiment, facts: StoreFacts) -> None:
        """Refuse networks that this run's samples and images would be nothing for."""
        theirs = base.experiment
        task = task_of(experiment, facts)
        if theirs.train.stack is not None:
            raise UserError(
                f"run {base.run_id} is itself stacked on others",
                where=_KEY,
                allowed="runs that see images only",
            )
        path = RunRecord(self._results, base.run_id).folder / "identity.json"
        identity = read_json_or_none(path)
        # As it stands in the file: without tuples.
        if (identity or {}).get("task") != json.loads(json.dumps(task.identity)):
            raise UserError(
                f"run {base.run_id} learnt another task", where=_KEY, allowed="the same task"
            )
        if task.stride != 1:
            raise UserError(
                "probabilities that are coarser than the image are no channels of it",
                where=_KEY,
                allowed="tasks of output stride 1 (task.ds_factor)",
            )
        if experiment.normalise.scope == "dataset":
            raise UserError(
                "each run that is stacked on saw other images, and so another centre and scale",
                where="normalise.scope",
                allowed="source, patch or none with train.stack",
            )
        for key, ours, other in (
            ("normalise", experiment.normalise, theirs.normalise),
            ("data.working_size_px", experiment.data.working_size_px, theirs.data.working_size_px),
            ("data.spacing_um", experiment.data.spacing_um, theirs.data.spacing_um),
            ("stores: scale", experiment.scale_of(facts.name), theirs.scale_of(theirs.data.train)),
        ):
            if ours != other:
                raise UserError(
                    f"run {base.run_id} was trained with another {key} than this run is",
                    where=_KEY,
                    allowed=f"runs of the same {key}, which see images alike",
                )
        self._check_sizes(base, experiment)

    def _check_sizes(self, base: Base, experiment: Experiment) -> None:
        data, model = experiment.data, base.experiment.model
        view = seen_as(experiment, self._stores)
        ours, theirs = _each(view.divisor), _each(divisor_of(model))
        sizes = [training_size(view, self._stores[data.train], bound=True)]
        for name in experiment.read:
            sizes += image_sizes(seen_as(experiment, self._stores, name), self._stores[name])
        needed = needs(model)
        for size in sizes:
            small = size is not None and needed is not None and not needed.holds(size)
            uneven = len(ours) == len(theirs) and any(
                one % other for one, other in zip(ours, theirs, strict=True)
            )
            if small or uneven:
                told_size = "" if size is None else f" of {told(size)} px"
                raise UserError(
                    f"samples or images{told_size} are none that {model['name']} of run "
                    f"{base.run_id} can take",
                    where=_KEY,
                    allowed=f"sides that are multiples of {told(theirs)} px"
                    + ("" if needed is None else f", {told(_each(needed.least_px))} px or more"),
                )


def _each(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return (value,) if isinstance(value, int) else value


def _entries(path: AnyPath) -> Sequence[Mapping[str, Any]]:
    """The folds of a file that `write_folds` wrote; none of another file."""
    document = read_json_or_none(path)
    return document["folds"] if isinstance(document, dict) and "folds" in document else ()
