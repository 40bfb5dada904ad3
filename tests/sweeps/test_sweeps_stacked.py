"""Runs that are stacked on others: on which, with what name, and never on a leak."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from sweep_cases import done, prepared

from vesselflow.errors import UserError
from vesselflow.evaluation.long_tables import write_tables
from vesselflow.feed.local import LocalData
from vesselflow.records.runs import RunRecord
from vesselflow.reporting.sweep_tables import load_tables
from vesselflow.reporting.terminal import provenance_line
from vesselflow.runs.cells import make_jobs, trainings
from vesselflow.sweeps.context import Context, Reports
from vesselflow.sweeps.initial_weights import Initials
from vesselflow.sweeps.networks import networks
from vesselflow.sweeps.planning import Prepared
from vesselflow.sweeps.stacked_on import Bases
from vesselflow.training.group import Solo
from vesselflow.training.loop import load_weights

STORES = """
stores:
  a: synth:fundus?domain=a&sources=6&seed=0&size_px=64
  b: synth:fundus?domain=b&sources=4&seed=1&size_px=64
"""
BASE = """
data: {train: a, working_size_px: 64}
split: {folds: 2, inner: 2, val_fraction: 0.3}
seeds: [3]
folds: [0, 1]
model: {name: wnet, filters: [4, 8]}
train: {epochs: 1, steps_per_epoch: 1, micro_batch_size: 2}
"""


def space(**changes: str) -> str:
    """The outer fold 0, stacked; each change takes the place of a line."""
    lines = dict(line.split(": ", 1) for line in BASE.strip().splitlines())
    lines |= {
        "split": "{folds: 2, val_fraction: 0.3}",
        "folds": "[0]",
        "train": "{stack: first/base, epochs: 1, steps_per_epoch: 2, micro_batch_size: 2}",
    }
    lines |= changes
    return STORES + "".join(f"{key}: {value}\n" for key, value in lines.items())


def answered(results: Path, text: str, name: str) -> Prepared:
    sweep = prepared(results, text, name)
    done(sweep)
    write_tables(sweep.folder / "tables", sweep.scored, results, sweep.objective)
    return sweep


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return tmp_path_factory.mktemp("stacked") / "results"


@pytest.fixture(scope="module")
def first(results: Path) -> Prepared:
    return answered(results, STORES + BASE, "first")


@pytest.fixture(scope="module")
def plain(results: Path) -> Prepared:
    """The same fold without a stack: an ordinary run."""
    train = "{epochs: 1, steps_per_epoch: 1, micro_batch_size: 2}"
    return answered(results, space(train=train), "plain")


def refused(results: Path, **changes: str) -> str:
    with pytest.raises(UserError) as caught:
        prepared(results, space(**changes), "refused")
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_a_run_is_stacked_on_runs_that_hold_out_its_training_images(
    results: Path, first: Prepared
) -> None:
    second = answered(results, space(data="{train: a, ood: [b], working_size_px: 64}"), "second")
    (cell,) = second.cells
    run = cell.run
    of = {each.run.run_id: each for each in first.cells}
    assert {of[base.run_id].run.fold for base in run.stack} == {0, 1}
    assert sorted(source for base in run.stack for source in base.held) == list(run.train)
    test = next(domain for domain in cell.domains if domain.role == "test")
    for base in run.stack:
        seen = set(of[base.run_id].run.train)
        assert not seen & set(base.held)
        assert not seen & set(test.sources)
        assert seen | set(base.held) == set(run.train)
    assert run.identity["stack"] == [{"run": base.run_id, "epoch": 1} for base in run.stack]
    # What it gets in prediction it gets again from its weights and theirs.
    weights = load_weights(RunRecord(results, run.run_id).read_weights(1))
    assert weights["first.down.0.chain.0.weight"].shape[1] == 4
    assert not [name for name in weights if "logit" in name or "network" in name]
    assert all(row.complete for row in second.scored)
    assert networks(second)[0].channels == 4
    tables = load_tables(results / "second")
    assert "stacked_on first/base" in provenance_line(tables)
    logs = (results / "runs" / run.run_id).rglob("*.txt")
    names = f"{run.stack[0].run_id}@1, {run.stack[1].run_id}@1"
    assert any(f"stacked (train.stack) on {names}" in path.read_text() for path in logs)


def test_what_is_stacked_on_may_be_an_axis(results: Path, first: Prepared) -> None:
    text = space(
        train="{epochs: 1, steps_per_epoch: 2, micro_batch_size: 2}",
        grid="{train.stack: [null, first/base]}",
    )
    sweep = prepared(results, text, "axis")
    assert [len(cell.run.stack) for cell in sweep.cells] == [0, 2]
    assert len(trainings(sweep.space)) == 2


def test_networks_are_loaded_with_their_own_weights(results: Path, first: Prepared) -> None:
    sweep = prepared(results, space(), "loaded")
    (job,) = make_jobs(sweep.cells, sweep.objective)
    data = LocalData({name: facts.path for name, facts in sweep.stores.items()})
    context = Context(job, results / "elsewhere", data, Solo(), Reports(), "cpu", "test")
    stack = context.stack
    image = torch.randn(2, 3, 64, 64)
    sources = [base.held[0] for base in job.run.stack]
    expected = []
    for number, base in enumerate(job.run.stack):
        network = stack._networks[number]
        weights = load_weights(RunRecord(results, base.run_id).read_weights(1))
        assert all(torch.equal(value, weights[n]) for n, value in network.state_dict().items())
        expected.append(network(image[number : number + 1]).sigmoid())
    torch.testing.assert_close(
        stack.held_out(image, torch.tensor(sources).numpy())[:, 3:], torch.cat(expected)
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": "{stack: no/base}"}, "train.stack: there is no answer of a sweep 'no' in"),
        ({"train": "{stack: first/no}"}, "train.stack: the sweep 'first' has no point 'no'"),
        ({"train": "{stack: first}"}, "train.stack: "),
        ({"seeds": "[4]"}, "train.stack: first/base was not trained with seed 4"),
        # Its runs lie in the first of the two folds.
        ({"folds": "[1]"}, "do not predict each training image of fold 1 once"),
        (
            {"split": "{folds: 2, val_fraction: 0.3, seed: 5}"},
            "do not predict each training image of fold 0 once",
        ),
        ({"data": "{train: b, working_size_px: 64}"}, "was trained on another store than 'b'"),
        ({"normalise": "{method: median}"}, "was trained with another normalise than this run"),
        (
            {"normalise": "{scope: dataset}"},
            "normalise.scope: each run that is stacked on saw other images",
        ),
        (
            {"data": "{train: a, working_size_px: 128}"},
            "was trained with another data.working_size_px than this run is",
        ),
        ({"task": "{ds_factor: 2}"}, "learnt another task; allowed: the same task"),
    ],
)
def test_what_cannot_be_stacked_on_is_refused(
    results: Path, first: Prepared, changes: dict[str, str], message: str
) -> None:
    assert message in refused(results, **changes)


def test_ordinary_folds_are_refused(results: Path, plain: Prepared) -> None:
    """One of a run trains on what another one is tested on."""
    assert "stack" not in plain.cells[0].run.identity
    line = refused(results, train="{stack: plain/base}")
    assert "do not predict each training image of fold 0 once by a run that has seen only" in line
    assert "allowed: runs of the same split with split.inner, on all its folds" in line


def test_first_weights_of_fewer_channels_are_refused(
    results: Path, first: Prepared, plain: Prepared
) -> None:
    line = refused(results, train="{stack: first/base, init_from: plain/base, epochs: 1}")
    assert "do not fit the model of base: its first.down.0" in line


def test_runs_that_know_what_is_out_of_distribution_are_refused(
    results: Path, first: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = "{train: a, ood: [b], working_size_px: 64}"
    sweep = prepared(results, space(data=data), "outside")
    found = Initials.history

    def after_b(self: Initials, run_id: str) -> list[tuple[str, str, str]]:
        return [*found(self, run_id), ("0" * 20, sweep.stores["b"].digest, "")]

    monkeypatch.setattr(Initials, "history", after_b)
    line = refused(results, data=data)
    assert "has seen images of 'b', which is out of distribution here; leave that store" in line


@pytest.mark.parametrize("leak", ["none", "train", "val", "kept", "twice", "missing"])
def test_only_runs_inside_the_training_part_that_hold_all_of_it_out_once_will_do(
    results: Path, first: Prepared, monkeypatch: pytest.MonkeyPatch, leak: str
) -> None:
    (outer,) = prepared(results, space(train="{epochs: 1}"), "outer").folds.values()
    one, other = first.folds[next(iter(first.folds))][:2]
    scored, rest = outer[0].test[:1], one.test[1:]
    planted = {
        "none": one,
        "train": replace(one, train=one.train + scored),
        "val": replace(one, val=one.val + scored),
        "kept": replace(one, val=one.val + one.train[:1], train=one.train[1:]),
        "twice": replace(one, test=one.test + other.test[:1]),
        "missing": replace(one, test=rest),
    }[leak]
    of = {cell.run.run_id: planted if cell.run.fold == 0 else other for cell in first.cells}
    monkeypatch.setattr(Bases, "_split", lambda self, space, run_id, facts: of[run_id])
    if leak == "none":
        assert len(prepared(results, space(), "sound").cells[0].run.stack) == 2
    else:
        assert "do not predict each training image of fold 0 once" in refused(results)


def test_a_split_that_was_written_anew_is_no_longer_believed(
    results: Path, first: Prepared, tmp_path: Path
) -> None:
    """What a file says is held against the digest in the run's name."""
    copy = tmp_path / "results"
    shutil.copytree(results, copy)
    path = copy / "first" / "splits" / "a.json"
    document = json.loads(path.read_text())
    moved = document["folds"][0]["test"][0]
    document["folds"][0]["test"].remove(moved)
    document["folds"][0]["train"].append(moved)
    path.write_text(json.dumps(document))
    assert "stands no more in the sweep 'first'; run that sweep again" in refused(copy)


def test_networks_that_cannot_take_the_samples_are_refused(results: Path, first: Prepared) -> None:
    sweep = prepared(results, space(), "sizes")
    (cell,) = sweep.cells
    bases = Bases(results, sweep.stores)
    (base, _) = cell.run.stack
    stacked = cell.run.experiment
    wide = base.experiment.model_copy(
        update={"model": {**base.experiment.model, "filters": [4] * 9}}
    )
    with pytest.raises(UserError, match=r"of 64 x 64 px are none that wnet of run .* can take"):
        bases._check_sizes(replace(base, experiment=wide), stacked)
    itself = base.experiment.model_copy(update={"train": stacked.train})
    facts = sweep.stores["a"]
    with pytest.raises(UserError, match="is itself stacked on others"):
        bases._check_fits(replace(base, experiment=itself), stacked, facts)
