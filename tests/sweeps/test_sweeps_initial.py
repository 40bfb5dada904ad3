"""Runs that begin with the weights of others: which, with what name, and never of a leak."""

from __future__ import annotations

import json
import shutil
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from sweep_cases import done, prepared

from vesselflow.config.loading import load_space
from vesselflow.errors import UserError
from vesselflow.evaluation.long_tables import write_tables
from vesselflow.records.paths import remove_tree
from vesselflow.records.runs import RunRecord
from vesselflow.runs.cells import trainings
from vesselflow.runs.registries import REGISTRIES
from vesselflow.sweeps.parcel import pack
from vesselflow.sweeps.planning import Prepared
from vesselflow.sweeps.timing import Timing
from vesselflow.training.loop import load_weights

STORES = """
stores:
  a: synth:fundus?domain=a&sources=6&seed=0&size_px=64
  b: synth:fundus?domain=b&sources=4&seed=1&size_px=64
"""
SPACE = """
data: {train: a, working_size_px: 64}
split: {folds: 3}
folds: [0, 1]
seeds: [3]
model: {name: wnet, filters: [4, 8]}
train: {epochs: 2, steps_per_epoch: 2, micro_batch_size: 2}
score: {epochs: all}
grid: {loss.beta: [0.25, 0.75]}
"""
#: So small that a step moves no weight.
STILL = "optimizer: {lr: 1.0e-30, weight_decay: 0}\n"


def space(init_from: str, text: str = SPACE, **changes: str) -> str:
    text = text.replace("train: {epochs", f"train: {{init_from: {init_from}, epochs")
    text = text.replace("grid: {loss.beta: [0.25, 0.75]}\n", "")
    for old, new in changes.items():
        assert f"{old}: " in text
        text = "\n".join(
            f"{old}: {new}" if line.startswith(f"{old}: ") else line for line in text.splitlines()
        )
    return STORES + text + "\n"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return tmp_path_factory.mktemp("initial") / "results"


@pytest.fixture(scope="module")
def first(results: Path) -> Prepared:
    sweep = prepared(results, STORES + SPACE, "first")
    done(sweep)
    write_tables(sweep.folder / "tables", sweep.scored, results, sweep.objective)
    return sweep


def refused(results: Path, text: str) -> str:
    with pytest.raises(UserError) as caught:
        prepared(results, text, "refused")
    return str(caught.value)


def test_a_run_begins_with_the_weights_that_validation_chose(
    results: Path, first: Prepared
) -> None:
    point = first.cells[0].point
    second = prepared(results, space(f"first/{point}") + STILL, "second")
    chosen = {row.cell.run.fold: row for row in first.scored if row.cell.point == point}
    assert [cell.run.fold for cell in second.cells] == [0, 1]
    done(second)
    for cell in second.cells:
        row = chosen[cell.run.fold]
        assert (cell.run.initial.run_id, cell.run.initial.epoch) == (row.cell.run.run_id, row.epoch)
        assert cell.run.identity["init"] == {"run": row.cell.run.run_id, "epoch": row.epoch}
        before = load_weights(RunRecord(results, row.cell.run.run_id).read_weights(row.epoch))
        after = load_weights(RunRecord(results, cell.run.run_id).read_weights(2))
        for name, value in after.items():
            if "running" not in name and "num_batches" not in name:
                torch.testing.assert_close(value, before[name], rtol=1e-6, atol=1e-12)
    # Begun anew they would have been others.
    text = space("x", folds="[0]").replace("init_from: x, ", "")
    anew = prepared(results, text + STILL, "anew")
    done(anew)
    (cell, *_) = anew.cells
    assert "init" not in cell.run.identity
    weights = load_weights(RunRecord(results, cell.run.run_id).read_weights(2))
    own = load_weights(RunRecord(results, second.cells[0].run.run_id).read_weights(2))
    assert not torch.allclose(
        weights["first.down.0.chain.0.weight"], own["first.down.0.chain.0.weight"]
    )


def test_its_steps_are_timed_in_a_folder_without_the_other_run(
    results: Path, first: Prepared, tmp_path: Path
) -> None:
    text = space(f"first/{first.cells[0].point}") + "loss: {beta: 0.3}\n"
    second = prepared(results, text, "timed")
    stores = {name: facts.path for name, facts in second.stores.items()}
    pace = Timing(stores, 1, "cpu", tmp_path).steps(second.jobs()[0], 0.0, 1, 1)
    assert pace.run_steps == 4


