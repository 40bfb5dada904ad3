"""A run's name: what matters renames it, what does not matter does not."""

import json
from pathlib import Path
from typing import Any

import pytest
from config_parts import REGISTRIES, STORES, Mixed, load
from hypothesis import given, settings
from hypothesis import strategies as st

from vesselflow.config.experiment import SECTIONS, Experiment, load_experiment
from vesselflow.config.fingerprint import (
    RESULT_NEUTRAL,
    SECTION_VERSIONS,
    canonical_json,
    digest,
    evaluation_id,
    experiment_identity,
    run_id,
    run_identity,
)
from vesselflow.config.registry import Registry

BASE: dict[str, Any] = {"data": {"train": "a", "working_size_px": 256, "patch": 64}}

#: Another allowed value of every field of every section.
OTHER = {
    "data.train": "b",
    "data.ood": ["b"],
    "data.unlabelled": "c",
    "data.working_size_px": 128,
    "data.patch": 32,
    "data.stride": 16,
    "data.margin": 8,
    "data.min_fov": 0.25,
    "data.spacing_um": 12.5,
    "data.shuffle": "window(64)",
    "split.folds": 5,
    "split.test": "official",
    "split.val_fraction": 0.3,
    "split.train_share": 0.5,
    "split.inner": 2,
    "split.seed": 1,
    "split.file": "x.csv",
    "normalise.scope": "patch",
    "normalise.per_channel": False,
    "normalise.method": "median",
    "train.epochs": 12,
    "train.steps_per_epoch": 3,
    "train.micro_batch_size": 2,
    "train.micro_batches_per_step": 2,
    "train.amp": "bf16",
    "train.channels_last": False,
    "train.clip_norm": 1.0,
    "train.ema": 0.9,
    "train.swa": {"start": 0.5},
    "train.average_last": 3,
    "train.stop": {"patience": 3},
    "train.augment_by_source": {"pseudo_*": 1.5},
    "train.domain_weight": 0.5,
    "train.init_from": "first/base",
    "train.stack": "x/y",
    "train.freeze": ["encoder"],
    "train.encoder_lr_factor": 0.1,
    "train.no_decay_on_norms": True,
    "train.log_health": True,
    "train.recompute": True,
    "train.checkpoint_every_s": 5.0,
    "train.nan_tolerance": 0,
    "train.log_gradient_shares": 10,
    "score.epochs": "all",
    "score.threshold": "half",
    "score.threshold_metric": "iou",
    "score.window": 64,
    "score.overlap": 0.25,
    "score.tta": "flips",
    "score.radius_voxels": 3.0,
    "score.radius_angstrom": 40.0,
    "score.refinement": "moments",
    "score.exclusive": True,
    "task.name": "keypoints",
    "task.activation": "softmax",
    "task.ds_factor": 8,
    "task.ds_sigma": 2.0,
    "task.sigma_angstrom": 40.0,
    "task.combine": "sum",
    "task.truncate": 3.0,
    "task.rigid": False,
}

OTHER_PARTS: dict[str, Any] = {
    "sampling": {"name": "foreground"},
    "model": {"name": "unet"},
    "loss": {"beta": 0.25},
    "augment": {"hflip": {}},
    "optimizer": {"name": "sgd"},
    "schedule": {"warmup": 0.1},
}

FACTS: dict[str, Any] = {"seed": 0, "store_digest": "5" * 20, "split_digest": "7" * 20}


def name(data: dict[str, Any], **facts: Any) -> str:
    experiment = load_experiment(data, registries=REGISTRIES)
    return run_id(experiment, **{**FACTS, "registries": REGISTRIES, **facts})


