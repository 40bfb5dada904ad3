"""Errors keep their type, fields and text on their way between processes."""

from __future__ import annotations

import copy
import pickle

import pytest

from vesselflow.errors import (
    MAX_LINES,
    Faults,
    ShapeError,
    UserError,
    UserErrors,
    VesselflowError,
    closest,
)
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


def test_several_errors_have_a_line_each() -> None:
    several = UserErrors([UserErrors([_full(), UserError("a\nb")]), UserError("c", where="d")])
    assert several.lines() == [str(_full()), "a b", "d: c"]
    assert str(several) == "\n".join(several.lines())
    # Whoever knows of one place only keeps the first.
    assert (several.what, several.where) == (_full().what, _full().where)
    many = UserErrors(UserError(f"no {number}") for number in range(MAX_LINES + 2))
    assert many.lines() == [*(f"no {number}" for number in range(MAX_LINES)), "... and 2 more"]
    assert len(UserErrors(many.errors[:MAX_LINES]).lines()) == MAX_LINES


def test_several_errors_make_the_round_trip_too() -> None:
    several = UserErrors([_full(), _Special("bare")])
    back = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(several))))
    assert type(back) is UserErrors
    assert [type(error) for error in back.errors] == [UserError, _Special]
    assert str(back) == str(several)


def test_what_is_gathered_is_told_once() -> None:
    faults = Faults()
    faults.tell()
    assert not faults
    for _ in range(2):
        with faults.gathered():
            raise _full()
    with pytest.raises(UserError) as caught:
        faults.tell()
    assert type(caught.value) is UserError
    faults.add(UserErrors([_full(), UserError("other")]))
    with pytest.raises(UserErrors) as both:
        faults.tell()
    assert [error.what for error in both.value.errors] == [_full().what, "other"]
    with pytest.raises(ZeroDivisionError), faults.gathered():
        raise ZeroDivisionError


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
