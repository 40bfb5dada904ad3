"""Which sample comes where: shares, independence of who asks, and what samples hold."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from feed_stores import assert_same_batch, noise_store
from hypothesis import given, settings
from hypothesis import strategies as st

from vesselflow.errors import UserError
from vesselflow.feed.batches import SampleTable, load_samples, resident_bytes
from vesselflow.feed.blocks import sample_table, tables
from vesselflow.feed.draws import Draws, chosen_positions, uniforms
from vesselflow.feed.gathering import Rows, gather_from_store
from vesselflow.feed.hard import Hard
from vesselflow.feed.layout import SampleLayout
from vesselflow.feed.local import LocalData
from vesselflow.feed.order import key, sample_indices, share
from vesselflow.feed.sampling import SAMPLING
from vesselflow.feed.sources import Order
from vesselflow.feed.view import Around, View
from vesselflow.stores.keypoints import Keypoints
from vesselflow.stores.layout import Layout
from vesselflow.stores.store import Source, Store, write_store

PATCHES = View(working_size_px=None, patch=32, stride=24, min_fov=0.5, divisor=32)
SHARES = st.floats(0, 1).filter(lambda share: share == 0 or share > 1e-3)


def table_of(held: np.ndarray) -> SampleTable:
    """Samples of which nothing is known but what they hold (n, K)."""
    nothing = np.zeros((len(held), 2), np.int32)
    layout = SampleLayout((4, 4), channels=1)
    return SampleTable(layout, nothing[:, 0], nothing, nothing, nothing, held=held)


def draws_of(rule: dict[str, Any], held: np.ndarray, seed: int = 0) -> Draws:
    rows = np.arange(len(held))
    return SAMPLING.build(rule, table=table_of(held), rows=rows, seed=seed)


def few_of_three(n: int = 40) -> np.ndarray:
    """Classes 0, 1 and 2 in 20, 2 and 0 of n samples; the last ones hold nothing."""
    held = np.zeros((n, 3), np.uint8)
    held[:20, 0] = held[18:20, 1] = 1
    return held


def order(rule: dict[str, Any], **given_: int) -> Order:
    settings_ = {"seed": 3, "steps": 50, "steps_per_epoch": 10, "workers": 1, "rank": 0}
    return Order(
        **{**settings_, "micro_batch_size": 4, "micro_batches_per_step": 3, **given_},
        sampling=rule,
    )


@settings(deadline=None, max_examples=60)
@given(SHARES, st.integers(0, 10**9), st.integers(0, 300))
def test_a_share_is_spread_evenly(part: float, position: int, count: int) -> None:
    chosen = chosen_positions(position, count, part)
    assert len(chosen) == count
    # Of any samples in a row as many as the share says, to one.
    assert abs(chosen.sum() - part * count) < 1 + 1e-6 * (1 + position)
    again = [chosen_positions(position + i, 1, part)[0] for i in range(count)]
    assert chosen.tolist() == again


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**63 - 1), st.integers(0, 20_000), st.integers(0, 9_000))
def test_random_numbers_do_not_depend_on_the_portions_asked_for(
    seed: int, position: int, count: int
) -> None:
    numbers = uniforms(seed, position, count)
    assert numbers.shape == (count, 2)
    assert ((numbers >= 0) & (numbers < 1)).all()
    cut = count // 3
    parts = uniforms(seed, position, cut), uniforms(seed, position + cut, count - cut)
    np.testing.assert_array_equal(np.concatenate(parts), numbers)


RULES = [
    {"name": "uniform"},
    {"name": "foreground"},
    {"name": "class"},
    {"name": "foreground", "share": 1.0},
]


@pytest.mark.parametrize("rule", RULES, ids=str)
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**31), position=st.integers(0, 10**6), cuts=st.lists(st.integers(1, 9)))
def test_draws_are_functions_of_seed_and_position(
    rule: dict[str, Any], seed: int, position: int, cuts: list[int]
) -> None:
    held = few_of_three()
    whole = draws_of(rule, held, seed).at(position, sum(cuts))
    fresh, found = draws_of(rule, held, seed), []
    for cut in reversed(cuts):  # backwards: nothing is remembered
        found.insert(0, fresh.at(position + sum(cuts) - sum(map(len, found)) - cut, cut))
    assert whole.tolist() == [row for part in found for row in part.tolist()]


@pytest.mark.parametrize("name", ["foreground", "class"])
def test_a_share_of_nothing_is_uniform_and_uniform_is_the_order(name: str) -> None:
    held = few_of_three()
    plain = sample_indices(seed=key(5, "order"), position=17, count=100, n=40)
    for rule in ({"name": "uniform"}, {"name": name, "share": 0.0}):
        assert draws_of(rule, held, seed=5).at(17, 100).tolist() == plain.tolist()


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31), part=st.floats(0.2, 1))
def test_foreground_comes_as_often_as_its_share_says(seed: int, part: float) -> None:
    n = 3000
    rows = draws_of({"name": "foreground", "share": part}, few_of_three(), seed).at(0, n)
    # Half of all samples have foreground; the draws add theirs.
    expected = part + (1 - part) / 2
    slack = 5 * math.sqrt(n * expected * (1 - expected) / 4) + 25
    assert abs((rows < 20).sum() - n * expected) < slack
    # Each of them equally often (binomial, six deviations).
    counts = np.bincount(rows, minlength=40)[:20]
    assert (abs(counts - n * expected / 20) < 6 * math.sqrt(n * expected / 20)).all()


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31))
def test_classes_come_equally_often(seed: int) -> None:
    n, held = 4000, few_of_three()
    held[18:20, 0] = 0  # no sample holds two
    rows = draws_of({"name": "class", "share": 1.0}, held, seed).at(0, n)
    counts = np.bincount(rows, minlength=40)
    assert counts[20:].sum() == 0
    assert abs(counts[:18].sum() - n / 2) < 6 * math.sqrt(n / 4)
    assert abs(counts[18] - n / 4) < 6 * math.sqrt(n * 3 / 16)


@pytest.mark.parametrize("name", ["foreground", "class"])
def test_nothing_to_draw_is_said(name: str) -> None:
    with pytest.raises(UserError, match="no sample of the training part has any foreground"):
        draws_of({"name": name}, np.zeros((5, 2), np.uint8))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes in six images of noise: the first in a corner, the second in few images."""
    folder = tmp_path_factory.mktemp("sampling")
    plain = noise_store(folder / "plain.h5", 6)
    sources = []
    with Store.open(plain) as opened:
        for index in range(6):
            fov = opened.fov(index).copy()
            fov[95:105, 60:80] = 0
            planes = np.zeros((*fov.shape, 2), np.uint8)
            planes[40:60, 30:50, 0] = 1
            planes[90:92, 90:92, 1] = index % 3 == 0
            planes[97:103, 65:75, 1] = 1  # outside the fov: nobody learns it
            image = opened.image(index)
            sources.append(Source(f"s{index}", f"g{index}", image, planes, fov))
    path = folder / "two.h5"
    layout = Layout(channels=3, classes=("a", "b"), target="planes")
    write_store(path, sources, domain="two", importer={"name": "test"}, layout=layout)
    return path


