"""What every registered loss has to keep; a new loss is held to it by being registered."""

import copy
import pickle
from typing import Any

import pytest
import torch
from contract_parts import loss_example, loss_spec

from vesselflow.config.scalars import Range
from vesselflow.errors import ShapeError
from vesselflow.losses import LOSSES
from vesselflow.losses.loss import Loss

torch.set_num_threads(1)

NAMES = LOSSES.names()
POOLING = [name for name in NAMES if "per" in LOSSES.part(name).arguments.model_fields]


def hard() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    logits, target, fov = loss_example()
    return logits, (target > 0.5).float(), fov


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def loss(name: str) -> Loss:
    return LOSSES.build(loss_spec(name))


def test_total_is_a_finite_float32_scalar_with_detached_terms(loss: Loss) -> None:
    logits, target, fov = hard()
    logits.requires_grad_()
    total, terms = loss(logits, target, fov, progress=0.5)
    assert total.shape == ()
    assert total.dtype == torch.float32
    assert total.requires_grad
    assert torch.isfinite(total)
    assert terms
    assert all(term.shape == () and not term.requires_grad for term in terms.values())
    assert all(torch.isfinite(term) for term in terms.values())


def test_wrong_is_worse_than_right_and_has_a_gradient(loss: Loss) -> None:
    _, target, fov = hard()
    right = (8.0 * (2.0 * target - 1.0)).requires_grad_()
    wrong = (-4.0 * (2.0 * target - 1.0)).requires_grad_()
    good, bad = loss(right, target, fov)[0], loss(wrong, target, fov)[0]
    assert good < 0.01 < bad
    bad.backward()
    downhill = (wrong.grad * (2.0 * target - 1.0)).sum(dim=(1, 2, 3))
    assert (downhill < 0).all(), "a step down the gradient moves both images towards the target"


@pytest.mark.parametrize("full", [False, True], ids=["empty", "full"])
def test_empty_and_full_targets_are_defined_with_a_gradient(loss: Loss, full: bool) -> None:
    logits, _, fov = loss_example()
    logits.requires_grad_()
    target = torch.full_like(logits, float(full))
    total, _ = loss(logits, target, fov)
    total.backward()
    if not full and not loss.teaches_absence:
        assert total.item() == 0.0
        assert (logits.grad == 0).all()
        return
    assert torch.isfinite(total)
    assert total > 0
    inside = logits.grad[fov] * (1.0 if full else -1.0)
    assert torch.isfinite(inside).all()
    if loss.spatial:
        assert inside.sum() < 0, "on the whole pixels are drawn to the target"
    else:
        assert (inside < 0).all(), "every pixel is drawn to the target"


def test_pixels_outside_the_fov_have_no_effect(loss: Loss) -> None:
    logits, target, fov = loss_example()
    inside = logits.clone().requires_grad_()
    expected, _ = loss(inside, target, fov)
    expected.backward()
    for junk in (torch.nan, torch.inf, -torch.inf, 1e30):
        other = torch.where(fov, logits, torch.tensor(junk)).requires_grad_()
        total, _ = loss(other, torch.where(fov, target, torch.tensor(junk)), fov)
        total.backward()
        assert total.item() == expected.item()
        assert torch.equal(other.grad, inside.grad)
        assert (other.grad[~fov] == 0).all()


def test_fov_may_be_bool_or_number_and_all_true_is_none(loss: Loss) -> None:
    logits, target, fov = loss_example()
    assert loss(logits, target, fov)[0] == loss(logits, target, fov.float())[0]
    assert loss(logits, target, fov)[0] == loss(logits, target, fov.to(torch.uint8))[0]
    assert loss(logits, target, torch.ones_like(fov))[0] == loss(logits, target)[0]


def test_image_with_an_empty_fov_is_left_out_of_the_mean(loss: Loss) -> None:
    logits, target, fov = loss_example()
    fov[1] = False
    logits.requires_grad_()
    total, _ = loss(logits, target, fov)
    alone, _ = loss(logits[:1], target[:1], fov[:1])
    assert total.item() == pytest.approx(alone.item(), rel=1e-6)
    total.backward()
    assert (logits.grad[1] == 0).all()
    assert (logits.grad[0] != 0).any()


@pytest.mark.parametrize("junk", [0.0, torch.nan])
def test_all_fovs_empty_gives_zero_and_a_gradient_of_zero(loss: Loss, junk: float) -> None:
    logits, target, fov = loss_example()
    logits = torch.full_like(logits, junk).requires_grad_()
    total, terms = loss(logits, target, torch.zeros_like(fov))
    total.backward()
    assert total.item() == 0.0
    assert all(term.item() == 0.0 for term in terms.values())
    assert (logits.grad == 0).all()


