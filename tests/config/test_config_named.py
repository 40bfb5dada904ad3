"""Keys of a section that name a registered part: refused by name, told, and in a run's name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pytest
from config_parts import REGISTRIES, STORES, load

from vesselflow.config.experiment import load_experiment
from vesselflow.config.fingerprint import experiment_identity, run_id
from vesselflow.config.keys import reference
from vesselflow.config.named import Named
from vesselflow.config.registry import Arguments, Registry
from vesselflow.errors import UserError

FACTS: dict[str, Any] = {"seed": 0, "store_digest": "5" * 20, "split_digest": "7" * 20}


def methods(version: int) -> dict[str, Registry]:
    """The registries with two normalisations, `rank` in this version."""
    registry = Registry("normalisation")
    registry.add("standard", target="nowhere:nothing")
    registry.add("rank", target="nowhere:nothing", version=version)
    return {**REGISTRIES, "normalisation": registry}


def test_a_part_that_is_registered_is_taken_and_told_without_another_edit(tmp_path: Path) -> None:
    text = STORES + "normalise: {method: rank}\n"
    space = load(tmp_path, text, registries=methods(1))
    assert space.expand().points[0].experiment.normalise.method == "rank"
    (chapter,) = [one for one in reference(methods(1)) if one.name == "normalise"]
    assert [row.type for row in chapter.keys if row.key == "method"] == ["standard, rank"]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("normalise: {method: rnak}\n", "normalise.method"),
        ("grid: {normalise.method: [rank, rnak]}\n", "grid.normalise.method"),
    ],
)
def test_a_name_that_is_not_gets_one_line(tmp_path: Path, text: str, place: str) -> None:
    with pytest.raises(UserError) as caught:
        load(tmp_path, STORES + text, registries=methods(1))
    assert str(caught.value) == (
        f"space.yaml: {place}: 'rnak' is not allowed; allowed: standard, rank; did you mean 'rank'?"
    )


def test_the_first_version_says_nothing_and_a_later_one_renames_its_runs_only() -> None:
    names = {}
    for method in ("standard", "rank"):
        for version in (1, 2):
            registries = methods(version)
            data = {"data": {"train": "a"}, "normalise": {"method": method}}
            experiment = load_experiment(data, registries=registries)
            names[method, version] = run_id(experiment, **FACTS, registries=registries)
            identity = experiment_identity(experiment, registries)["normalise"]
            assert ("method_version" in identity) == ((method, version) == ("rank", 2))
    assert names["standard", 1] == names["standard", 2]
    assert names["rank", 1] != names["rank", 2]
    unknowing = load_experiment({"data": {"train": "a"}}, registries=REGISTRIES)
    assert run_id(unknowing, **FACTS, registries=REGISTRIES) == names["standard", 1]


def test_an_argument_that_names_a_part_is_held_against_it_and_enters_with_its_later_versions() -> (
    None
):
    def layers(version: int) -> Registry:
        norms = Registry("norm")
        norms.add("batch", target="nowhere:nothing")
        norms.add("group", target="nowhere:nothing", version=version)

        class Layer(Arguments):
            norm: Annotated[str, Named("norm", norms)] = "batch"
            other: Annotated[str | None, Named("norm", norms)] = None

        registry = Registry("layer")
        registry.add("layer", target="nowhere:nothing", arguments=Layer)
        return registry

    with pytest.raises(UserError) as caught:
        layers(1).validate({"name": "layer", "norm": "gruop"}, where="layer")
    assert str(caught.value) == (
        "layer.norm: 'gruop' is not allowed; allowed: batch, group; did you mean 'group'?"
    )
    plain = {"name": "layer", "version": 1}
    assert layers(2).canonical({"name": "layer"}) == plain
    chosen = {"name": "layer", "norm": "group"}
    assert layers(1).canonical(chosen) == {**plain, "norm": "group"}
    assert layers(2).canonical(chosen) == {**plain, "norm": "group", "norm_version": 2}
