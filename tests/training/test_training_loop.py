"""The loop: bits that survive interruption and sharing, and gradients that are not finite."""

from __future__ import annotations

import math
import pickle
from functools import partial
from pathlib import Path

import pytest
import torch
import training_cases as cases
from torch import nn

import vesselflow.training.step as step_module
from vesselflow.config.experiment import Swa
from vesselflow.losses.loss import Loss
from vesselflow.training import packing
from vesselflow.training.loop import Diverged, Hooks, load_weights
from vesselflow.training.step import BatchStatistics


@pytest.fixture(scope="module")
def undisturbed() -> cases.Trace:
    return cases.whole(cases.tiny_experiment())


@pytest.fixture(scope="module")
def solo() -> cases.Trace:
    return cases.whole(cases.SHARED, cases.SPOILT)


@pytest.mark.parametrize("steps", [5, 3, 7])
def test_resumed_in_a_new_process_ends_bit_equal(steps, undisturbed, alone_folder: Path):
    before = cases.run_tiny(cases.tiny_experiment(), stop_after=steps)
    after: cases.Trace = pickle.loads((alone_folder / f"{steps}.pickle").read_bytes())
    assert not before.outcome.finished
    assert after.outcome.finished
    assert cases.differences(undisturbed.last, after.last) == []
    assert cases.differences(undisturbed.curve, before.curve + after.curve) == []
    assert undisturbed.weights == before.weights | after.weights
    assert undisturbed.order == before.order | after.order
    assert not before.order.keys() & after.order.keys()


def test_training_changes_every_weight(undisturbed):
    # What is bit-equal because nothing happens proves nothing.
    start = cases.run_tiny(cases.tiny_experiment(), stop_after=1).last
    end = undisturbed.last
    parameters = [name for name in end["model"] if name.endswith("weight")]
    assert all(not torch.equal(start["model"][n], end["model"][n]) for n in parameters)
    average = end["ema"]["average"]
    assert any(not torch.equal(average[n], end["model"][n]) for n in parameters)
    assert undisturbed.curve[0][2]["train/loss"] > undisturbed.curve[1][2]["train/loss"]


PLATEAU = cases.tiny_experiment(
    schedule={"name": "plateau", "patience": 1, "threshold": 9.0, "warmup": 0.0},
    train={"epochs": 4, "steps_per_epoch": 2},
)


@pytest.mark.parametrize("steps", [4, 5])
def test_a_plateau_goes_on_from_the_losses_of_a_checkpoint(steps: int) -> None:
    # Only the first epoch is better, by so high a threshold: the rate falls after each other one.
    whole = cases.whole(PLATEAU)
    rates = [values["train/lr"] for _, _, values in whole.curve]
    assert rates == pytest.approx([0.01, 0.01, 0.005, 0.0025])
    assert whole.last["losses"] == [values["train/loss"] for _, _, values in whole.curve]
    before = cases.run_tiny(PLATEAU, stop_after=steps)
    after = cases.run_tiny(PLATEAU, resume=before.checkpoints[steps])
    assert cases.differences(after.last, whole.last) == []
    assert cases.differences(before.curve + after.curve, whole.curve) == []


def test_a_checkpoint_from_before_losses_were_kept_is_read() -> None:
    before = cases.run_tiny(cases.tiny_experiment(), stop_after=7)
    old = before.last
    del old["losses"]
    after = cases.run_tiny(cases.tiny_experiment(), resume=packing.dump(old))
    assert after.outcome.finished
    assert len(after.last["losses"]) == 1


SWA = cases.tiny_experiment(
    train={"epochs": 4, "steps_per_epoch": 2, "ema": None, "swa": {"start": 0.5}},
    score={"epochs": "all"},
)


