"""The expansion of a grid: order, conditions, duplicates, names, random draws."""

import re
from pathlib import Path

import pytest
from config_parts import STORES, load, names
from hypothesis import given, settings
from hypothesis import strategies as st

from vesselflow.config.axes import Axis
from vesselflow.config.yaml_files import dump_yaml
from vesselflow.errors import UserError


def test_last_axis_varies_fastest(tmp_path: Path) -> None:
    text = STORES + "grid: {train.epochs: [1, 2], loss.beta: [0, 0.5, 1]}\n"
    expansion = load(tmp_path, text).expand()
    assert [(p.params["train.epochs"], p.params["loss.beta"]) for p in expansion.points] == [
        (1, 0.0), (1, 0.5), (1, 1.0), (2, 0.0), (2, 0.5), (2, 1.0),
    ]  # fmt: skip
    assert [p.index for p in expansion.points] == list(range(6))
    assert expansion.points[4].name == "epochs=2,beta=0.5"
    assert expansion.points[4].experiment.loss["beta"] == 0.5


def test_conditional_axis(tmp_path: Path) -> None:
    text = STORES + (
        "grid:\n  loss.name: [bce, combined]\n"
        "  loss.beta: {values: [0, 1], when: {loss.name: combined}}\n"
    )
    assert [p.params for p in load(tmp_path, text).expand().points] == [
        {"loss.name": "bce"},
        {"loss.name": "combined", "loss.beta": 0.0},
        {"loss.name": "combined", "loss.beta": 1.0},
    ]


@pytest.mark.parametrize(
    ("when", "count"),
    [
        ("{train.amp: none}", 4),  # a default that nobody wrote
        ("{loss.name: combined}", 4),  # the default part
        ("{loss.smooth: 1}", 4),  # a default of the part; 1 is 1.0
        ("{train.epochs: 10}", 3),  # moved by the joint setting
        ("{size: s}", 3),  # the label
        ("{size: [s, l], train.epochs: [1, 2]}", 3),
    ],
)
def test_what_a_condition_may_look_at(tmp_path: Path, when: str, count: int) -> None:
    text = STORES + (
        "grid:\n  size: {settings: [{label: s, set: {train.epochs: 1}}, "
        "{label: l, set: {optimizer.lr: 0.1}}]}\n"
        f"  loss.beta: {{values: [0, 1], when: {when}}}\n"
    )
    assert len(load(tmp_path, text).expand().points) == count


def test_values_given_twice_are_removed_and_counted(tmp_path: Path) -> None:
    expansion = load(tmp_path, STORES + "grid: {loss.beta: [0.5, 0, 0.0, 5e-1]}\n").expand()
    assert [p.params["loss.beta"] for p in expansion.points] == [0.5, 0.0]
    assert (expansion.repeated, expansion.duplicates) == (2, 0)


def test_points_with_equal_experiments_are_merged_and_counted(tmp_path: Path) -> None:
    text = STORES + (
        "augment: {hflip: {}}\ngrid:\n  augment.hflip: [null, {}, {p: 0.5}, {p: 1}]\n"
        "  train.epochs: [1, 2]\n"
    )
    expansion = load(tmp_path, text).expand()
    assert len(expansion.points) == 6
    assert expansion.duplicates == 2
    assert [p.index for p in expansion.points] == list(range(6))


def test_joint_settings_and_axes_over_any_field(tmp_path: Path) -> None:
    text = STORES + (
        "grid:\n  data.train: [a, b]\n  loss: [{name: bce}, {name: fuzzy, beta: 0.1}]\n"
        "  size: {settings: [{label: x, set: {train.epochs: 2, model: {name: unet}}}]}\n"
    )
    points = load(tmp_path, text).expand().points
    assert [p.name for p in points][1] == "train=a,loss=fuzzy-0.1-1,size=x"
    assert points[3].experiment.data.train == "b"
    assert points[3].experiment.model == {"name": "unet", "width": 8}


def test_a_setting_without_a_label_is_named_by_its_values(tmp_path: Path) -> None:
    text = STORES + (
        "grid: {size: {settings: [{set: {train.epochs: 2, model.name: unet}}, "
        "{label: big, set: {train.epochs: 9}}, {label: null, set: {data.ood: [b], train.ema: 0.5}}"
        ", {set: {loss: {name: bce, pos_weight: 2}}}]}}\n"
    )
    labels = ["epochs-2+name-unet", "big", "ood-b+ema-0.5", "loss-bce-2"]
    assert names(load(tmp_path, text)) == [f"size={label}" for label in labels]
    for label in labels:
        assert names(load(tmp_path, text, overrides=[f"size={label}"])) == [f"size={label}"]
    again = load(tmp_path, dump_yaml(load(tmp_path, text).resolved()), name="again.yaml")
    assert names(again) == names(load(tmp_path, text))


