"""Runs that learn from unlabelled images: what names them, what is refused, what is said of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch
from sweep_cases import done, prepared

from vesselflow.errors import UserError
from vesselflow.evaluation.long_tables import write_tables
from vesselflow.feed.local import LocalData
from vesselflow.orchestration.reading import _needed
from vesselflow.records.runs import RunRecord
from vesselflow.reporting.sweep_tables import load_tables
from vesselflow.reporting.terminal import answer_json, footnotes
from vesselflow.runs.cells import make_jobs, trainings
from vesselflow.runs.specs import view_of
from vesselflow.stores.importers.run import import_store
from vesselflow.sweeps.context import Context, Reports
from vesselflow.sweeps.planning import Prepared
from vesselflow.sweeps.training_job import order_of, unlabelled_batches
from vesselflow.training.group import Solo
from vesselflow.training.loop import load_weights

STORES = """
stores:
  a: synth:fundus?domain=a&sources=6&seed=0&size_px=64
  b: synth:fundus?domain=b&sources=4&seed=1&size_px=64
  u: synth:fundus?domain=b&sources=3&seed=2&size_px=64
"""
BASE = """
data: {train: a, ood: [b], unlabelled: u, working_size_px: 64}
split: {folds: 2, val_fraction: 0.3}
seeds: [3]
folds: [0]
model: {name: wnet, filters: [4, 8]}
train: {epochs: 1, steps_per_epoch: 2, micro_batch_size: 2}
grid: {train.domain_weight: [0, 1.5]}
"""


def space(stores: str = STORES, **changes: str) -> str:
    """Each change takes the place of a line; "" leaves it out."""
    lines = dict(line.split(": ", 1) for line in BASE.strip().splitlines()) | changes
    return stores + "".join(f"{key}: {value}\n" for key, value in lines.items() if value)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return tmp_path_factory.mktemp("unlabelled") / "results"


@pytest.fixture(scope="module")
def answered(results: Path) -> Prepared:
    sweep = prepared(results, space(), "answered")
    done(sweep)
    write_tables(sweep.folder / "tables", sweep.scored, results, sweep.objective)
    return sweep


def refused(results: Path, stores: str = STORES, **changes: str) -> str:
    with pytest.raises(UserError) as caught:
        prepared(results, space(stores, **changes), "refused")
    line = str(caught.value)
    assert "\n" not in line
    return line


def identities(sweep: Prepared) -> list[dict[str, Any]]:
    return [dict(cell.run.identity) for cell in sweep.cells]


def test_only_runs_that_look_at_them_are_named_by_them(results: Path, answered: Prepared) -> None:
    plain, adapted = identities(answered)
    assert adapted["unlabelled"] == {"store": answered.stores["u"].digest}
    assert adapted["experiment"]["train"]["domain_weight"] == 1.5
    assert "unlabelled" not in plain
    # A run that does not look is the run that never heard of them.
    without = prepared(results, space(data="{train: a, ood: [b], working_size_px: 64}", grid=""))
    assert [cell.run.run_id for cell in without.cells] == [answered.cells[0].run.run_id]
    other = prepared(results, space(STORES.replace("seed=2", "seed=5")), "other")
    assert identities(other)[0] == plain
    assert identities(other)[1]["unlabelled"] != adapted["unlabelled"]
    seen = "{synth: {kind: fundus, sources: 3, seed: 2, size_px: 64, domain: b}, scale: 1.5}"
    scaled = STORES.replace("synth:fundus?domain=b&sources=3&seed=2&size_px=64", seen)
    sweep = prepared(results, space(scaled), "scaled")
    named = identities(sweep)[1]["unlabelled"]
    assert named.keys() == {"store", "pixels"}
    context = context_of(sweep)
    batch = unlabelled_batches(context, order_of(context, 4)).batch(0, 0)
    assert batch.image.shape[2:] == (96, 96)
    assert named["store"] == answered.stores["u"].digest
    assert len(trainings(answered.space)) == 2


def test_they_are_learnt_from_and_scored_nowhere(results: Path, answered: Prepared) -> None:
    plain, adapted = answered.cells
    weights = [
        load_weights(RunRecord(results, cell.run.run_id).read_weights(1))
        for cell in (plain, adapted)
    ]
    assert weights[0].keys() == weights[1].keys()
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert {domain.store for domain in adapted.domains} == {"a", "b"}
    (row,) = RunRecord(results, adapted.run.run_id).rows()
    assert row["train/term/domain"] > 0
    log = (results / "runs" / adapted.run.run_id / "attempts/1/log.txt").read_text()
    assert "images of 'u' are learnt from without labels (data.unlabelled)" in log
    # What a cluster holds in memory for it: samples of both stores, images of those scored.
    needed = _needed(make_jobs([adapted], answered.objective))
    assert {name for kind, name, _ in needed if kind == "samples"} == {"a", "u"}
    assert {name for kind, name, _ in needed if kind == "images"} == {"a", "b"}


def context_of(sweep: Prepared) -> Context:
    """Of the run that looks at unlabelled images."""
    data = LocalData({name: facts.path for name, facts in sweep.stores.items()})
    (job,) = make_jobs([sweep.cells[1]], sweep.objective)
    return Context(job, sweep.results, data, Solo(), Reports(), "cpu", "slot")


def test_the_report_says_so(answered: Prepared) -> None:
    tables = load_tables(answered.folder)
    _, adapted = tables.order
    assert tables.unlabelled == {adapted: "u"}
    (note,) = (note for note in footnotes(tables) if "learnt from" in note)
    assert note == (
        f"{tables.text(adapted)} learnt from the images of u, too, without their labels; none of "
        "these is scored."
    )
    points = answer_json(tables)["points"]
    assert [point["unlabelled"] for point in points] == [None, "u"]


def test_each_of_them_comes_equally_often_in_an_order_of_the_seed(answered: Prepared) -> None:
    context = context_of(answered)
    order = order_of(context, 4)
    batches = unlabelled_batches(context, order)
    seen = [batches.batch(step, 0).source.tolist() for step in range(6)]
    assert sorted(number for pair in seen for number in pair) == [0] * 4 + [1] * 4 + [2] * 4
    other = unlabelled_batches(context, replace(order, seed=4))
    assert seen != [other.batch(step, 0).source.tolist() for step in range(6)]


def test_patches_around_keypoints_are_cut_where_labels_are_looked_at(answered: Prepared) -> None:
    experiment = answered.cells[1].run.experiment
    around = experiment.model_copy(
        update={"sampling": {"name": "keypoint", "copies": 2, "jitter": 0.5}}
    )
    assert view_of(around).around is not None
    assert view_of(around, "u").around is None


def test_a_later_run_may_not_be_scored_on_what_the_first_one_saw(
    results: Path, answered: Prepared
) -> None:
    point = answered.cells[1].point
    data = "{train: a, ood: [u], working_size_px: 64}"
    train = f"{{epochs: 1, steps_per_epoch: 1, micro_batch_size: 2, init_from: answered/{point}}}"
    line = refused(results, data=data, train=train, grid="")
    assert "has seen images of 'u', which is out of distribution here" in line
    train = train.replace(point, answered.cells[0].point)
    assert prepared(results, space(data=data, train=train, grid=""), "later").cells


CASES = {
    "refused.yaml: data.unlabelled: nothing is learnt from 'u'": {"grid": ""},
    "refused.yaml: grid.train.domain_weight": {"grid": "{train.domain_weight: [-1, 0]}"},
    "train.domain_weight: there are no unlabelled images": {
        "data": "{train: a, working_size_px: 64}"
    },
    "data.unlabelled: 'b' stands in data.ood as well": {
        "data": "{train: a, ood: [b], unlabelled: b, working_size_px: 64}"
    },
    "data.unlabelled: unknown store 'w'": {
        "data": "{train: a, unlabelled: w, working_size_px: 64}"
    },
    "train.micro_batch_size: a micro-batch of 4 is more than the store 'u' can give": {
        "train": "{epochs: 1, steps_per_epoch: 1, micro_batch_size: 4}",
        "split": "{folds: 2, val_fraction: 0.1}",
    },
}


@pytest.mark.parametrize("line", CASES)
def test_bad_input(results: Path, line: str) -> None:
    assert line in refused(results, **CASES[line])


@pytest.mark.parametrize("other", ["a", "b"])
def test_an_image_that_is_scored_or_has_labels_is_refused(results: Path, other: str) -> None:
    """Whatever is drawn below it: the picture is the same one."""
    sources, seed = {"a": (6, 0), "b": (4, 1)}[other]
    same = f"synth:fundus?domain={other}&sources={sources}&seed={seed}&size_px=64"
    again = STORES.replace("synth:fundus?domain=b&sources=3&seed=2&size_px=64", f"{same}&name=u")
    if "name=u" in again:
        again = again.replace("&name=u", "")
    line = refused(results, again)
    assert line.startswith("refused.yaml: data.unlabelled: '")
    assert f"' of '{other}' are the same image" in line


def test_a_store_without_a_patch_in_its_field_of_view_is_refused(results: Path) -> None:
    small = "{synth: {kind: fundus, sources: 3, seed: 2, size_px: 64, domain: b}, scale: 0.5}"
    stores = STORES.replace("synth:fundus?domain=b&sources=3&seed=2&size_px=64", small)
    data = "{train: a, unlabelled: u, working_size_px: 64, patch: 32, stride: 8, min_fov: 0.95}"
    line = refused(results, stores, data=data)
    assert line.startswith("refused.yaml: data.patch: ")
    assert "(store 'u')" in line


def test_volumes_are_no_images(results: Path) -> None:
    stores = STORES.replace("synth:fundus?domain=b&sources=3&seed=2&size_px=64", "synth:tomogram")
    assert "the store 'u' holds volumes" in refused(results, stores)


def test_images_without_masks_are_learnt_from_and_nothing_else(
    results: Path, answered: Prepared, tmp_path: Path
) -> None:
    from PIL import Image

    with h5py.File(answered.stores["u"].path) as file:
        pixels = [file[f"sources/{n}/image"][()] for n in range(3)]
    for number, each in enumerate(pixels):
        (tmp_path / "raw").mkdir(exist_ok=True)
        Image.fromarray(each).save(tmp_path / "raw" / f"{number}.png")
    arguments = {"images": ".", "masks": None}
    made = import_store("folder", tmp_path / "raw", tmp_path / "raw.h5", arguments)
    assert any("no masks: 3 source(s) can be learnt from" in note for note in made.notes)
    assert not any("suspicious" in note for note in made.notes)
    stores = STORES.replace(
        "synth:fundus?domain=b&sources=3&seed=2&size_px=64", str(tmp_path / "raw.h5")
    )
    sweep = prepared(results, space(stores), "raw")
    assert sweep.cells[1].run.run_id != answered.cells[1].run.run_id
    data = "{train: a, ood: [u], working_size_px: 64}"
    line = refused(results, stores, data=data, grid="")
    assert "data.ood: '0' of the store 'u' has no labels" in line
    data = "{train: u, working_size_px: 64}"
    assert "data.train: '0' of the store 'u' has no labels" in refused(
        results, stores, data=data, grid="", split="{folds: 2}"
    )


def test_what_the_folder_says(answered: Prepared) -> None:
    noted = json.loads((answered.folder / "provenance.json").read_text())
    assert noted["unlabelled"] == {answered.cells[1].point: "u"}