def test_the_mean_of_the_last_epochs_is_what_is_scored() -> None:
    plain = cases.whole(
        cases.tiny_experiment(
            train={"epochs": 4, "steps_per_epoch": 2, "ema": None}, score={"epochs": "all"}
        )
    )
    own = {epoch: load_weights(payload) for epoch, payload in plain.weights.items()}
    trace = cases.whole(SWA)
    assert cases.differences(trace.model, plain.model) == []  # the training knows nothing of it
    kept = {epoch: load_weights(payload) for epoch, payload in trace.weights.items()}
    assert cases.differences(kept[1], own[1]) == []  # before the mean begins
    for epoch in (2, 3, 4):
        for name, value in kept[epoch].items():
            every = torch.stack([own[number][name] for number in range(2, epoch + 1)]).double()
            mean = every.mean(0) if value.is_floating_point() else every[-1]
            torch.testing.assert_close(value.double(), mean, rtol=1e-5, atol=1e-6)
    assert not torch.equal(kept[4]["first.head.weight"], own[4]["first.head.weight"])


@pytest.mark.parametrize("steps", [3, 4, 7])
def test_a_mean_of_weights_goes_on_from_a_checkpoint(steps: int) -> None:
    whole = cases.whole(SWA)
    before = cases.run_tiny(SWA, stop_after=steps)
    after = cases.run_tiny(SWA, resume=before.checkpoints[steps])
    assert cases.differences(after.last, whole.last) == []
    assert whole.weights == before.weights | after.weights


LAST = cases.tiny_experiment(
    train={"epochs": 4, "steps_per_epoch": 2, "ema": None, "average_last": 2},
    score={"epochs": [1, 3, 4]},
)


def test_the_mean_of_an_epoch_and_the_one_before_it_is_what_is_scored() -> None:
    plain = cases.whole(
        cases.tiny_experiment(
            train={"epochs": 4, "steps_per_epoch": 2, "ema": None}, score={"epochs": "all"}
        )
    )
    own = {epoch: load_weights(payload) for epoch, payload in plain.weights.items()}
    trace = cases.whole(LAST)
    assert cases.differences(trace.model, plain.model) == []
    assert list(trace.weights) == [1, 3, 4]
    for epoch, first in ((1, 1), (3, 2), (4, 3)):
        for name, value in load_weights(trace.weights[epoch]).items():
            every = torch.stack([own[each][name] for each in range(first, epoch + 1)]).double()
            mean = every.mean(0) if value.is_floating_point() else every[-1]
            torch.testing.assert_close(value.double(), mean, rtol=1e-5, atol=1e-6)
    assert sorted(trace.last["last"]) == ["4"]  # nothing is kept that is not needed any more


@pytest.mark.parametrize("steps", [5, 6])
def test_means_of_last_epochs_go_on_from_a_checkpoint(steps: int) -> None:
    whole = cases.whole(LAST)
    before = cases.run_tiny(LAST, stop_after=steps)
    after = cases.run_tiny(LAST, resume=before.checkpoints[steps])
    assert cases.differences(after.last, whole.last) == []
    assert whole.weights == before.weights | after.weights


@pytest.mark.parametrize(
    ("start", "epochs", "first"),
    [(0.75, 8, 6), (0.75, 10, 8), (0.7, 10, 7), (0.0, 3, 1), (0.99, 2, 2), (0.75, 1, 1)],
)
def test_the_first_epoch_of_the_mean(start: float, epochs: int, first: int) -> None:
    assert Swa(start=start).first(epochs) == first


def test_blocks_that_are_computed_again_change_no_bit(undisturbed):
    trace = cases.run_tiny(cases.tiny_experiment(train={"recompute": True}))
    assert cases.differences(trace.last, undisturbed.last) == []
    assert trace.weights == undisturbed.weights


def test_scored_weights_are_the_average(undisturbed):
    kept = load_weights(undisturbed.weights[2])
    assert cases.differences(kept, undisturbed.last["ema"]["average"]) == []


def test_scoring_leaves_the_training_as_it_was(undisturbed):
    def score(model: nn.Module, epoch: int, step: int) -> dict[str, float]:
        assert not model.training
        torch.rand(epoch)  # draws of an evaluation are nobody's business
        with torch.inference_mode():
            model(torch.rand(1, 3, cases.SIDE, cases.SIDE))
        return {"val/dice": 0.5}

    scored = cases.run_tiny(
        cases.tiny_experiment(score={"epochs": "all"}), hooks=Hooks(score=score)
    )
    assert cases.differences(scored.last, undisturbed.last) == []
    assert [row[2]["val/dice"] for row in scored.curve] == [0.5, 0.5]
    assert sorted(scored.weights) == [1, 2]