def test_batch_of_two_is_the_mean_of_two_batches_of_one(loss: Loss) -> None:
    logits, target, fov = loss_example()  # fovs of different sizes, so that no pooling hides
    both, _ = loss(logits, target, fov)
    single = [loss(logits[i : i + 1], target[i : i + 1], fov[i : i + 1])[0] for i in (0, 1)]
    assert both.item() == pytest.approx((single[0].item() + single[1].item()) / 2, abs=1e-6)


@pytest.mark.parametrize("pooling", POOLING)
def test_pooling_over_the_batch_is_not_the_mean_of_images(pooling: str) -> None:
    logits, target, fov = loss_example()
    target[1] = 0.0
    per_image = LOSSES.build({"name": pooling})(logits, target, fov)[0]
    pooled = LOSSES.build({"name": pooling, "per": "batch"})(logits, target, fov)[0]
    assert abs(per_image.item() - pooled.item()) > 0.01


def test_channels_are_averaged(loss: Loss) -> None:
    logits, target, fov = loss_example()
    two = torch.cat([logits, -logits], 1), torch.cat([target, target.flip(3)], 1)
    first, second = loss(logits, target, fov)[0], loss(-logits, target.flip(3), fov)[0]
    total, _ = loss(*two, fov)
    assert total.item() == pytest.approx((first.item() + second.item()) / 2, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_computed_in_float32(loss: Loss, dtype: torch.dtype) -> None:
    logits, target, fov = loss_example()
    low = logits.to(dtype)
    expected, _ = loss(low.float(), target, fov)
    low.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total, _ = loss(low, target, fov)
    assert total.dtype == torch.float32
    assert total.item() == expected.item()
    total.backward()
    assert low.grad.dtype == dtype
    assert torch.isfinite(low.grad).all()


def test_a_float32_count_is_not_rounded_at_the_size_of_a_bf16_sum(loss: Loss) -> None:
    # 300 x 300 pixels exceed what bfloat16 counts (256) and float16 holds (65504).
    logits = torch.zeros(1, 1, 300, 300, dtype=torch.bfloat16)
    target = torch.zeros(1, 1, 300, 300)
    target[..., :150] = 1.0
    total, _ = loss(logits, target)
    wide, _ = loss(logits.double(), target.double())
    assert total.item() == pytest.approx(wide.item(), rel=1e-5)


@pytest.mark.parametrize("size", [1e4, 30.0])
def test_saturated_logits_stay_finite(loss: Loss, size: float) -> None:
    logits, target, fov = hard()
    for sign in (1.0, -1.0):
        saturated = (sign * size * (2.0 * target - 1.0)).requires_grad_()
        total, _ = loss(saturated, target, fov)
        total.backward()
        assert torch.isfinite(total)
        assert torch.isfinite(saturated.grad).all()
    assert logits.shape == target.shape


def test_memory_layout_does_not_matter(loss: Loss) -> None:
    logits, target, fov = (tensor.repeat(1, 1, 2, 2) for tensor in loss_example())
    logits, target = torch.cat([logits, logits + 1], 1), torch.cat([target, target], 1)
    expected, _ = loss(logits, target, fov)
    last = {"memory_format": torch.channels_last}
    laid_out, _ = loss(logits.contiguous(**last), target.contiguous(**last), fov)
    turned = [tensor.transpose(2, 3).contiguous().transpose(2, 3) for tensor in (logits, target)]
    strided, _ = loss(*turned, fov.transpose(2, 3).contiguous().transpose(2, 3))
    assert laid_out.item() == pytest.approx(expected.item(), abs=1e-6)
    assert strided.item() == pytest.approx(expected.item(), abs=1e-6)


def test_volumes_are_taken_like_images(loss: Loss) -> None:
    logits, target, fov = loss_example()
    # Pixels in any order, where neighbours do not matter; a volume of one slice, where they do.
    shape, axis = ((1, 6), 2) if loss.spatial else ((2, 4), 3)
    volume = [tensor.unflatten(axis, shape) for tensor in (logits, target, fov)]
    assert loss(*volume)[0].item() == pytest.approx(loss(logits, target, fov)[0].item(), abs=1e-6)


def heat_maps() -> tuple[torch.Tensor, torch.Tensor]:
    """Gaussians of three classes on 6 x 8 x 10 cells, none of the last class; a fov of cells."""
    places = [[(2.0, 3.0, 4.0), (3.5, 4.2, 8.0)], [(1.0, 6.0, 2.3)], []]
    z, y, x = torch.meshgrid(*(torch.arange(s).float() for s in (6, 8, 10)), indexing="ij")
    target = torch.zeros(2, 3, 6, 8, 10)
    for kind, points in enumerate(places):
        for a, b, c in points:
            squares = (z - a) ** 2 + (y - b) ** 2 + (x - c) ** 2
            target[:, kind] = torch.maximum(target[:, kind], torch.exp(-squares / 2))
    fov = torch.ones(2, 1, 6, 8, 10, dtype=torch.bool)
    fov[1, :, :, :, :2] = False
    return target, fov


def test_heat_maps_of_several_classes_are_taught(loss: Loss) -> None:
    target, fov = heat_maps()

    def at(heat_map: torch.Tensor) -> float:
        return float(loss(torch.logit(heat_map.clamp(1e-4, 1 - 1e-4)), target, fov)[0])

    there = at(target)
    for axis in (2, 3, 4):
        assert there < at(target.roll(1, axis)), "one cell aside is worse"
    assert there < at(0 * target + 0.01), "nothing is worse"
    assert there < at(target.roll(1, 1)), "another class is worse"
    # From rare foreground the peaks rise more than all else, and what has no keypoint falls.
    logits = torch.full_like(target, -4.6).requires_grad_()
    loss(logits, target, fov)[0].backward()
    gradient = logits.grad
    assert torch.isfinite(gradient).all()
    assert gradient[0, 0, 2, 3, 4] < 0
    assert gradient[0, 0, 2, 3, 4] <= gradient[0, 0].min() + 1e-9
    assert (gradient[:, 2] * fov[:, 0] >= 0).all()
    assert gradient[0, 2].min() > 0 or not loss.teaches_absence
    assert (gradient[1, :, :, :, :2] == 0).all()


def test_gradient_is_that_of_the_value(loss: Loss) -> None:
    logits, target, fov = loss_example()
    # Away from p = t, where min and |.| have a kink.
    wide = (logits.double() + 0.01).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, target.double(), fov)[0], (wide,))


