"""One small finished run on small synthetic stores, shared by the tests of this folder."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from vesselflow.runs.cells import Cell, Job

# The tiny experiment is the training tests' own.
sys.path.insert(0, str(Path(__file__).parents[1] / "training"))


@dataclass(frozen=True)
class Done:
    """A results folder with run B in it, scored on val, test, `b` and `empty`."""

    results: Path
    stores: dict[str, Path]
    job: Job

    @property
    def cell(self) -> Cell:
        """Its one cell."""
        return self.job.cells[0]


@pytest.fixture(autouse=True)
def _one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def done(tmp_path_factory) -> Done:
    import torch
    import training_cases as cases

    from vesselflow.feed.local import LocalData
    from vesselflow.sweeps.execution import execute

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("done")
    stores = cases.tiny_stores(folder)
    job = cases.run_b(cases.tiny_domains(stores, "b", "empty"))
    result = execute(job, folder / "results", LocalData(stores))
    assert result.state == "finished", result.message
    return Done(folder / "results", stores, job)
