"""What a start says of a folder that holds the answer to other settings."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "cli"))
sys.path.append(str(Path(__file__).parents[1] / "records"))
from bad_input import command, write_sources
from record_damage import DAMAGE

from vesselflow.cli import sweep as sweep_command
from vesselflow.config.loading import load_space
from vesselflow.config.yaml_files import dump_yaml, parse_yaml
from vesselflow.runs.registries import REGISTRIES
from vesselflow.sweeps.changes import NEUTRAL, changes_line, differences
from vesselflow.sweeps.outcome import Outcome
from vesselflow.sweeps.planning import prepare

SPACE = """
stores: {a: a.h5, b: b.h5}
data: {train: a, ood: [b], working_size_px: 64}
split: {folds: 3, val_fraction: 0.3}
folds: [0]
train: {epochs: 8, steps_per_epoch: 1, micro_batch_size: 2}
grid:
  loss.name: [combined, fuzzy]
  loss.beta: [0.2, 0.5]
profiles:
  quick: {train: {epochs: 2}}
"""
OTHER = "this folder held the answer to other settings: "
REPLACED = "; its tables and report are replaced, its runs are kept"
GROWN = "this sweep has grown: "
KEPT = "; what is done is kept, what is missing is run"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A space, its stores, and the folder of its sweep as a start that ended leaves it."""
    folder = tmp_path_factory.mktemp("made")
    write_sources(folder / "a.h5", 0, 6)
    write_sources(folder / "b.h5", 10, 2)
    (folder / "space.yaml").write_text(SPACE)
    space = load_space(folder / "space.yaml", registries=REGISTRIES)
    prepared = prepare(space, folder / "results")
    (prepared.folder / "tables").mkdir()
    (prepared.folder / "tables" / "points.parquet").touch()
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def line(*overrides: str, profile: str | None = None) -> str:
    file = Path("space.yaml")
    space = load_space(file, profile=profile, overrides=overrides, registries=REGISTRIES)
    return changes_line(space, file, profile, Path("results"))


def test_equal_settings_say_nothing(here: Path) -> None:
    assert line() == ""
    assert line("resources.threads=2", "train.checkpoint_every_s=5", "question=why") == ""
    # The same stores, found elsewhere: another folder holds the same answer.
    assert line(f"stores.a.path={here / '..' / 'here' / 'a.h5'}") == ""


SAID = {
    "an override": (["train.epochs=4"], f"{OTHER}train.epochs 8 -> 4{REPLACED}"),
    "null": (["train.ema=0.9"], f"{OTHER}train.ema null -> 0.9{REPLACED}"),
    "a part": (["model.name=unet"], f"{OTHER}model.name 'wnet' -> 'unet'{REPLACED}"),
    "an axis that is fixed": (
        ["loss.beta=0.5"],
        f"{OTHER}grid loss.beta [0.2, 0.5] -> 0.5{REPLACED}",
    ),
    "four keys": (
        ["train.epochs=4", "train.ema=0.9", "optimizer.lr=0.1", "data.working_size_px=32"],
        f"{OTHER}data.working_size_px 64 -> 32, optimizer.lr 0.003 -> 0.1, train.epochs 8 -> 4 "
        f"and 1 more{REPLACED}",
    ),
    "more seeds": (["seeds=[0, 1, 2]"], f"{GROWN}seeds has 2 values more{KEPT}"),
    "other seeds": (["seeds=[1]"], f"{OTHER}seeds [0] -> [1]{REPLACED}"),
    "fewer stores": (["data.ood=[]"], f"{OTHER}data.ood has 1 value less{REPLACED}"),
}


@pytest.mark.parametrize("case", SAID)
def test_other_settings_are_told_by_key(here: Path, case: str) -> None:
    overrides, said = SAID[case]
    assert line(*overrides) == said


GRIDS = {
    "more": ("[0.2, 0.5, 0.8]", f"{GROWN}grid loss.beta has 1 value more{KEPT}"),
    "less": ("[0.5]", f"{OTHER}grid loss.beta has 1 value less{REPLACED}"),
    "others": ("[0.2, 0.6]", f"{OTHER}grid loss.beta [0.2, 0.5] -> [0.2, 0.6]{REPLACED}"),
    "order": ("[0.5, 0.2]", ""),
}


