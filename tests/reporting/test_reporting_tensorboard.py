import math
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from reporting_examples import write_sweep
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata as hparams_metadata

from vesselflow.reporting.sweep_tables import load_tables
from vesselflow.reporting.tensorboard import RunBoard, write_boards


def read(folder) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    accumulator.Reload()
    return accumulator


def test_scalars_come_back_with_steps_and_epochs(tmp_path):
    with RunBoard(tmp_path) as board:
        board.scalars([("train/loss", 0.5, 20, 1), ("train/loss", 0.25, 40, 2)])
        board.scalars([("val/dice", math.nan, 40, 2)])
    events = read(tmp_path)
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(20, 0.5), (40, 0.25)]
    assert [(e.step, e.value) for e in events.Scalars("epoch")][:2] == [(20, 1.0), (40, 2.0)]
    assert math.isnan(events.Scalars("val/dice")[0].value)


def test_images_come_back_pixel_for_pixel(tmp_path):
    import io

    from PIL import Image

    colour = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    grey = np.arange(4 * 6, dtype=np.uint8).reshape(4, 6)
    with RunBoard(tmp_path) as board:
        board.images("a/best s0", [colour, grey], 7)
        board.images("nothing", [], 7)
    (event,) = read(tmp_path).Tensors("a/best s0")
    width, height, *pictures = event.tensor_proto.string_val
    assert (width, height, event.step) == (b"6", b"4", 7)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(pictures[0]))), colour)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(pictures[1]))), grey)


@pytest.mark.parametrize(
    "arrays",
    [
        [np.zeros((4, 4), np.float32)],
        [np.zeros((4, 4, 2), np.uint8)],
        [np.zeros((4, 4), np.uint8), np.zeros((5, 4), np.uint8)],
    ],
)
def test_images_of_another_kind_are_refused(tmp_path, arrays):
    with RunBoard(tmp_path) as board, pytest.raises(ValueError, match="picture"):
        board.images("x", arrays, 0)


def test_hparams_session_has_values_metrics_and_group(tmp_path):
    schedule = {"schedule": "linear", "from": 0.0, "to": 1.0}
    with RunBoard(tmp_path) as board:
        board.hparams(
            {"loss.beta": 0.5, "loss.name": "fuzzy", "ema": True, "beta2": schedule, "none": None},
            {"final/val a dice": 0.8},
            group="p",
            step=3,
        )
        board.close()
    events = read(tmp_path)
    assert events.Scalars("final/val a dice")[0].value == pytest.approx(0.8)
    data = events.SummaryMetadata(hparams_metadata.SESSION_START_INFO_TAG).plugin_data.content
    start = hparams_metadata.parse_session_start_info_plugin_data(data)
    assert start.group_name == "p"
    assert start.hparams["loss.beta"].number_value == 0.5
    assert start.hparams["loss.name"].string_value == "fuzzy"
    assert start.hparams["ema"].bool_value is True
    assert start.hparams["beta2"].string_value == "linear 0→1"
    assert "none" not in start.hparams
    data = events.SummaryMetadata(hparams_metadata.SESSION_END_INFO_TAG).plugin_data.content
    assert hparams_metadata.parse_session_end_info_plugin_data(data).status == 1


@pytest.fixture
def sweep(tmp_path):
    return write_sweep(tmp_path, betas=(0.0, 0.5), losses=("fuzzy",), folds=2, seeds=1)


def files(root):
    return sorted(path for path in root.rglob("*") if path.is_file())


def test_boards_stand_under_the_points_own_names(sweep):
    root = write_boards(sweep)
    assert sorted(str(p.parent.relative_to(root)) for p in files(root)) == sorted(
        [".", *(f"loss=fuzzy,beta={b}/fold{f}_seed0" for b in ("0.0", "0.5") for f in (0, 1))]
    )
    events = read(root / "loss=fuzzy,beta=0.5" / "fold1_seed0")
    epochs = pd.read_parquet(sweep / "tables" / "epochs.parquet")
    mine = epochs[(epochs["point"] == "loss=fuzzy,beta=0.5") & (epochs["fold"] == 1)]
    curve = mine[mine["name"] == "val/dice"].sort_values("step")
    assert [e.step for e in events.Scalars("val/dice")] == list(curve["step"])
    assert [e.value for e in events.Scalars("val/dice")] == pytest.approx(list(curve["value"]))
    assert "domain a/best s0" in events.Tags()["tensors"]
    scores = load_tables(sweep).run_scores
    row = scores[(scores["run_id"] == curve["run_id"].iloc[0]) & (scores["role"] == "test")]
    dice = float(row.loc[row["metric"] == "dice", "value"].iloc[0])
    assert events.Scalars("final/test a dice")[0].value == pytest.approx(dice)


def test_second_call_writes_nothing_and_leaves_no_other_files(sweep):
    root = write_boards(sweep)
    before = {path: path.stat().st_mtime_ns for path in files(root)}
    write_boards(sweep)
    assert {path: path.stat().st_mtime_ns for path in files(root)} == before
    assert not [path for path in sweep.iterdir() if path.name.startswith(".tensorboard")]


def test_changed_run_replaces_its_board_only(sweep):
    root = write_boards(sweep)
    before = set(files(root))
    path = sweep / "tables" / "epochs.parquet"
    epochs = pd.read_parquet(path)
    epochs.loc[epochs["run_id"] == epochs["run_id"].iloc[0], "value"] += 0.01
    epochs.to_parquet(path)
    write_boards(sweep)
    after = set(files(root))
    assert len(after) == len(before)
    assert len(after - before) == 1


def test_module_imports_neither_torch_nor_tensorflow():
    code = (
        "import sys, vesselflow.reporting.tensorboard\n"
        "assert not {'torch', 'tensorflow', 'ray'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": "."})
