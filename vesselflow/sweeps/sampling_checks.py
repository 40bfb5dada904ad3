"""What a way of drawing samples asks of the stores, found before the first run; no torch or ray."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from vesselflow.config.experiment import Experiment
from vesselflow.config.space import Space
from vesselflow.errors import UserError
from vesselflow.feed.folds import Fold
from vesselflow.feed.sampling import SAMPLING
from vesselflow.runs.specs import StoreFacts, split_key
from vesselflow.sweeps.checks import place

#: Ways that draw by what samples hold.
_BY_CONTENT = ("foreground", "class")


def check_sampling(
    space: Space,
    file: Path,
    stores: Mapping[str, StoreFacts],
    folds: Mapping[str, Sequence[Fold]],
) -> None:
    """Refuse ways of drawing for which a store, or a fold's training part, has nothing to draw.

    Reads masks until each fold has one with foreground: that of one source, mostly.
    """
    seen = set()
    for point in space.expand().points:
        experiment = point.experiment
        name, facts = experiment.sampling["name"], stores[experiment.data.train]
        _check_keypoints(space, file, experiment, facts)
        if name not in _BY_CONTENT or not facts.digest:
            continue
        split, numbers = split_key(experiment), space.run_folds(experiment)
        if (name, split, numbers) not in seen:
            seen.add((name, split, numbers))
            chosen = [folds[split][number] for number in numbers]
            _check_foreground(space, file, experiment, facts, chosen)


def _check_keypoints(space: Space, file: Path, experiment: Experiment, facts: StoreFacts) -> None:
    if experiment.sampling["name"] != "keypoint":
        return
    if facts.layout is not None and facts.layout.kind != "keypoint":
        raise UserError(
            f"keypoint needs a keypoint store, '{facts.name}' is a {facts.layout.kind} store",
            where=place(space, file, "sampling.name"),
            allowed=", ".join(name for name in SAMPLING.names() if name != "keypoint"),
        )
    if experiment.data.patch == "full":
        raise UserError(
            "whole images cannot be cut around keypoints",
            where=place(space, file, "sampling.name"),
            allowed="uniform, or a data.patch in px",
        )


def _check_foreground(
    space: Space, file: Path, experiment: Experiment, facts: StoreFacts, folds: Sequence[Fold]
) -> None:
    if facts.layout is None or facts.layout.kind == "keypoint":
        return  # counted already, see `check_keypoints`
    from vesselflow.stores.store import Store

    with Store.open(facts.path) as store:
        has_foreground = functools.cache(lambda index: bool(np.any(store.target(index))))
        for fold in folds:
            if not any(has_foreground(facts.index[name]) for name in fold.train):
                raise UserError(
                    f"the training part of fold {fold.index} (store '{facts.name}') has no "
                    f"foreground, which {experiment.sampling['name']} draws",
                    where=place(space, file, "sampling.name"),
                    allowed="uniform, or folds with foreground to train on",
                )
