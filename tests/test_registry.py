"""Registries: explicit, without duplicates, lazy, and telling what is allowed."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

import pytest
from pydantic import Field

from vesselflow.config.registry import Arguments, Registry
from vesselflow.errors import UserError


class _Scale(Arguments):
    """Arguments of a part."""

    factor: Annotated[float, Field(ge=0, le=1)] = 0.5
    mode: Literal["sum", "mean"] = "mean"


class _Size(Arguments):
    """Arguments with one that has no default."""

    size: int


def scale(**values: object) -> dict[str, object]:
    return values


@pytest.fixture
def parts() -> Registry:
    registry = Registry("part")
    registry.add("scale", target=f"{__name__}:scale", arguments=_Scale, version=3)
    registry.add("plain", target=f"{__name__}:scale")
    registry.add("size", target=f"{__name__}:scale", arguments=_Size)
    registry.add("absent", target="vesselflow_is_not_there:thing")
    return registry


def test_names_stand_in_order_of_registration(parts: Registry) -> None:
    assert parts.names() == ["scale", "plain", "size", "absent"]
    assert [part.name for part in parts] == parts.names()
    assert "scale" in parts
    assert "skale" not in parts


def test_a_name_that_is_taken_is_refused(parts: Registry) -> None:
    with pytest.raises(ValueError, match="part 'scale' is registered already"):
        parts.add("scale", target="other:thing")


def test_an_unknown_name_gets_the_names_and_the_closest(parts: Registry) -> None:
    with pytest.raises(UserError) as caught:
        parts.part("skale", where="a.yaml: part.name")
    shown = str(caught.value)
    assert shown.startswith("a.yaml: part.name: unknown part 'skale'")
    assert "allowed: scale, plain, size, absent" in shown
    assert shown.endswith("did you mean 'scale'?")


@pytest.mark.parametrize("name", [None, 3, ["scale"], {"a": 1}])
def test_a_name_that_is_no_text_is_refused(parts: Registry, name: object) -> None:
    with pytest.raises(UserError, match="unknown part"):
        parts.part(name)


def test_defaults_are_filled_in(parts: Registry) -> None:
    assert parts.validate({"name": "scale"}) == {"name": "scale", "factor": 0.5, "mode": "mean"}


@pytest.mark.parametrize(
    ("spec", "pieces"),
    [
        ({"name": "scale", "faktor": 1}, ["unknown key 'faktor'", "factor, mode", "'factor'?"]),
        ({"name": "scale", "factor": 1.3}, ["part.factor", "1.3", "1"]),
        ({"name": "scale", "factor": float("nan")}, ["part.factor", "nan"]),
        ({"name": "scale", "factor": "much"}, ["part.factor", "much"]),
        ({"name": "scale", "mode": "maen"}, ["part.mode", "sum, mean", "did you mean 'mean'?"]),
        ({"name": "plain", "factor": 1}, ["unknown key 'factor'", "no keys here"]),
        ({"name": "size"}, ["part.size", "required"]),
        ({"name": "scal"}, ["part.name", "unknown part", "did you mean 'scale'?"]),
        ({}, ["part.name", "unknown part"]),
    ],
)
def test_a_bad_spec_gets_one_line(parts: Registry, spec: dict, pieces: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        parts.validate(spec, where="part")
    shown = str(caught.value)
    assert "\n" not in shown
    for piece in pieces:
        assert piece in shown, shown


def test_what_is_hashed_leaves_defaults_out(parts: Registry) -> None:
    bare = {"name": "scale", "version": 3}
    assert parts.canonical({"name": "scale"}) == bare
    assert parts.canonical({"name": "scale", "factor": 0.5, "mode": "mean"}) == bare
    assert parts.canonical({"factor": 0.25, "name": "scale"}) == {**bare, "factor": 0.25}


def test_build_calls_the_target_with_arguments_and_runtime(parts: Registry) -> None:
    assert parts.build({"name": "scale", "factor": 1}, classes=2) == {
        "factor": 1.0,
        "mode": "mean",
        "classes": 2,
    }


def test_a_target_is_imported_only_when_it_is_built(parts: Registry) -> None:
    assert parts.validate({"name": "absent"}) == {"name": "absent"}
    assert "vesselflow_is_not_there" not in sys.modules
    with pytest.raises(ModuleNotFoundError):
        parts.build({"name": "absent"})


def test_arguments_cannot_be_changed_afterwards(parts: Registry) -> None:
    arguments = parts.arguments("scale", {})
    with pytest.raises(ValueError, match="frozen"):
        arguments.factor = 1.0  # type: ignore[attr-defined]
