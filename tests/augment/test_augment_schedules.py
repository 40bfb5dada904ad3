"""Arguments of augmentations that move over training."""

from __future__ import annotations

import pytest
import torch

from vesselflow.augment import AUGMENTATIONS
from vesselflow.augment.compose import compose
from vesselflow.config.experiment import load_experiment
from vesselflow.config.scalars import ScalarSchedule
from vesselflow.errors import UserError
from vesselflow.runs.registries import REGISTRIES
from vesselflow.targets.keypoints import Keypoints

torch.set_num_threads(1)

#: What mixes samples does so elsewhere: test_augment_mixing.py.
PARTS = [p.name for p in AUGMENTATIONS if not getattr(p.arguments, "mixes", False)]
#: Names of fields that are not a strength: sizes of what is drawn, and numbers of pieces.
NO_STRENGTH = {("elastic", "spacing_px")}


def batch(samples: int = 6):
    g = torch.Generator().manual_seed(3)
    image = torch.rand(samples, 3, 4, 32, 32, generator=g)
    target = (torch.rand(samples, 1, 4, 32, 32, generator=g) < 0.3).float()
    return image, target, torch.ones(samples, 1, 4, 32, 32)


def run(spec, progress, samples: int = 6):
    return compose(spec)(
        *batch(samples), generator=torch.Generator().manual_seed(1), progress=progress
    )


def equal(first, second) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def ramp(first: float, last: float, **more: float):
    return {"schedule": "linear", "from": first, "to": last, **more}


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("progress", [0.0, 0.25, 1.0])
def test_a_scheduled_probability_is_the_plain_one_at_its_value(name, progress):
    scheduled = run({name: {"p": ramp(0.0, 1.0)}}, progress)
    assert equal(scheduled, run({name: {"p": progress}}, 0.0))
    if progress == 0.0:
        assert equal(scheduled, batch())


@pytest.mark.parametrize("name", PARTS)
def test_every_real_number_may_be_a_schedule_and_is_then_the_plain_one(name):
    part = AUGMENTATIONS.part(name)
    for key, field in part.arguments.model_fields.items():
        numbers = field.default if isinstance(field.default, tuple) else (field.default,)
        if (name, key) in NO_STRENGTH or not all(isinstance(each, float) for each in numbers):
            continue
        # From the default to itself, a little further at the end of training.
        half = [{**ramp(x, x), "start": 0.5} for x in numbers]
        given = {"p": 1.0, key: half if isinstance(field.default, tuple) else half[0]}
        assert equal(run({name: given}, 0.7), run({name: {"p": 1.0, key: field.default}}, 0.7))


def test_strengths_follow_their_curves_and_take_the_progress():
    spec = {"gamma": {"p": 1, "gamma": [ramp(1, 0.5), ramp(1, 2)]}}
    assert torch.allclose(run(spec, 0.0)[0], batch()[0])
    assert equal(run(spec, 1.0), run({"gamma": {"p": 1, "gamma": [0.5, 2]}}, 0.0))
    assert equal(run(spec, 0.5), run({"gamma": {"p": 1, "gamma": [0.75, 1.5]}}, 0.0))


def test_off_in_the_last_tenth():
    spec = {"hflip": {"p": {"schedule": "step", "from": 1, "to": 0, "start": 0.9, "end": 0.9}}}
    assert equal(run(spec, 0.89), run({"hflip": {"p": 1}}, 0.0))
    assert equal(run(spec, 0.9), batch())


def test_keypoints_take_the_progress_too():
    points = Keypoints(
        torch.tensor([[1.0, 3.0, 5.0]], dtype=torch.float64),
        torch.zeros(1, dtype=torch.int64),
        torch.zeros(1, dtype=torch.int64),
    )
    augmenter = compose({"hflip": {"p": ramp(0, 1)}})
    for progress, x in ((0.0, 5.0), (1.0, 26.0)):
        g = torch.Generator().manual_seed(1)
        moved = augmenter.moved(*batch(1), points, generator=g, progress=progress)[3]
        assert moved.coordinates.tolist() == [[1.0, 3.0, x]]


@pytest.mark.parametrize(
    ("given", "where", "allowed"),
    [
        ({"hflip": {"p": ramp(0, 1.2)}}, "augment.hflip.p.to", "a number in [0, 1]"),
        ({"hflip": {"p": ramp(-0.1, 1)}}, "augment.hflip.p.from", "a number in [0, 1]"),
        ({"affine": {"shear_degrees": 45}}, "augment.affine.shear_degrees", "a number in [0, 45)"),
        ({"affine": {"degrees": ramp(0, 181)}}, "augment.affine.degrees.to", "[0, 180]"),
        ({"gamma": {"gamma": [ramp(1, 2), 1.5]}}, "augment.gamma.gamma", "the smaller one first"),
        ({"gamma": {"gamma": [ramp(1, 0), 1.5]}}, "augment.gamma.gamma.0.to", "above 0"),
    ],
)
def test_bad_schedules_are_one_line_with_the_key(given, where, allowed):
    with pytest.raises(UserError) as caught:
        load_experiment({"data": {"train": "a"}, "augment": given}, registries=REGISTRIES)
    assert caught.value.where == where
    assert allowed in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_schedule_survives_validation_and_dumping():
    given = {"hflip": {"p": ramp(0, 1, start=0.1, end=0.5)}, "gamma": {"gamma": [ramp(1, 1), 2]}}
    once = load_experiment({"data": {"train": "a"}, "augment": given}, registries=REGISTRIES)
    assert load_experiment(once.plain(), registries=REGISTRIES) == once
    half = ScalarSchedule.model_validate(once.augment["hflip"]["p"]).value(0.3)
    assert half == pytest.approx(0.5)
    assert compose(once.augment).parts[0].name == "hflip"
