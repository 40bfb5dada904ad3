"""Factors on the augmentation of some sources: which they reach, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from vesselflow.config.experiment import Experiment, load_experiment
from vesselflow.config.loading import load_space
from vesselflow.errors import UserError
from vesselflow.runs.registries import REGISTRIES
from vesselflow.runs.specs import StoreFacts, augment_factors
from vesselflow.stores.schema import SourceInfo
from vesselflow.sweeps.planning import plan_sweep

NAMES = ["pseudo_1", "pseudo_2", "2019/a", "2019/b", "last"]
GROUPS = ["p1", "p2", "clinic", "clinic", "last"]


def facts(count: int = 5) -> StoreFacts:
    """A store of sources with names and groups, and nothing else."""
    sources = [
        SourceInfo(index, name, group, "", 8, 8, 1, "", "", (0, 0, 8, 8), {})
        for index, (name, group) in enumerate(zip(NAMES, GROUPS, strict=True))
    ]
    return StoreFacts("mine", Path(), "", tuple(sources[:count]))


def experiment(factors: dict[str, float]) -> Experiment:
    sections = {"data": {"train": "mine"}, "train": {"augment_by_source": factors}}
    return load_experiment(sections, registries=REGISTRIES)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ()),
        ({"pseudo_*": 1}, ()),
        ({"none of them": 1}, ()),
        ({"pseudo_*": 1.5}, (1.5, 1.5, 1, 1, 1)),
        ({"clinic": 0}, (1, 1, 0, 0, 1)),  # of a group
        ({"clinic": 0, "p?": 3}, (3, 3, 0, 0, 1)),
        ({"2019/*": 2, "clinic": 2}, (1, 1, 2, 2, 1)),
        ({"*": 2}, (2,) * 5),
        ({"pseudo_[!1]": 2}, (1, 2, 1, 1, 1)),
    ],
)
def test_patterns_are_of_names_and_of_groups(given, expected) -> None:
    assert augment_factors(experiment(given), facts()) == expected


def test_nothing_is_known_of_a_store_without_sources() -> None:
    assert augment_factors(experiment({"x": 2}), facts(0)) == ()


def test_a_pattern_of_nothing_is_refused_with_what_there_is() -> None:
    with pytest.raises(UserError) as caught:
        augment_factors(experiment({"pseudo_*": 2, "Last": 3}), facts())
    assert str(caught.value) == (
        "train.augment_by_source: 'Last' fits no source of the store 'mine', nor a group of them; "
        "allowed: patterns of sources (pseudo_1, pseudo_2, 2019/a, 2019/b, last), or of groups "
        "(p1, p2, clinic, last); did you mean 'last'?"
    )
    own = replace(facts(), sources=tuple(replace(s, group=s.id) for s in facts().sources))
    with pytest.raises(UserError) as caught:
        augment_factors(experiment({"x*": 2}), own)
    assert caught.value.allowed == "patterns of sources (pseudo_1, pseudo_2, 2019/a, 2019/b, last)"


def test_two_factors_of_one_source_are_refused() -> None:
    with pytest.raises(UserError) as caught:
        augment_factors(experiment({"pseudo_*": 2, "p1": 0.5}), facts())
    assert str(caught.value) == (
        "train.augment_by_source: 'pseudo_*' and 'p1' both fit 'pseudo_1', with factors of 2 and "
        "0.5; allowed: one factor for each source"
    )


@pytest.mark.parametrize("factor", [-0.5, 101, float("nan"), "much", True])
def test_factors_are_numbers_up_to_a_hundred(factor) -> None:
    with pytest.raises(UserError, match=r"train\.augment_by_source\.a\*: .*allowed: 0 to 100"):
        experiment({"a*": factor})


SPACE = """
name: tiny
stores: {a: "synth:fundus?domain=a&sources=6&size_px=64"}
data: {train: a, working_size_px: 64}
split: {folds: 3, val_fraction: 0.25}
augment: {hflip: {}}
train: {augment_by_source: {"a*": 2, "*9": 3}}
grid: {loss.name: [bce, dice]}
"""


def test_a_plan_refuses_it_and_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(SPACE)
    with pytest.raises(UserError, match="'\\*9' fits no source of the store 'a'") as caught:
        plan_sweep(
            load_space(file, registries=REGISTRIES), tmp_path, fresh=True, notify=lambda text: None
        )
    assert caught.value.where == "space.yaml: train.augment_by_source"
