"""Names by content: what is hashed of an experiment, a run and an evaluation.

Two configurations that must give the same numbers have the same name, two that may not have
different ones. Values equal to their defaults are left out before hashing, so that a new option
whose default keeps the old behaviour renames nothing. Numbers whose meaning changes raise a
version: that of a part in its registry, that of a section in `SECTION_VERSIONS` or
`REVISED`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from vesselflow.config.experiment import PARTS, SECTIONS, Experiment, Registries
from vesselflow.config.named import named_fields

#: Contract version of the code behind each section that no registry holds; raised whenever the
#: numbers of a run change for the same values.
SECTION_VERSIONS = {
    "data": 1,
    "normalise": 1,
    "train": 1,
    "score": 1,
}

#: Where mended numbers reach some values of a section only: which, and the version that they have
#: then. No other run is renamed.
REVISED: dict[str, tuple[int, Callable[[Any], bool]]] = {
    "normalise": (2, lambda section: section.scope == "dataset"),
}

#: Section -> version, from 2 on -> what was mended with it, for people.
SECTION_CHANGES: dict[str, dict[int, str]] = {
    "normalise": {2: "pools the pixels of all images instead of averaging the images' own values"},
}

#: Keys that are not hashed, each with its reason. Everything else of an experiment is.
RESULT_NEUTRAL = {
    "data.train": "the digest of the store's content is hashed in its place",
    "data.ood": "scored only; every evaluation has a name of its own",
    "data.unlabelled": "the digest of the store's content is hashed in its place",
    "split.folds": "the digest of the fold's lists is hashed in its place",
    "split.test": "the digest of the fold's lists is hashed in its place",
    "split.val_fraction": "the digest of the fold's lists is hashed in its place",
    "split.train_share": "the digest of the fold's lists is hashed in its place",
    "split.inner": "the digest of the fold's lists is hashed in its place",
    "split.seed": "the digest of the fold's lists is hashed in its place",
    "split.file": "the digest of the fold's lists is hashed in its place",
    "task.name": "the task stands in the run's identity",
    "task.activation": "the task stands in the run's identity",
    "task.ds_factor": "the task stands in the run's identity",
    "task.ds_sigma": "the task stands in the run's identity",
    "task.sigma_angstrom": "the task stands in the run's identity",
    "task.combine": "the task stands in the run's identity",
    "task.truncate": "the task stands in the run's identity",
    "task.rigid": "the task stands in the run's identity",
    "train.init_from": "the run and the epoch that it names are hashed in its place",
    "train.stack": "the runs and the epochs that it names are hashed in its place",
    "train.checkpoint_every_s": "when a checkpoint is written changes no number",
    "train.log_gradient_shares": "what is logged beside a training changes no number of it",
    "train.log_health": "what is looked at changes no number",
    "train.recompute": "what is computed twice gives the same numbers",
    "score.threshold": "part of the evaluation's name",
    "score.threshold_metric": "part of the evaluation's name",
    "score.tta": "part of the evaluation's name",
    "score.window": "part of the evaluation's name",
    "score.overlap": "part of the evaluation's name",
    "score.radius_voxels": "part of the evaluation's name",
    "score.radius_angstrom": "part of the evaluation's name",
    "score.exclusive": "part of the evaluation's name",
    "score.refinement": "part of the evaluation's name",
}
#: Keys that say nothing in some experiments, and are left out there.
SILENT: dict[str, Callable[[Experiment], bool]] = {
    "train.augment_by_source": lambda experiment: not experiment.augment,
}
#: Sections that came after runs had names: in their first default they are left out.
LATER = ("sampling",)

# `task` is not hashed as it is given, but with what the store declares filled in.
# `stores` of an experiment is not hashed either: how the training store is seen stands in the run's
# identity under "pixels", how others are in the names of their evaluations.


#: Types of which `canonical_json` changes no value.
_PLAIN = frozenset({str, int, bool, type(None)})


def canonical_json(data: Any, *, escaped: bool = True) -> str:
    """JSON text of plain data, equal for equal data: sorted keys, no spaces.

    Floats are written by `repr`, -0.0 as 0.0. Whether a number is an int or a float is the
    business of the models: 1 given for a float field has become 1.0 before.

    Args:
        data: Mappings with text for keys, lists, tuples, text, numbers, truth values, None.
        escaped: ASCII only, as names of runs are hashed; False keeps letters as they are, as
            digests of stores are.

    Raises:
        ValueError: NaN or infinity.
        TypeError: not plain data, or a key that is not text.
    """
    return json.dumps(
        _checked(data),
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=escaped,
        allow_nan=False,
    )


def _checked(data: Any) -> Any:
    if isinstance(data, dict | Mapping):
        if not all(isinstance(key, str) for key in data):
            raise TypeError("only text can be a key of hashed data")
        return {
            # Most values are plain: a start names some 100,000 evaluations.
            key: value if type(value) in _PLAIN else _checked(value)
            for key, value in data.items()
        }
    if isinstance(data, list | tuple):
        return [_checked(value) for value in data]
    if isinstance(data, float):
        return data + 0.0  # turns -0.0 into 0.0
    return data


def digest(data: Any, length: int = 20) -> str:
    """The first `length` (1 to 128) hex digits of blake2b over the canonical JSON of `data`."""
    return hashlib.blake2b(canonical_json(data).encode("ascii")).hexdigest()[:length]


def experiment_identity(experiment: Experiment, registries: Registries) -> dict[str, Any]:
    """What is hashed of an experiment, as plain data.

    Every key that differs from its default and is not in `RESULT_NEUTRAL`; parts by name, version
    and changed arguments; of parts that a key of a section names, the version from 2 on.
    """
    identity: dict[str, Any] = {}
    for section, version in SECTION_VERSIONS.items():
        model = getattr(experiment, section)
        if section in REVISED and REVISED[section][1](model):
            version = REVISED[section][0]
        values = model.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        changed = {
            key: value
            for key, value in values.items()
            if f"{section}.{key}" not in RESULT_NEUTRAL
            and not (f"{section}.{key}" in SILENT and SILENT[f"{section}.{key}"](experiment))
        }
        for field, named in named_fields(SECTIONS[section]):
            if f"{section}.{field}" not in RESULT_NEUTRAL:
                changed |= named.identity(field, getattr(model, field), registries)
        identity[section] = {"version": version, **changed}
    for section in PARTS:
        chosen = registries[section].canonical(getattr(experiment, section))
        if section not in LATER or chosen != {"name": PARTS[section], "version": 1}:
            identity[section] = chosen
    identity["augment"] = {
        name: registries["augment"].canonical({"name": name, **arguments})
        for name, arguments in experiment.augment.items()
    }
    beside = {name: registries["augment"].part(name).beside for name in experiment.augment}
    together = {name: version for name, version in beside.items() if version is not None}
    if len(together) > 1:
        for name, version in together.items():
            identity["augment"][name]["version"] = version
    return identity


def run_identity(
    experiment: Experiment,
    *,
    seed: int,
    store_digest: str,
    split_digest: str,
    registries: Registries,
    pixels: Any = None,
    task: Any = None,
    stop: Any = None,
) -> dict[str, Any]:
    """What is hashed into a run's name.

    Args:
        experiment: The point's experiment.
        seed: Seed of every random draw of the run.
        store_digest: Logical digest of the training store (arrays and groups; no paths).
        split_digest: Digest of the fold's lists of train, val and test; holds the fold.
        registries: Parts by section, for their versions and defaults.
        pixels: What besides the experiment decides the size of a working px of the training store;
            plain data, None for nothing.
        task: What is learnt, where the store's digest does not say it; likewise.
        stop: How the scores are made that end a training early; likewise.
    """
    identity = {
        "experiment": experiment_identity(experiment, registries),
        "seed": seed,
        "store": store_digest,
        "split": split_digest,
    }
    besides = {"pixels": pixels, "task": task, "stop": stop}
    return identity | {name: value for name, value in besides.items() if value is not None}


def run_id(
    experiment: Experiment,
    *,
    seed: int,
    store_digest: str,
    split_digest: str,
    registries: Registries,
) -> str:
    """Name of a run: 20 hex digits over its identity (see `run_identity`)."""
    return digest(
        run_identity(
            experiment,
            seed=seed,
            store_digest=store_digest,
            split_digest=split_digest,
            registries=registries,
        )
    )


def evaluation_id(
    run_id: str, *, epoch: int, domain_digest: str, settings: Mapping[str, Any] | str
) -> str:
    """Name of one evaluation: 20 hex digits.

    Args:
        run_id: The run whose weights are scored.
        epoch: Epoch of the weights, counted from 1.
        domain_digest: Logical digest of the scored store and of which of its sources are scored.
        settings: All that can change a score besides: threshold metric, test-time augmentation,
            metric versions; plain data, or its `canonical_json`.
    """
    if not isinstance(settings, str):
        settings = canonical_json(settings)
    # The canonical JSON of all four, put together by hand: a start names some 100,000 of them.
    text = (
        f'{{"domain":{json.dumps(domain_digest)},"epoch":{epoch:d},'
        f'"run":{json.dumps(run_id)},"settings":{settings}}}'
    )
    return hashlib.blake2b(text.encode("ascii")).hexdigest()[:20]
