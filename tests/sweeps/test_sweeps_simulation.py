"""The simulated sweep: laws of its course, and of the book, the policy and the leases it runs."""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vesselflow.errors import UserError
from vesselflow.sweeps.book import Book, JobState
from vesselflow.sweeps.forecast import Doubt, Range, forecast, quantile
from vesselflow.sweeps.simulation import GOES_S, simulate
from vesselflow.sweeps.simulation_model import (
    Blow,
    Disturbance,
    MachineModel,
    RunModel,
    Settings,
    Simulated,
    Timeline,
)

# -- the course of one attempt ------------------------------------------------------------------

RUN = RunModel("a", 100, 2, 1.0, (2,), validate_s=5, score_s=10, start_s=3, save_s=1, interval_s=20)

runs = st.builds(
    RunModel,
    run_id=st.just("a"),
    steps=st.integers(5, 400),
    epochs=st.integers(1, 5),
    step_s=st.floats(0.01, 50),
    scored=st.sets(st.integers(1, 5)).map(lambda epochs: tuple(sorted(epochs))),
    validate_s=st.floats(0, 100),
    score_s=st.floats(0, 100),
    start_s=st.floats(0, 100),
    save_s=st.floats(0, 5),
    interval_s=st.one_of(st.just(math.inf), st.floats(0.1, 500)),
)


def test_an_attempt_by_hand() -> None:
    # 3 s of start, 100 steps with 5 checkpoints, 5 s on validation, 10 s more.
    line = Timeline(RUN, 0)
    assert line.end_s == 3 + 100 + 5 + 5 + 10
    assert (line.at(2.9).step, line.at(2.9).checkpoint) == (0, 0)
    assert (line.at(22.5).step, line.at(22.5).checkpoint) == (19, 0)
    assert (line.at(23.5).step, line.at(23.5).checkpoint) == (20, 0), "it is being written"
    assert (line.at(24.0).step, line.at(24.0).checkpoint) == (20, 20)
    assert line.at(24.0).next_save_s == 21
    assert (line.at(45.0).checkpoint, line.at(45.0).before) == (40, 20)
    assert (line.at(200).step, line.at(200).checkpoint) == (100, 100)


def test_who_resumes_from_the_end_of_a_scored_epoch_scores_it() -> None:
    assert Timeline(RUN, 100).end_s == 3 + 5 + 10
    assert Timeline(RUN, 50).end_s == 3 + 53 + 5 + 10
    both = replace(RUN, scored=(1, 2))  # and a checkpoint at 50, from which 20 s are counted anew
    assert Timeline(both, 0).end_s == 3 + 100 + 6 + 2 * 5 + 10
    assert Timeline(both, 50).end_s == 3 + 50 + 3 + 2 * 5 + 10
    assert Timeline(RUN, 60).end_s == 3 + 40 + 2 + 5 + 10


@given(runs, st.floats(0, 1), st.lists(st.floats(0, 1.2), min_size=1, max_size=20))
def test_a_course_goes_on_and_loses_at_most_an_interval(
    run: RunModel, begun: float, moments: list[float]
) -> None:
    first = int(begun * run.steps)
    line = Timeline(run, first)
    before = line.at(0.0)
    assert before.step == before.checkpoint == first
    for moment in sorted(moments):
        place = line.at(moment * line.end_s)
        assert first <= place.before <= place.checkpoint <= place.step <= run.steps
        assert (place.step, place.checkpoint) >= (before.step, before.checkpoint)
        assert place.next_save_s >= 0
        if run.interval_s < math.inf:
            assert place.step - place.checkpoint <= max(1, math.ceil(run.interval_s / run.step_s))
        before = place
    assert line.at(line.end_s).checkpoint == run.steps


# -- one sweep ----------------------------------------------------------------------------------


def _runs(count: int, **changes: object) -> list[RunModel]:
    given = {"steps": 100, "epochs": 2, "step_s": 1.0, "start_s": 2.0, "interval_s": 30.0}
    return [RunModel(f"run-{n}", **{**given, **changes}) for n in range(count)]  # type: ignore[arg-type]


