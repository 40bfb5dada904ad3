"""The README is executed: every command, the space, the Python, and every option it names."""

from __future__ import annotations

import argparse
import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

sys.path.append(str(Path(__file__).parent / "reporting"))
from reporting_examples import write_sweep

from vesselflow.cli.bench import BENCHES
from vesselflow.cli.main import COMMANDS, EXIT_CODES, build_parser, main
from vesselflow.config.keys import check_key, key_tree
from vesselflow.config.loading import load_space
from vesselflow.runs.registries import REGISTRIES

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


LINES = [line for block in blocks("bash") for line in block.splitlines() if line.strip()]
SPACE, KEYPOINTS = blocks("yaml")
FRONT_DOOR, PYTHON = blocks("python")

#: What the example trains, made small: the same calls on six images of 64 px and two steps.
PYTHON_AS_WRITTEN = 'overrides=["train.epochs=2"]'
PYTHON_MADE_SMALL = """overrides=["train.epochs=2", "train.steps_per_epoch=1",
    "data.working_size_px=64", "stores.a=synth:fundus?sources=6&size_px=64",
    "stores.b=synth:fundus?domain=b&sources=1&size_px=64",
    "stores.c=synth:fundus?domain=c&sources=1&size_px=64"]"""


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draws = np.random.default_rng(seed)
    if "label" in path.parent.name:
        pixels = 255 * (draws.random((64, 64)) < 0.1).astype(np.uint8)
    elif path.parent.name == "masks":
        pixels = np.full((64, 64), 255, np.uint8)
    else:
        pixels = draws.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def picture_folders(home: Path) -> None:
    """Half of CHASE_DB1 and STARE, as published and sorted, or made up; a folder of ours."""
    real = os.environ.get("VESSELFLOW_TEST_DATA", "")
    for name, folder in (("CHASEDB1", "chase"), ("STARE", "stare")):
        for part in ("images", "labels", "masks") if real else ():
            (home / name / part).mkdir(parents=True)
            for path in sorted((Path(real) / folder / part).iterdir())[::2]:
                (home / name / part / path.name).symlink_to(path)
    for number in range(1, 15):
        stem = {"CHASEDB1": f"Image_{number:02d}L", "STARE": f"im{number:04d}", "pictures": ""}
        for name in ("CHASEDB1", "STARE") if not real else ():
            for seed, part in enumerate(("images", "labels", "masks")):
                seed += 100 * number + 10_000 * (name == "STARE")
                picture(home / name / part / f"{stem[name]}.png", seed)
        picture(home / "pictures" / "photos" / f"p{number}.png", 50_000 + number)
        picture(home / "pictures" / "labels" / f"p{number}_vessels.png", 60_000 + number)


def volume_folders(home: Path) -> None:
    """Volumes with masks, and volumes with picks."""
    draws = np.random.default_rng(7)
    for name in ("v1", "v2"):
        for folder in ("kidneys", "tomograms"):
            path = home / folder / "images" / f"{name}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(path, draws.integers(0, 255, (16, 32, 32), dtype=np.uint8))
        mask, picks = (home / "kidneys" / "masks" / f"{name}.tif", home / "tomograms" / "picks")
        mask.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(mask, (draws.random((16, 32, 32)) < 0.1).astype(np.uint8))
        picks.mkdir(exist_ok=True)
        rows = "".join(f"{z:.1f},{y:.1f},{x:.1f}\n" for z, y, x in 15 * draws.random((5, 3)))
        (picks / f"{name}.csv").write_text(f"z_voxel,y_voxel,x_voxel\n{rows}")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a user has after cloning, and their pictures at home; a sweep that was run before."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "search_spaces", tmp_path / "search_spaces")
    (tmp_path / "search_spaces" / "mine.yaml").write_text(SPACE)
    home = tmp_path / "home"
    home.mkdir()
    picture_folders(home)
    volume_folders(home)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)
    # The profile asks for two threads, which a small machine may not have.
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})
    return tmp_path


