"""One undisturbed sweep for all tests of the rig, and the reason why there may be none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from machines import why_not
from rig import DISK, HERE, Rig

from vesselflow.evaluation.answer import read_answer


@pytest.fixture(scope="session")
def rig_possible(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skip where no machines can be made."""
    reason = why_not(tmp_path_factory.mktemp("probe"))
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="session")
def undisturbed(rig_possible: None) -> dict[str, bytes | None]:
    """The tables of a sweep on the laptop alone, that nothing disturbed."""
    with Rig() as rig:
        rig.laptop()
        shutil.copyfile(HERE / "sweep.yaml", rig.disk / "sweep.yaml")
        words = f"vesselflow sweep {DISK}/sweep.yaml --results {DISK}/results --no-figures"
        said = rig.run(words, 600)
        assert "runs: 6 done now, 0 before" in said
        return read_answer(rig.disk / "results" / "rig")


@pytest.fixture
def rig(rig_possible: None) -> Iterator[Rig]:
    with Rig() as made:
        yield made


@pytest.fixture
def space(rig: Rig) -> str:
    """The path of the sweep's file at the laptop."""
    shutil.copyfile(HERE / "sweep.yaml", rig.disk / "sweep.yaml")
    return f"{DISK}/sweep.yaml"
