"""`vesselflow submit` as it reads its words."""

from __future__ import annotations

from argparse import Namespace

import pytest

from vesselflow.cli import submit
from vesselflow.cli.main import main


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Namespace]:
    """What the command was called with."""
    calls: list[Namespace] = []
    monkeypatch.setattr(submit, "run", lambda args: calls.append(args))
    return calls


def test_what_follows_two_dashes_goes_to_the_sweep(read: list[Namespace]) -> None:
    """The example of its own help."""
    assert main(["submit", "s.yaml", "--cluster", "c.yaml", "--", "--budget", "40"]) == 0
    assert (read[0].space, read[0].cluster, read[0].rest) == (
        "s.yaml",
        "c.yaml",
        ["--budget", "40"],
    )


def test_without_them_nothing_goes(read: list[Namespace]) -> None:
    assert main(["submit", "--cluster", "c.yaml", "--follow", "job"]) == 0
    assert (read[0].space, read[0].rest) == (None, [])


def test_a_second_space_is_refused(
    read: list[Namespace], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["submit", "s.yaml", "t.yaml", "--cluster", "c.yaml"])
    assert (end.value.code, read) == (2, [])
    assert "unrecognized arguments: t.yaml" in capsys.readouterr().err
