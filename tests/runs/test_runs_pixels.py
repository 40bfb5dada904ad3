"""The size of a working px in the names of runs and evaluations: there where it matters only."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from vesselflow.config.loading import load_space
from vesselflow.feed.folds import make_folds
from vesselflow.runs.cells import Cell, make_cells
from vesselflow.runs.registries import REGISTRIES
from vesselflow.runs.specs import StoreFacts, domain_view, split_key, view_of
from vesselflow.stores.schema import SourceInfo

SPACE = """
stores: {a: a.h5, b: b.h5}
data: {train: a, ood: [b]}
split: {folds: 3, val_fraction: 0.3}
folds: [0]
"""
Spacing = tuple[float, float] | None


def facts(name: str, spacing: Spacing) -> StoreFacts:
    """A store of six images."""
    sources = tuple(
        SourceInfo(
            index=index,
            id=f"{name}{index}",
            group=f"{name}{index}",
            split="",
            height=64,
            width=64,
            channels=3,
            digest=f"{name}{index}",
            image_digest=f"{name}{index}",
            fov_box=(0, 0, 64, 64),
            lineage={},
            spacing_um=spacing,
        )
        for index in range(6)
    )
    return StoreFacts(name, Path(f"{name}.h5"), name * 20, sources)


def cells(folder: Path, more: str = "", a: Spacing = None, b: Spacing = None) -> list[Cell]:
    """The cells of a space over two stores of these spacings."""
    file = folder / "space.yaml"
    file.write_text(SPACE + more)
    space = load_space(file, registries=REGISTRIES)
    stores = {"a": facts("a", a), "b": facts("b", b)}
    folds = {
        split_key(point.experiment): make_folds(
            stores["a"].sources, folds=3, val_fraction=0.3, test="fold", seed=0
        )
        for point in space.expand().points
    }
    return make_cells(space, folds, stores)


def names(cell: Cell) -> dict[str, str]:
    """Name of the run, and of each domain's evaluation."""
    found = {"run": cell.run.run_id}
    return found | {f"{domain.role}": cell.evaluation(10, domain).name for domain in cell.domains}


def changed(before: Cell, after: Cell) -> set[str]:
    old, new = names(before), names(after)
    return {key for key in old if old[key] != new[key]}


EVERYTHING = {"run", "val", "test", "ood"}


def test_spacings_that_nobody_asks_for_are_in_no_name(tmp_path: Path) -> None:
    (plain,), (spaced,) = cells(tmp_path), cells(tmp_path, a=(9.0, 9.0), b=(7.0, 7.0))
    assert changed(plain, spaced) == set()


def test_the_spacing_of_a_store_is_in_the_names_of_what_it_changes(tmp_path: Path) -> None:
    def spaced(a: Spacing, b: Spacing, um: str = "20") -> Cell:
        (cell,) = cells(tmp_path, f"grid: {{data.spacing_um: [{um}]}}\n", a, b)
        return cell

    base = spaced((9.0, 9.0), (7.0, 7.0))
    assert changed(base, spaced((9.0, 9.0), (7.0, 7.5))) == {"ood"}
    assert changed(base, spaced((9.0, 9.5), (7.0, 7.0))) == EVERYTHING
    assert changed(base, spaced((9.0, 9.0), (7.0, 7.0), um="21")) == EVERYTHING
    # One number stands for all axes.
    assert view_of(base.run.experiment).spacing_um == (20.0,)
    pair = spaced((9.0, 9.0), (7.0, 7.0), um="[20, 21]")
    assert view_of(pair.run.experiment).spacing_um == (20.0, 21.0)


def test_a_scale_of_a_domain_is_an_axis_over_one_training(tmp_path: Path) -> None:
    (base,) = cells(tmp_path)
    half, whole = cells(tmp_path, "grid: {stores.b.scale: [0.5, 1.0]}\n")
    assert half.params == {"stores.b.scale": 0.5}
    assert half.run.run_id == whole.run.run_id == base.run.run_id
    assert changed(half, whole) == {"ood"}
    scales = {
        domain.role: domain_view(half.run.experiment, domain).scale for domain in half.domains
    }
    assert scales == {"val": None, "test": None, "ood": 0.5}


def test_a_scale_of_the_training_store_names_another_training(tmp_path: Path) -> None:
    (base,) = cells(tmp_path)
    half, whole = cells(tmp_path, "grid: {stores.a.scale: [0.5, 1.0]}\n")
    assert changed(base, half) == changed(half, whole) == {"run", "val", "test", "ood"}
    assert {domain.scale for domain in half.domains} == {0.5, None}
    # Where a scale counts, the spacing does not.
    by_spacing = "stores: {a: {path: a.h5, scale: 0.5}, b: b.h5}\n"
    file = SPACE.replace("stores: {a: a.h5, b: b.h5}\n", by_spacing)
    (first,) = _of(tmp_path, file, (9.0, 9.0))
    (second,) = _of(tmp_path, file, (8.0, 8.0))
    assert changed(first, second) == set()
    # In the file or as an axis: one experiment, one name.
    assert changed(first, half) == set()


def _of(folder: Path, text: str, a: Spacing) -> list[Cell]:
    file = folder / "other.yaml"
    file.write_text(text)
    space = load_space(file, registries=REGISTRIES)
    stores = {"a": facts("a", a), "b": facts("b", None)}
    (point,) = space.expand().points
    folds = make_folds(stores["a"].sources, folds=3, val_fraction=0.3, test="fold", seed=0)
    return make_cells(space, {split_key(point.experiment): folds}, stores)


@pytest.mark.parametrize("role", ["val", "test", "ood"])
def test_a_domain_is_seen_as_its_name_says(tmp_path: Path, role: str) -> None:
    (cell,) = cells(tmp_path, "grid: {data.spacing_um: [20]}\n", (9.0, 9.0), (7.0, 7.0))
    (domain,) = [each for each in cell.domains if each.role == role]
    assert domain_view(cell.run.experiment, domain) == view_of(cell.run.experiment)
    scaled = replace(domain, scale=3.0)
    assert domain_view(cell.run.experiment, scaled).scale == 3.0