def test_every_field_of_every_section_is_hashed_or_listed_as_neutral() -> None:
    fields = {f"{s}.{field}" for s, model in SECTIONS.items() for field in model.model_fields}
    assert set(OTHER) == fields
    assert set(RESULT_NEUTRAL) <= fields
    # How stores are seen is named with what it changes: tests/runs/test_runs_pixels.py.
    assert set(OTHER_PARTS) | set(SECTIONS) | {"stores"} == set(Experiment.model_fields)
    assert {key.split(".")[0] for key in RESULT_NEUTRAL} - set(SECTION_VERSIONS) == {
        "split",
        "task",
    }
    for key, value in OTHER.items():
        section, field = key.split(".")
        base = BASE
        if key == "data.spacing_um":  # in its place
            base = {**BASE, "data": {**BASE["data"], "working_size_px": None}}
        if key == "train.stop":  # of one scored epoch there is nothing to see
            base = {**BASE, "score": {"epochs": "all"}}
        if key == "train.augment_by_source":
            base = {**BASE, "augment": {"hflip": {}}}
        if key == "train.domain_weight":
            base = {**BASE, "data": {**BASE["data"], "unlabelled": "c"}}
        changed = {**base, section: {**base.get(section, {}), field: value}}
        assert (name(changed) == name(base)) == (key in RESULT_NEUTRAL), key


def test_factors_that_say_nothing_rename_nothing() -> None:
    flipped = {**BASE, "augment": {"hflip": {}}}

    def of(base: dict[str, Any], factors: dict[str, float]) -> str:
        return name({**base, "train": {**base.get("train", {}), "augment_by_source": factors}})

    assert of(flipped, {}) == of(flipped, {"a*": 1}) == name(flipped)
    assert of(flipped, {"a*": 1, "b*": 2}) == of(flipped, {"b*": 2.0}) != name(flipped)
    assert of(flipped, {"b*": 2, "c*": 3}) == of(flipped, {"c*": 3, "b*": 2})
    assert of(BASE, {"a*": 2}) == name(BASE)  # there is nothing to multiply


@pytest.mark.parametrize("section", OTHER_PARTS)
def test_every_part_is_hashed(section: str) -> None:
    assert name({**BASE, section: OTHER_PARTS[section]}) != name(BASE)


def test_what_came_later_renames_nothing_by_its_default() -> None:
    experiment = load_experiment({**BASE, "sampling": {"name": "uniform"}}, registries=REGISTRIES)
    assert "sampling" not in experiment_identity(experiment, REGISTRIES)
    assert name({**BASE, "sampling": {}}) == name(BASE)


def test_the_order_of_samples_is_named_where_it_is_not_the_first_one() -> None:
    """However it is spelt; the keyed order was there before it had a name."""
    data = BASE["data"]
    for keyed in ("keyed", {"name": "keyed"}):
        assert name({**BASE, "data": {**data, "shuffle": keyed}}) == name(BASE)
    windows = [
        name({**BASE, "data": {**data, "shuffle": given}})
        for given in ("window(64)", {"name": "window", "samples": 64}, "window(65)")
    ]
    assert windows[0] == windows[1]
    assert len({name(BASE), *windows}) == 3


def test_seed_store_and_split_are_hashed() -> None:
    for key, value in {"seed": 1, "store_digest": "6" * 20, "split_digest": "8" * 20}.items():
        assert name(BASE, **{key: value}) != name(BASE)


def test_version_of_a_part_is_hashed() -> None:
    newer = Registry("loss")
    newer.add("combined", target="nowhere:nothing", arguments=Mixed, version=2)
    assert name(BASE, registries={**REGISTRIES, "loss": newer}) != name(BASE)


@pytest.mark.parametrize(
    ("section", "values", "version"),
    [
        ("normalise", {"scope": "source"}, 1),
        ("normalise", {"scope": "dataset"}, 2),
        ("schedule", {"name": "cosine"}, 1),
        ("schedule", {"name": "cosine", "warmup": 0.4}, 1),
        ("schedule", {"name": "cosine", "floor": 0.1}, 2),
        ("schedule", {"name": "cosine", "warmup": 0.5}, 2),
        ("schedule", {"name": "cyclic"}, 2),
        ("schedule", {"name": "constant", "warmup": 0.6}, 2),
    ],
)
def test_mended_numbers_rename_the_runs_that_they_reach_and_no_other(
    section: str, values: dict[str, Any], version: int
) -> None:
    experiment = load_experiment({**BASE, section: values}, registries=REGISTRIES)
    assert experiment_identity(experiment, REGISTRIES)[section]["version"] == version


def test_new_option_with_a_default_renames_nothing() -> None:
    class More(Mixed):
        power: float = 2.0

    newer = Registry("loss")
    newer.add("combined", target="nowhere:nothing", arguments=More)
    registries = {**REGISTRIES, "loss": newer}
    experiment = load_experiment(BASE, registries=registries)
    assert experiment.loss["power"] == 2.0
    assert run_id(experiment, **FACTS, registries=registries) == name(BASE)