def test_settings_whose_labels_would_be_equal_are_refused(tmp_path: Path) -> None:
    text = STORES + "grid: {size: {settings: [{set: {loss.beta: 1}}, {set: {loss.beta: 1.0}}]}}\n"
    with pytest.raises(UserError, match=r"grid\.size: two settings have the same label; allowed: "):
        load(tmp_path, text)


def test_names_are_short_unique_and_safe(tmp_path: Path) -> None:
    text = STORES + (
        "grid:\n  model.name: [wnet, unet]\n  loss.name: [bce, fuzzy]\n"
        "  split.file: [../a b/c.csv, ..-a-b-c.csv, null, " + "x" * 150 + "]\n"
    )
    found = names(load(tmp_path, text))
    assert found[2] == "model.name=wnet,loss.name=bce,file=null"
    assert len(set(found)) == len(found) == 16
    for name in found:
        assert len(name) <= 100
        assert re.fullmatch(r"[A-Za-z0-9._+=,~-]+", name)


def test_a_longer_axis_keeps_the_names_of_the_other_points(tmp_path: Path) -> None:
    short = load(tmp_path, STORES + "grid: {loss.beta: [0, 1]}\n")
    longer = load(tmp_path, STORES + "grid: {loss.beta: [0, 0.5, 1]}\n")
    assert set(names(short)) < set(names(longer))


RANDOM = (
    "grid:\n  loss.name: [bce, fuzzy]\n"
    "  loss.beta: {low: 0, high: 1, step: 0.25, when: {loss.name: fuzzy}}\n"
    "  optimizer.lr: {low: 1e-4, high: 1e-1, log: true}\n"
    "  train.epochs: {low: 2, high: 5, integer: true}\n"
)


def test_random_draws_are_extended_by_more_samples(tmp_path: Path) -> None:
    few = load(tmp_path, STORES + RANDOM + "search: {sampler: random, samples: 5}\n").expand()
    many = load(tmp_path, STORES + RANDOM + "search: {sampler: random, samples: 40}\n").expand()
    assert many.points[:5] == few.points
    other = "search: {sampler: random, samples: 5, seed: 1}\n"
    assert load(tmp_path, STORES + RANDOM + other).expand().points != few.points
    for point in many.points:
        assert ("loss.beta" in point.params) == (point.params["loss.name"] == "fuzzy")
        assert 1e-4 <= point.params["optimizer.lr"] <= 1e-1
        assert point.params["train.epochs"] in (2, 3, 4, 5)
        assert point.params.get("loss.beta", 0) in (0, 0.25, 0.5, 0.75, 1)


def test_random_draws_of_an_axis_do_not_depend_on_the_other_axes(tmp_path: Path) -> None:
    search = "search: {sampler: random, samples: 8}\n"
    with_more = load(tmp_path, STORES + RANDOM + search).expand()
    alone = load(
        tmp_path, STORES + "grid: {optimizer.lr: {low: 1e-4, high: 1e-1, log: true}}\n" + search
    ).expand()
    assert [p.params["optimizer.lr"] for p in alone.points] == [
        p.params["optimizer.lr"] for p in with_more.points
    ]


def test_golden_draws(tmp_path: Path) -> None:
    # Recorded once: a change would give every random space other points.
    text = STORES + "grid: {optimizer.lr: {low: 0.001, high: 1}}\n"
    points = load(tmp_path, text + "search: {sampler: random, samples: 3}\n").expand().points
    assert [p.params["optimizer.lr"] for p in points] == GOLDEN_DRAWS


GOLDEN_DRAWS = [0.540022, 0.584256, 0.617141]


@settings(deadline=None, max_examples=100)
@given(
    st.floats(0, 1, exclude_max=True),
    st.floats(0.001, 10),
    st.floats(0, 10),
    st.sampled_from([{}, {"log": True}, {"step": 0.3}]),
)
def test_draws_stay_in_their_range(
    u: float, low: float, width: float, options: dict[str, float | bool]
) -> None:
    axis = Axis.model_validate({"low": low, "high": low + width, **options})
    assert low <= axis.draw(u) <= low + width


def test_a_range_of_steps_is_drawn_evenly() -> None:
    axis = Axis(low=0, high=1, step=0.1)
    found = {round(axis.draw(i / 1100), 6) for i in range(1100)}
    assert found == {i / 10 for i in range(11)}