def test_what_samples_hold_is_what_their_targets_show(store: Path) -> None:
    samples = load_samples(store, PATCHES)
    batch = samples.gather(np.arange(samples.n))
    shown = ((batch.target > 0) & (batch.fov > 0)).any(axis=(2, 3))
    assert samples.table.held is not None
    assert samples.table.held.tolist() == shown.astype(int).tolist()
    assert 0 < shown[:, 1].sum() < shown[:, 0].sum() < samples.n
    # The same in what travels, with and without pixels.
    for kind in ("samples", "index"):
        parts = list(tables(store, PATCHES, [4, 5], kind)) + list(
            tables(store, PATCHES, range(4), kind)
        )
        np.testing.assert_array_equal(sample_table(parts)[0].held, samples.table.held)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_micro_batches_do_not_depend_on_who_asks(store: Path, rule: dict[str, Any]) -> None:
    data = LocalData({"a": store})
    samples = data.samples("a", PATCHES)
    rows = np.flatnonzero(np.isin(samples.source, [0, 2, 3]))
    draws = order(rule).draws(samples, rows)
    alone = data.batches(samples, draws, order(rule))
    seen = []
    for rank in range(3):
        mine = order(rule, workers=3, rank=rank)
        others = data.batches(samples, mine.draws(samples, rows), mine)
        for index in share(3, 3, rank):
            assert_same_batch(others.batch(7, index), alone.batch(7, index))
            seen.append(index)
    assert seen == [0, 1, 2]
    # In portions of another size, too: the stream of samples is one.
    coarse = order(rule, micro_batch_size=12, micro_batches_per_step=1)
    large = data.batches(samples, coarse.draws(samples, rows), coarse).batch(7, 0)
    parts = [alone.batch(7, index).image for index in range(3)]
    np.testing.assert_array_equal(large.image, np.concatenate(parts))
    assert set(np.unique(large.source)) <= {0, 2, 3}


