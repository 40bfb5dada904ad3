"""The checkpoint bench: its sums, and that every way keeps a state while the training goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vesselflow.bench import checkpoint as bench
from vesselflow.errors import VesselflowError
from vesselflow.records.checkpoints import Checkpoints
from vesselflow.training import packing


def seen(stood: float, extra: float = 0.0, size: int = 300_000_000) -> bench.Seen:
    """Ten steps of a second, of which two beside a write are slower by `extra` together."""
    steps = [1.0] * 4 + [1 + extra / 4, 1 + 3 * extra / 4] + [1.0] * 4
    return bench.Seen(steps, [number in (4, 5) for number in range(10)], [stood], [0.9], size)


def found(**changes: list[bench.Seen]) -> dict[str, list[bench.Seen]]:
    return {
        bench.OURS: [seen(0.05, 0.35), seen(0.05, 0.25)],
        bench.PLAIN: [seen(1.2), seen(0.6)],
        bench.ASYNC: [seen(0.5, 0.3), seen(0.5, 0.4)],
        bench.NONE: [bench.Seen([1.0] * 10, [False] * 10)] * 2,
        **changes,
    }


def test_a_save_costs_what_it_held_up_and_what_steps_beside_it_took_longer() -> None:
    result = bench.summarise(found(), seen(0.1, 0.3), {"on": "paper"})
    rows, ratios = result["peers"], result["ratios"]
    # 0.05 + 0.35 and 0.05 + 0.25.
    cost = rows["vesselflow: a save costs"]
    assert (cost["median"], cost["low"], cost["high"]) == pytest.approx((0.35, 0.3, 0.4))
    assert rows["vesselflow: it holds up"]["n"] == 2
    assert rows["vesselflow: size"]["median"] == 300
    # 1.2 / 0.4 and 0.6 / 0.3.
    ratio = ratios["torch.save in the loop / vesselflow: cost"]
    assert (ratio["high"], ratio["low"]) == pytest.approx((3, 2))
    # 10.4 and 10.3 of 10 seconds.
    assert ratios["time, vesselflow / no saving"]["median"] == pytest.approx(1.035)
    # sqrt(2 x 0.35 x 3600) = 50.2 s: 0.7 %; as shipped 0.4 of 10.4 s, once.
    stall, shipped = result["targets"]
    assert stall["value"] == pytest.approx(
        (bench.stall_percent(0.4) + bench.stall_percent(0.3)) / 2
    )
    assert bench.stall_percent(0.35) == pytest.approx(100 * 0.35 / 50.2, rel=1e-3)
    assert (stall["met"], shipped["met"]) == (True, False)
    assert shipped["value"] == pytest.approx(100 * 0.4 / 10.4)
    assert rows["as shipped, one training: stall"]["settings"]["saves"] == 1


def test_a_way_of_which_no_size_was_seen_has_no_row_of_it() -> None:
    rows = bench.summarise(found(**{bench.ASYNC: [seen(1.0, size=0)] * 2}), seen(0.1), {})["peers"]
    assert f"{bench.ASYNC}: size" not in rows
    assert f"{bench.PLAIN}: size" in rows


def test_steps_that_were_quicker_beside_a_write_are_no_gain() -> None:
    assert seen(0.1, -0.4).cost == pytest.approx(0.1)


def test_cheap_saves_are_bounded_by_the_shortest_interval() -> None:
    assert bench.stall_percent(0.003) == pytest.approx(0.01)


def test_a_training_that_saved_nothing_is_no_figure() -> None:
    with pytest.raises(VesselflowError, match="saved nothing"):
        bench.summarise(found(), bench.Seen([1.0], [False]), {})


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize("way", [bench.OURS, bench.PLAIN, bench.ASYNC])
def test_every_way_keeps_the_state_of_its_step(way: str, tmp_path: Path) -> None:
    kept, checkpoints = bench.Seen(), Checkpoints(tmp_path)
    saver = bench.WAYS[way](
        kept, tmp_path, lambda step: lambda payload: checkpoints.save(step, payload)
    )
    state = {"w": torch.ones(1000), "n": 3, "none": None}
    with saver:
        saver.save(1, state)
        state["w"].zero_()
    assert len(kept.stood) == 1
    # Of ours the size is noted by what writes.
    assert (kept.size > 4000) == (way != bench.OURS)
    assert not saver.busy
    if way == bench.OURS:
        assert packing.load(checkpoints.load(1))["w"].sum() == 1000
    elif way == bench.PLAIN:
        assert torch.load(tmp_path / "1.pt")["w"].sum() == 1000
    else:
        assert list((tmp_path / "1").iterdir())
        assert len(kept.writes) == 1


@pytest.mark.parametrize("saves", [2, None])
def test_a_training_is_watched(saves: int | None, tmp_path: Path, monkeypatch) -> None:
    true = bench._experiment
    small = {"model": {"name": "wnet", "filters": [4, 8]}}

    def tiny(steps: int):
        experiment = true(steps)
        given = experiment.model_dump(mode="json", exclude_unset=True)
        given["train"]["checkpoint_every_s"] = 1e-9 if saves is None else 600.0
        return bench.load_experiment({**given, **small}, registries=bench.REGISTRIES)

    monkeypatch.setattr(bench, "_experiment", tiny)
    monkeypatch.setattr(bench, "MORE_S", 0.5)
    if saves is None:
        monkeypatch.setattr(bench, "WARM_STEPS", 0)
    watched = bench._train(tmp_path / "a", bench.OURS, "cpu", steps=5, saves=saves)
    assert len(watched.steps) == len(watched.written)
    if saves:
        assert len(watched.steps) == 10
        assert len(watched.stood) == len(watched.writes) == 2
        # The step after each save was beside its write; at least one other was not.
        assert [watched.written[0], watched.written[5]] == [True, True]
    else:
        assert len(watched.stood) >= 1
    assert watched.size > 1000
    assert min(watched.steps) > 0
    none = bench._train(tmp_path / "b", bench.NONE, "cpu", steps=5, saves=2)
    assert (none.stood, none.writes, any(none.written)) == ([], [], False)
