"""Every space that is shipped, and every example that the grammar of spaces shows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from vesselflow.cli.keys import BEGIN, END, markdown
from vesselflow.config.axes import Axis, Fixed
from vesselflow.config.keys import check_key, key_tree, reference
from vesselflow.config.loading import load_space
from vesselflow.config.objective import ObjectiveSpec
from vesselflow.config.samplers import Search
from vesselflow.config.scalars import CURVES
from vesselflow.config.space import Hypothesis, Space
from vesselflow.config.store_specs import StoreSpec
from vesselflow.config.yaml_files import dump_yaml, load_yaml, parse_yaml
from vesselflow.runs.registries import REGISTRIES

FOLDER = Path(__file__).resolve().parents[1] / "search_spaces"
PAGE = (FOLDER / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
SHIPPED = [
    (path, profile)
    for path in sorted(FOLDER.rglob("*.yaml"))
    for profile in (None, *load_yaml(path).get("profiles", {}))
]


def example(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Space:
    """An example in the place of what has the same keys in the first one, as the page says."""
    monkeypatch.setenv("STORES", "/stores")
    (folder / "which_loss.yaml").write_text(EXAMPLES[0])
    data = parse_yaml(text, where="the example")
    if "extends" not in data:
        data = parse_yaml(EXAMPLES[0], where="the first example") | data
    (folder / "example.yaml").write_text(dump_yaml(data))
    return load_space(folder / "example.yaml", registries=REGISTRIES, **options)


def shows(text: str) -> str:
    """The example that holds a piece of text."""
    (found,) = [one for one in EXAMPLES if text in one]
    return found


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_every_example_loads(number: int, tmp_path: Path, monkeypatch) -> None:
    space = example(tmp_path, EXAMPLES[number], monkeypatch)
    assert space.expand().points


@pytest.mark.parametrize(
    ("piece", "runs", "points"),
    [
        ("name: which_loss", 12, 3),
        ("# whole sections", 120, 30),
        ("budget:", 12, 3),
        ("optimizer.nesterov", 80, 20),
        ("sampler: random", 48, 12),
        ("schedule: cosine", 8, 2),
        ("value: 0.3", 8, 2),
        ("splits/mine", 6, 3),
    ],
)
def test_the_examples_give_the_points_that_they_say(
    piece: str, runs: int, points: int, tmp_path: Path, monkeypatch
) -> None:
    space = example(tmp_path, shows(piece), monkeypatch)
    assert len(space.expand().points) == points
    assert len(list(space.runs())) == runs


def test_what_the_page_says_of_set_and_profiles(tmp_path: Path, monkeypatch) -> None:
    quick = example(tmp_path, shows("quick:"), monkeypatch, profile="quick")
    assert [point.name for point in quick.expand().points] == ["name=bce", "name=dice"]
    options = {
        ("train.epochs=4", "which_loss"): 3,
        ("loss.beta=0.5", "which_loss"): 1,
        ("budget=short", "budget:"): 2,
        ("grid.loss.beta=[0, 1]", "which_loss"): 2,
    }
    for (text, piece), points in options.items():
        assert f"--set {text}" in PAGE or f"--set '{text}'" in PAGE
        space = example(
            tmp_path,
            shows(f"name: {piece}" if piece == "which_loss" else piece),
            monkeypatch,
            overrides=[text],
        )
        assert len(space.expand().points) == points, text
    labels = example(tmp_path, shows("budget:"), monkeypatch).expand().points
    assert {point.params["budget"] for point in labels} == {"short", "epochs-60+lr-0.001"}


def _keys(data: Any, model: type[BaseModel]) -> set[str]:
    """Which fields of a model the examples use, wherever they stand."""
    names = {field.alias or name for name, field in model.model_fields.items()}
    found: set[str] = set()
    todo = [data]
    while todo:
        node = todo.pop()
        if isinstance(node, dict):
            found |= names & set(node)
            todo += node.values()
        elif isinstance(node, list):
            todo += node
    return found


def test_every_form_has_an_example() -> None:
    parsed = [parse_yaml(text, where="an example") for text in EXAMPLES]
    top = {key for one in parsed for key in one}
    assert top == (set(key_tree(REGISTRIES, Space)) - {"base"}) | {"extends", "profiles"}
    for key, model in {
        "grid": Axis,
        "search": Search,
        "stores": StoreSpec,
        "fixed": Fixed,
        "objective": ObjectiveSpec,
        "hypotheses": Hypothesis,
    }.items():
        shown = set().union(*(_keys(one.get(key), model) for one in parsed))
        assert shown == {field.alias or name for name, field in model.model_fields.items()}, key
    settings = [
        setting
        for one in parsed
        for axis in (one.get("grid") or {}).values()
        if isinstance(axis, dict)
        for setting in axis.get("settings", ())
    ]
    assert {"label" in setting for setting in settings} == {True, False}
    assert all("set" in setting for setting in settings)
    scalars = [one["loss"]["beta"] for one in parsed if isinstance(one.get("loss"), dict)]
    (curve,) = [scalar for scalar in scalars if isinstance(scalar, dict)]
    assert set(curve) == {"schedule", "from", "to", "start", "end"}


def test_the_page_lists_every_shipped_space_with_its_question_and_cost() -> None:
    table = dict(re.findall(r"^\| \[(\w+)\]\(\1\.yaml\) \| (.*) \|$", PAGE, re.MULTILINE))
    assert sorted(table) == sorted(path.stem for path in FOLDER.glob("*.yaml"))
    for name, row in table.items():
        text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
        cost = re.search(rf"^#   vesselflow sweep search_spaces/{name}\.yaml +(.*)$", text, re.M)
        assert cost is not None
        assert row == f"{load_yaml(FOLDER / f'{name}.yaml')['question']} | {cost[1]}"


def test_the_page_names_every_part_that_has_no_page_of_its_own() -> None:
    text = PAGE.partition("## All keys")[0]
    for kind in ("optimizer", "schedule", "sampler", "importer"):
        for name in REGISTRIES[kind].names():
            assert re.search(rf"\b{name}\b", text), (kind, name)
    for name in CURVES:
        assert f"`{name}`" in text


def test_the_reference_on_the_page_is_that_of_the_code() -> None:
    between = PAGE.partition(BEGIN)[2].partition(END)[0]
    assert between == f"\n\n{markdown(reference(REGISTRIES))}\n", (
        "run: vesselflow keys --into search_spaces/README.md"
    )


def test_every_key_that_the_page_names_is_one() -> None:
    text = PAGE.partition("## All keys")[0]
    sections = "|".join(key_tree(REGISTRIES))
    found = [key for key in re.findall(rf"`((?:{sections})\.\w+)`", text) if ".csv" not in key]
    assert len(found) >= 3
    for key in found:
        check_key(key, key_tree(REGISTRIES), where="the page")


@pytest.mark.parametrize(("path", "profile"), SHIPPED, ids=lambda value: str(value or "-"))
def test_every_shipped_space_loads(path: Path, profile: str | None) -> None:
    assert load_space(path, profile=profile, registries=REGISTRIES).expand().points