AROUND = replace(PATCHES, patch=16, stride=16, divisor=16, around=Around(copies=3, jitter=0.25))
SIDE = 16


@pytest.fixture(scope="module")
def dotted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Points of two classes in images of noise, some at the border, one image without."""
    path = tmp_path_factory.mktemp("dotted") / "dotted.h5"
    sources = []
    for index in range(3):
        random = np.random.default_rng(index)
        image = random.random((60 + 9 * index, 70, 1)).astype(np.float32)
        count = (6, 0, 9)[index]
        places = random.random((count, 2)) * (np.array(image.shape[:2]) - 1)
        places[:1] = 0.0
        places[1:2] = np.array(image.shape[:2]) - 1.0
        points = Keypoints(places, (np.arange(count) % 2).astype(np.int32))
        fov = np.ones(image.shape[:2], np.uint8)
        sources.append(Source(f"s{index}", f"g{index}", image, None, fov, keypoints=points))
    layout = Layout("keypoint", "yx", "float32", 1, ("a", "b"), "", 4)
    write_store(path, sources, domain="dots", importer={"name": "test"}, layout=layout)
    return path


def test_patches_around_keypoints_hold_them(dotted: Path) -> None:
    samples = load_samples(dotted, AROUND)
    table = samples.table
    assert table.centred is not None
    assert table.held is not None
    assert table.points is not None
    around = np.flatnonzero(table.centred >= 0)
    # Those of the grid are the ones that there are without, in their order.
    plain = load_samples(dotted, replace(AROUND, around=None))
    grid = table.of_grid(np.arange(samples.n))
    assert_same_batch(samples.gather(grid), plain.gather(np.arange(plain.n)))
    assert len(around) == 3 * 15
    assert table.held[around, table.centred[around]].all()
    for source, count in ((0, 6), (1, 0), (2, 9)):
        own = around[table.source[around] == source]
        assert len(own) == 3 * count
        places = np.repeat(table.points.positions[table.points.of_source(source)], 3, axis=0)
        middle = table.corner[own] + (SIDE - 1) / 2
        shape = np.array([60 + 9 * source, 70]) // 16 * 16 + 16
        free = (table.corner[own] > 0) & (table.corner[own] < shape - SIDE)
        away = abs(places - middle)
        assert (away[free] <= 0.25 * SIDE + 0.5).all()
        assert (away < SIDE / 2 + 0.5).all()  # inside even where the border moved the patch
    assert len(np.unique(away[free].round(6))) > 10  # jittered


def test_patches_around_keypoints_are_the_same_by_every_way(dotted: Path) -> None:
    samples = load_samples(dotted, AROUND)
    everything = np.arange(samples.n)
    parts = [*tables(dotted, AROUND, [2], "index"), *tables(dotted, AROUND, [0, 1], "index")]
    found, _ = sample_table(parts)
    for name in ("source", "corner", "held", "centred"):
        np.testing.assert_array_equal(getattr(found, name), getattr(samples.table, name))
    with Store.open(dotted) as opened:
        assert resident_bytes(opened, AROUND) >= sum(block.nbytes for block in samples.blocks)
        rows = Rows(everything, found.source, found.corner)
        records = gather_from_store(dotted, AROUND, rows)
    assert_same_batch(found.batch(records, everything), samples.gather(everything))


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**31), part=st.floats(0.05, 1))
def test_keypoints_come_as_often_as_their_share_says(dotted: Path, seed: int, part: float) -> None:
    samples = LocalData({"a": dotted}).samples("a", AROUND)
    rows = np.flatnonzero(samples.source != 2)
    rule = {"name": "keypoint", "share": part, "jitter": 0.25, "copies": 3}
    draws = order(rule, seed=seed).draws(samples, rows)
    drawn, n = draws.at(12, 900), 900
    around = samples.table.centred[drawn] >= 0
    assert abs(around.sum() - n * part) < 1.1
    counts = np.unique(drawn[around], return_counts=True)[1]
    assert counts.max() < n * part / 18 + 7 * math.sqrt(n * part / 18) + 5
    assert set(samples.source[drawn]) <= {0, 1}
    # At the other positions the order of the grid's samples, as without.
    plain = order({"name": "uniform"}, seed=seed).draws(samples, samples.table.of_grid(rows))
    np.testing.assert_array_equal(drawn[~around], plain.at(12, 900)[~around])


def test_no_keypoint_to_cut_around_is_said(dotted: Path) -> None:
    samples = load_samples(dotted, AROUND)
    with pytest.raises(UserError, match="no patch around a keypoint"):
        order({"name": "keypoint"}).draws(samples, np.flatnonzero(samples.source == 1))


def hard_draws(seed: int, *, n: int = 12, power: float = 1.0, part: float = 1.0) -> Hard:
    rows = np.arange(n) * 3 + 1
    rule = {"name": "hard", "share": part, "power": power}
    draws = SAMPLING.build(
        rule, table=table_of(np.zeros((3 * n, 1), np.uint8)), rows=rows, seed=seed
    )
    assert isinstance(draws, Hard)
    return draws


def losses_of(rows: np.ndarray) -> np.ndarray:
    """The loss of a sample is its place; that of place 2 is never finite."""
    places = (rows - 1) / 3
    return np.where(places == 2, np.nan, places)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**31), power=st.sampled_from([0.5, 1.0, 2.0]))
def test_hard_samples_come_as_often_as_their_losses_say(seed: int, power: float) -> None:
    draws, n = hard_draws(seed, power=power), 6000
    uniform = draws_of({"name": "uniform"}, np.zeros((12, 1), np.uint8), seed)
    first = draws.at(0, 60)
    assert first.tolist() == (uniform.at(0, 60) * 3 + 1).tolist()
    draws.learn(0, losses_of(first))
    assert draws.at(0, 60).tolist() == first.tolist()  # not before the epoch ends
    draws.end_epoch()
    weights = np.arange(12.0)
    weights[2] = np.delete(weights, 2).mean()  # nobody knows it
    expected = n * weights**power / (weights**power).sum()
    counts = np.bincount((draws.at(60, n) - 1) // 3, minlength=12)
    assert counts[0] == 0
    assert (abs(counts - expected) <= 6 * np.sqrt(expected)).all()


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**31), stop=st.integers(0, 40), portion=st.integers(1, 7))
def test_what_was_learnt_is_all_that_hard_draws_depend_on(
    seed: int, stop: int, portion: int
) -> None:
    """Learnt in portions, kept and loaded anywhere, two epochs of 20 give the same third."""
    whole, parts = hard_draws(seed, part=0.6), hard_draws(seed, part=0.6)
    for epoch in (0, 20):
        whole.learn(epoch, losses_of(whole.at(epoch, 20)))
        whole.end_epoch()
        for at in range(epoch, epoch + 20, portion):
            count = min(portion, epoch + 20 - at)
            if at <= stop < at + count:
                kept, parts = parts.state(), hard_draws(seed, part=0.6)
                parts.load(kept)
            parts.learn(at, losses_of(parts.at(at, count)))
        parts.end_epoch()
    assert parts.at(40, 50).tolist() == whole.at(40, 50).tolist()
    for name, values in whole.state().items():
        np.testing.assert_array_equal(parts.state()[name], values)


@pytest.mark.parametrize("losses", [0.0, -1.0, np.nan, np.inf])
def test_losses_that_say_nothing_leave_draws_uniform(losses: float) -> None:
    draws = hard_draws(0)
    before = draws.at(24, 30).tolist()
    draws.learn(0, np.full(24, losses))
    draws.end_epoch()
    assert draws.at(24, 30).tolist() == before


def test_hard_samples_are_those_of_the_last_epoch_alone() -> None:
    draws = hard_draws(0)
    for epoch, add in ((0, 100.0), (36, 0.0)):
        drawn = draws.at(epoch, 36)
        draws.learn(epoch, (drawn - 1) / 3 + add)
        draws.end_epoch()
    places = np.unique((drawn - 1) // 3)
    np.testing.assert_array_equal(draws.state()["losses"][places], places)
