import pytest
from hypothesis import given
from hypothesis import strategies as st

from vesselflow.errors import UserError
from vesselflow.sweeps.capacity import Node, SlotPlan, make_plan, wanted_slots, workers_that_fit

FREE = {
    "slots": (1, None),
    "workers": 1,
    "threads": 1,
    "gpu": 0.0,
    "runs": 100,
    "runs_per_point": 2,
    "micro_batches_per_step": 8,
}


def test_a_laptop_gets_a_slot_per_cpu():
    plan = make_plan([Node(2)], **FREE)
    assert (plan.slots, plan.workers, plan.threads, plan.relays) == (2, 1, 1, 2)


def test_a_worker_never_spans_two_machines():
    assert workers_that_fit([Node(3), Node(3)], threads=2, gpu=0) == 2


def test_a_fraction_of_a_gpu_never_spans_two():
    # 0.4 fits twice on each of two GPUs, although 2 / 0.4 = 5.
    assert workers_that_fit([Node(16, 2)], threads=1, gpu=0.4) == 4


def test_no_more_slots_than_runs():
    assert make_plan([Node(8)], **{**FREE, "runs": 3}).slots == 3


def test_more_workers_than_the_machine_has_is_refused():
    with pytest.raises(UserError) as error:
        make_plan([Node(2)], **{**FREE, "workers": 4}, where="s.yaml")
    assert str(error.value) == (
        "s.yaml: resources: 4 workers x 1 thread do not fit; "
        "allowed: at most 2 workers on 1 machine with 2 CPUs; "
        "lower resources.workers or resources.threads"
    )


def test_more_slots_than_fit_are_refused():
    with pytest.raises(UserError, match="at most 2 workers on 1 machine"):
        make_plan([Node(2)], **{**FREE, "slots": (3, 3)})


def test_an_autoscaler_may_add_what_is_missing():
    assert make_plan([Node(2)], **{**FREE, "workers": 4}, can_grow=True).slots == 1


def test_workers_take_whole_micro_batches():
    with pytest.raises(UserError, match="cannot share a step of 2 micro-batches"):
        make_plan([Node(8)], **{**FREE, "workers": 3, "micro_batches_per_step": 2})


@given(
    st.lists(st.integers(1, 16), min_size=1, max_size=5),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 50),
    st.integers(1, 9),
)
def test_every_plan_fits_all_at_once(cpus, workers, threads, runs, per_point):
    nodes = [Node(float(count)) for count in cpus]
    try:
        plan = make_plan(
            nodes,
            **{
                **FREE,
                "workers": workers,
                "threads": threads,
                "runs": runs,
                "runs_per_point": per_point,
            },
        )
    except UserError:
        assert workers_that_fit(nodes, threads, 0) < workers
        return
    assert 1 <= plan.slots <= runs
    assert plan.slots * plan.workers <= workers_that_fit(nodes, threads, 0)
    assert (plan.relays - 1) * per_point >= plan.slots or plan.relays * per_point >= plan.slots


def _plan(least: int, most: int | None) -> SlotPlan:
    return make_plan([Node(4)], **{**FREE, "slots": (least, most)}, can_grow=True)


def test_slots_follow_the_machines_between_fewest_and_most():
    plan = _plan(1, 6)
    machines = [Node(4)]
    assert [wanted_slots(plan, machines * n, 100) for n in range(4)] == [0, 4, 6, 6]


def test_as_many_as_fit_are_wanted_when_nothing_is_said():
    assert wanted_slots(_plan(1, None), [Node(4)] * 5, 100) == 20


def test_none_is_started_where_none_fits():
    plan = _plan(3, 6)
    assert wanted_slots(plan, [], 100) == 0, "no machine is a state that one waits in"
    assert wanted_slots(plan, [Node(0), Node(0.5)], 100) == 0
    assert wanted_slots(plan, [Node(2)], 100) == 2, "fewer than the fewest are better than none"


@given(st.integers(1, 9), st.integers(0, 9), st.integers(0, 30), st.integers(0, 9))
def test_there_is_never_a_slot_without_a_run_or_a_place(least, more, machines, outstanding):
    plan = _plan(least, least + more)
    wanted = wanted_slots(plan, [Node(1)] * machines, outstanding)
    assert 0 <= wanted <= min(outstanding, least + more, machines)