def test_timed_checkpoints_follow_the_clock(undisturbed):
    times = iter(range(0, 10_000, 30))
    trace = cases.run_tiny(
        cases.tiny_experiment(train={"checkpoint_every_s": 60.0}),
        hooks=Hooks(clock=lambda: float(next(times))),
    )
    # One reading per step, two where a checkpoint is written, none at the end of an epoch but one.
    assert {5, 10} < set(trace.checkpoints)
    assert set(trace.checkpoints) - {5, 10}
    assert cases.differences(trace.last, undisturbed.last) == []


# -- groups ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 3, 4])
def test_any_number_of_workers_gives_the_same_bits(size, solo, groups_folder: Path):
    ranks: list[cases.Trace] = [
        pickle.loads((groups_folder / f"images-{size}-{rank}.pickle").read_bytes())
        for rank in range(size)
    ]
    assert solo.outcome.step == 10
    # Weights, running statistics and their counters, on every rank.
    for trace in ranks:
        assert cases.differences(solo.model, trace.model) == []
        assert trace.outcome == solo.outcome
    assert cases.differences(solo.last, ranks[0].last) == []
    assert cases.differences(solo.curve, ranks[0].curve) == []
    assert solo.weights == ranks[0].weights
    assert not any(trace.curve or trace.checkpoints or trace.weights for trace in ranks[1:])
    # Each micro-batch on one worker, with the samples that one worker alone would take.
    together = [item for trace in ranks for item in trace.order.items()]
    assert len(together) == len(solo.order) == 10 * 4
    assert dict(together) == solo.order


@pytest.mark.parametrize(("kind", "size"), [("volumes", 2), ("volumes", 3), ("points", 3)])
def test_volumes_have_the_same_bits_on_any_number_of_workers(kind, size, groups_folder: Path):
    solo = cases.whole(cases.GROUPS[kind][0], cases.SPOILT)
    assert solo.outcome.step == 6
    for rank in range(size):
        path = groups_folder / f"{kind}-{size}-{rank}.pickle"
        trace: cases.Trace = pickle.loads(path.read_bytes())
        assert cases.differences(solo.model, trace.model) == []


def test_shares_of_the_gradient_are_logged_and_change_no_bit(groups_folder: Path, monkeypatch):
    asked, of_loss = [], Loss.gradient_shares

    def noted(self, *images, progress):
        asked.append(progress)
        return of_loss(self, *images, progress=progress)

    with monkeypatch.context() as patched:
        patched.setattr(Loss, "gradient_shares", noted)
        logged = cases.run_tiny(cases.SHARES)
    # Of eight steps of three micro-batches.
    assert asked == [step / 7 for step in (0, 3, 6) for _ in range(3)]
    settings = cases.SHARES.train.model_dump() | {"log_gradient_shares": None}
    plain = cases.run_tiny(cases.tiny_experiment(loss=cases.SHARES.loss, train=settings))
    assert cases.differences(plain.model, logged.model) == []
    names = {"train/share/bce", "train/share/lovasz"}
    for (_, _, without), (epoch, _, values) in zip(plain.curve, logged.curve, strict=True):
        assert values.keys() - without.keys() == names
        assert {name: values[name] for name in without} == without
        assert sum(values[name] for name in names) == pytest.approx(1.0, abs=1e-6)
        # The weight begins at 0.
        assert (values["train/share/lovasz"] < 0.5) == (epoch == 1)
        assert values["train/loss.terms.lovasz.weight"] > 0
        assert values["train/term/lovasz"] > 0
    # On more workers it is the same.
    shared = pickle.loads((groups_folder / "shares-2-0.pickle").read_bytes())
    solo = cases.run_tiny(cases.SHARES, spoilt=cases.SPOILT)
    assert cases.differences(solo.curve, shared.curve) == []


