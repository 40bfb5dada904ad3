"""`match_parameters`: arms with the parameters of the first point, from the plan to the report."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "reporting"))
from answer_examples import write_answer

from vesselflow.config.loading import load_space
from vesselflow.config.yaml_files import dump_yaml, parse_yaml
from vesselflow.errors import UserError
from vesselflow.models import MODELS
from vesselflow.records.atomic import read_json_or_none, write_json
from vesselflow.records.paths import any_path
from vesselflow.reporting.sweep_tables import load_tables
from vesselflow.reporting.terminal import answer_json, footnotes
from vesselflow.runs.registries import REGISTRIES
from vesselflow.sweeps.changes import differences
from vesselflow.sweeps.matching import match_widths
from vesselflow.sweeps.planning import Prepared, SweepPlan, make_ready, plan_sweep

torch.set_num_threads(1)

SPACE = """
stores: {a: "synth:fundus?domain=a&sources=4&size_px=64"}
data: {train: a, working_size_px: 64}
split: {folds: 2, val_fraction: 0.5}
folds: [0]
model: {name: wnet}
train: {epochs: 1, steps_per_epoch: 1, micro_batch_size: 2}
match_parameters: true
grid: {model.convolutions: [2, 3], model.se_at: [encoder, skip], loss.beta: [0.2, 0.8]}
"""


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """The sweep with its store; its file stands beside its results."""
    return make_ready(plan(tmp_path_factory.mktemp("matching"), SPACE))


def plan(folder: Path, text: str, name: str = "space") -> SweepPlan:
    file = folder / f"{name}.yaml"
    file.write_text(text)
    return plan_sweep(load_space(file, registries=REGISTRIES), folder / "results")


def learnt(spec: dict[str, object]) -> int:
    model = MODELS.build(spec, in_channels=3, classes=1)
    return sum(parameter.numel() for parameter in model.parameters())


def test_arms_are_as_large_as_the_first_point(ready: Prepared) -> None:
    planned = ready
    points = planned.expansion.points
    assert planned.space.expand() is planned.expansion
    models = [point.experiment.model for point in points]
    first, *_ = models
    assert first["filters"] == [8, 16, 32]
    sizes = [learnt(model) for model in models]
    assert all(abs(size / sizes[0] - 1) < 0.03 for size in sizes)
    assert all((model["filters"] == first["filters"]) == (model["convolutions"] == 2)
               for model in models)  # fmt: skip
    # Names, and all but the widths, are those of the file.
    given = load_space(planned.file, registries=REGISTRIES).expand().points
    assert [point.name for point in points] == [point.name for point in given]
    for point, before in zip(points, given, strict=True):
        kept = {**point.experiment.model, "filters": [8, 16, 32]}
        assert kept == before.experiment.model
        assert point.experiment.loss == before.experiment.loss
    told = planned.matched
    assert told is not None
    assert (told.reference, told.parameters, told.scaled) == (points[0].name, sizes[0], 4)
    assert [each.parameters for each in told.points.values()] == sizes
    assert told.furthest == max(abs(size / sizes[0] - 1) for size in sizes)


def test_a_run_is_that_of_a_space_with_these_widths(ready: Prepared) -> None:
    wide = ready.expansion.points[-1].experiment.model["filters"]
    plain = SPACE.replace("match_parameters: true\n", "")
    given = plain.replace("{name: wnet}", f"{{name: wnet, filters: {wide}}}")
    given = given.replace("convolutions: [2, 3]", "convolutions: [3]")
    # Half of the points have the widths of the file; the others those that they were scaled to.
    for text, mine in ((plain, slice(0, 4)), (given, slice(4, 8))):
        other = plan(ready.file.parent, text, "other").cells
        ids = [cell.run.run_id for cell in other]
        assert ids[: 4 if text is plain else None] == [
            cell.run.run_id for cell in ready.cells[mine]
        ]
        assert len(set(ids)) == len(ids) / 2  # without gates, where they stand says nothing


def test_who_plans_again_names_the_same_runs(ready: Prepared) -> None:
    first = ready
    # From the space as it was read, as it turned out, and as it stands in the folder.
    kept = load_space(first.folder / "resolved.yaml", registries=REGISTRIES)
    for space in (first.space, kept):
        again, told = match_widths(space, Path("space.yaml"), first.stores)
        assert again.expand() == first.expansion
        assert told == first.matched
    names = [cell.run.run_id for cell in first.cells]
    assert [cell.run.run_id for cell in plan(first.file.parent, SPACE).cells] == names


def test_what_a_run_is_stacked_on_is_counted(ready: Prepared, tmp_path: Path) -> None:
    text = SPACE[: SPACE.index("grid:")] + "grid: {train.stack: [null, one/point]}\n"
    (tmp_path / "space.yaml").write_text(text)
    space = load_space(tmp_path / "space.yaml", registries=REGISTRIES)
    _, told = match_widths(space, Path("space.yaml"), ready.stores)
    assert told is not None
    alone, stacked = (width.given for width in told.points.values())
    wide = MODELS.build({"name": "wnet"}, in_channels=4, classes=1)
    assert (alone, stacked) == (68_482, sum(each.numel() for each in wide.parameters()))


def test_arms_that_are_as_large_stay_as_they_are(tmp_path: Path) -> None:
    text = SPACE.replace("model.convolutions: [2, 3], model.se_at: [encoder, skip], ", "")
    planned = plan(tmp_path, text)
    assert planned.matched is not None
    assert (planned.matched.scaled, planned.matched.furthest) == (0, 0.0)
    plain = plan(tmp_path, text.replace("match_parameters: true", "match_parameters: false"))
    assert plain.matched is None
    assert plain.expansion == planned.expansion


@pytest.mark.parametrize(
    ("grid", "told"),
    [
        (
            "{model.filters: [[8, 16], [9, 18]]}",
            "space.yaml: grid.model.filters: model.filters is an axis, and is scaled to one number "
            "of parameters; allowed: other axes; leave one of them out, or set match_parameters: "
            "false",
        ),
        (
            "{depth: {settings: [{label: a, assign: {model.filters: [8, 16]}}, "
            "{label: b, assign: {model.filters: [8, 16, 32]}}]}}",
            "space.yaml: grid.depth: model.filters is an axis",
        ),
        (
            "{net: {settings: [{label: a, assign: {model.name: wnet}}, "
            "{label: b, assign: {model.name: linknet, model.encoder: resnet18}}]}}",
            "space.yaml: match_parameters: 'net=b' has 11,663,777 parameters (its model has no "
            "width to scale), 170 times the 68,482 of 'net=a'; allowed: 0.95 to 1.05 times; give "
            "it, or the first point, other widths or another model, or leave it out",
        ),
        (
            "{model.norm: [group], model.convolutions: [2, 6]}",
            "'norm=group,convolutions=6' has 61,506 parameters (with filters [8, 8, 16], the "
            "nearest), 0.898 times the 68,482",
        ),
        (
            "{net: {settings: [{label: a, assign: {model.name: wnet}}, "
            "{label: b, assign: {model.name: wnet, model.filters: [4, 8, 16]}}]}}",
            "'net=a' and 'net=b' are one once their widths are matched; leave one of them out",
        ),
    ],
)
def test_what_cannot_be_matched_is_refused_in_a_line(tmp_path: Path, grid: str, told: str) -> None:
    text = SPACE[: SPACE.index("grid:")] + f"grid: {grid}\n"
    with pytest.raises(UserError) as caught:
        plan(tmp_path, text)
    assert told in str(caught.value)
    assert str(caught.value).startswith("space.yaml: ")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "results").exists()


def test_the_report_says_so(ready: Prepared, tmp_path: Path) -> None:
    noted = read_json_or_none(ready.folder / "provenance.json")
    assert isinstance(noted, dict)
    grid = {point.name: dict(point.params) for point in ready.expansion.points}
    first, *_ = grid
    sweep = any_path(write_answer(tmp_path / "answer", grid, selected=first))
    tables = load_tables(sweep)
    assert tables.matched is None
    assert answer_json(tables)["matched"] is None
    write_json(tables.folder / "provenance.json", noted)
    tables = load_tables(sweep)
    assert ready.matched is not None
    (line,) = [note for note in footnotes(tables) if "Widths" in note]
    assert line == (
        "Widths were scaled: the models of all points have the 68,482 parameters of "
        f"{tables.text(first)}, within {ready.matched.furthest:.1%}."
    )
    assert answer_json(tables)["matched"]["points"][first]["parameters"] == 68_482


def test_folders_of_before_know_of_no_key(ready: Prepared) -> None:
    new = parse_yaml(dump_yaml(ready.space.resolved()), where="")
    old = {key: value for key, value in new.items() if key != "match_parameters"}
    assert [each.text for each in differences(old, new)] == ["match_parameters is new"]
    assert differences(old, {**new, "match_parameters": False}) == []
