"""Everything that a user can get wrong: one line, exit code 2, nothing half-written."""

from __future__ import annotations

import ctypes
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import huggingface_hub
import huggingface_hub.constants
import numpy as np
import pytest
from bad_input import (
    SPACE,
    Answer,
    assert_one_line,
    command,
    refused,
    tree,
    write_folder,
    write_sources,
    write_split,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from vesselflow.cli import sweep as sweep_command
from vesselflow.config.loading import load_space
from vesselflow.config.yaml_files import load_yaml
from vesselflow.errors import VesselflowError
from vesselflow.metrics import ALL_METRICS
from vesselflow.models.weights import source_of
from vesselflow.records.paths import any_path
from vesselflow.runs.registries import REGISTRIES
from vesselflow.stores.synth import make_synth, synth_digest_key
from vesselflow.sweeps import folder as sweep_folders
from vesselflow.sweeps import machine
from vesselflow.sweeps.planning import prepare
from vesselflow.tasks import TASKS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stores")
    write_sources(folder / "a.h5", 0, 6)
    write_sources(folder / "b.h5", 10, 2)
    return folder


@pytest.fixture
def here(tmp_path: Path, stores: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a sound space and its stores, in which no training can start."""
    for name in ("a.h5", "b.h5"):
        shutil.copy(stores / name, tmp_path)
    (tmp_path / "space.yaml").write_text(SPACE)
    monkeypatch.chdir(tmp_path)

    def started(*_: object) -> None:
        raise AssertionError("a sweep was started")

    monkeypatch.setattr(sweep_command, "_run", started)
    return tmp_path


def sweep(here: Path, *words: str) -> str:
    """The line of a sweep, which the dry run must give as well."""
    line = refused(here, "sweep", "space.yaml", *words)
    assert refused(here, "sweep", "space.yaml", "--dry-run", *words) == line
    return line


def test_the_space_of_these_tests_is_sound(here: Path) -> None:
    answer = command("sweep", "space.yaml", "--dry-run")
    assert (answer.code, answer.err) == (0, "")
    assert "0 of 1 runs are finished already" in answer.out
    with pytest.raises(AssertionError, match="a sweep was started"):
        command("sweep", "space.yaml")


# -- the space ---------------------------------------------------------------------------------

BROKEN_FILES = {
    "empty": (b"", "space.yaml: the file is empty; write at least 'stores:'"),
    "broken": (
        b"train: {epochs: 3\nseeds: [0]\n",
        "space.yaml: not valid YAML at line 2, column 6: expected ',' or '}', but got ':'",
    ),
    "binary": (b"\x89HDF\r\n\x1a\n\x00", "space.yaml: not UTF-8 text (byte 0); save it as UTF-8"),
    "executes": (
        b"name: !!python/object/apply:os.system ['touch executed']\n",
        "space.yaml: the tag '!!python/object/apply:os.system' at line 1, column 7 is refused; "
        "allowed: plain text, numbers, true, false, null, lists, mappings",
    ),
}


@pytest.mark.parametrize("case", BROKEN_FILES)
def test_a_file_that_is_no_space(here: Path, case: str) -> None:
    content, line = BROKEN_FILES[case]
    (here / "space.yaml").write_bytes(content)
    assert sweep(here) == line


def test_a_space_that_is_missing(here: Path) -> None:
    line = refused(here, "sweep", "spaec.yaml")
    assert line == "spaec.yaml: no such file; did you mean 'space.yaml'?"
    assert refused(here, "sweep", ".") == ".: a directory, not a YAML file"


#: more of the file -> what the line must hold: file and key, value, what is allowed, next step
IN_THE_SPACE = {
    "unknown-key": (
        "losss: {}",
        ("space.yaml: losss: unknown key 'losss'", "; allowed: ", "did you mean 'loss'?"),
    ),
    "unknown-inner-key": (
        "train: {epoch: 3}",
        ("space.yaml: train.epoch: unknown key 'epoch'", "allowed: epochs, ", "mean 'epochs'?"),
    ),
    "unknown-loss": (
        "loss: {name: fuzy}",
        (
            "space.yaml: loss.name: unknown loss 'fuzy'",
            "allowed: bce, dice, combined, fuzzy, tversky, focal",
            "did you mean 'fuzzy'?",
        ),
    ),
    "unknown-model": (
        "model: {name: wnett}",
        ("space.yaml: model.name: unknown model 'wnett'", "allowed: wnet", "mean 'wnet'?"),
    ),
    "unknown-sampler": (
        "search: {sampler: rndom}",
        (
            "space.yaml: search.sampler: 'rndom' is not allowed; allowed: grid, random; "
            "did you mean 'random'?",
        ),
    ),
    "unknown-augmentation": (
        "augment: {hflp: {}}",
        ("space.yaml: augment.hflp: unknown augmentation 'hflp'", "allowed: ", "mean 'hflip'?"),
    ),
    "unknown-threshold-metric": (
        "score: {threshold_metric: dise}",
        (
            "space.yaml: score.threshold_metric: 'dise' is not allowed",
            "allowed: dice, iou, accuracy, mcc",
            "did you mean 'dice'?",
        ),
    ),
    "unknown-threshold-rule": (
        "score: {threshold: hlaf}",
        ("space.yaml: score.threshold: 'hlaf' is not allowed", "best, half", "'half'?"),
    ),
    "threshold-metric-without-a-threshold": (
        "score: {threshold_metric: roc_auc}",
        ("space.yaml: score.threshold_metric: 'roc_auc' is not allowed",),
    ),
    "threshold-metric-of-an-axis": (
        "grid: {score.threshold_metric: [iou, mc]}",
        ("space.yaml: grid.score.threshold_metric: ", "'mc'", "did you mean 'mcc'?"),
    ),
    "unknown-objective": (
        "objective: {metric: roc-auc}",
        ("space.yaml: objective.metric: 'roc-auc' is not allowed", "did you mean 'roc_auc'?"),
    ),
    "objective-as-an-axis": (
        "grid: {objective.metric: [iou, mcc]}",
        ("space.yaml: grid: unknown key 'objective.metric'",),
    ),
    "objective-that-is-no-mapping": (
        "objective: iou",
        ("space.yaml: objective: 'iou' is not allowed; allowed: a mapping (metric, direction, ",),
    ),
    "beta": (
        "loss: {beta: 1.3}",
        ("space.yaml: loss.beta: 1.3 is not allowed; allowed: a number in [0, 1] or a schedule",),
    ),
    "beta-on-an-axis": (
        "grid: {loss.beta: [0, 1.3]}",
        ("space.yaml: grid.loss.beta: 1.3 is not allowed; allowed: a number in [0, 1] or ",),
    ),
    "empty-axis": (
        "grid: {loss.beta: []}",
        ("space.yaml: grid.loss.beta: an axis without values; allowed: one value or more",),
    ),
    "empty-grid": (
        "grid: {}",
        ("space.yaml: grid: the grid is empty; allowed: one axis or more", "leave the key out"),
    ),
    "when-never-holds": (
        "grid: {loss.name: [bce], loss.beta: {values: [0], when: {loss.name: fuzzy}}}",
        (
            "space.yaml: grid.loss.beta.when: this condition never holds: loss.name is never "
            "fuzzy; allowed: loss.name: bce",
        ),
    ),
    "unknown-importer": (
        "stores: {a: a.h5, b: {path: none.h5, import: {layout: chace, source: raw}}}",
        (
            "space.yaml: stores.b.import.layout: unknown layout 'chace'",
            "allowed: chase, stare, folder",
            "did you mean 'chase'?",
        ),
    ),
    "argument-of-an-importer": (
        "stores: {a: a.h5, b: {path: x.h5, import: {layout: chase, source: raw, observer: 3}}}",
        ("space.yaml: stores.b.import.observer: 3 is not allowed; allowed: ",),
    ),
    "key-of-an-importer": (
        "stores: {a: a.h5, b: {path: x.h5, import: {layout: stare, source: raw, obs: ah}}}",
        ("space.yaml: stores.b.import.obs: unknown key 'obs'; allowed: observer",),
    ),
    "size-of-a-synthetic-store": (
        "stores: {a: a.h5, b: 'synth:fundus?size_px=32'}",
        (
            "space.yaml: stores.b.synth.size_px: 32 is not allowed; "
            "allowed: a whole number, 64 to 4096, or null",
        ),
    ),
    "unknown-encoder": (
        "model: {name: unet, encoder: resnet43}",
        (
            "space.yaml: model.encoder: unknown encoder 'resnet43'; allowed: resnet18, resnet34, ",
            ", tu-<a model of timm>; did you mean 'resnet34'?",
        ),
    ),
    "unknown-encoder-on-an-axis": (
        "grid: {model.name: [unet], model.encoder: [resnet18, tu-resnet10x]}",
        (
            "space.yaml: grid.model.encoder: unknown encoder 'tu-resnet10x'; allowed: "
            "tu-<a model of timm>; did you mean 'tu-resnet10t'?",
        ),
    ),
    "encoder-of-another-architecture": (
        "model: {name: deeplabv3, encoder: vgg16}",
        ("space.yaml: model.encoder: deeplabv3 cannot use encoder 'vgg16', which cannot be dila",),
    ),
    "unknown-weights": (
        "model: {name: unet, encoder: resnet18, weights: imagenett}",
        (
            "space.yaml: model.weights: unknown weights 'imagenett' of encoder 'resnet18'; "
            "allowed: null, imagenet, ssl, swsl; did you mean 'imagenet'?",
        ),
    ),
    "patch-between-the-strides": (
        "data: {train: a, patch: 48}",
        (
            "space.yaml: data.patch: patches of 48 px do not fit the model, which halves them; "
            "allowed: multiples of 32; try 32",
        ),
    ),
    "patch-between-the-strides-on-an-axis": (
        "grid: {data.patch: [64, 48]}",
        ("space.yaml: grid.data.patch: patches of 48 px do not fit the model",),
    ),
    "images-too-small-for-the-model": (
        "model: {name: pan, encoder: resnet18}",
        (
            "space.yaml: data.working_size_px: samples of 64 x 64 px are too small for pan; "
            "allowed: 128 px or more, in height and width; raise data.working_size_px, or take ",
        ),
    ),
    "one-sample-where-the-model-pools": (
        "train: {epochs: 1, micro_batch_size: 1}\nmodel: {name: upernet, encoder: resnet18}",
        (
            "space.yaml: train.micro_batch_size: batch-norm of upernet cannot normalise what it "
            "pools to one pixel, over one sample of 64 x 64 px; allowed: 2 or more",
        ),
    ),
    "one-sample-of-one-pixel": (
        "train: {epochs: 1, micro_batch_size: 1}\n"
        "model: {name: wnet, filters: [2, 2, 2, 2, 2, 2]}\ndata: {train: a, patch: 32}",
        (
            "space.yaml: train.micro_batch_size: batch-norm of wnet cannot normalise its coarsest "
            "map, one pixel, over one sample of 32 x 32 px; allowed: 2 or more; or raise data.pa",
        ),
    ),
    "store-on-a-server": (
        "stores: {a: a.h5, b: 'ftp://host/b.h5'}",
        (
            "space.yaml: stores.b.path: 'ftp://host/b.h5' is no path; ftp:// is not supported; "
            "allowed: a path of this machine, or below a folder that is mounted, or s3://BUCKET/",
        ),
    ),
    "made-store-in-a-bucket": (
        "stores: {a: a.h5, b: {path: 's3://b/b2.h5', import: {layout: chase, source: '.'}}}",
        ("space.yaml: stores.b.path: 's3://b/b2.h5' is no path; s3:// is not supported; allowed",),
    ),
    "source-on-a-server": (
        "stores: {a: a.h5, b: {path: b2.h5, import: {layout: chase, source: 'https://x.org/c'}}}",
        ("space.yaml: stores.b.import.source: 'https://x.org/c' is no path; https:// is not ",),
    ),
    "split-on-an-object-store": (
        "split: {file: 'gs://bucket/split.json'}",
        ("space.yaml: split.file: 'gs://bucket/split.json' is no path; gs:// is not supported",),
    ),
    "name-of-a-folder-of-ours": (
        "name: runs",
        ("space.yaml: name: 'runs' is not allowed; allowed: any name but runs, evaluations, ",),
    ),
    "profile-that-leaves-the-folder": (
        "profiles: {../up: {}}",
        (
            "space.yaml: profiles: '../up' cannot name a profile; "
            "allowed: lower-case letters, digits, _ and -",
        ),
    ),
}


@pytest.mark.parametrize("case", IN_THE_SPACE)
def test_what_is_wrong_in_the_space(here: Path, case: str) -> None:
    text, parts = IN_THE_SPACE[case]
    own = tuple(f"{line.split(':')[0]}:" for line in text.splitlines())
    kept = [line for line in SPACE.splitlines() if not line.startswith(own)]
    (here / "space.yaml").write_text("\n".join([*kept, text]))
    line = sweep(here)
    assert line.startswith(parts[0])
    for part in parts:
        assert part in line


OPTIONS = {
    "unknown-profile": (
        ("--profile", "chse"),
        "space.yaml: unknown profile 'chse'; allowed: chase, full; did you mean 'chase'?",
    ),
    "set-of-an-unknown-key": (
        ("--set", "train.epoch=3"),
        "--set: unknown key 'train.epoch'; allowed: train.epochs, train.steps_per_epoch",
    ),
    "set-without-a-value": (
        ("--set", "train.epochs"),
        "--set: 'train.epochs' is not allowed; allowed: key.path=value; for instance --set",
    ),
    "set-of-a-bad-value": (
        ("--set", "loss.beta=1.3"),
        "--set loss.beta: 1.3 is not allowed; allowed: a number in [0, 1] or a schedule",
    ),
    "set-of-broken-yaml": (
        ("--set", "seeds=[0"),
        "--set seeds: not valid YAML at line 1, column 3",
    ),
    "unknown-option": (("--profil_", "x"), "unrecognized arguments: --profil_ x; see"),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_what_is_wrong_on_the_command_line(here: Path, case: str) -> None:
    words, start = OPTIONS[case]
    with (here / "space.yaml").open("a") as file:
        file.write("profiles: {chase: {}, full: {}}\n")
    assert sweep(here, *words).startswith(start)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e3", 1000), ("1E3", 1000), ("+1e3", 1000), ("500.", 500), (".5", 0.5), ("1_000", 1000)],
)
def test_numbers_are_read_as_a_person_means_them(here: Path, text: str, value: float) -> None:
    def found(*overrides: str) -> float:
        space = load_space(here / "space.yaml", overrides=overrides, registries=REGISTRIES)
        return space.expand().points[0].experiment.train.checkpoint_every_s

    assert found(f"train.checkpoint_every_s={text}") == value
    inside = SPACE.replace("epochs: 1,", f"epochs: 1, checkpoint_every_s: {text},")
    (here / "space.yaml").write_text(inside)
    assert found() == value


@pytest.mark.parametrize("text", ["1:30", "010", "1_00", "0b11", "yes", "'3'", "3.5"])
def test_what_is_no_whole_number_is_refused(here: Path, text: str) -> None:
    """Neither 90 nor 8 nor 3, in a section and in an argument of a part."""
    said = text if text in ("'3'", "3.5") else f"'{text}'"
    assert sweep(here, "--set", f"train.epochs={text}") == (
        f"--set train.epochs: {said} is not allowed; allowed: a whole number, 1 or more"
    )
    (here / "space.yaml").write_text(f"{SPACE}model: {{convolutions: {text}}}\n")
    assert sweep(here) == (
        f"space.yaml: model.convolutions: {said} is not allowed; allowed: a whole number, 1 to 8"
    )


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ((), ("COMMAND", "see 'vesselflow --help'")),
        (
            ("swep",),
            ("'swep'", "choose from 'sweep', 'plan', 'smoke', 'data'", "see 'vesselflow --help'"),
        ),
        (("sweep",), ("required: space", "see 'vesselflow sweep --help'")),
        (("runs", "--reslts", "x"), ("arguments: --reslts", "see 'vesselflow runs --help'")),
        (("bench", "fed"), ("'fed'", "'overhead', 'feed'", "see 'vesselflow bench --help'")),
        (("bench", "feed", "--rounds", "0"), ("--rounds: 0 is not allowed; allowed: 1 or more",)),
        (("bench", "feed", "--rounds", "x"), ("--rounds", "int value: 'x'", "bench --help'")),
        (("data", "import", "chace", "x", "y.h5"), ("'chace'", "'chase', 'stare', 'folder'")),
        (("data", "synth", "y.h5"), ("required: --sources", "see 'vesselflow data synth --help'")),
        (
            ("data", "synth", "y.h5", "--sources", "0"),
            ("--sources: 0 is not allowed; allowed: a whole number, 1 to 100000",),
        ),
    ],
)
def test_commands_that_are_not_understood(
    here: Path, words: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    line = refused(here, *words)
    for part in parts:
        assert part in line


# -- stores ------------------------------------------------------------------------------------


def test_a_store_that_is_missing(here: Path) -> None:
    (here / "b.h5").unlink()
    path = here / "b.h5"
    assert sweep(here) == (
        f"space.yaml: stores.b: no such file: {path}; allowed: an HDF5 store, or a synthetic one "
        f"such as synth:fundus; make it with: vesselflow data import LAYOUT SOURCE {path}"
    )
    for action in ("inspect", "verify"):
        assert refused(here, "data", action, "b.h5").startswith("b.h5: no such store; ")


def test_no_store_is_made_when_another_is_missing(here: Path) -> None:
    """The synthetic store comes first, and must not be made for nothing."""
    line = sweep(here, "--set", "stores.a=synth:fundus?sources=6", "--set", "stores.b=no.h5")
    assert line.startswith("space.yaml: stores.b: no such file: ")


def test_a_source_that_is_missing_is_seen_before_the_start(here: Path) -> None:
    (here / "b.h5").unlink()
    spec = "stores.b={path: new.h5, import: {layout: chase, source: CHASE}}"
    assert sweep(here, "--set", spec) == (
        f"space.yaml: stores.b.import.source: no such folder: {here / 'CHASE'}; allowed: the "
        f"folder of the data set, as it was published; or make the store itself: {here / 'new.h5'}"
    )


def test_an_import_of_the_space_that_fails_is_seen_before_the_start(here: Path) -> None:
    write_folder(here / "raw")
    (here / "raw" / "masks" / "i1.png").unlink()
    spec = "stores.b={path: new.h5, import: {layout: folder, source: raw}}"
    assert sweep(here, "--set", spec) == (
        f"space.yaml: stores.b: {here / 'raw/masks'}: image i1.jpg has no mask (i1.*); "
        "add it, or take the image away"
    )


def test_an_import_of_the_space_whose_pixels_fail_leaves_nothing(here: Path) -> None:
    """The pictures themselves are read only at the start."""
    write_folder(here / "raw")
    (here / "raw" / "masks" / "i1.png").write_bytes(b"")
    spec = "stores.b={path: new.h5, import: {layout: folder, source: raw}}"
    said = f"importing the store 'b' from {here / 'raw'}\n"
    assert refused(here, "sweep", "space.yaml", "--set", spec, said_before=said).startswith(
        f"space.yaml: stores.b: {here / 'raw/masks/i1.png'}: the file is empty; "
    )


def newer(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs.modify("schema", np.int64(3))


def foreign(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["images"] = np.zeros((2, 8, 8, 3), np.uint8)


#: how the file of the store comes about -> what is said of it
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "not-hdf5": (
        lambda path: path.write_text("a picture"),
        "not an HDF5 file; make one with 'vesselflow data import'",
    ),
    "empty": (lambda path: path.write_bytes(b""), "the file is empty; make it again with "),
    "newer": (
        newer,
        "the store has schema 3, newer than this version of vesselflow; allowed: schema 1 to 2; "
        "update vesselflow",
    ),
    "foreign": (foreign, "an HDF5 file, but not a vesselflow store; make one with "),
    "flipped": (
        lambda path: path.write_bytes(path.read_bytes().replace(b"OHDR", b"OHDX", 1)),
        "the store is damaged; make it again with ",
    ),
    "longer": (
        lambda path: path.write_bytes(path.read_bytes() + b"x"),
        "the store is damaged: ",
    ),
    "folder": (lambda path: (path.unlink(), path.mkdir()), "is a folder, not a store; "),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_store_that_cannot_be_opened(here: Path, case: str) -> None:
    damage, said = DAMAGE[case]
    damage(here / "b.h5")
    assert sweep(here).startswith(f"space.yaml: stores.b: {here / 'b.h5'}: {said}")
    assert refused(here, "data", "inspect", "b.h5").startswith(f"b.h5: {said}")
    checked = command("data", "verify", "b.h5")
    assert (checked.code, checked.err) == (1, "")
    assert checked.out.startswith(f"b.h5: {said}")


@settings(max_examples=80)
@given(share=st.floats(0, 1, exclude_max=True))
@example(share=0.0)
@example(share=1 - 1e-9)
def test_a_store_truncated_at_any_byte(stores: Path, share: float) -> None:
    content = (stores / "b.h5").read_bytes()
    cut = stores / "cut" / "b.h5"
    cut.parent.mkdir(exist_ok=True)
    cut.write_bytes(content[: int(share * len(content))])
    line = refused(cut.parent, "data", "inspect", cut)
    size = cut.stat().st_size
    said = f"the store is truncated: {size}" if size else "the file is empty"
    assert line.startswith(f"{cut}: {said}")
    assert "make it again with 'vesselflow data import' or 'vesselflow data synth'" in line


@pytest.mark.parametrize("size", [1, 511, 512, 4096, -1])
def test_a_sweep_on_a_truncated_store(here: Path, size: int) -> None:
    path = here / "a.h5"
    path.write_bytes(path.read_bytes()[:size])
    assert sweep(here).startswith(f"space.yaml: stores.a: {path}: the store is truncated: ")


def test_a_store_of_other_channels_is_not_scored(here: Path) -> None:
    (here / "b.h5").unlink()
    write_sources(here / "b.h5", 10, 2, channels=1)
    assert sweep(here) == (
        "space.yaml: data.ood: images of the store 'b' have 1 channel, those of 'a' have 3; "
        "allowed: stores of 3 channels; import it again from images of the same kind, or leave it "
        "out"
    )


def test_patches_that_lie_nowhere_in_the_field_of_view(here: Path) -> None:
    (here / "a.h5").unlink()
    write_sources(here / "a.h5", 0, 6, fov_radius_px=30)
    whole = ("--set", "data.min_fov=1", "--set", "data.stride=8", "--set")
    assert command("sweep", "space.yaml", "--dry-run", *whole, "data.patch=32").code == 0
    assert sweep(here, *whole, "data.patch=64") == (
        "space.yaml: data.patch: no patch of 64 px has 1 of its area in the field of view, in the "
        "training part of fold 0 (store 'a'); lower data.min_fov or data.patch"
    )


def test_micro_batches_that_are_larger_than_the_data(here: Path) -> None:
    size = "train.micro_batch_size={}"
    # Of whole images as many as there are, of patches as many as their geometry gives.
    told = "space.yaml: train.micro_batch_size: a micro-batch of 99 is more than the store 'a' can "
    line = sweep(here, "--set", size.format(99))
    assert line.startswith(f"{told}give; allowed: at most ")
    most = int(line.split("at most ")[1].split(";")[0])
    fits = ("sweep", "space.yaml", "--dry-run", "--set", size.format(most))
    assert command(*fits).code == 0
    patches = ("--set", "data.patch=32", "--set", "data.stride=16", "--set")
    assert command(*fits[:3], *patches, size.format(most + 1)).code == 0
    many = sweep(here, *patches, size.format(9999))
    assert int(many.split("at most ")[1].split(";")[0]) > most


#: A space of synthetic stores that are not made yet, and what is known of them all the same.
SYNTHETIC = {
    "folds": (
        ("stores.a=synth:fundus?sources=3", "split.folds=6"),
        "split.folds: 3 groups are too few for 6 folds (store 'a'); allowed: at least 6 groups, ",
    ),
    "official": (
        ("stores.a=synth:fundus", "split.test=official"),
        "split.test: the store has no official split into train and test (store 'a'); set ",
    ),
    "split-file": (
        ("stores.a=synth:fundus", "split={file: s.json, folds: 1, test: official}"),
        "split.file: {here}/s.json: unknown source 's0' in train of fold 0",
    ),
    "leak": (
        ("stores.a=synth:fundus?seed=3", "stores.b=synth:fundus?seed=3&sources=2"),
        "data: the store 'a': 'a0000' of the store 'a' and 'a0000' of the out-of-distribution "
        "store 'b' are the same image; ",
    ),
    "native-size": (
        ("stores.a=synth:fundus?size_px=64", "data.working_size_px=null", "model.name=pan"),
        "data.working_size_px: samples of 64 x 64 px are too small for pan; ",
    ),
    "model": (
        ("stores.a=synth:fundus", "stores.b=synth:fundus?seed=3", "model.name=pan"),
        "data.working_size_px: samples of 64 x 64 px are too small for pan; ",
    ),
}


@pytest.mark.parametrize("case", SYNTHETIC)
def test_synthetic_stores_are_checked_before_they_are_made(here: Path, case: str) -> None:
    sets, line = SYNTHETIC[case]
    write_split(here / "s.json", ["s0"], ["a0001"], ["a0002"])
    words = [word for text in sets for word in ("--set", text)]
    assert sweep(here, *words).startswith(f"space.yaml: {line.replace('{here}', str(here))}")


def test_a_synthetic_store_that_is_there_leaks_into_one_that_is_not(here: Path) -> None:
    made = {"kind": "fundus", "seed": 3, "domain": "a", "size_px": 64}
    (here / "results" / "stores").mkdir(parents=True)
    path = here / "results" / "stores" / f"fundus-a-{synth_digest_key({**made, 'sources': 6})}.h5"
    make_synth(path, **made, sources=6)
    words = ("--set", "stores.a=synth:fundus?seed=3&size_px=64&sources=6")
    assert command("sweep", "space.yaml", "--dry-run", *words).code == 0
    line = sweep(here, *words, "--set", "stores.b=synth:fundus?seed=3&size_px=64&sources=1")
    assert line.startswith("space.yaml: data: the store 'a': 'a0000' of the store 'a' and 'a0000'")


def test_folds_of_a_store_that_is_imported_at_the_start(here: Path) -> None:
    write_folder(here / "raw")
    words = ("--set", "stores.a={path: new.h5, import: {layout: folder, source: raw}}")
    assert sweep(here, *words) == (
        "space.yaml: split.folds: 2 groups are too few for 3 folds (store 'a'); allowed: at least "
        "3 groups, for train, val and test; lower split.folds, or give the store more groups"
    )


# -- models that only libraries know -----------------------------------------------------------


def test_an_encoder_of_timm_is_tried_on_its_sizes(here: Path) -> None:
    (here / "space.yaml").write_text(f"{SPACE}model: {{name: unet, encoder: tu-resnet10t}}\n")
    answer = command("sweep", "space.yaml", "--dry-run")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith("trying models on their sizes (this loads torch)\n")
    swin = ("--set", "model.encoder=tu-swin_tiny_patch4_window7_224")
    said = "trying models on their sizes (this loads torch)\n"
    line = refused(here, "sweep", "space.yaml", *swin, said_before=said)
    assert line == refused(here, "sweep", "space.yaml", "--dry-run", *swin, said_before=said)
    assert line == (
        "space.yaml: model.encoder: unet with encoder 'tu-swin_tiny_patch4_window7_224' cannot "
        "train on 2 x 3 x 64 x 64 (samples, channels, height, width: Input height (64) doesn't "
        "match model (224).); choose another encoder, or another data.working_size_px or data.patch"
    )


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("train.freeze=[enocder]", "the model has no parameter below 'enocder'; allowed: "),
        ("train.encoder_lr_factor=0.1", "the encoder of the model is none: it has first, second; "),
    ],
)
def test_parameters_that_no_model_has_are_missed_before_the_first_run(
    here: Path, key: str, said: str
) -> None:
    before = "looking for parameters in models (this loads torch)\n"
    line = refused(here, "sweep", "space.yaml", "--dry-run", "--set", key, said_before=before)
    assert line.startswith(f"space.yaml: {key.split('=')[0]}: {said}")


def test_a_point_that_is_none_is_not_tried(here: Path) -> None:
    space = load_space(here / "space.yaml", registries=REGISTRIES)
    names = [point.name for point in space.expand().points]
    line = refused(here, "smoke", "space.yaml", f"{names[0]}x")
    assert line == (
        f"POINT: there is no point '{names[0]}x'; allowed: {' | '.join(names)}; "
        f"did you mean '{names[0]}'?"
    )


PRETRAINED = ("--set", "model={name: unet, encoder: resnet18, weights: imagenet}")


class Hub:
    """A hub that holds nothing; counts who asks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, home: Path, reason: str = "") -> None:
        self.asked, self.fetched, self.reason = 0, 0, reason
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(home))
        monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", self.ask)
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", self.fetch)

    def ask(self, address: str, timeout: float) -> None:
        assert "smp-hub/resnet18.imagenet/resolve/" in address
        assert timeout <= 10
        self.asked += 1
        if self.reason:
            raise ConnectionError(f"[Errno -2] {self.reason}\nsecond line")

    def fetch(self, *_: object, **__: object) -> None:
        self.fetched += 1