def test_options_of_a_training_have_the_same_bits_on_any_number_of_workers(groups_folder: Path):
    solo = cases.whole(cases.OPTIONS)
    rates = [values["train/lr"] for _, _, values in solo.curve]
    assert rates[2] < rates[1]  # the plateau was one
    traces = [
        pickle.loads((groups_folder / f"options-3-{rank}.pickle").read_bytes()) for rank in range(3)
    ]
    assert cases.differences([trace.model for trace in traces], [solo.model] * 3) == []
    assert cases.differences(traces[0].last, solo.last) == []
    assert traces[0].weights == solo.weights


def test_records_without_a_fov_train_to_the_same_bits(monkeypatch):
    traces = []
    for has_fov in (True, False):
        volumes = partial(cases.tiny_volumes, full=True, has_fov=has_fov)
        with monkeypatch.context() as patched:
            patched.setattr(cases, "tiny_volumes", volumes)
            traces.append(cases.run_tiny(cases.VOLUMES))
    held, left_out = traces
    assert held.outcome.step == 6
    assert cases.differences(held.last, left_out.last) == []
    assert cases.differences(held.curve, left_out.curve) == []


@pytest.mark.parametrize("kind", ["volumes", "points"])
@pytest.mark.parametrize("stop_after", [1, 2, 4])
def test_a_training_on_volumes_resumes_to_the_same_bits(kind, stop_after):
    experiment = cases.GROUPS[kind][0]
    solo = cases.whole(experiment)
    first = cases.run_tiny(experiment, stop_after=stop_after)
    assert first.outcome.step == stop_after
    again = cases.run_tiny(experiment, resume=first.checkpoints[stop_after])
    assert cases.differences(solo.last, again.last) == []
    assert cases.differences(solo.model, again.model) == []


@pytest.fixture(scope="module")
def hard() -> cases.Trace:
    return cases.whole(cases.HARD, cases.SPOILT)


@pytest.mark.parametrize("size", [3])
def test_hard_samples_are_the_same_on_any_number_of_workers(size, hard, groups_folder: Path):
    order: dict[tuple[int, int], list[int]] = {}
    for rank in range(size):
        path = groups_folder / f"hard-{size}-{rank}.pickle"
        trace: cases.Trace = pickle.loads(path.read_bytes())
        assert cases.differences(hard.model, trace.model) == []
        order |= trace.order
        if not rank:
            assert cases.differences(hard.last, trace.last) == []
    assert order == hard.order


@pytest.mark.parametrize("stop_after", [2, 3, 4, 7])
def test_hard_samples_are_the_same_after_a_stop_anywhere(stop_after, hard):
    first = cases.run_tiny(cases.HARD, spoilt=cases.SPOILT, stop_after=stop_after)
    again = cases.run_tiny(cases.HARD, spoilt=cases.SPOILT, resume=first.checkpoints[stop_after])
    assert again.order == {key: rows for key, rows in hard.order.items() if key[0] >= stop_after}
    assert cases.differences(hard.last, again.last) == []
    assert cases.differences(hard.model, again.model) == []


def test_the_first_epoch_is_uniform_and_then_large_losses_come_more_often(hard):
    plain = cases.run_tiny(
        cases.tiny_experiment(loss={"name": "dice"}, train=dict(cases.HARD.train)),
        spoilt=cases.SPOILT,
    )
    for (step, index), rows in hard.order.items():
        if step < 3:
            assert plain.order[step, index] == rows
    later = [place for place in hard.order if place[0] >= 3]
    assert any(plain.order[place] != hard.order[place] for place in later)
    first = cases.run_tiny(cases.HARD, spoilt=cases.SPOILT, stop_after=3)
    state = packing.load(first.checkpoints[3])["memory"]
    # Each of the ten samples came, with a loss of its own; none is half learnt.
    assert len(set(state["losses"].tolist())) == 10
    assert not state["counts"].any()


def test_floats_come_back_from_the_scale_on_which_they_are_augmented():
    # Noise of no strength changes nothing but the last bits.
    plain, graded = (
        cases.run_tiny(cases.POINTS.model_copy(update={"augment": augment}))
        for augment in ({}, {"gaussian_noise": {"p": 1.0, "std": 0.0}})
    )
    assert cases.differences(plain.last, graded.last) != []
    for one, other in zip(plain.curve, graded.curve, strict=True):
        assert other[2] == pytest.approx(one[2], rel=1e-2)