@pytest.mark.parametrize("case", GRIDS)
def test_a_grid_that_grows_is_no_alarm(here: Path, case: str) -> None:
    values, said = GRIDS[case]
    (here / "space.yaml").write_text(SPACE.replace("[0.2, 0.5]", values))
    assert line() == said


def test_axes_come_and_go(here: Path) -> None:
    text = SPACE.replace("  loss.beta: [0.2, 0.5]\n", "")
    (here / "space.yaml").write_text(text)
    assert line() == f"{OTHER}grid loss.beta is no axis any more{REPLACED}"
    # The loss is filled in where its name is no axis: that is no change of its own.
    text = SPACE.replace("  loss.name: [combined, fuzzy]\n", "")
    (here / "space.yaml").write_text(text + "loss: {name: combined}\n")
    assert line() == f"{OTHER}grid loss.name is no axis any more{REPLACED}"
    (here / "space.yaml").write_text(
        SPACE.replace("profiles:", "  train.ema: [null, 0.9]\nprofiles:")
    )
    assert line() == f"{OTHER}grid train.ema is a new axis{REPLACED}"


def test_arguments_that_parts_did_not_have_yet_are_no_alarm(here: Path) -> None:
    file = here / "results/space/resolved.yaml"
    resolved = parse_yaml(file.read_text(), where="")
    for key in ("se", "se_at", "norm"):
        del resolved["model"][key]
    del resolved["train"]["log_health"]
    file.write_text(dump_yaml(resolved))
    assert line() == ""
    assert line("model.se=cse") == f"{OTHER}model.se is new{REPLACED}"


def test_a_store_of_another_content_is_told(here: Path) -> None:
    (here / "b.h5").unlink()
    write_sources(here / "b.h5", 20, 2)
    assert line() == f"{OTHER}the store b has another content{REPLACED}"
    (here / "b.h5").write_bytes(b"no store: it is refused elsewhere")
    assert line() == ""


def test_a_folder_without_an_answer_or_of_another_space_says_nothing(here: Path) -> None:
    assert line("train.epochs=4", profile="quick") == ""
    (here / "results/space/tables/points.parquet").unlink()
    assert line("train.epochs=4") == ""


@pytest.mark.parametrize("content", ["", "[1", "7", "grid: 3\nstores: [a]\ntrain: null\n"])
def test_a_damaged_head_is_no_error(here: Path, content: str) -> None:
    (here / "results/space/resolved.yaml").write_text(content)
    assert line().endswith("; they are replaced, its runs are kept") or line().startswith(OTHER)
    (here / "results/space/provenance.json").write_text(content)
    assert line() == ""


def test_neutral_keys_exist(here: Path) -> None:
    resolved = load_space(Path("space.yaml"), registries=REGISTRIES).resolved()
    for key in NEUTRAL:
        value = resolved
        for step in key.split("."):
            value = value[step]
    assert differences(resolved, resolved) == []


def test_start_and_dry_run_say_it_once(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_command, "_run", lambda *_: Outcome())
    words = ("sweep", "space.yaml", "--set", "train.epochs=4")
    said = f"{OTHER}train.epochs 8 -> 4{REPLACED}"
    for _ in range(2):
        assert command(*words, "--dry-run").out.splitlines().count(said) == 1
    first = command(*words)
    assert first.out.splitlines().count(said) == 1
    # The folder is that of the new settings now.
    assert OTHER not in command(*words).out
    assert OTHER not in command(*words, "--dry-run").out


def test_a_refused_start_says_the_refusal_alone(here: Path) -> None:
    (here / "results/space/provenance.json").write_text('{"space_file": "other.yaml"}')
    answer = command("sweep", "space.yaml", "--set", "train.epochs=4")
    assert (answer.code, answer.out) == (2, "")


@pytest.mark.parametrize("kind", [kind for kind in DAMAGE if kind != "gone"])
def test_a_damaged_provenance_is_refused_in_one_line(here: Path, kind: str) -> None:
    head = here / "results/space/provenance.json"
    DAMAGE[kind](head)
    answer = command("sweep", "space.yaml", "--dry-run")
    assert (answer.code, answer.out) == (2, "")
    said = f"vesselflow: {Path('results/space/provenance.json')}: this file does not say whose "
    other = "vesselflow: results/space: this results folder belongs to the space "
    assert answer.err.startswith((said, other))
    assert answer.err.count("\n") == 1