def test_pickles(loss: Loss) -> None:
    copy = pickle.loads(pickle.dumps(loss))
    assert copy(*loss_example())[0] == loss(*loss_example())[0]
    assert repr(copy) == repr(loss)


def with_value(spec: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """The spec with a value at a key, "beta" or "terms.bce.weight"."""
    changed = copy.deepcopy(spec)
    *path, last = key.split(".")
    inner = changed
    for step in path:
        inner = inner[step]
    inner[last] = value
    return changed


def test_every_scalar_may_be_scheduled_under_its_key(name: str) -> None:
    spec = loss_spec(name)
    defaults = LOSSES.build(spec).scalars(0.0)
    scalars = [field for field in LOSSES.part(name).arguments.model_fields.values()
               if any(isinstance(entry, Range) for entry in field.metadata)]  # fmt: skip
    assert len(defaults) >= len(scalars) - 1, "null is no scalar"
    for key, value in defaults.items():
        ramp = {"schedule": "linear", "from": value, "to": 1.0}
        scheduled = LOSSES.build(LOSSES.validate(with_value(spec, key, ramp)))
        assert scheduled.scalars(0.0)[key] == value
        assert scheduled.scalars(0.5)[key] == pytest.approx((value + 1.0) / 2)
        for progress in (0.0, 0.25, 1.0):
            fixed = LOSSES.build(with_value(spec, key, scheduled.scalars(progress)[key]))
            here, _ = scheduled(*loss_example(), progress=progress)
            assert here.item() == fixed(*loss_example())[0].item()


def test_the_total_is_the_sum_of_what_the_terms_weigh(loss: Loss) -> None:
    logits, target, fov = loss_example()
    total, terms = loss(logits, target, fov, progress=0.5)
    weighted = loss.weighted(logits, target, fov, 0.5)
    assert {name: value.item() for name, (_, value) in weighted.items()} == {
        name: value.item() for name, value in terms.items()
    }
    summed = sum(weight * value.item() for weight, value in weighted.values())
    assert total.item() == pytest.approx(summed, abs=1e-6)


def test_shares_of_the_gradient_add_up_and_touch_nothing(loss: Loss) -> None:
    logits, target, fov = loss_example()
    logits.requires_grad_()
    shares = loss.gradient_shares(logits, target, fov, progress=0.5)
    assert set(shares) == set(loss(logits, target, fov)[1])
    assert sum(share.item() for share in shares.values()) == pytest.approx(1.0, abs=1e-6)
    assert all(0 <= share <= 1 and not share.requires_grad for share in shares.values())
    assert logits.grad is None
    with torch.no_grad():
        assert loss.gradient_shares(logits.bfloat16(), target, fov, progress=0.5)


def test_misfitting_shapes_are_refused(loss: Loss) -> None:
    logits, target, fov = loss_example()
    with pytest.raises(ShapeError, match="logits"):
        loss(logits, target[:, :, 1:], fov)
    with pytest.raises(ShapeError, match="fov"):
        loss(logits, target, fov[:1])
    with pytest.raises(ShapeError, match="logits"):
        loss(logits[0, 0], target[0, 0])