def test_an_undisturbed_sweep_takes_what_one_reckons() -> None:
    told = simulate(
        _runs(7),
        [MachineModel("m", cpus=4, price=0.6, on_demand=1.2)],
        Settings(threads=2, driver_s=5, slot_s=4, end_s=3, look_s=0.25, head_price=0.1),
    )
    # Two slots, four runs one after another on the first of them.
    assert told.wall_s == 5 + 4 + 4 * 102 + 0.25 + 3
    assert told.machine_s == {"m": told.wall_s}
    assert told.dollars == pytest.approx(told.wall_s * 0.7 / 3600)
    assert told.work_s == 7 * 102
    assert (told.finished, told.done, told.attempts, told.losses) == (True, 7, 7, 0)


def test_machines_boot_and_are_paid_from_their_asking() -> None:
    told = simulate(_runs(1), [MachineModel("m", boot_s=100)], Settings(machines_s=2, look_s=0))
    assert told.wall_s == 100 + 2 + 102
    assert told.machine_s == {"m": told.wall_s}


def test_a_rented_machine_that_has_nothing_to_do_is_given_back() -> None:
    short, long = _runs(1, steps=60), [RunModel("long", 5000, step_s=1.0)]
    rented = MachineModel("m", count=2, boot_s=10.0, price=3600.0)
    told = simulate(short + long, [rented], Settings(look_s=0, machines_s=0))
    assert told.wall_s == pytest.approx(10 + 5000, rel=0.01)
    # The other one worked for a minute, waited half of one for a run, and then for its end.
    assert told.machine_s["m"] == pytest.approx(10 + 5000 + 10 + 62 + 30 + 300, rel=0.01)
    own = MachineModel("m", count=2, price=3600.0)
    assert simulate(short + long, [own], Settings()).machine_s["m"] > 2 * 5000


def test_a_killed_worker_resumes_from_its_last_checkpoint_after_its_start() -> None:
    kill = Disturbance(45.0, Blow.KILL_SLOT)
    told = simulate(_runs(1), [MachineModel()], Settings(slot_s=3, look_s=0.5), disturbances=[kill])
    # Begun at 3 s, it had done 40 steps; 30 were kept; it is taken up at 48.5 s.
    assert (told.repeated_steps, told.most_repeated, told.attempts) == (10, 10, 2)
    assert told.wall_s == pytest.approx(45 + 0.5 + 3 + 2 + 70 + 0.5)


def test_a_torn_checkpoint_costs_the_one_before_it() -> None:
    tear = Disturbance(45.0, Blow.TEAR)
    told = simulate(_runs(1), [MachineModel()], Settings(), disturbances=[tear])
    assert told.repeated_steps == 43


def test_after_a_notice_no_step_is_repeated_and_the_run_goes_elsewhere() -> None:
    notice = Disturbance(20.0, Blow.NOTICE, seconds=60.0)
    told = simulate(_runs(1), [MachineModel(count=1)], Settings(), disturbances=[notice])
    assert (told.losses, told.repeated_steps, told.machines_lost) == (1, 0, 1)
    # The other machine takes the place of the first when that is gone.
    assert 80 < told.wall_s < 80 + 100


def test_a_notice_that_is_shorter_than_a_step_helps_nobody() -> None:
    slow = _runs(1, steps=10, step_s=10.0, epochs=1)
    notice = Disturbance(46.0, Blow.NOTICE, seconds=5.0)
    told = simulate(slow, [MachineModel()], Settings(), disturbances=[notice])
    assert (told.repeated_steps, told.most_repeated_noticed) == (1, 0)
    assert told.finished


def test_a_silent_machine_is_waited_for_no_longer_than_the_book_says() -> None:
    lost = Disturbance(20.0, Blow.LOSE_MACHINE)
    machines = [MachineModel(count=2)]
    told = simulate(_runs(1), machines, Settings(look_s=0.0, machines_s=0.0), disturbances=[lost])
    assert told.wall_s == pytest.approx(20 + 10 + 0.5 + 2 + 100)