def test_a_run_is_named_by_the_weights_and_not_by_how_they_are_named(
    results: Path, first: Prepared
) -> None:
    row = first.scored[0]
    assert row.cell.run.fold == 0
    run_id = row.cell.run.run_id
    folds = {"folds": "[0]"}
    by_point = prepared(results, space(f"first/{row.cell.point}", **folds), "by_point")
    by_run = prepared(results, space(f"{run_id}@{row.epoch}", **folds), "by_run")
    assert by_point.cells[0].run.run_id == by_run.cells[0].run.run_id
    other = prepared(results, space(f"{run_id}@{3 - row.epoch}", **folds), "other")
    assert other.cells[0].run.run_id != by_run.cells[0].run.run_id
    last = prepared(results, space(run_id, **folds), "last")
    assert last.cells[0].run.initial.epoch == 2


def test_whose_weights_may_be_an_axis(results: Path, first: Prepared) -> None:
    points = list(dict.fromkeys(cell.point for cell in first.cells))
    axis = f"grid: {{train.init_from: [null, first/{points[0]}, first/{points[1]}]}}\n"
    text = space("x").replace("init_from: x, ", "") + axis
    sweep = prepared(results, text, "axis")
    assert len({cell.run.run_id for cell in sweep.cells}) == 6
    assert len(trainings(sweep.space)) == 6


def test_weights_that_are_not_there_are_refused(results: Path, first: Prepared) -> None:
    point = first.cells[0].point
    assert "train.init_from: there is no answer of a sweep 'nowhere' in" in refused(
        results, space("nowhere/x")
    )
    line = refused(results, space("first/nothing"))
    assert f"the sweep 'first' has no point 'nothing'; allowed: first/{point}, first/" in line
    assert (
        "was not trained on fold 2 with seed 3; allowed: fold 0 seed 3, fold 1 seed 3"
        in refused(results, space(f"first/{point}", folds="[2]"))
    )
    assert "was not trained on fold 0 with seed 9" in refused(
        results, space(f"first/{point}", seeds="[9]")
    )
    assert f"there is no finished run {'0' * 20} in" in refused(results, space("0" * 20))
    run_id = first.cells[0].run.run_id
    line = refused(results, space(f"{run_id}@7", folds="[0]"))
    assert f"the weights of epoch 7 of run {run_id} are not there; allowed: {run_id}@1" in line


def test_weights_that_know_what_is_scored_are_refused(results: Path, first: Prepared) -> None:
    run = first.cells[0].run
    line = refused(results, space(run.run_id, folds="[1]"))
    assert (
        "was trained on another split of 'a', so that it may know what fold 1 is scored on" in line
    )
    # On another store these weights are new to all folds, unless they are scored on the first one.
    elsewhere = {"data": "{train: b, working_size_px: 64}", "folds": "[1]"}
    onward = prepared(results, space(run.run_id, **elsewhere), "onward")
    assert onward.cells[0].run.initial.run_id == run.run_id
    outside = {"data": "{train: b, ood: [a], working_size_px: 64}", "folds": "[1]"}
    assert f"run {run.run_id} has seen images of 'a', which is out of distribution here" in refused(
        results, space(run.run_id, **outside)
    )
    # Nor by way of a run between the two.
    done(onward)
    second = onward.cells[0].run.run_id
    assert f"run {run.run_id} was trained on another split of 'a'" in refused(
        results, space(second, folds="[1]")
    )


def test_weights_of_another_model_are_refused(results: Path, first: Prepared) -> None:
    point = first.cells[0].point
    wide = refused(results, space(f"first/{point}", model="{name: wnet, filters: [8, 16]}"))
    assert "train.init_from: the weights of run" in wide
    assert "do not fit the model of base: its first." in wide
    assert "is (4,), here (8,); take the same model" in wide
    more = refused(
        results, space(f"first/{point}", model="{name: wnet, filters: [4, 8], shortcut: false}")
    )
    assert "only it has first.down.0.shortcut" in more


