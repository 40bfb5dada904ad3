"""Steps that are measured before a sweep begins: those of every run, by nothing it has to fetch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "training"))
import training_cases as cases

import vesselflow.sweeps.timing as timing_module
from vesselflow.runs.initial import Initial
from vesselflow.sweeps.timing import Timing


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return cases.tiny_stores(tmp_path_factory.mktemp("stores"))


def test_steps_with_unlabelled_images_are_timed(stores: dict[str, Path], tmp_path: Path) -> None:
    experiment = cases.tiny_experiment(
        data={"unlabelled": "b"}, train={"domain_weight": 1.0, "steps_per_epoch": 2}
    )
    job = cases.tiny_job("aaaa", experiment, cases.tiny_domains(stores))
    assert Timing(stores, 1, "cpu", tmp_path).steps(job, 0.0, 1, 1).steps > 0


def test_no_weights_are_fetched_for_it(
    stores: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor read: those of another run lie in the sweep's folder, and not in this one."""
    model = {"name": "unet", "encoder": "resnet18", "weights": "imagenet", "depth": 3}
    job = cases.tiny_job("bbbb", cases.tiny_experiment(model=model), cases.tiny_domains(stores))
    job = cases.changed(job, initial=Initial("0" * 20, 1))
    asked = []
    for module in (cases.loop_module, timing_module):
        build = module.build_model

        def noted(experiment: Any, *rest: Any, build: Any = build) -> Any:
            asked.append(experiment.model["weights"])
            return build(experiment, *rest)

        monkeypatch.setattr(module, "build_model", noted)
    timing = Timing(stores, 1, "cpu", tmp_path)
    assert timing.steps(job, 0.0, 1, 1).steps > 0
    assert timing.scoring(job, 1)["a"] > 0
    assert asked == [None, None]
