"""Errors keep their type, fields and text on their way between processes."""

from __future__ import annotations

import copy
import pickle

import pytest

from vesselflow.errors import ShapeError, UserError, VesselflowError, closest
from vesselflow.records.atomic import Torn


def _full() -> UserError:
    return UserError(
        "beta 1.3 is not allowed",
        where="loss_beta.yaml: loss.beta",
        allowed="0 to 1",
        hint="use 1 for dice alone",
    )


def test_a_user_error_is_one_line() -> None:
    assert str(_full()) == (
        "loss_beta.yaml: loss.beta: beta 1.3 is not allowed; allowed: 0 to 1; use 1 for dice alone"
    )
    assert str(UserError("no such file")) == "no such file"
    assert str(UserError("two\nlines\t and  more", hint="a\nb")) == "two lines and more; a b"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("error", [_full(), UserError("bare")])
def test_a_round_trip_keeps_type_fields_and_text(error: UserError, protocol: int) -> None:
    back = error
    # Twice: a text that grows by a prefix on each hop would show.
    for _ in range(2):
        back = pickle.loads(pickle.dumps(back, protocol))
    assert type(back) is UserError
    assert (back.what, back.where, back.allowed, back.hint) == (
        error.what,
        error.where,
        error.allowed,
        error.hint,
    )
    assert str(back) == str(error)
    assert str(copy.copy(error)) == str(error)


class _Special(UserError):
    """A subclass without a constructor of its own."""


def test_a_subclass_comes_back_as_itself() -> None:
    back = pickle.loads(pickle.dumps(_Special("a", where="b")))
    assert type(back) is _Special
    assert str(back) == "b: a"


@pytest.mark.parametrize("error", [ShapeError("(1, 2) is not (2, 1)"), Torn("a: cut short")])
def test_the_other_errors_come_back_too(error: VesselflowError) -> None:
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert isinstance(back, VesselflowError)


def test_a_shape_error_is_a_value_error() -> None:
    assert issubclass(ShapeError, ValueError)


def test_closest() -> None:
    names = ["bce", "dice", "combined", "fuzzy"]
    assert closest("dicee", names) == "did you mean 'dice'?"
    assert closest("combine", names) == "did you mean 'combined'?"
    assert closest("lovasz", names) == ""
    assert closest(3, names) == ""
    assert closest("dice", []) == ""