def run(line: str) -> None:
    """Run a line of the README, or what the comments here say stands for it."""
    program, *words = [os.path.expanduser(word) for word in shlex.split(line, comments=True)]
    if program == "make":  # would set up and train: what it would do is printed
        done = subprocess.run(["make", "-n", *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert ".venv/bin" in done.stdout
    elif program == "tensorboard":  # would serve for ever: its folder must hold what it reads
        option, folder = words
        assert option == "--logdir"
        assert list(Path(folder).rglob("events.out.tfevents.*"))
    else:
        assert program == "vesselflow", f"no way to test '{line}'"
        if words[0] == "sweep" and "--dry-run" not in words:  # would train
            words.append("--dry-run")
        if words[0] == "report":  # as after the sweep that was not run
            write_sweep(Path("results"), name=Path(words[1]).name, betas=(0, 1), folds=1, seeds=2)
        try:
            code = main(words)
        except SystemExit as done:
            code = done.code
        assert code == 0, line


def test_every_command_runs(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for line in LINES:
        run(line)
    shown = capsys.readouterr().out
    # Both spaces were planned on stores that were there, and nothing of the sheet is missing.
    assert shown.count("runs are finished already") >= 2
    assert (place / "sheet.png").is_file()
    assert (place / "planes.png").is_file()
    assert (place / "results" / "loss_beta-chase" / "report" / "summary.md").is_file()


def test_the_space_has_the_points_that_it_shows(place: Path) -> None:
    space = load_space(place / "search_spaces" / "mine.yaml", registries=REGISTRIES)
    assert len(space.expand().points) == 6
    assert len(list(space.runs())) == 6 * 4 * 2
    # Every section of an experiment is shown but those that need no word.
    shown = set(re.findall(r"^(\w+):", SPACE, re.MULTILINE))
    needless = {"sampling"}  # shown for keypoints
    assert set(type(space.expand().points[0].experiment).model_fields) - needless <= shown


def test_the_space_of_keypoints_has_the_points_that_it_shows(place: Path) -> None:
    file = place / "search_spaces" / "picks.yaml"
    file.write_text(KEYPOINTS)
    assert len(load_space(file, registries=REGISTRIES).expand().points) == 3


def test_the_python_runs_without_ray(place: Path) -> None:
    assert PYTHON_AS_WRITTEN in PYTHON
    code = PYTHON.replace(PYTHON_AS_WRITTEN, PYTHON_MADE_SMALL)
    code += "import sys\nprint('ray' in sys.modules)\n"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    result, ray = done.stdout.splitlines()
    state, _, values = result.partition(" ")
    assert (state, ray) == ("finished", "False")
    ((point, value),) = ast.literal_eval(values).items()
    assert point == "name=combined,beta=0.2"
    assert 0 <= value <= 1


def test_the_front_door_opens_as_written(place: Path) -> None:
    """On a sweep all of whose runs are done, so that Ray is not needed."""
    small = PYTHON_MADE_SMALL.replace("]", ', "seeds=[0]", "folds=[0]", "grid.loss.beta=[0.5]"]')
    done = PYTHON.replace(PYTHON_AS_WRITTEN, small).replace(
        "result = execute(sweep.jobs()[0], sweep.results, data)",
        "result = [execute(job, sweep.results, data) for job in sweep.jobs()][0]",
    )
    code = done + FRONT_DOOR.replace(PYTHON_AS_WRITTEN, small)
    code += "import sys\nprint('ray' in sys.modules)\n"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert lines[1:3] == ["2 points, 0 runs known to be missing", "0 runs done, 0 failed"]
    assert "columns]" in ran.stdout
    assert lines[-1] == "False"


def test_the_front_door_is_light_and_typed() -> None:
    code = (
        "import sys, vesselflow\n"
        "assert set(vesselflow.__all__) <= set(dir(vesselflow))\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "print(sorted(loaded & {'torch', 'ray', 'numpy'}))"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert ran.stdout.strip() == "[]", ran.stderr


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from parsers(inner)


def options(command: str) -> set[str]:
    return {
        option
        for parser in parsers(build_parser(command))
        for action in parser._actions
        for option in action.option_strings
    }


def test_every_option_that_is_named_exists() -> None:
    every = {option for command in COMMANDS for option in options(command)}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", TEXT)) - {"--logdir"}
    assert named - every == set()
    # Beside a command, it is that command's own.
    beside = re.findall(r"vesselflow (\w+)([^`\n]*)", TEXT)
    assert len(beside) > 10
    for command, rest in beside:
        if command in COMMANDS:
            assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", rest)) <= options(command), rest


def test_every_command_is_in_the_table_and_nothing_else() -> None:
    rows = re.findall(r"^\| `vesselflow (\w+) ?([^`]*)`", TEXT, re.MULTILINE)
    assert [command for command, _ in rows] == [name for name in COMMANDS if name in dict(rows)]
    assert {command for command, _ in rows} == set(COMMANDS)
    choices = {"data": "import|inspect|verify|synth|shard|index|join", "bench": "|".join(BENCHES)}
    for command, rest in rows:
        if command in choices:
            assert rest.replace("\\", "") == choices[command]
            for word in choices[command].split("|"):
                assert any(
                    word in (action.choices or ())
                    for parser in parsers(build_parser(command))
                    for action in parser._actions
                )


def test_the_exit_codes_are_those_of_the_command() -> None:
    (line,) = [line for line in TEXT.splitlines() if line.startswith("Exit codes: ")]
    named = re.findall(r"(?:: |; )(\d+) ", line)
    assert named == re.findall(r"^  (\d+) ", EXIT_CODES, re.MULTILINE)


def test_every_link_leads_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", TEXT) if "://" not in link]
    inside = {re.sub(r"\W+", "-", title.lower()) for title in re.findall(r"^#+ (.+)$", TEXT, re.M)}
    assert {link[1:] for link in links if link.startswith("#")} <= inside
    links = [link for link in links if not link.startswith("#")]
    assert len(links) > 5
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_key_that_is_named_is_one() -> None:
    tree = key_tree(REGISTRIES)
    found = re.findall(rf"(?<![\w.])((?:{'|'.join(tree)})\.[a-z_]+)(?=[=:`])", TEXT)
    assert len(found) > 4
    for key in found:
        check_key(key, tree, where="README.md")
