"""Schedules and argument models: values, ranges, what is refused and how, what is hashed."""

import json
import math
import subprocess
import sys
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from vesselflow.config.scalars import CURVES, Kind, ScalarSchedule, resolve
from vesselflow.config.yaml_files import parse_yaml
from vesselflow.errors import UserError
from vesselflow.losses import LOSSES

quick = settings(deadline=None, max_examples=60)


def schedule(text: str) -> ScalarSchedule:
    return ScalarSchedule.model_validate(yaml.safe_load(text))


@pytest.mark.parametrize(
    ("text", "progress", "expected"),
    [
        ("{schedule: constant, from: 0.3}", 0.7, 0.3),
        ("{schedule: linear, from: 0.2, to: 0.6}", 0.25, 0.3),
        ("{schedule: linear, from: 1, to: 0, start: 0.2, end: 0.6}", 0.5, 0.25),
        # (1 - cos(pi / 4)) / 2 of the way
        ("{schedule: cosine, from: 0, to: 1}", 0.25, (1 - math.sqrt(0.5)) / 2),
        ("{schedule: cosine, from: 0, to: 1}", 0.5, 0.5),
        # One jump, halfway between start and end.
        ("{schedule: step, from: 0.1, to: 0.9, start: 0.2, end: 0.6}", 0.39, 0.1),
        ("{schedule: step, from: 0.1, to: 0.9, start: 0.2, end: 0.6}", 0.41, 0.9),
        ("{schedule: step, from: 0.1, to: 0.9, start: 0.5, end: 0.5}", 0.49, 0.1),
        ("{schedule: step, from: 0.1, to: 0.9, start: 0.5, end: 0.5}", 0.5, 0.9),
        # The geometric mean halfway.
        ("{schedule: exponential, from: 0.01, to: 1}", 0.5, 0.1),
        # A tenth of training unless it says otherwise.
        ("{schedule: warmup, from: 0, to: 1}", 0.05, 0.5),
        ("{schedule: warmup, from: 0, to: 1}", 0.1, 1.0),
        ("{schedule: warmup, from: 0, to: 1, end: 0.5}", 0.25, 0.5),
    ],
)
def test_values_by_hand(text: str, progress: float, expected: float) -> None:
    assert schedule(text).value(progress) == pytest.approx(expected, abs=1e-12)


def test_every_kind_has_a_curve() -> None:
    assert set(CURVES) == set(get_args(Kind))


levels = st.floats(1e-3, 1.0)


@quick
@given(
    kind=st.sampled_from([kind for kind in get_args(Kind) if kind != "constant"]),
    ends=st.tuples(levels, levels),
    way=st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted),
    progress=st.lists(st.floats(0, 1), min_size=2, max_size=6).map(sorted),
)
def test_monotone_between_the_ends_and_clamped_outside(
    kind: str, ends: tuple[float, float], way: list[float], progress: list[float]
) -> None:
    first, last = ends
    start, end = way
    line = ScalarSchedule.model_validate(
        {"schedule": kind, "from": first, "to": last, "start": start, "end": end}
    )
    values = [line.value(p) for p in progress]
    rising = sorted(values) if last >= first else sorted(values, reverse=True)
    assert values == pytest.approx(rising, abs=1e-12)
    assert all(min(ends) <= value <= max(ends) for value in values)
    assert line.value(1.0) == last
    if start < end:
        assert line.value(start) == first
        assert line.value(0.0) == first
    assert resolve(line, progress[0]) == values[0]


@quick
@given(value=st.floats(0, 1), progress=st.floats(0, 1))
def test_a_constant_and_a_number_are_the_same(value: float, progress: float) -> None:
    line = ScalarSchedule.model_validate({"schedule": "constant", "from": value})
    assert line.value(progress) == value == resolve(value, progress)


# ---- what is refused, and the line the user reads -----------------------------------------------


