"""One seed, as a person gives it: a real cluster, real kills, the same tables."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest


@pytest.mark.ray
def test_a_seed_holds_and_leaves_no_process(tmp_path: Path) -> None:
    words = ["chaos", "--seed", "0", "--results", str(tmp_path / "r")]
    done = subprocess.run(
        [sys.executable, "-m", "vesselflow", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout
    assert "seed 0 holds" in done.stdout
    told = json.loads((tmp_path / "r" / "chaos-0.json").read_text())
    assert told["holds"]
    played = [text for _, text in told["timeline"] if "killed" in text or "gave notice" in text]
    assert played, told
    # What was played is not played again; the table for machines has it.
    again = subprocess.run(
        [sys.executable, "-m", "vesselflow", *words], capture_output=True, text=True, timeout=200
    )
    assert again.returncode == 0
    assert "seed 0 was played before and holds" in again.stdout
    (row,) = json.loads((tmp_path / "r" / "chaos.json").read_text())
    assert (row["seed"], row["holds"], row["repeated_after_notices"]) == (0, True, 0)
    named = {finding["what"]: finding["seen"] for finding in told["comparison"]}
    assert named["table epochs"] == "equal"
    assert named["finished runs redone"] == "0"
    # Whoever works on this sweep names its folder; Ray's processes name the space of their sockets.
    left = [
        " ".join(process.info["cmdline"] or [])
        for process in psutil.process_iter(["cmdline"])
        if str(tmp_path) in " ".join(process.info["cmdline"] or [])
    ]
    assert left == []


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--seeds", "3-1"], "--seeds: '3-1' is no list of seeds; allowed: such as 0-9 or 1,4,7"),
        (["--limit-s", "0"], "--limit-s: 0 is not allowed"),
        (["nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_what_is_given_wrong_is_one_line(words: list[str], complaint: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vesselflow", "chaos", *words, "--results", str(tmp_path / "r")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2, done
    assert done.stderr.startswith("vesselflow: ")
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "r").exists()


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    done = subprocess.run(
        [sys.executable, "-m", "vesselflow", "chaos", "--results", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2, done
    assert "not of `vesselflow chaos`" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
