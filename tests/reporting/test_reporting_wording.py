import json
import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vesselflow.reporting.wording import (
    NULL,
    decode,
    duration,
    listing,
    number,
    plain,
    printable,
    short_names,
    spread,
    value_text,
)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (3599.7, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (90000, "1 d 01 h"),
        (None, "—"),
        (math.inf, "—"),
    ],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_spread_of_one_run_is_n_1():
    assert spread(0.8, math.nan, 1) == "0.800 (n = 1)"
    assert spread(0.8, 0.0, 1) == "0.800 (n = 1)"
    assert spread(math.nan, math.nan, 0) == "—"
    assert spread(0.8, 0.0, 3) == "0.800 ± 0.000"


def test_number_has_no_negative_zero():
    assert number(-0.0001) == "0.000"
    assert number(-0.01) == "-0.010"


def test_short_names_stay_clear():
    assert short_names(["loss.name", "loss.beta", "model.name"]) == {
        "loss.name": "loss",
        "loss.beta": "beta",
        "model.name": "model",
    }
    assert short_names(["a.width", "b.width"]) == {"a.width": "a.width", "b.width": "b.width"}


def test_values_as_a_person_writes_them():
    assert value_text(0.5) == "0.5"
    assert value_text(True) == "yes"
    assert value_text(None) == "—"
    assert value_text([1, "a"]) == "[1, a]"
    assert value_text({"name": "unet", "width": 8}) == "unet width=8"
    assert value_text(NULL) == "null"
    assert value_text({"name": "unet", "weights": None, "heads": [None]}) == (
        "unet weights=null heads=[null]"
    )
    assert decode('"fuzzy"') == "fuzzy"
    assert decode(math.nan) is None
    assert decode("null") is NULL
    assert decode("not json") == "not json"


def test_null_is_told_from_its_name_and_survives_json():
    assert json.dumps({"ema": NULL}) == '{"ema": "null"}'
    assert (repr(NULL), str(NULL)) == ("null", "null")
    assert plain(NULL) is None
    assert plain("null") == "null"
    assert pickle.loads(pickle.dumps(NULL)) is NULL


def test_listing():
    assert [listing("abc"[:n]) for n in range(4)] == ["", "a", "a and b", "a, b and c"]


@given(st.text())
def test_printable_is_one_printable_line(text):
    line = printable(text)
    assert line.isprintable()
    assert len(line) <= len(text)