@pytest.mark.parametrize(
    ("values", "line"),
    [
        (
            {"beta": 1.3},
            "loss.beta: 1.3 is not allowed; allowed: a number in [0, 1] or a schedule (",
        ),
        ({"beta": -0.1}, "loss.beta: -0.1 is not allowed; allowed: a number in [0, 1]"),
        ({"beta": "much"}, "loss.beta: 'much' is not allowed; allowed: a number in [0, 1]"),
        ({"beta": True}, "loss.beta: true is not allowed"),
        ({"beta": None}, "loss.beta: null is not allowed"),
        ({"beta": float("nan")}, "loss.beta: nan is not allowed"),
        ({"beta": [0.1]}, "loss.beta: [0.1] is not allowed"),
        ({"smooth": 0}, "loss.smooth: 0 is not allowed; allowed: a number above 0"),
        ({"smooth": float("inf")}, "loss.smooth: inf is not allowed"),
        ({"pos_weight": "balance"}, "allowed: a number above 0 or balanced or a schedule ("),
        ({"per": "pixel"}, "loss.per: 'pixel' is not allowed; allowed: image, batch"),
        ({"bata": 1}, "loss.bata: unknown key 'bata'"),
        (
            {"beta": {"schedule": "linear", "from": 0, "to": 1.3}},
            "loss.beta.to: 1.3 is not allowed; allowed: a number in [0, 1]",
        ),
        (
            {"beta": {"schedule": "cosine", "from": -1, "to": 1}},
            "loss.beta.from: -1.0 is not allowed; allowed: a number in [0, 1]",
        ),
        (
            {"beta": {"schedule": "lineal", "from": 0, "to": 1}},
            "loss.beta.schedule: 'lineal' is not allowed; allowed: constant, linear, cosine",
        ),
        ({"beta": {"schedule": ["linear"], "from": 0, "to": 1}}, "loss.beta.schedule: ['linear']"),
        ({"beta": {"schedule": "linear", "to": 1}}, "loss.beta.from: this key is required"),
        ({"beta": {"from": 0, "to": 1}}, "loss.beta.schedule: this key is required"),
        (
            {"beta": {"schedule": "linear", "from": 0, "to": 1, "stat": 0.5}},
            "loss.beta.stat: unknown key 'stat'; allowed: schedule, from, to, start, end",
        ),
        (
            {"beta": {"schedule": "linear", "from": 0, "to": 1, "start": 0.6, "end": 0.3}},
            "loss.beta.start: 0.6 is not allowed; allowed: start at or before end (0.3)",
        ),
        (
            {"beta": {"schedule": "linear", "from": 0, "to": 1, "end": 2}},
            "loss.beta.end: 2 is not allowed; allowed: 0 to 1",
        ),
        (
            {"beta": {"schedule": "exponential", "from": 0, "to": 1}},
            "loss.beta.from: 0.0 is not allowed; allowed: a number above 0 (schedule exponential)",
        ),
        (
            {"beta": {"schedule": "constant", "from": 0.2, "to": 1}},
            "loss.beta.to: 1.0 is not allowed; allowed: 0.2 (a constant keeps `from`)",
        ),
    ],
)
def test_refusals_name_key_value_and_what_is_allowed(values: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as caught:
        LOSSES.validate({"name": "combined", **values}, where="loss")
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_loss_names_the_closest() -> None:
    with pytest.raises(UserError, match="did you mean 'fuzzy'"):
        LOSSES.validate({"name": "fuzy"})


# ---- plain data out and in again ----------------------------------------------------------------

RAMP = {"schedule": "linear", "from": 0.1, "to": 0.9}


#: Those that need no more than a name.
PLAIN = [
    part.name
    for part in LOSSES
    if not any(field.is_required() for field in part.arguments.model_fields.values())
]


@pytest.mark.parametrize("name", PLAIN)
def test_validated_specs_validate_to_themselves(name: str) -> None:
    keys = [
        key
        for key, value in LOSSES.validate({"name": name}).items()
        if key != "name" and not isinstance(value, str | int)
    ]
    for spec in [{"name": name}, *({"name": name, key: RAMP} for key in keys)]:
        plain = LOSSES.validate(spec)
        assert LOSSES.validate(plain) == plain
        assert LOSSES.validate(json.loads(json.dumps(plain))) == plain
        assert LOSSES.validate(yaml.safe_load(yaml.safe_dump(plain))) == plain
        assert LOSSES.canonical(plain) == LOSSES.canonical(spec)
        model, again = (LOSSES.arguments(name, _flat(s)) for s in (spec, plain))
        assert model == again


def _flat(spec: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in spec.items() if key != "name"}


def test_a_dump_speaks_as_yaml_does() -> None:
    plain = LOSSES.validate({"name": "combined", "beta": RAMP})
    assert plain["beta"] == {**RAMP, "start": 0.0, "end": 1.0}
    assert LOSSES.canonical({"name": "combined", "beta": RAMP})["beta"]["from"] == 0.1


def test_a_bare_dump_of_arguments_validates_to_itself() -> None:
    model = LOSSES.arguments("combined", {"beta": RAMP, "smooth": {**RAMP, "schedule": "warmup"}})
    for dump in (
        model.model_dump(mode="json"),
        model.model_dump(),
        model.model_dump(by_alias=True),
    ):
        assert type(model).model_validate(dump) == model
    assert type(model).model_validate_json(model.model_dump_json()) == model


def test_the_same_number_in_other_words_is_the_same_spec() -> None:
    one, other = {"name": "combined", "beta": 1}, {"name": "combined", "beta": 1.0}
    assert LOSSES.canonical(one) == LOSSES.canonical(other)
    read = parse_yaml("smooth: 1e-3", where="x")
    assert LOSSES.validate({"name": "dice", **read})["smooth"] == 0.001
    for text in ("'1e-3'", "1_0", "0.5s"):
        with pytest.raises(UserError, match="allowed: a number above 0 or a schedule"):
            LOSSES.validate({"name": "dice", "smooth": parse_yaml(text, where="x")})
    assert LOSSES.canonical({"name": "combined", "beta": 0.5}) == {"name": "combined", "version": 1}


def test_scalars_of_a_built_loss_are_the_resolved_ones() -> None:
    loss = LOSSES.build({"name": "combined", "beta": RAMP, "pos_weight": "balanced"})
    assert loss.scalars(0.5) == pytest.approx({"beta": 0.5, "smooth": 1.0, "label_smoothing": 0.0})
    assert LOSSES.build({"name": "focal"}).scalars(0.0) == {"gamma": 2.0}


def test_names_and_schedules_import_no_torch() -> None:
    code = (
        "import sys, vesselflow.losses, vesselflow.metrics;"
        "vesselflow.losses.LOSSES.validate({'name': 'fuzzy', 'beta': 0.7});"
        "assert not {'torch', 'ray', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
