"""A margin of a patch is seen, and enters no loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import training_cases as cases

from vesselflow.training.giving import without_margin

MARGIN = 8


def losses(monkeypatch: pytest.MonkeyPatch, margin: int, changed: str, inside: bool) -> list[float]:
    """Losses of a few steps, image or target of all samples inverted in or outside the margin."""
    samples = cases.tiny_samples()
    image, target, _ = samples.table.layout.arrays(samples.blocks[0])
    where = np.zeros((cases.SIDE,) * 2, bool)
    where[MARGIN:-MARGIN, MARGIN:-MARGIN] = True
    array = {"image": image, "target": target}.get(changed)
    if array is not None:
        array[..., where if inside else ~where] ^= 255
    monkeypatch.setattr(cases, "tiny_samples", lambda: samples)
    experiment = cases.tiny_experiment(
        data={"patch": cases.SIDE, "margin": margin},
        augment={name: None for name in cases.BASE["augment"]},
        train={"steps_per_epoch": 2, "epochs": 1},
    )
    return [values["train/loss"] for _, _, values in cases.run_tiny(experiment).curve]


def test_the_margin_is_seen_and_not_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = losses(monkeypatch, MARGIN, "nothing", inside=False)
    assert losses(monkeypatch, MARGIN, "target", inside=False) == plain
    assert losses(monkeypatch, MARGIN, "target", inside=True) != plain
    assert losses(monkeypatch, MARGIN, "image", inside=False) != plain
    assert losses(monkeypatch, 0, "target", inside=False) != plain


def test_normalisation_looks_at_the_whole_patch(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    normalise = cases._normalise_by

    def noted(settings: Any, image: Any, fov: torch.Tensor, *rest: Any) -> Any:
        seen.append(float(fov[..., :MARGIN, :].sum()))
        return normalise(settings, image, fov, *rest)

    monkeypatch.setattr(cases, "_normalise_by", noted)
    losses(monkeypatch, MARGIN, "nothing", inside=False)
    assert min(seen) > 0


@pytest.mark.parametrize("shape", [(5, 7), (4, 5, 6)])
def test_what_is_left(shape: tuple[int, ...]) -> None:
    fov = torch.ones(2, 1, *shape)
    fov[0, 0, 2] = 0
    left = without_margin(fov, 1)
    # As often as a point is inside in each direction: products of the sides without two.
    inner = [side - 2 for side in shape]
    assert int(left[1].sum()) == int(np.prod(inner))
    assert int(left[0].sum()) == int(np.prod(inner)) * (inner[0] - 1) // inner[0]
    assert int(fov[1].sum()) == int(np.prod(shape))
    assert without_margin(fov, 0) is fov