def test_the_claims_of_a_lost_head_lapse() -> None:
    at_once = Disturbance(20.0, Blow.KILL_DRIVER, seconds=5.0)
    elsewhere = Disturbance(20.0, Blow.LOSE_HEAD, seconds=5.0)
    one, other = (
        simulate(_runs(1), [MachineModel()], Settings(look_s=0.0), disturbances=[blow])
        for blow in (at_once, elsewhere)
    )
    assert one.wall_s == pytest.approx(25 + 2 + 100)
    # Thirty seconds without a beat of its driver; a run that is held is asked for each second.
    assert 20 + 30 + 102 <= other.wall_s <= 20 + 30 + 1 + 102


def test_two_drivers_share_the_runs() -> None:
    alone = simulate(_runs(40), [MachineModel()], Settings())
    second = Disturbance(1.0, Blow.SECOND_DRIVER)
    both = simulate(_runs(40), [MachineModel()], Settings(), disturbances=[second])
    assert both.twice == 0
    assert both.done == 40
    assert both.wall_s < 0.6 * alone.wall_s


def test_a_blocked_storage_stops_who_has_to_write() -> None:
    block = Disturbance(20.0, Blow.STORAGE, seconds=60.0)
    told = simulate(_runs(1), [MachineModel()], Settings(look_s=0.0), disturbances=[block])
    # It trains on until its checkpoint at step 30, in the 32nd second.
    assert told.wall_s == pytest.approx(102 + (80 - 32))
    assert told.losses == 0


def test_a_pause_is_a_pause() -> None:
    pause = Disturbance(20.0, Blow.PAUSE_SLOT, seconds=7.0)
    told = simulate(_runs(1), [MachineModel()], Settings(look_s=0.0), disturbances=[pause])
    assert told.wall_s == pytest.approx(102 + 7)
    assert (told.losses, told.repeated_steps) == (0, 0)


def test_blows_by_share_come_one_after_another() -> None:
    """Half of the steps are kept at 52 s (a checkpoint at each 30 steps, and at 50)."""
    kills = [Disturbance(1.0, Blow.KILL_SLOT, after=0.5), Disturbance(0.0, Blow.KILL_SLOT, after=0)]
    told = simulate(_runs(1), [MachineModel()], Settings(look_s=0.0, retries=9), disturbances=kills)
    assert told.attempts == 3
    # The first kill costs one step and a start, the second, at once after it, no step.
    assert told.repeated_steps == 1
    assert told.wall_s == pytest.approx(2 + 51 + 2 + 50, abs=0.3)


def test_a_machine_that_was_given_notice_may_go_when_nothing_is_on_it() -> None:
    notice = Disturbance(0.0, Blow.NOTICE, seconds=60.0, after=0.3, leaves=4.0)
    told = simulate(
        _runs(1), [MachineModel()], Settings(look_s=0.0, machines_s=0.0), disturbances=[notice]
    )
    # At 32 s, handed back a second later, gone when Ray ends it, the next there after four more.
    assert told.wall_s == pytest.approx(32 + 1 + GOES_S + 4 + 2 + 69, abs=0.5)
    assert (told.repeated_steps, told.machines_lost) == (0, 1)


def test_a_run_that_kills_its_worker_again_and_again_is_given_up() -> None:
    kills = [Disturbance(10.0 + 20 * n, Blow.KILL_SLOT) for n in range(10)]
    told = simulate(_runs(2), [MachineModel()], Settings(retries=1), disturbances=kills)
    assert (told.finished, told.done, told.failed) == (True, 0, 2)


def test_without_machines_it_never_ends() -> None:
    told = simulate(_runs(1), [MachineModel(mean_life_s=1.0)], Settings(slot_s=100))
    assert (told.finished, told.wall_s, told.done) == (False, math.inf, 0)
    with pytest.raises(UserError, match="do not fit"):
        simulate(_runs(1), [MachineModel(cpus=1)], Settings(threads=2))


# -- the book under thousands of blows ------------------------------------------------------------

