"""One thread for torch, and what processes of their own came to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import training_cases


@pytest.fixture(autouse=True)
def _one_thread():
    import torch

    torch.set_num_threads(1)


def own_process(what: str, folder: Path) -> None:
    """Run a function of `training_cases` in a new Python."""
    script = Path(training_cases.__file__)
    done = subprocess.run(
        [sys.executable, str(script), what, str(folder)],
        env={**os.environ, "PYTHONPATH": str(script.parents[2])},
        capture_output=True,
        text=True,
        timeout=1200,  # on old instructions it waits while other tests take the CPUs
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def groups_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("groups")
    own_process("groups", folder)
    return folder


@pytest.fixture(scope="session")
def alone_folder(tmp_path_factory) -> Path:
    """Stores, run B done alone, and trainings interrupted here and resumed there."""
    folder = tmp_path_factory.mktemp("alone")
    training_cases.tiny_stores(folder)
    for steps in (5, 3, 7):
        trace = training_cases.run_tiny(training_cases.tiny_experiment(), stop_after=steps)
        assert trace.outcome.step == steps
        (folder / f"{steps}.ckpt").write_bytes(trace.checkpoints[steps])
    own_process("alone", folder)
    return folder


@pytest.fixture(scope="session")
def faults_folder(tmp_path_factory) -> Path:
    """Stores, and run B on two workers to which things happened."""
    folder = tmp_path_factory.mktemp("faults")
    training_cases.tiny_stores(folder)
    own_process("faults", folder)
    return folder