def test_removed_weights_are_said_to_be_gone(results: Path, first: Prepared) -> None:
    run = first.cells[-1].run
    remove_tree(RunRecord(results, run.run_id).folder / "weights")
    line = refused(results, space(run.run_id, folds=f"[{run.fold}]"))
    assert f"the weights of run {run.run_id} are not there; they were removed" in line


# -- weights of a file ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(results: Path, first: Prepared) -> dict[str, torch.Tensor]:
    """Those of a run, as if somebody else had sent them."""
    (row, *_) = first.scored
    return load_weights(RunRecord(results, row.cell.run.run_id).read_weights(row.epoch))


def test_a_run_begins_with_a_file_that_is_named_by_its_content(
    results: Path, first: Prepared, weights: dict[str, torch.Tensor]
) -> None:
    folder = results.parent
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in weights.items()}},
               folder / "theirs.pth")  # fmt: skip
    (folder / "sent").mkdir(exist_ok=True)
    shutil.copy(folder / "theirs.pth", folder / "sent" / "copy.pt")
    sweep = prepared(results, space("theirs.pth") + STILL, "file")
    again = prepared(results, space("sent/copy.pt") + STILL, "file2")
    names = [cell.run.run_id for cell in sweep.cells]
    assert names == [cell.run.run_id for cell in again.cells]
    digest = sha256((folder / "theirs.pth").read_bytes()).hexdigest()
    assert sweep.cells[0].run.identity["init"] == {"weights": digest}
    # The workers' copy: what becomes of the file itself is nothing to them.
    (folder / "theirs.pth").unlink()
    done(sweep)
    after = load_weights(RunRecord(results, names[0]).read_weights(2))
    for name, value in after.items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(value, weights[name], rtol=1e-6, atol=1e-12)
    log = (RunRecord(results, names[0]).attempt_folder(1) / "log.txt").read_text()
    assert f"sha256 {digest[:16]}): what they were trained on is not known" in log
    noted = json.loads((results / "file" / "provenance.json").read_text())
    assert noted["weights_of_unknown_training"] == "theirs.pth"
    # Weights of such a run have nothing to be held against but its own images.
    prepared(results, space(f"{names[0]}@2", folds="[0]"), "third")


def test_a_changed_file_is_another_run(
    results: Path, first: Prepared, weights: dict[str, torch.Tensor]
) -> None:
    path = results.parent / "mine.pt"
    names = []
    for scale in (1, 2):
        torch.save({key: scale * value for key, value in weights.items()}, path)
        names.append(prepared(results, space("mine.pt"), "changing").cells[0].run.run_id)
    assert names[0] != names[1]


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("this must not run",)


def test_files_that_hold_no_weights_are_refused(
    results: Path, first: Prepared, weights: dict[str, torch.Tensor], capsys
) -> None:
    folder = results.parent
    line = refused(results, space("nowhere.pt"))
    assert "nowhere.pt cannot be read (No such file or directory)" in line
    (folder / "text.pt").write_text("no weights")
    torch.save([1, 2], folder / "list.pt")
    torch.save({}, folder / "empty.pt")
    torch.save({"epoch": 3}, folder / "epoch.pt")
    torch.save({"weights": Evil()}, folder / "evil.pt")
    for name in ("text", "list", "empty", "epoch", "evil"):
        line = refused(results, space(f"{name}.pt"))
        assert line.startswith(f"refused.yaml: train.init_from: {name}.pt holds no weights"), line
        assert "\n" not in line
    assert "must not run" not in capsys.readouterr().out
    torch.save({**weights, "more": torch.ones(1)}, folder / "more.pt")
    assert "the weights of more.pt do not fit" in refused(results, space("more.pt"))


def test_a_file_of_weights_goes_to_a_cluster_with_its_space(tmp_path: Path) -> None:
    (tmp_path / "sent").mkdir()
    (tmp_path / "theirs.pt").write_bytes(b"weights")
    file = tmp_path / "spaces" / "mine.yaml"
    file.parent.mkdir()
    file.write_text(space("../theirs.pt"))
    loaded = load_space(file, registries=REGISTRIES)
    parcel = pack(loaded, tmp_path / "results", tmp_path / "sent")
    assert parcel.space == "spaces/mine.yaml"
    assert (tmp_path / "sent" / "theirs.pt").read_bytes() == b"weights"
