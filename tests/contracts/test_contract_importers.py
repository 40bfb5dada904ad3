"""What every registered importer has to keep; a new one is held to it by being registered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from contract_parts import TREES, write_tree

from vesselflow.errors import UserError
from vesselflow.stores.importers import IMPORTERS
from vesselflow.stores.importers.listing import Listing
from vesselflow.stores.importers.run import import_store
from vesselflow.stores.store import Store, verify

NAMES = IMPORTERS.names()


def listed(layout: str, root: Path) -> Listing:
    found: Listing = IMPORTERS.build({"name": layout}, source=root)
    return found


def test_every_layout_has_a_small_data_set() -> None:
    assert sorted(TREES) == sorted(NAMES)


@pytest.fixture(params=NAMES)
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_it_lists_whole_sources_of_files_that_are_there(layout: str, tmp_path: Path) -> None:
    write_tree(tmp_path, layout)
    items = listed(layout, tmp_path).items
    assert len(items) == len(TREES[layout])
    assert len({item.id for item in items}) == len(items)
    for item in items:
        assert item.id
        assert item.group
        assert item.split in ("", "train", "test")
        mask, fov = TREES[layout][str(item.image.relative_to(tmp_path))]
        assert item.target == tmp_path / mask
        assert item.fov == (tmp_path / fov if fov else None)


def test_groups_stay_on_one_side(layout: str, tmp_path: Path) -> None:
    write_tree(tmp_path, layout)
    sides: dict[str, set[str]] = {}
    for item in listed(layout, tmp_path).items:
        sides.setdefault(item.group, set()).add(item.split)
    assert all(len(splits) == 1 for splits in sides.values())


def test_a_store_depends_on_content_alone(layout: str, tmp_path: Path) -> None:
    """Neither on where the folder stands, nor on the order in which its files were made."""
    digests, ids = [], []
    for number in range(2):
        root = tmp_path / str(number) / "data"
        write_tree(root, layout, backwards=bool(number))
        out = tmp_path / f"{number}.h5"
        made = import_store(layout, root, out)
        assert made.sources == len(TREES[layout])
        assert verify(out) == []
        with Store.open(out) as store:
            ids.append([source.id for source in store.sources])
            assert store.importer is not None
            assert store.importer["name"] == layout
            assert all(np.asarray(store.target(k)).sum() == 5 * 17 for k in range(made.sources))
        assert str(root) not in out.read_bytes().decode("latin1")
        digests.append(made.digest)
    assert digests[0] == digests[1]
    assert ids[0] == ids[1] == sorted(ids[0])


def test_a_folder_that_is_not_there_or_holds_nothing_is_one_line(
    layout: str, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("none", "empty"):
        with pytest.raises(UserError) as caught:
            listed(layout, tmp_path / name)
        assert "\n" not in str(caught.value)


def test_an_image_without_its_mask_is_refused_by_name_or_noted(layout: str, tmp_path: Path) -> None:
    write_tree(tmp_path, layout)
    image, (mask, _) = list(TREES[layout].items())[-1]
    (tmp_path / mask).unlink()
    name = Path(image).stem
    try:
        found = listed(layout, tmp_path)
    except UserError as error:
        said, ids = str(error), []
    else:
        said, ids = " ".join(found.notes), [item.id for item in found.items]
    assert name in said
    assert name not in ids