def test_golden_run_id() -> None:
    # An accidental rename would make every stored run unreachable. What is hashed, by hand:
    experiment = load_experiment(
        {**BASE, "loss": {"beta": 1, "smooth": 1}, "augment": {"hflip": {"p": 1}}},
        registries=REGISTRIES,
    )
    expected = {
        "experiment": {
            "augment": {"hflip": {"name": "hflip", "version": 1, "p": 1.0}},
            "data": {"version": 1, "working_size_px": 256, "patch": 64},
            "loss": {"name": "combined", "version": 1, "beta": 1.0},
            "model": {"name": "wnet", "version": 1},
            "normalise": {"version": 1},
            "optimizer": {"name": "adamw", "version": 1},
            "schedule": {"name": "constant", "version": 1},
            "score": {"version": 1},
            "train": {"version": 1},
        },
        "seed": 0,
        "store": "5" * 20,
        "split": "7" * 20,
    }
    assert run_identity(experiment, **FACTS, registries=REGISTRIES) == expected
    assert run_id(experiment, **FACTS, registries=REGISTRIES) == GOLDEN_RUN


GOLDEN_RUN = "23736ae56ed93b50a0f6"


def shuffled(data: Any, draw: Any) -> Any:
    if isinstance(data, dict):
        keys = draw(st.permutations(list(data)))
        return {key: shuffled(data[key], draw) for key in keys}
    return data


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_order_of_keys_and_explicit_defaults_do_not_matter(data: st.DataObject) -> None:
    given_ = {**BASE, "loss": {"name": "fuzzy", "beta": 0.1}, "augment": {"vflip": {}, "hflip": {}}}
    full = load_experiment(given_, registries=REGISTRIES).plain()
    assert name(shuffled(full, data.draw)) == name(given_)


def test_style_and_comments_do_not_matter(tmp_path: Path) -> None:
    flow = load(tmp_path, STORES + "loss: {beta: 1, name: fuzzy}\noptimizer: {lr: 1e-3}\n")
    block = load(
        tmp_path,
        "# a comment\n" + STORES + "optimizer:\n    lr: 0.001 # slow\n"
        "loss:\n    \"name\": 'fuzzy'\n    beta: 1.0\n",
    )
    found = [
        experiment_identity(space.expand().points[0].experiment, REGISTRIES)
        for space in (flow, block)
    ]
    assert canonical_json(found[0]) == canonical_json(found[1])


@given(
    run=st.text(),
    domain=st.text(),
    epoch=st.integers(0, 10**6),
    settings=st.dictionaries(st.text(), st.integers() | st.text() | st.booleans() | st.none()),
)
def test_evaluation_id_is_the_digest_of_its_parts(
    run: str, domain: str, epoch: int, settings: dict[str, Any]
) -> None:
    expected = digest({"run": run, "epoch": epoch, "domain": domain, "settings": settings})
    for given_settings in (settings, canonical_json(settings)):
        found = evaluation_id(run, epoch=epoch, domain_digest=domain, settings=given_settings)
        assert found == expected


def test_evaluation_id() -> None:
    base: dict[str, Any] = {"epoch": 3, "domain_digest": "d", "settings": {"tta": "none"}}
    names = {evaluation_id("r", **base)}
    for change in ({"epoch": 4}, {"domain_digest": "e"}, {"settings": {"tta": "flips"}}):
        names.add(evaluation_id("r", **{**base, **change}))
    names.add(evaluation_id("s", **base))
    assert len(names) == 5
    assert all(len(found) == 20 for found in names)


def test_canonical_json() -> None:
    assert canonical_json({"b": [1, 1.0, -0.0, None, True], "a": "é"}) == (
        '{"a":"\\u00e9","b":[1,1.0,0.0,null,true]}'
    )
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="JSON"):
            canonical_json([bad])
    with pytest.raises(TypeError):
        canonical_json({1: 2})


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.text(max_size=4), st.floats(allow_nan=False, allow_infinity=False)))
def test_digest_is_of_the_content(data: dict[str, float]) -> None:
    again = json.loads(json.dumps(dict(reversed(data.items()))))
    assert digest(again) == digest(data)
    assert digest(data, 8) == digest(data)[:8]