def test_weights_that_can_neither_be_found_nor_fetched(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub(monkeypatch, here / "hub", "no route to the hub")
    dry = command("sweep", "space.yaml", "--dry-run", *PRETRAINED)
    assert (dry.code, dry.err, hub.asked) == (0, "", 0)
    assert "note:   weights 'imagenet' of resnet18 are not on this machine: fetched at" in dry.out
    assert refused(here, "sweep", "space.yaml", *PRETRAINED) == (
        "space.yaml: model.weights: weights 'imagenet' of encoder 'resnet18' are not on this "
        "machine, and cannot be fetched from huggingface.co/smp-hub/resnet18.imagenet "
        "(no route to the hub); allowed: null, or weights in the cache of the "
        "hub's client (HF_HOME); connect to the network once, or train from scratch with "
        "model.weights: null"
    )
    assert (hub.asked, hub.fetched) == (1, 0)


def test_weights_are_not_fetched_where_the_hub_is_to_be_left_alone(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub(monkeypatch, here / "hub")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "(HF_HUB_OFFLINE is set); allowed: null, or weights in" in sweep(here, *PRETRAINED)
    assert hub.asked == 0


def test_weights_are_fetched_before_the_start(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(monkeypatch, here / "hub")
    with pytest.raises(AssertionError, match="a sweep was started"):
        command("sweep", "space.yaml", *PRETRAINED)
    assert (hub.asked, hub.fetched) == (1, 2)


def test_weights_that_are_there_ask_nobody(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(monkeypatch, here / "hub", "not asked")
    source = source_of("resnet18", "imagenet")
    assert source is not None
    folder = here / "hub" / "models--smp-hub--resnet18.imagenet" / "snapshots" / source.revision
    folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_text("")
    assert "note:" not in command("sweep", "space.yaml", "--dry-run", *PRETRAINED).out
    with pytest.raises(AssertionError, match="a sweep was started"):
        command("sweep", "space.yaml", *PRETRAINED)
    assert hub.asked == 0


# -- importing ---------------------------------------------------------------------------------


def no_images(raw: Path) -> None:
    for path in (raw / "images").iterdir():
        path.unlink()


def grey_mask(raw: Path) -> None:
    values = np.asarray(Image.open(raw / "masks" / "i1.png")).copy()
    values[0, :3] = (7, 100, 254)
    Image.fromarray(values).save(raw / "masks" / "i1.png")


def palette_mask(raw: Path) -> None:
    mask = Image.new("P", (48, 40))
    mask.putpalette([0, 0, 0, 200, 30, 30])
    mask.putpixel((3, 3), 1)
    mask.save(raw / "masks" / "i1.png")


def truncated_jpeg(raw: Path) -> None:
    path = raw / "images" / "i1.jpg"
    path.write_bytes(path.read_bytes()[:-300])


def broken_jpeg(raw: Path) -> None:
    path = raw / "images" / "i1.jpg"
    path.write_bytes(path.read_bytes()[:40] + b"\x00" * 500)


def mask_as_jpeg(raw: Path) -> None:
    with Image.open(raw / "masks" / "i1.png") as mask:
        mask.save(raw / "masks" / "i1.jpg", quality=80)
    (raw / "masks" / "i1.png").unlink()


BINARY = "allowed: a binary mask: 0 and 255, or 0 and 1"

#: what is done to a sound folder -> file, what is wrong, what is allowed, next step
FOLDERS: dict[str, tuple[Callable[[Path], object], str, tuple[str, ...]]] = {
    "no-folder": (lambda raw: shutil.rmtree(raw), "raw: no such folder", ("check the name",)),
    "a-file": (
        lambda raw: (shutil.rmtree(raw), raw.write_text("")),
        "raw: is a file, not a folder",
        ("give the folder it is in",),
    ),
    "no-images-folder": (
        lambda raw: shutil.rmtree(raw / "images"),
        "raw/images: no such folder",
        ("SOURCE holds masks: --images names one of them",),
    ),
    "no-images": (
        no_images,
        "raw/images: no images found",
        ("allowed: png, jpg, tif", "'vesselflow data import LAYOUT --help'"),
    ),
    "image-without-mask": (
        lambda raw: (raw / "masks" / "i1.png").unlink(),
        "raw/masks: image i1.jpg has no mask (i1.*)",
        ("add it, or take the image away",),
    ),
    "sizes-differ": (
        lambda raw: Image.new("L", (47, 40)).save(raw / "masks" / "i1.png"),
        "raw/masks/i1.png: is 47 x 40 px, its image i1.jpg 48 x 40 px",
        ("allowed: a mask of the size of its image",),
    ),
    "mask-not-binary": (
        grey_mask,
        "raw/masks/i1.png: the mask is not binary, it also holds 7, 100, 254",
        (BINARY, "--threshold 128 takes values of 128 or more as vessel"),
    ),
    "mask-as-jpeg": (
        mask_as_jpeg,
        "raw/masks/i1.jpg: the mask is not binary, it also holds ",
        (BINARY, "JPEG compression leaves grey values, in a later PNG too: --threshold 128"),
    ),
    "palette-mask": (
        palette_mask,
        "raw/masks/i1.png: the mask is a palette image ((0, 0, 0), (200, 30, 30))",
        (BINARY, "--values names the indices that are vessel (in use: 0, 1): --values 1"),
    ),
    "truncated-jpeg": (
        truncated_jpeg,
        "raw/images/i1.jpg: the image is corrupt or truncated",
        ("fetch the file again",),
    ),
    "broken-jpeg": (
        broken_jpeg,
        "raw/images/i1.jpg: ",
        ("fetch the file again",),
    ),
    "empty-jpeg": (
        lambda raw: (raw / "images" / "i1.jpg").write_bytes(b""),
        "raw/images/i1.jpg: the file is empty",
        ("fetch the file again",),
    ),
    "text-as-jpeg": (
        lambda raw: (raw / "images" / "i1.jpg").write_text("<html>not found</html>"),
        "raw/images/i1.jpg: not an image that can be read",
        ("fetch the file again",),
    ),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_folders_that_cannot_be_imported(here: Path, case: str) -> None:
    spoil, start, parts = FOLDERS[case]
    spoil(write_folder(here / "raw"))
    line = refused(here, "data", "import", "folder", "raw", "new.h5")
    assert line.startswith(start)
    for part in parts:
        assert part in line
    # A store that is there stays as it was, whatever --overwrite was meant to do.
    again = refused(here, "data", "import", "folder", "raw", "a.h5", "--overwrite")
    assert again == line


@pytest.mark.parametrize("high", [1, 255])
def test_masks_of_0_and_1_or_255_are_fine(here: Path, high: int) -> None:
    raw = write_folder(here / "raw")
    for path in (raw / "masks").iterdir():
        values = np.asarray(Image.open(path)) // 255 * high
        Image.fromarray(values.astype(np.uint8)).save(path)
    assert command("data", "import", "folder", "raw", "new.h5").code == 0
    assert command("data", "verify", "new.h5").code == 0


def test_options_of_an_import(here: Path) -> None:
    write_folder(here / "raw")
    words = ("data", "import", "folder", "raw", "new.h5")
    assert refused(here, *words, "--group", "p(").startswith("--group: 'p(' is not allowed")
    assert refused(here, *words, "--missing-fov", "guess") == (
        "--missing-fov: 'guess' is not allowed; allowed: full, estimate"
    )
    assert refused(here, *words[:-1], "a.h5") == "a.h5: exists already; --overwrite replaces it"


# -- splits ------------------------------------------------------------------------------------


def test_fewer_groups_than_folds(here: Path) -> None:
    line = sweep(here, "--set", "split.folds=7")
    assert line == (
        "space.yaml: split.folds: 6 groups are too few for 7 folds (store 'a'); allowed: at least "
        "7 groups, for train, val and test; lower split.folds, or give the store more groups"
    )
    assert not (here / "results").exists()


def test_the_same_child_on_both_sides_of_a_split_file(here: Path) -> None:
    (here / "a.h5").unlink()
    write_sources(here / "a.h5", 0, 6, per_group=2)
    write_split(here / "split.json", ["s0", "s4"], ["s2", "s3"], ["s1"])
    words = ("--set", "split.file=split.json", "--set", "split.folds=1", "--set", "folds=[0]")
    words += ("--set", "split.test=official")
    assert sweep(here, *words) == (
        f"space.yaml: split.file: {here / 'split.json'}: group 'g0' is in train and in test of "
        "fold 0 (the same child on both sides); allowed: every group in one part of a fold; "
        "move 's1' to train, with the rest of its group"
    )


def test_the_same_child_on_both_sides_of_the_official_split(here: Path) -> None:
    (here / "a.h5").unlink()
    sides = {f"s{number}": "test" if number > 4 else "train" for number in range(6)}
    write_sources(here / "a.h5", 0, 6, per_group=2, **sides)
    line = sweep(here, "--set", "split.test=official")
    assert line.startswith("space.yaml: split.test: group 'g2' is on both sides of the official ")
    assert line.endswith("set split.test to 'fold', which splits by group")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (None, ("no such file of folds", "leave split.file out")),
        ("{", ("cannot be read as JSON",)),
        ("[]", ("this is no file of folds", "allowed: a list of {train, val, test}")),
        (
            '[{"train": ["s00"], "val": ["s1"], "test": ["s2"]}]',
            ("unknown source 's00' in train of fold 0", "did you mean 's0'?"),
        ),
        (
            '[{"train": ["s0"], "val": [], "test": ["s2"]}]',
            ("val of fold 0 is empty", "allowed: one source or more"),
        ),
    ],
)
def test_split_files(here: Path, text: str | None, parts: tuple[str, ...]) -> None:
    if text is not None:
        (here / "split.json").write_text(text)
    words = ("--set", "split={file: split.json, folds: 1, test: official}")
    line = sweep(here, *words)
    assert line.startswith(f"space.yaml: split.file: {here / 'split.json'}: {parts[0]}")
    for part in parts:
        assert part in line


def test_the_same_image_in_training_and_out_of_distribution(here: Path) -> None:
    (here / "b.h5").unlink()
    # s5 is the last of the training store's sources, here under the same pixels.
    write_sources(here / "b.h5", 5, 2)
    assert sweep(here) == (
        "space.yaml: data: the store 'a': 's5' of the store 'a' and 's5' of the "
        "out-of-distribution store 'b' are the same image; remove it from one of the two stores"
    )


# -- results and machines ----------------------------------------------------------------------


def test_a_results_folder_of_another_space(here: Path) -> None:
    (here / "other.yaml").write_text(SPACE + "name: space\n")
    space = load_space(here / "other.yaml", registries=REGISTRIES)
    prepare(space, here / "results")
    assert sweep(here) == (
        "results/space: this results folder belongs to the space 'other.yaml', not to "
        "'space.yaml'; give the space another name (its key name:), or choose another "
        "--results DIR"
    )


@pytest.mark.parametrize("content", [b"{", b"[]", b""])
def test_a_results_folder_whose_owner_cannot_be_read(here: Path, content: bytes) -> None:
    (here / "results" / "space").mkdir(parents=True)
    (here / "results" / "space" / sweep_folders.PROVENANCE).write_bytes(content)
    line = sweep(here)
    assert line.startswith("results/space/provenance.json: this file does not say whose results")
    assert "--results DIR" in line


def test_a_results_folder_with_foreign_files(here: Path) -> None:
    (here / "mine" / "space").mkdir(parents=True)
    (here / "mine" / "space" / "thesis.txt").write_text("do not touch")
    assert sweep(here, "--results", "mine") == (
        "mine/space: this folder holds files, and no provenance.json that says whose results they "
        "are; allowed: an empty or a new folder; choose another with --results DIR, or another "
        "name: in the space"
    )


def test_leftovers_of_a_killed_start_are_not_foreign(here: Path) -> None:
    (here / "results" / "space").mkdir(parents=True)
    (here / "results" / "space" / ".1-0a.tmp").write_text("{")
    assert command("sweep", "space.yaml", "--dry-run").code == 0


def test_a_results_folder_below_a_file(here: Path) -> None:
    (here / "results").write_text("a file")
    assert refused(here, "sweep", "space.yaml") == (
        "results/space: cannot write here (Not a directory); allowed: a folder with write "
        "permission; choose another with --results DIR"
    )


@pytest.mark.parametrize("call", ["mkstemp", "mkdir"])
def test_a_results_folder_that_may_not_be_written(
    here: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "results")

    monkeypatch.setattr(sweep_folders.tempfile if call == "mkstemp" else Path, call, no)
    assert refused(here, "sweep", "space.yaml") == (
        "results/space: cannot write here (Permission denied); allowed: a folder with write "
        "permission; choose another with --results DIR"
    )


def test_an_error_of_the_disk_in_any_command_is_one_line(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error, said in (
        (OSError(28, "No space left on device", "x/y"), "no space is left on this disk; free some"),
        (PermissionError(13, "Permission denied", "x/y"), "no permission to write here; change"),
        (FileExistsError(17, "File exists", "x/y"), "a file stands where a folder is needed; "),
    ):

        def fail(*_: object, error: OSError = error) -> int:
            raise error

        monkeypatch.setattr("vesselflow.cli.runs.run", fail)
        assert refused(here, "runs", ".").startswith(f"x/y: {said}")


def test_what_fails_in_any_command_is_one_line(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise VesselflowError("the steps could not be measured: no memory")

    monkeypatch.setattr("vesselflow.cli.runs.run", fail)
    answer = command("runs", ".")
    assert (answer.code, answer.err) == (
        1,
        "vesselflow: the steps could not be measured: no memory\n",
    )


def test_more_workers_than_the_machine_has(here: Path) -> None:
    count = machine.cpus_here()
    words = ("--set", f"resources.workers={count + 1}")
    enough = ("--set", f"train.micro_batches_per_step={count + 1}")
    line = sweep(here, *words, *enough)
    assert line.startswith(f"space.yaml: resources: {count + 1} workers x 1 thread do not fit; ")
    assert f"allowed: at most {count} workers on 1 machine with {count} CPUs; lower " in line
    threads = sweep(here, "--set", f"resources.threads={count + 1}")
    assert f"1 worker x {count + 1} threads do not fit; allowed: what 1 machine" in threads
    slots = sweep(here, "--set", f"resources.slots={count + 1}")
    assert slots.startswith(f"space.yaml: resources: {count + 1} slots x 1 worker x 1 thread do ")
    assert sweep(here, "--set", "resources.workers=2") == (
        "space.yaml: resources.workers: 2 workers cannot share a step of 1 micro-batches; allowed: "
        "1 to train.micro_batches_per_step = 1; raise train.micro_batches_per_step (it changes "
        "results) or lower the workers"
    )


def test_a_time_after_which_on_demand_machines_are_asked_for(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = ("--address", "auto", "--dry-run")
    none = "'soon' is no time; allowed: 900, 90s, 15m, 2h"
    assert sweep(here, "--on-demand-after", "soon", *cluster) == f"--on-demand-after: {none}"
    assert sweep(here, "--on-demand-after", "15m") == (
        "--on-demand-after: only a cluster can be asked for machines; name one with --address"
    )
    monkeypatch.setenv("VESSELFLOW_ON_DEMAND_AFTER_S", "soon")
    assert sweep(here, *cluster) == f"VESSELFLOW_ON_DEMAND_AFTER_S: {none}"


@pytest.mark.parametrize("address", ["hdfs://n/x", "file:///tmp/x"])
def test_results_on_another_kind_of_store(here: Path, address: str) -> None:
    scheme = address.partition("/")[0]
    assert sweep(here, "--results", address) == (
        f"--results: '{address}' is no folder; {scheme}// is not supported; allowed: a folder of "
        "this machine, or a bucket: s3://BUCKET/PREFIX, gs://BUCKET/PREFIX; mount it, or copy the "
        "results there afterwards"
    )


def test_a_bucket_that_is_not_there(here: Path, bucket: str) -> None:
    server = bucket.partition("?")[2]
    told = sweep(here, "--results", f"s3://other-bucket/x?{server}")
    assert "there is no bucket called 'other-bucket'; make it, or name another" in told
    assert told.startswith("s3://other-bucket/x/")
    told = sweep(here, "--results", "s3://b/x?colour=red")
    assert told.startswith("s3://b/x?colour=red: unknown option 'colour'; allowed: s3://BUCKET/")


def test_a_store_in_a_bucket(here: Path, bucket: str) -> None:
    address = bucket.replace("?", "/b.h5?")
    words = ("sweep", "space.yaml", "--dry-run", "--set", f"stores.b.path={address}")
    said = f"the store 'b' comes from {address}\n"
    told = refused(here, *words, said_before=said)
    assert f"no such object: {address}; put the store there first" in told
    path = any_path(address)
    path.bucket.put(path.key, here / "b.h5")
    (here / "b.h5").unlink()
    answer = command(*words)
    assert (answer.code, answer.err) == (0, "")
    assert "0 of 1 runs are finished already" in answer.out
    assert answer.out.startswith(said)


def test_a_bucket_without_credentials(
    here: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    half = sweep(here, "--results", bucket.replace("s3://", "s3://half-"))
    assert "this bucket cannot be opened (Generic S3 error: Missing AccessKeyId)" in half
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    # Where a machine of the cloud would have some; nobody listens there.
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HOME", str(here))
    told = sweep(here, "--results", bucket)
    assert "no credentials were found for this bucket; give credentials by variables" in told


def test_a_bucket_behind_a_server_that_is_away(here: Path, bucket: str) -> None:
    told = sweep(here, "--results", "s3://b/x?endpoint_override=http://127.0.0.1:9")
    assert "the bucket does not answer (error sending request); look after the network" in told


def test_commands_that_read_a_bucket_refuse_one_without_results(here: Path, bucket: str) -> None:
    for name in ("runs", "report"):
        assert "no such folder" in refused(here, name, bucket)


def test_results_below_a_file(here: Path) -> None:
    assert sweep(here, "--results", "a.h5") == (
        "a.h5/space: cannot write here (Not a directory); allowed: a folder with write "
        "permission; choose another with --results DIR"
    )


def test_a_gpu_where_none_is(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "gpus_here", lambda: 0)
    assert sweep(here, "--set", "resources.gpu=0.5") == (
        "space.yaml: resources.gpu: 0.5 GPU per worker is asked for, with 0 GPUs on this machine; "
        "allowed: 0; set resources.gpu: 0, or name a cluster that has some with --address"
    )
    words = ("--dry-run", "--set", "resources.gpu=0.5")
    assert command("sweep", "space.yaml", *words, "--address", "auto").code == 0
    monkeypatch.setattr(machine, "gpus_here", lambda: 2)
    answer = command("sweep", "space.yaml", *words)
    assert answer.code == 0
    assert "1 slot x 1 worker x 1 CPU thread, 0.5 GPU; " in answer.out
    line = sweep(here, "--set", "resources.gpu=1", "--set", "resources.slots=3")
    assert "3 slots x 1 worker x 1 thread x 1 GPU do not fit; allowed: at most " in line


# -- as real processes -------------------------------------------------------------------------


def process(here: Path, *words: str, **options: object) -> Answer:
    call = [sys.executable, "-m", "vesselflow", *words]
    done = subprocess.run(call, cwd=here, capture_output=True, text=True, **options)  # type: ignore[call-overload]
    return Answer(done.returncode, done.stdout, done.stderr)


def test_real_processes_give_the_same_lines(here: Path) -> None:
    (here / "b.h5").write_bytes((here / "b.h5").read_bytes()[:1000])
    before = tree(here)
    for words in (("sweep", "none.yaml"), ("sweep", "space.yaml"), ("data", "inspect", "b.h5")):
        answer = process(here, *words)
        assert_one_line(answer)
        assert answer == command(*words)
    assert tree(here) == before


def test_no_write_permission_in_earnest(here: Path) -> None:
    drop_bounding, override = 24, 1
    libc = ctypes.CDLL(None)

    def obey() -> None:
        """Take from root what lets it write everywhere."""
        libc.prctl(drop_bounding, override, 0, 0, 0)

    locked = here / "locked"
    locked.mkdir(mode=0o500)
    probe = [sys.executable, "-c", "open('locked/x', 'w')"]
    if subprocess.run(probe, cwd=here, capture_output=True, preexec_fn=obey).returncode == 0:
        (locked / "x").unlink()
        pytest.skip("this user may write everywhere, and cannot be stopped")
    before = tree(here)
    for words, line in (
        (
            ("sweep", "space.yaml", "--results", "locked"),
            "locked/space: cannot write here (Permission denied); allowed: a folder with write "
            "permission; choose another with --results DIR",
        ),
        (
            ("data", "synth", "locked/x.h5", "--sources", "1", "--size", "64"),
            "locked/x.h5: cannot be written: Permission denied; check the folder's permissions "
            "and the space on the disk",
        ),
    ):
        answer = process(here, *words, preexec_fn=obey)
        assert_one_line(answer)
        assert answer.err == f"vesselflow: {line}\n"
    assert tree(here) == before


def test_a_dry_run_is_light_and_writes_nothing(here: Path) -> None:
    # What it costs are imports: 0.6 s on an idle core, where torch alone would take 2 s more.
    code = (
        "import sys\nfrom vesselflow.cli.main import main\n"
        "code = main(['sweep', 'space.yaml', '--dry-run'])\n"
        "heavy = {'torch', 'ray', 'optuna', 'matplotlib', 'kornia'} & set(sys.modules)\n"
        "assert not heavy, heavy\nsys.exit(code)\n"
    )
    before = tree(here)
    done = subprocess.run([sys.executable, "-c", code], cwd=here, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"nothing was started (--dry-run)" in done.stdout
    assert tree(here) == before


def shipped() -> list[tuple[str, str | None]]:
    """Every shipped space with each of its profiles."""
    found: list[tuple[str, str | None]] = []
    for path in sorted((ROOT / "search_spaces").glob("**/*.yaml")):
        names = (load_yaml(path).get("profiles") or {}).keys()
        found += [(path.name, name) for name in (None, *names)]
    return found


LIGHT = """
import json, os, sys
from vesselflow.cli.main import main
results, folder = sys.argv[1:3]
for name, profile in json.loads(sys.argv[3]):
    words = ["sweep", os.path.join(folder, name), "--dry-run", "--address", "auto"]
    words += ["--results", results] + (["--profile", profile] if profile else [])
    code = main(words)
    heavy = {"torch", "ray", "optuna", "timm", "huggingface_hub"} & set(sys.modules)
    assert code in (0, 2) and not heavy and not os.listdir(results), (name, profile, code, heavy)
    print("was light:", name, profile)
"""


def test_dry_runs_of_shipped_spaces_are_light(tmp_path: Path) -> None:
    """Neither torch nor ray, whatever it finds: also where a store is missing."""
    # All in one process: what it imports takes longer than what is then done.
    spaces = shipped()
    words = [str(tmp_path), str(ROOT / "search_spaces"), json.dumps(spaces)]
    done = subprocess.run(
        [sys.executable, "-c", LIGHT, *words], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.count("was light:") == len(spaces) > 20


def test_a_dry_run_plans_stores_that_are_made_at_the_start(here: Path) -> None:
    before = tree(here)
    answer = command("sweep", "space.yaml", "--dry-run", "--set", "stores.b=synth:fundus?domain=b")
    assert answer.code == 0
    assert "is made at the start (12 images)" in answer.out
    assert tree(here) == before


def test_a_dry_run_for_a_cluster_does_not_count_this_machine(here: Path) -> None:
    words = ("--set", "resources.workers=64", "--set", "train.micro_batches_per_step=64")
    answer = command("sweep", "space.yaml", "--dry-run", "--address", "auto", *words)
    assert answer.code == 0
    assert "as many as the cluster carries" in answer.out


# -- what is written in two places -------------------------------------------------------------


def test_every_threshold_metric_is_a_metric() -> None:
    allowed = REGISTRIES["threshold metric"].names()
    assert {TASKS.task(name).objective for name in TASKS.names()} <= set(allowed)
    assert set(allowed) < set(ALL_METRICS.names())


def test_a_provenance_names_the_space(here: Path) -> None:
    space = load_space(here / "space.yaml", registries=REGISTRIES)
    prepare(space, here / "results")
    head = json.loads((here / "results" / "space" / sweep_folders.PROVENANCE).read_text())
    assert head["space_file"] == "space.yaml"
    assert not [name for name in tree(here) if Path(name).name.startswith(".")]