def test_every_sample_comes_once_before_any_comes_twice(solo):
    # 10 training samples (2 .. 11), 8 per step: the first ten drawn are all of them.
    drawn = [i for place in sorted(solo.order) for i in solo.order[place]]
    assert sorted(drawn[:10]) == sorted(drawn[10:20]) == list(range(2, 12))
    assert drawn[:10] != drawn[10:20]


def test_more_workers_than_micro_batches_are_refused():
    class Three:
        rank, size = 0, 3

    with pytest.raises(ValueError, match="3 workers cannot share 2 micro-batches"):
        cases.run_tiny(cases.tiny_experiment(), group=Three())


def test_augmentation_is_keyed_by_step_micro_batch_and_sample(monkeypatch):
    # One sample only, eight times: two steps of two micro-batches of two.
    seen: list[bytes] = []
    true = cases._normalise_by

    def spy(settings, image, *rest):
        seen.extend(sample.numpy().tobytes() for sample in image)
        return true(settings, image, *rest)

    monkeypatch.setattr(cases, "_normalise_by", spy)
    short = cases.tiny_experiment(train={"steps_per_epoch": 1})
    cases.run_tiny(short, rows=(4,))
    assert len(set(seen)) == len(seen) == 8
    again, seen[:] = list(seen), []
    cases.run_tiny(short, rows=(4,))
    assert seen == again


def test_dropout_is_keyed_by_step_and_micro_batch(monkeypatch):
    seen: list[int] = []
    true = step_module.Stepper._take_gradient
    monkeypatch.setattr(
        step_module.Stepper,
        "_take_gradient",
        lambda self: seen.append(torch.initial_seed()) or true(self),
    )
    short = cases.tiny_experiment(train={"steps_per_epoch": 1}, augment={})
    cases.run_tiny(short, rows=(4,))
    assert len(set(seen)) == len(seen) == 4


# -- running statistics ------------------------------------------------------------------------


def test_running_statistics_are_folded_in_the_order_of_micro_batches():
    # Constant micro-batches a then b, momentum 0.1, from 0: 0.1 a, then 0.1 a + 0.1 (b - 0.1 a).
    layer = nn.BatchNorm1d(1)
    statistics = BatchStatistics(layer)
    true, seen = statistics.begin(), []
    for value in (2.0, 5.0):
        layer(torch.full((4, 1), value))
        seen.append(statistics.read())
    statistics.finish(true, seen)
    assert layer.running_mean.item() == pytest.approx(0.2 + 0.1 * (5.0 - 0.2))
    # The variance of a constant is 0: 1 -> 0.9 -> 0.81.
    assert layer.running_var.item() == pytest.approx(0.81)
    assert layer.momentum == 0.1
    assert layer.num_batches_tracked == 2


def test_folding_equals_plain_batch_norm_over_the_same_micro_batches():
    torch.manual_seed(0)
    plain, folded = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    batches = [torch.randn(2, 3, 8, 8) * n + n for n in range(1, 6)]
    statistics = BatchStatistics(folded)
    true, seen = statistics.begin(), []
    for batch in batches:
        plain(batch)
        folded(batch)
        seen.append(statistics.read())
    statistics.finish(true, seen)
    torch.testing.assert_close(folded.running_mean, plain.running_mean)
    torch.testing.assert_close(folded.running_var, plain.running_var)
    assert folded.num_batches_tracked == plain.num_batches_tracked


def test_a_frozen_layer_keeps_its_statistics():
    layer = nn.BatchNorm1d(1, momentum=None).eval()
    statistics = BatchStatistics(layer)
    true = statistics.begin()
    statistics.write(true)
    layer(torch.full((4, 1), 7.0))
    statistics.finish(true, [statistics.read()])
    assert (layer.running_mean.item(), layer.running_var.item()) == (0.0, 1.0)
    assert layer.num_batches_tracked == 0
    assert layer.momentum is None


def test_a_model_without_batch_norm_has_no_statistics():
    statistics = BatchStatistics(nn.Linear(2, 1))
    true = statistics.begin()
    assert true.numel() == statistics.size == 0
    statistics.write(true)
    statistics.finish(true, [statistics.read()])