times = st.floats(0, 3000)
disturbances = st.lists(
    st.builds(
        Disturbance,
        at_s=times,
        blow=st.sampled_from(list(Blow)),
        which=st.integers(0, 50),
        seconds=st.floats(0, 150),
        after=st.one_of(st.none(), st.none(), st.floats(0, 1)),
        leaves=st.one_of(st.none(), st.floats(0, 30)),
    ),
    max_size=40,
)
fleets = st.lists(
    st.builds(
        MachineModel,
        name=st.sampled_from(["a", "b"]),
        cpus=st.integers(2, 8).map(float),
        count=st.integers(1, 4),
        boot_s=st.sampled_from([0.0, 60.0]),
        boot_spread=st.just(0.3),
        mean_life_s=st.sampled_from([math.inf, 2000.0, 600.0]),
        notice_s=st.sampled_from([0.0, 30.0, 120.0]),
        noticed=st.floats(0, 1),
        speed=st.floats(0.5, 2),
    ),
    min_size=1,
    max_size=2,
)


def _whole(book: Book) -> None:
    """Every run of a book is in one state, and in one place."""
    states = Counter(entry.state for entry in book.jobs.values())
    assert all(book.count(state) == states[state] for state in JobState)
    waiting = Counter([*book._waiting, *(run for *_, run in book._later)])
    held = Counter(state.run_id for state in book.slots.values() if state.run_id is not None)
    for run_id, entry in book.jobs.items():
        assert waiting[run_id] == (entry.state is JobState.QUEUED), f"{run_id} waits once"
        assert held[run_id] == (entry.state is JobState.RUNNING), f"{run_id} is held once"
        assert (run_id in book.failures) == (entry.state is JobState.FAILED)
        assert 0 <= entry.step <= entry.steps
    done, total = book.steps
    assert done == sum(entry.step for entry in book.jobs.values())
    assert total == sum(entry.steps for entry in book.jobs.values())


#: A spare slot ends while another's machine is gone, and the driver looks who is silent just then.
SPARE_AND_SILENT = [
    MachineModel(cpus=2.0, count=1, boot_spread=0.3, mean_life_s=2000.0, notice_s=30.0),
    MachineModel(cpus=2.0, count=3, boot_spread=0.3, mean_life_s=600.0, speed=0.69921875),
]


@settings(max_examples=150)
@example(count=5, fleet=SPARE_AND_SILENT, blows=[], workers=2, retries=0, seed=3642723)
@given(
    count=st.integers(1, 12),
    fleet=fleets,
    blows=disturbances,
    workers=st.integers(1, 2),
    retries=st.integers(0, 3),
    seed=st.integers(0, 2**32),
)
def test_no_run_is_lost_and_none_is_done_twice(
    count: int,
    fleet: list[MachineModel],
    blows: list[Disturbance],
    workers: int,
    retries: int,
    seed: int,
) -> None:
    todo = _runs(count, steps=60, epochs=3, scored=(2, 3), validate_s=3.0, score_s=5.0, save_s=0.5)
    how = Settings(workers=workers, retries=retries, driver_s=5, slot_s=6, end_s=1)
    told = simulate(todo, fleet, how, seed=seed, disturbances=blows, watch=_whole)
    assert told.finished, "machines come again, so that it ends"
    assert told.twice == 0
    assert told.done + told.failed >= count
    assert told.done == count or told.failed > 0
    assert told.most_repeated_noticed == 0
    torn = any(blow.blow is Blow.TEAR for blow in blows)
    interval = math.ceil(30.0 / (1.0 * min(kind.speed for kind in fleet)))
    assert told.most_repeated <= interval * (2 if torn else 1)
    if not any(blow.blow is Blow.SECOND_DRIVER for blow in blows):
        fastest = min(kind.speed for kind in fleet)
        assert told.work_s >= 60 * told.done * fastest


def test_the_book_is_whole_under_thousands_of_blows() -> None:
    draws = random.Random(5)
    often = [Blow.KILL_SLOT, Blow.FREEZE_SLOT, Blow.TEAR, Blow.NOTICE, Blow.LOSE_MACHINE]
    seldom = [Blow.KILL_DRIVER, Blow.LOSE_HEAD, Blow.STORAGE]
    blows = [
        Disturbance(draws.uniform(0, 20_000), draws.choice(kinds), draws.randrange(99), 30.0)
        for kinds, count in ((often, 3000), (seldom, 30))
        for _ in range(count)
    ]
    fleet = [MachineModel(cpus=4, count=10, mean_life_s=3000, notice_s=60, noticed=0.7)]
    todo = _runs(300, steps=400, epochs=8, save_s=0.2)
    how = Settings(slot_s=3, retries=1000)
    told = simulate(todo, fleet, how, seed=1, disturbances=blows, watch=_whole)
    assert (told.finished, told.twice) == (True, 0)
    assert (told.done, told.failed) == (300, 0)
    assert told.losses > 1000
    assert told.most_repeated_noticed == 0


