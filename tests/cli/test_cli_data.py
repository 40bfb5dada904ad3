"""`vesselflow data`: what it prints, writes, and answers to mistakes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from vesselflow.cli import data_sheet as sheets
from vesselflow.cli import progress as progress_module
from vesselflow.cli.main import main
from vesselflow.stores.store import Source, Store, write_store


def vesselflow(*words: str | Path) -> int:
    return main(["data", *map(str, words)])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "b.h5"
    assert vesselflow("synth", path, "--sources", "5", "--domain", "b", "--size", "64") == 0
    return path


def test_synth_says_what_it_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.h5"
    words = ("synth", path, "--kind", "fundus", "--sources", "2", "--seed", "3", "--size", "64")
    assert vesselflow(*words) == 0
    with Store.open(path) as made:
        assert capsys.readouterr().out == f"{path}: 2 sources, digest {made.digest}\n"
        assert made.importer["seed"] == 3
    assert vesselflow(*words) == 2
    assert capsys.readouterr().err == (
        f"vesselflow: {path}: exists already; --overwrite replaces it\n"
    )
    assert vesselflow(*words, "--overwrite") == 0


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--domain", "z"], "vesselflow: --domain: 'z' is not allowed; allowed: "),
        (["--kind", "fundos"], "unknown synthetic kind 'fundos'; allowed: fundus, tomogram, vas"),
        (["--size", "3"], "vesselflow: --size: 3 is not allowed"),
        (["--size", "x"], "vesselflow: --size: 'x' is not allowed; allowed: a whole number, 64"),
        (["--depth", "3"], "vesselflow: --depth: unknown key 'depth_px'"),
        (["--kind", "tomogram", "--depth", "3"], "vesselflow: --depth: 3 is not allowed"),
        (["--seed", "-1"], "vesselflow: --seed: -1 is not allowed"),
    ],
)
def test_synth_mistakes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], line: str
) -> None:
    assert vesselflow("synth", tmp_path / "a.h5", "--sources", "2", *words) == 2
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1
    assert os.listdir(tmp_path) == []


def test_inspect_table_and_json(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert vesselflow("inspect", store) == 0
    text = capsys.readouterr().out
    assert "synth-b: 5 sources, 5 no split" in text
    assert "b0004" in text
    assert "64 x 64" in text
    assert vesselflow("inspect", store, "--json") == 0
    values = json.loads(capsys.readouterr().out)
    with Store.open(store) as opened:
        assert values["digest"] == opened.digest
        first = values["sources"][0]
        fov, target = opened.fov(0) > 0, opened.target(0) > 0
        assert first["vessel_share"] == pytest.approx((target & fov).sum() / fov.sum())
        assert first["fov_share"] == pytest.approx(fov.mean())
    assert (values["groups"], values["splits"]) == (5, {"": 5})


def test_contact_sheet(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    png = tmp_path / "sheet.png"
    assert vesselflow("inspect", store, "--png", png) == 0
    with Image.open(png) as sheet:
        assert 1560 <= sheet.width <= 1640
        pixels = np.asarray(sheet).astype(int)
    # The fov's outline is cyan; targets are green.
    assert (np.abs(pixels - [90, 235, 255]).max(axis=2) == 0).sum() > 500
    assert ((pixels[..., 1] > 200) & (pixels[..., 0] < 110) & (pixels[..., 2] < 180)).sum() > 500
    monkeypatch.setattr(sheets, "SHEET_SOURCES", 2)
    with Store.open(store) as opened:
        small = sheets.contact_sheet(opened)
    assert small.height < pixels.shape[0]
    assert os.listdir(tmp_path) == ["sheet.png"]


def test_contact_sheet_into_nowhere(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert vesselflow("inspect", store, "--png", tmp_path / "none" / "x.png") == 2
    assert "cannot be written: No such file or directory" in capsys.readouterr().err


def test_verify_exit_codes(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert vesselflow("verify", store) == 0
    assert "sound, 5 sources, digest" in capsys.readouterr().out
    broken = tmp_path / "broken.h5"
    broken.write_bytes(store.read_bytes()[:-10])
    assert vesselflow("verify", broken, store) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{broken}: the store is truncated: ")
    assert "sound" in lines[1]
    faulty = tmp_path / "faulty.h5"
    faulty.write_bytes(store.read_bytes())
    with h5py.File(faulty, "r+") as file:
        file.attrs.modify("digest", "0" * 32)
    assert vesselflow("verify", faulty) == 1
    assert vesselflow("verify", tmp_path / "none.h5") == 2


def test_import_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "mine"
    for folder in ("images", "vessels"):
        (root / folder).mkdir(parents=True)
    for name in ("k1_L", "k1_R"):
        Image.new("RGB", (40, 30), (200, 90, 50)).save(root / "images" / f"{name}.png")
        Image.new("L", (40, 30), 255).save(root / "vessels" / f"{name}_v.png")
    out = tmp_path / "stores" / "mine.h5"
    options = ("--masks", "vessels", "--mask-suffix", "_v", "--group", "^(k[0-9])")
    assert vesselflow("import", "folder", root, out, *options, "--domain", "clinic") == 0
    printed = capsys.readouterr()
    assert printed.out.startswith(f"{out}: 2 sources, digest ")
    assert printed.err == (
        "note: no fov mask: every pixel counts in 2 source(s)\n"
        "note: suspicious: the mask is vessel in all of the fov in 2 of 2 source(s): k1_L, k1_R\n"
        "note: suspicious: the image is the same everywhere in the fov in 2 of 2 source(s): "
        "k1_L, k1_R\n"
    )
    with Store.open(out) as made:
        assert made.domain == "clinic"
        assert {s.group for s in made.sources} == {"k1"}
        assert made.importer["mask_suffix"] == "_v"
    assert vesselflow("import", "folder", root, tmp_path / "x.h5", "--masks", "drawn") == 2
    assert capsys.readouterr().err == (
        f"vesselflow: {root}/drawn: no such folder; "
        "SOURCE holds images, vessels: --masks names one of them\n"
    )
    assert vesselflow("import", "chase", root, tmp_path / "x.h5", "--observer", "5") == 2
    assert "vesselflow: --observer: '5' is not allowed; allowed: " in capsys.readouterr().err


def test_import_options_of_other_types_than_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = tmp_path / "mine", tmp_path / "mine.h5"
    for folder in ("images/left", "masks/left"):
        (root / folder).mkdir(parents=True)
    deep = np.random.default_rng(0).integers(0, 4096, (30, 40)).astype(np.uint16)
    Image.fromarray(deep).save(root / "images" / "left" / "a.png")
    labels = (np.arange(1200).reshape(30, 40) % 3).astype(np.uint8)
    Image.fromarray(labels).save(root / "masks" / "left" / "a.png")
    options = ["--recursive", "--window", "0,4095", "--values", "1"]
    assert vesselflow("import", "folder", root, out, *options) == 0
    assert capsys.readouterr().err == (
        "note: values 0 to 4095 became 0 to 255 in 1 image(s)\n"
        "note: values taken for vessel in 1 mask(s): 1; for background: 0, 2\n"
        "note: no fov mask: every pixel counts in 1 source(s)\n"
    )
    with Store.open(out) as made:
        assert made.sources[0].id == "left_a"
        assert made.importer["recursive"] is True
        assert made.importer["ignore_case"] is False
    assert vesselflow("import", "folder", root, out, "--window", "4095") == 2
    assert capsys.readouterr().err == (
        "vesselflow: --window: '4095' is not allowed; allowed: LOW,HIGH: two numbers, the first "
        "below the second: 0,4095\n"
    )


@pytest.fixture(scope="module")
def doubtful(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound store of four sources: one good, one inverted, one black, one empty and constant."""
    path = tmp_path_factory.mktemp("doubt") / "d.h5"
    pixels = np.random.default_rng(0).integers(60, 200, (60, 80, 3)).astype(np.uint8)
    target = np.zeros((60, 80), np.uint8)
    target[20:24] = 1
    kinds = {
        "good": (pixels, target),
        "inverted": (pixels, 1 - target),
        "dark": (pixels // 16, target),
        "flat": (np.full_like(pixels, 90), 0 * target),
    }
    fov = np.ones_like(target)
    sources = [Source(name, name, image, mask, fov) for name, (image, mask) in kinds.items()]
    write_store(path, sources, domain="d", importer={"name": "test"})
    return path


def test_verify_warns_of_suspicions_and_calls_the_store_sound(
    doubtful: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert vesselflow("verify", doubtful) == 0
    first, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{doubtful}: sound, 4 sources, digest ")
    start = f"{doubtful}: warning, suspicious: "
    assert rest == [
        f"{start}the mask has no vessel inside the fov in 1 of 4 source(s): flat",
        f"{start}the mask may be inverted, more than 70 % of the fov is vessel in 1 of 4 "
        "source(s): inverted",
        f"{start}the image is nearly black (99 % of the fov below 16 of 255) in 1 of 4 "
        "source(s): dark",
        f"{start}the image is the same everywhere in the fov in 1 of 4 source(s): flat",
    ]


def test_inspect_shows_suspicions(
    store: Path, doubtful: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert vesselflow("inspect", doubtful) == 0
    text = capsys.readouterr().out
    row = next(line for line in text.splitlines() if line.strip().startswith("flat"))
    assert row.rstrip().endswith("mask empty, image constant")
    assert "suspicious" in text
    assert "mask inverted: the mask may be inverted, more than 70 % of the fov is vessel" in text
    assert vesselflow("inspect", doubtful, "--json") == 0
    values = json.loads(capsys.readouterr().out)
    assert {row["id"]: row["suspicions"] for row in values["sources"]} == {
        "good": [],
        "inverted": ["mask inverted"],
        "dark": ["image black"],
        "flat": ["mask empty", "image constant"],
    }
    assert vesselflow("inspect", store) == 0
    assert "suspicious" not in capsys.readouterr().out


def test_the_contact_sheet_marks_suspicious_sources(store: Path, doubtful: Path) -> None:
    def red(path: Path) -> int:
        with Store.open(path) as opened:
            pixels = np.asarray(sheets.contact_sheet(opened))
        return int((pixels == sheets.DOUBT_COLOUR).all(axis=2).sum())

    assert red(store) == 0
    assert red(doubtful) > 3 * 2 * 3 * 500  # three frames, two long lines each, 3 px wide


def test_options_of_every_layout_have_help(capsys: pytest.CaptureFixture[str]) -> None:
    for layout in ("chase", "stare", "folder", "volume"):
        with pytest.raises(SystemExit) as caught:
            vesselflow("import", layout, "--help")
        assert caught.value.code == 0
        text = capsys.readouterr().out
        assert "None" not in text
        assert "default False" not in text
        assert "SOURCE OUT.h5" in text


def progress_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *, terminal: bool
) -> str:
    now = [0.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress_module.sys.stderr, "isatty", lambda: terminal)
    progress = progress_module.Progress()
    for done, at in enumerate((0.5, 1.9, 2.5, 2.6, 13.0), start=1):
        now[0] = at
        progress(done, 9, f"s{done}")
    progress.end()
    return capsys.readouterr().err


def test_progress_is_silent_when_quick_and_leaves_no_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = progress_said(capsys, monkeypatch, terminal=True)
    assert said == "\r\033[K3 of 9 (s3)\r\033[K5 of 9 (s5)\r\033[K"


def test_progress_says_nothing_into_a_pipe(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert progress_said(capsys, monkeypatch, terminal=False) == ""
