"""Exact resume: stopped, killed and damaged anywhere, a run ends as if nothing had happened."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import resume_cases as resume
import training_cases as cases
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from vesselflow.records.runs import RunRecord
from vesselflow.records.status import RunState

LAST = resume.STEPS - 1


@pytest.fixture(scope="module")
def nursery(tmp_path_factory) -> Iterator[resume.Nursery]:
    folder = tmp_path_factory.mktemp("resume")
    cases.tiny_stores(folder)
    with resume.Nursery(folder) as nursery:
        yield nursery


@pytest.fixture(scope="module")
def undisturbed(nursery) -> Path:
    """The results of one worker to which nothing happened."""
    results = nursery.folder / "undisturbed"
    assert nursery.run(results, resume.Attempt())[0][:2] == ("finished", resume.STEPS)
    return results


def assert_equal(results: Path, undisturbed: Path) -> None:
    """Weights and scores of all epochs byte for byte, curve and losses, and what was accepted."""
    assert cases.files_of(results, "cccc") == cases.files_of(undisturbed, "cccc")
    ours, theirs = (RunRecord(folder, "cccc") for folder in (results, undisturbed))
    assert len(theirs.rows()) == 2
    assert cases.differences(ours.rows(), theirs.rows()) == []
    for record in (ours, theirs):
        accepted = record.accepted()
        assert accepted is not None
        assert accepted["summary"] == {"steps": resume.STEPS, "skipped_steps": 1}


@st.composite
def ranks_and_steps(draw: st.DrawFn, workers: int) -> tuple[int, int]:
    return draw(st.integers(0, workers - 1)), draw(st.integers(0, LAST))


@st.composite
def attempts(draw: st.DrawFn) -> tuple[resume.Attempt, str]:
    """An attempt that is stopped or killed at a random step, and what is then torn."""
    workers = draw(st.integers(1, 3))
    moment = draw(ranks_and_steps(workers))
    killed = draw(st.booleans())
    attempt = resume.Attempt(
        workers,
        every_s=draw(st.sampled_from([1e-9, 0.05, 600.0])),
        write_s=draw(st.sampled_from([0.0, 0.1])),
        kill=moment if killed else None,
        all_die=killed and draw(st.booleans()),
        stop=None if killed else moment,
    )
    return attempt, draw(st.sampled_from(["", "", "cut", "changed", "empty"]))


def tear(results: Path, how: str) -> None:
    """Damage the newest checkpoint of all attempts, if there is one with anything in it."""
    found = sorted(results.rglob("*.ckpt"), key=lambda path: int(path.stem))
    if not how or not found or not (content := found[-1].read_bytes()):
        return
    middle = len(content) // 2
    torn = {
        "cut": content[:middle],
        "changed": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        "empty": b"",
    }
    found[-1].write_bytes(torn[how])


_numbers = itertools.count()


def check(nursery: resume.Nursery, undisturbed: Path, disturbed, workers: int) -> None:
    """Let happen what is to happen; then go on to the end, and compare."""
    results = nursery.folder / f"results-{next(_numbers)}"
    record, trained = RunRecord(results, "cccc"), 0
    for attempt, torn in disturbed:
        point = record.resume_point()
        rank, step = attempt.kill or attempt.stop
        # A run that got further before is not disturbed.
        reached = record.accepted() is None and (point[0] if point else 0) <= step
        told = nursery.run(results, attempt)
        for other, result in enumerate(told):
            if not reached:
                expected = ["finished"]
            elif attempt.stop:
                expected = ["stopped"]
            else:
                expected = ["handed back", None] if attempt.all_die else ["handed back"]
                expected = [None] if other == rank else expected
            assert (result and result[0]) in expected, (attempt, told)
        if attempt.stop:
            trained += told[0][1]
            if reached:
                # What a stop asks for is on the disk: not one step is lost.
                assert record.status().state is RunState.PAUSED
                assert record.resume_point()[0] == step + 1
        tear(results, torn)
    told = nursery.run(results, resume.Attempt(workers))
    assert [result and result[0] for result in told] == ["finished"] * workers, told
    if all(attempt.stop and not torn for attempt, torn in disturbed):
        assert trained + told[0][1] == resume.STEPS
    assert_equal(results, undisturbed)


@pytest.mark.parametrize("workers", [2, 3])
def test_any_number_of_workers_gives_the_same_run(nursery, undisturbed, workers):
    results = nursery.folder / f"undisturbed-{workers}"
    told = nursery.run(results, resume.Attempt(workers))
    assert [result and result[:2] for result in told] == [
        ("finished", 0 if rank else resume.STEPS) for rank in range(workers)
    ]
    assert_equal(results, undisturbed)


#: Each of these always, before what is drawn.
TWICE = [
    (resume.Attempt(2, every_s=1e-9, write_s=0.1, kill=(0, 3)), "changed"),
    (resume.Attempt(1, stop=(0, 7)), ""),
]
ALL_DIE = [
    (resume.Attempt(3, every_s=0.05, kill=(2, 8), all_die=True), ""),
    (resume.Attempt(2, every_s=1e-9, stop=(1, 8)), "cut"),
]
STOPS = [(resume.Attempt(2, stop=(1, 4)), ""), (resume.Attempt(3, stop=(2, 6)), "")]

FEW = settings(
    max_examples=3,
    deadline=None,
    # Each example takes seconds: what failed is told as it is.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@FEW
@given(disturbed=st.lists(attempts(), min_size=1, max_size=2), workers=st.integers(1, 3))
@example(disturbed=TWICE, workers=2)
@example(disturbed=ALL_DIE, workers=1)
@example(disturbed=STOPS, workers=3)
def test_a_disturbed_run_ends_as_an_undisturbed_one(nursery, undisturbed, disturbed, workers):
    check(nursery, undisturbed, disturbed, workers)


@pytest.mark.long
@settings(FEW, max_examples=60)
@given(disturbed=st.lists(attempts(), min_size=1, max_size=5), workers=st.integers(1, 3))
def test_a_much_disturbed_run_ends_as_an_undisturbed_one(nursery, undisturbed, disturbed, workers):
    check(nursery, undisturbed, disturbed, workers)