@settings(max_examples=20)
@given(fleet=fleets, blows=disturbances, seed=st.integers(0, 2**32))
def test_a_seed_is_a_sweep(fleet: list[MachineModel], blows: list[Disturbance], seed: int) -> None:
    def once() -> Simulated:
        return simulate(_runs(5), fleet, Settings(slot_s=5), seed=seed, disturbances=blows)

    assert repr(once()) == repr(once())


def test_a_thousand_runs_on_a_hundred_machines_that_come_and_go() -> None:
    """Hundreds of machines are lost; its time is no assertion (0.3 s on an idle core)."""
    spot = MachineModel(
        "spot", cpus=8, count=100, boot_s=120, boot_spread=0.4, mean_life_s=1800, notice_s=120
    )
    runs = _runs(1000, steps=2000, epochs=10, scored=(10,), save_s=0.2, interval_s=60.0)
    told = simulate(runs, [spot], Settings(threads=2, slot_s=10), seed=3)
    assert (told.done, told.failed, told.twice) == (1000, 0, 0)
    assert told.machines_lost > 200
    assert told.repeated_steps == 0, "each of them gave notice"


# -- many sweeps ----------------------------------------------------------------------------------


def test_what_is_known_has_no_range() -> None:
    told = forecast(_runs(4), [MachineModel(cpus=2, price=1.0, on_demand=2.0)], Settings())
    assert told.wall_s.low == told.wall_s.median == told.wall_s.high
    assert told.wall_s.width == 0
    assert told.on_demand_dollars.median == pytest.approx(2 * told.dollars.median)
    assert (told.finished, told.failed, told.losses.high) == (1.0, 0.0, 0)


def test_a_doubted_speed_makes_a_range_of_that_width() -> None:
    told = forecast(
        _runs(4), [MachineModel()], Settings(), doubt=Doubt(speed=0.1), seed=1, simulations=200
    )
    # Nine of ten of a logarithm with deviation 0.1 lie within a factor exp(1.645 * 0.1) = 1.18.
    assert 0.10 < told.wall_s.width < 0.25
    assert told.wall_s.low < 4 * 102 < told.wall_s.high


def test_kinds_that_are_drawn_apart_even_each_other_out() -> None:
    many, one = (
        forecast(
            _runs(40),
            [MachineModel()],
            Settings(),
            doubt=Doubt(kind=0.3),
            kinds=kinds,
            simulations=60,
        ).wall_s
        for kinds in ([str(n) for n in range(40)], ["same"] * 40)
    )
    assert many.high - many.low < 0.5 * (one.high - one.low)


def test_a_seed_is_a_forecast_and_interruptions_cost_time() -> None:
    spot = MachineModel(cpus=4, count=2, boot_s=60, mean_life_s=600, price=0.3, on_demand=1.0)
    first, again, other = (
        forecast(_runs(20), [spot], Settings(slot_s=5), seed=seed, simulations=20)
        for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other
    stays = MachineModel(cpus=4, count=2, boot_s=60, price=1.0, on_demand=1.0)
    quiet = forecast(_runs(20), [stays], Settings(slot_s=5), simulations=20)
    assert quiet.wall_s.median < first.wall_s.median
    assert quiet.dollars.median == pytest.approx(first.on_demand_dollars.median)
    assert first.repeated.median > 0 == quiet.repeated.high


def test_what_can_never_end_says_so() -> None:
    never = [MachineModel(mean_life_s=1.0)]
    told = forecast(_runs(1), never, Settings(slot_s=100), simulations=2)
    assert told.finished == 0
    assert told.wall_s.median == math.inf


@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.floats(0, 1))
def test_a_quantile_lies_among_the_values(values: list[float], share: float) -> None:
    found = quantile(values, share)
    assert min(values) <= found <= max(values)
    assert quantile([math.inf, math.inf], share) == math.inf
    assert math.isnan(Range.of([1.0, math.nan]).median)
