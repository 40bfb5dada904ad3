"""Why runs have no result: one line each, and a file of the last start."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vesselflow.sweeps.outcome import FAILURES, Failure, read_failures, write_failures

ONE = Failure("beta=0.5 fold 0 seed 1", "loss is NaN", "slot-2, step 7", "runs/ab/log.txt")
TWO = Failure("beta=0.9 fold 0 seed 1", "killed its worker 3 times")


def test_a_failure_is_one_line() -> None:
    assert ONE.line() == (
        "beta=0.5 fold 0 seed 1: loss is NaN (slot-2, step 7); log: runs/ab/log.txt"
    )
    assert TWO.line() == "beta=0.9 fold 0 seed 1: killed its worker 3 times"
    assert Failure("a", "first\n  second").line() == "a: first second"


def test_failures_are_those_of_the_last_start(tmp_path: Path) -> None:
    assert read_failures(tmp_path) == []
    write_failures(tmp_path, [ONE, TWO])
    assert read_failures(tmp_path) == [ONE, TWO]
    assert json.loads((tmp_path / FAILURES).read_text())[0]["place"] == "slot-2, step 7"
    write_failures(tmp_path, [TWO])
    assert read_failures(tmp_path) == [TWO]
    write_failures(tmp_path, [])
    assert list(tmp_path.iterdir()) == []
    write_failures(tmp_path, [])


@pytest.mark.parametrize("text", ["", "[", "{}", "[1, null]", '{"label": "a"}'])
def test_a_damaged_file_holds_no_failures(tmp_path: Path, text: str) -> None:
    (tmp_path / FAILURES).write_text(text)
    assert read_failures(tmp_path) == []


def test_what_is_missing_in_an_entry_is_empty(tmp_path: Path) -> None:
    (tmp_path / FAILURES).write_text('[{"label": "a", "message": "b", "new": 1}]')
    assert read_failures(tmp_path) == [Failure("a", "b")]