# -- checkpoints -------------------------------------------------------------------------------


@pytest.mark.parametrize(("scored", "kept"), [("last", [10]), ("all", [5, 10]), ([1], [5, 10])])
def test_the_ends_of_scored_epochs_and_of_the_run_are_kept(scored, kept):
    trace = cases.run_tiny(cases.tiny_experiment(score={"epochs": scored}))
    assert sorted(trace.checkpoints) == kept
    assert [row[1] for row in trace.curve] == [5, 10]


# -- gradients that are not finite -------------------------------------------------------------


def test_a_bad_gradient_is_skipped_and_counted():
    # Step 4 (0-based), the last of epoch 1: weights and average stay what they were after step 3.
    bad = frozenset({(4, 0)})
    before = cases.run_tiny(cases.tiny_experiment(), stop_after=4).last
    trace = cases.run_tiny(cases.tiny_experiment(), spoilt=bad)
    after = cases.run_tiny(cases.tiny_experiment(), spoilt=bad, stop_after=5).last
    assert trace.outcome.skipped_steps == after["skipped"] == after["in_a_row"] == 1
    parameters = [n for n in after["model"] if n.endswith(("weight", "bias"))]
    for name in parameters:
        assert torch.equal(before["model"][name], after["model"][name])
    assert cases.differences(before["ema"], after["ema"]) == []
    assert all(torch.isfinite(value).all() for value in after["model"].values())
    # The spoilt step leaves no hole in the curve: its epoch's means are over the four others.
    first = trace.curve[0][2]
    assert math.isfinite(first["train/loss"])
    assert math.isfinite(first["train/grad_norm"])
    assert first["train/loss"] == pytest.approx(before["means"]["loss"] / 4)
    assert trace.last["in_a_row"] == 0
    assert trace.outcome.finished


def test_the_other_micro_batches_of_a_bad_step_are_folded():
    one = cases.run_tiny(cases.tiny_experiment(), spoilt=frozenset({(0, 0)}), stop_after=1).last
    both = cases.run_tiny(
        cases.tiny_experiment(), spoilt=frozenset({(0, 0), (0, 1)}), stop_after=1
    ).last
    name = next(n for n in one["model"] if n.endswith("running_mean"))
    assert torch.equal(both["model"][name], torch.zeros_like(both["model"][name]))
    assert not torch.equal(one["model"][name], both["model"][name])
    assert torch.isfinite(one["model"][name]).all()


def test_a_streak_of_bad_gradients_is_a_divergence():
    settings = cases.tiny_experiment(train={"nan_tolerance": 2})
    bad = frozenset((step, 1) for step in range(3, 6))
    with pytest.raises(Diverged, match=r"3 gradients in a row .* the last at step 6; losses there"):
        cases.run_tiny(settings, spoilt=bad)
    # Two in a row, twice, are tolerated.
    pairs = frozenset({(1, 0), (2, 0), (4, 0), (5, 0)})
    assert cases.run_tiny(settings, spoilt=pairs).outcome.skipped_steps == 4


def test_a_streak_is_remembered_over_an_interruption():
    settings = cases.tiny_experiment(train={"nan_tolerance": 2})
    bad = frozenset((step, 0) for step in range(2, 5))
    payload = cases.run_tiny(settings, spoilt=bad, stop_after=4).checkpoints[4]
    with pytest.raises(Diverged, match="the last at step 5"):
        cases.run_tiny(settings, spoilt=bad, resume=payload)


def test_a_divergence_crosses_processes():
    error = pickle.loads(pickle.dumps(Diverged("at step 3")))
    assert isinstance(error, Diverged)
    assert str(error) == "at step 3"


def test_augmentations_take_the_progress_of_training():
    # Off in the first of two epochs, and then on: the second alone learns otherwise.
    halfway = {"schedule": "step", "from": 0.0, "to": 1.0}
    traces = [
        cases.run_tiny(
            cases.tiny_experiment(
                augment={"hflip": {"p": p}, "gamma": {"p": p}}, score={"epochs": "all"}
            )
        )
        for p in (0.0, halfway)
    ]
    first, second = (trace.weights for trace in traces)
    assert first[1] == second[1]
    assert first[2] != second[2]
