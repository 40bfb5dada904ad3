from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vesselflow.errors import UserError
from vesselflow.feed.folds import PARTS, Fold, check_leaks, make_folds, read_folds, write_folds
from vesselflow.stores.store import SourceInfo


def info(index: int, group: str, split: str = "", image: str = "") -> SourceInfo:
    return SourceInfo(
        index=index,
        id=f"s{index}",
        group=group,
        split=split,
        height=8,
        width=8,
        channels=3,
        digest=f"d{index}",
        image_digest=image or f"i{index}",
        fov_box=(0, 0, 8, 8),
        lineage={},
    )


def pairs(groups: int, split: str = "", start: int = 0) -> list[SourceInfo]:
    """Both eyes of some children."""
    return [
        info(start + 2 * g + eye, f"child{start + g}", split)
        for g in range(groups)
        for eye in range(2)
    ]


def chase() -> list[SourceInfo]:
    """The shape of CHASE_DB1: 10 children train, 4 test."""
    return [*pairs(10, "train"), *pairs(4, "test", start=20)]


def by_fold(sources: Sequence[SourceInfo], folds: int, **values: object) -> list[Fold]:
    settings_ = {"val_fraction": 0.25, "test": "fold", "seed": 0} | values
    return make_folds(sources, folds=folds, **settings_)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(1, 5), min_size=6, max_size=20),
    st.integers(2, 5),
    st.floats(0.05, 0.95),
    st.integers(0, 1000),
)
def test_folds_are_disjoint_by_group_and_cover_everything(
    sizes: list[int], folds: int, fraction: float, seed: int
) -> None:
    groups = [f"g{g}" for g, size in enumerate(sizes) for _ in range(size)]
    sources = [info(i, group) for i, group in enumerate(groups)]
    made = by_fold(sources, folds, val_fraction=fraction, seed=seed)
    group_of = {s.id: s.group for s in sources}
    tested: list[str] = []
    for fold in made:
        parts = [{group_of[i] for i in getattr(fold, part)} for part in PARTS]
        assert all(parts)
        assert sum(map(len, parts)) == len(set.union(*parts)) == len(sizes)
        assert sorted(fold.train + fold.val + fold.test) == sorted(group_of)
        tested += fold.test
    assert sorted(tested) == sorted(group_of)
    # Dealt to the smallest part each time: parts differ by one group's size at most (two folds
    # may have to differ by more, so that groups are left to train on).
    numbers = [len(fold.test) for fold in made]
    assert max(numbers) - min(numbers) <= max(sizes) or folds == 2


def test_one_large_group_leaves_groups_to_train_on() -> None:
    # By size alone the five small ones would all be in one test part, with nothing for val.
    sources = [info(i, f"g{max(0, i - 4)}") for i in range(10)]
    for fold in by_fold(sources, 2):
        assert all(getattr(fold, part) for part in PARTS)


@pytest.mark.parametrize(("groups", "folds"), [(4, 2), (3, 3), (4, 4), (5, 4)])
def test_the_least_groups_suffice(groups: int, folds: int) -> None:
    assert len(by_fold(pairs(groups), folds)) == folds


def test_folds_do_not_depend_on_the_order_of_the_store() -> None:
    sources = pairs(9)
    for one, other in zip(by_fold(sources, 3), by_fold(sources[::-1], 3), strict=True):
        assert one.digest == other.digest
        assert [sorted(getattr(one, p)) for p in PARTS] == [
            sorted(getattr(other, p)) for p in PARTS
        ]


def test_the_seed_changes_the_folds() -> None:
    digests = {by_fold(pairs(9), 3, seed=seed)[0].digest for seed in range(5)}
    assert len(digests) > 1


def test_val_takes_its_share_of_the_other_groups() -> None:
    # 12 groups, 3 folds: 8 are left, a quarter of them is 2, each of 2 sources.
    for fold in by_fold(pairs(12), 3):
        assert [len(getattr(fold, part)) for part in PARTS] == [12, 4, 8]
    # At least one group, and never all of them.
    assert [len(f.val) for f in by_fold(pairs(4), 2, val_fraction=0.01)] == [2, 2]
    assert [len(f.train) for f in by_fold(pairs(4), 2, val_fraction=0.99)] == [2, 2]


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(1, 4), min_size=6, max_size=16),
    st.floats(0.01, 1.0),
    st.floats(0.01, 1.0),
    st.integers(0, 1000),
)
def test_a_share_of_the_training_groups_trains_and_a_smaller_one_is_a_part_of_it(
    sizes: list[int], one: float, other: float, seed: int
) -> None:
    groups = [f"g{g}" for g, size in enumerate(sizes) for _ in range(size)]
    sources = [info(i, group) for i, group in enumerate(groups)]
    group_of = {s.id: s.group for s in sources}
    small, large = sorted((one, other))
    whole = by_fold(sources, 3, seed=seed)
    assert by_fold(sources, 3, seed=seed, train_share=1.0) == whole
    for all_, fewer, few in zip(
        whole,
        by_fold(sources, 3, seed=seed, train_share=large),
        by_fold(sources, 3, seed=seed, train_share=small),
        strict=True,
    ):
        assert all_.val == fewer.val == few.val
        assert all_.test == fewer.test == few.test
        assert {*few.train} <= {*fewer.train} <= {*all_.train}
        counts = [len({group_of[i] for i in fold.train}) for fold in (all_, fewer, few)]
        for share, count in ((large, counts[1]), (small, counts[2])):
            assert count == max(1, int(share * counts[0] + 0.5))
            kept = {group_of[i] for i in (fewer if share == large else few).train}
            assert sum(group_of[i] in kept for i in all_.train) == len(
                (fewer if share == large else few).train
            ), "groups are kept whole"
        assert (few.digest == fewer.digest) == (few.train == fewer.train)


def test_a_share_is_drawn_anew_for_each_fold_and_seed() -> None:
    kept = {
        tuple(fold.train)
        for seed in range(4)
        for fold in make_folds(
            chase(), folds=1, val_fraction=0.2, test="official", seed=seed, train_share=0.25
        )
    }
    assert len(kept) > 1


def test_the_official_test_is_the_test_of_every_fold() -> None:
    sources = chase()
    made = by_fold(sources, 5, test="official")
    assert {fold.test for fold in made} == {tuple(s.id for s in sources if s.split == "test")}
    assert [len(fold.val) for fold in made] == [4] * 5
    assert [len(fold.train) for fold in made] == [16] * 5
    assert sorted(i for fold in made for i in fold.val) == sorted(s.id for s in pairs(10))


def test_one_official_fold_takes_val_by_its_fraction() -> None:
    (fold,) = by_fold(chase(), 1, test="official", val_fraction=0.2)
    assert [len(getattr(fold, part)) for part in PARTS] == [16, 4, 8]


@pytest.mark.parametrize(
    ("groups", "folds", "text"),
    [
        (
            3,
            4,
            "3 groups are too few for 4 folds; allowed: at least 4 groups, for train, val and test",
        ),
        (
            3,
            2,
            "3 groups are too few for 2 folds; allowed: at least 4 groups, for train, val and test",
        ),
        (5, 1, "1 is not allowed where the folds are the test parts"),
    ],
)
def test_too_few_groups(groups: int, folds: int, text: str) -> None:
    with pytest.raises(UserError, match=r"^split\.folds: ") as caught:
        by_fold(pairs(groups), folds)
    assert text in str(caught.value)


def test_too_few_official_groups() -> None:
    with pytest.raises(UserError, match="10 train groups are too few for 11 folds"):
        by_fold(chase(), 11, test="official")


@pytest.mark.parametrize("split", ["", "train", "test"])
def test_no_official_split(split: str) -> None:
    with pytest.raises(UserError, match="no official split") as caught:
        by_fold(pairs(6, split), 2, test="official")
    assert "set split.test to 'fold'" in str(caught.value)


def test_a_source_on_no_side_of_the_official_split() -> None:
    with pytest.raises(UserError, match="source 's99' is on no side"):
        by_fold([*chase(), info(99, "new")], 2, test="official")


def test_the_same_child_on_both_sides_of_the_official_split() -> None:
    with pytest.raises(UserError, match=r"group 'child3' is on both sides.*the same child"):
        by_fold([*chase(), info(99, "child3", "test")], 2, test="official")


def test_a_store_without_sources() -> None:
    with pytest.raises(UserError, match="no sources"):
        by_fold([], 2)


def test_written_folds_are_read_again(tmp_path: Path) -> None:
    sources = chase()
    made = by_fold(sources, 4)
    path = tmp_path / "splits" / "folds.json"
    write_folds(path, made, sources)
    write_folds(path, made, sources)
    assert [p.name for p in path.parent.iterdir()] == ["folds.json"]
    again = read_folds(path, sources)
    assert again == made
    assert [fold.digest for fold in again] == [fold.digest for fold in made]
    assert by_fold(sources, 4, predefined=path) == made
    document = json.loads(path.read_text())
    assert document["folds"][0]["digest"] == made[0].digest
    assert document["sources"]["s3"] == {"group": "child1", "digest": "d3"}


def test_the_digest_names_content_and_parts() -> None:
    sources = pairs(6)
    fold = by_fold(sources, 3)[0]
    changed = [replace(s, digest="other") if s.id == fold.train[0] else s for s in sources]
    assert by_fold(changed, 3)[0].digest != fold.digest
    swapped = replace(fold, train=fold.val, val=fold.train)
    assert swapped.digest != fold.digest
    assert replace(fold, index=7, train=fold.train[::-1]).digest == fold.digest


def write_lists(folder: Path, **lists: str) -> Path:
    for part, text in lists.items():
        (folder / f"{part}.csv").write_text(text)
    return folder


def test_lists_of_file_names(tmp_path: Path) -> None:
    write_lists(
        tmp_path, train="file\ns0.png\ns1.png\n", val="s2.png,left\ns3.png\n", test="s5\ns4\n"
    )
    (fold,) = by_fold(pairs(3), 1, predefined=tmp_path)
    assert (fold.train, fold.val, fold.test) == (("s0", "s1"), ("s2", "s3"), ("s4", "s5"))


@pytest.mark.parametrize("name", ["image", "ID", "name", "file"])
def test_a_source_called_like_a_header_is_no_header(tmp_path: Path, name: str) -> None:
    sources = [replace(source, id=name) if source.id == "s0" else source for source in pairs(3)]
    for head in ("", "name\n", f"{name}\n"):
        write_lists(tmp_path, train=f"{head}{name}\ns1\n", val="s2\ns3\n", test="s4\ns5\n")
        (fold,) = by_fold(sources, 1, predefined=tmp_path)
        assert fold.train == (name, "s1"), repr(head)
    write_lists(tmp_path, train=f"s1\n{name}\n", val="id\ns2\ns3\n", test="s4\ns5\n")
    (fold,) = by_fold(sources, 1, predefined=tmp_path)
    assert (fold.train, fold.val) == ((name, "s1"), ("s2", "s3"))


@pytest.mark.parametrize(
    ("lists", "text"),
    [
        ({"train": "s0\ns1", "val": "s2\ns3", "test": "s44"}, "unknown source 's44' in test"),
        ({"train": "s0\ns1", "val": "s2\ns3", "test": "s4\ns1"}, "'s1' is in train and in test"),
        ({"train": "s0\ns0", "val": "s2\ns3", "test": "s4"}, "'s0' is twice in train"),
        ({"train": "s0", "val": "s1", "test": "s4"}, "group 'child0' is in train and in val"),
        ({"train": "s0\ns1", "val": "id\n", "test": "s4"}, "val of fold 0 is empty"),
        ({"train": "s0\ns1", "val": "s2"}, "test.csv: this list of sources is missing"),
    ],
)
def test_unsound_lists(tmp_path: Path, lists: dict[str, str], text: str) -> None:
    with pytest.raises(UserError) as caught:
        by_fold(pairs(3), 1, predefined=write_lists(tmp_path, **lists))
    assert text in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "this is no file of folds"),
        ('[{"train": ["s0"]}]', "this is no file of folds"),
        ('{"folds": [{"train": [1], "val": [], "test": []}]}', "this is no file of folds"),
        (None, "no such file of folds"),
    ],
)
def test_broken_files_of_folds(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "folds.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_folds(path, pairs(3))


def test_another_number_of_folds_than_the_file_holds(tmp_path: Path) -> None:
    path = tmp_path / "folds.json"
    write_folds(path, by_fold(pairs(6), 3), pairs(6))
    with pytest.raises(UserError, match=r"holds 3 folds, asked for are 2; set split\.folds to 3"):
        by_fold(pairs(6), 2, predefined=path)


def test_no_leak() -> None:
    check_leaks(by_fold(pairs(6), 3), pairs(6), {"b": [info(0, "child0", image="else")]})


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(1, 5), min_size=8, max_size=16),
    st.integers(2, 3),
    st.integers(2, 3),
    st.sampled_from([0.8, 1.0]),
    st.integers(0, 1000),
)
def test_inner_folds_hold_each_training_image_out_once_and_know_nothing_of_the_test_part(
    sizes: list[int], folds: int, inner: int, share: float, seed: int
) -> None:
    groups = [f"g{g}" for g, size in enumerate(sizes) for _ in range(size)]
    sources = [info(i, group) for i, group in enumerate(groups)]
    group_of = {s.id: s.group for s in sources}
    outer = by_fold(sources, folds, seed=seed, train_share=share)
    if min(len({group_of[i] for i in fold.train}) for fold in outer) < inner:
        with pytest.raises(UserError, match=rf"split\.inner: .* too few for {inner} parts"):
            by_fold(sources, folds, seed=seed, train_share=share, inner=inner)
        return
    nested = by_fold(sources, folds, seed=seed, train_share=share, inner=inner)
    assert [fold.index for fold in nested] == list(range(folds * inner))
    assert len({fold.digest for fold in nested}) == folds * inner
    for whole in outer:
        parts = nested[whole.index * inner : (whole.index + 1) * inner]
        held = [i for fold in parts for i in fold.test]
        assert sorted(held) == sorted(whole.train)
        for fold in parts:
            assert fold.val == whole.val
            assert sorted(fold.train + fold.test) == sorted(whole.train)
            assert not {group_of[i] for i in fold.train} & {group_of[i] for i in fold.test}
            # Ids in store order, as in every fold.
            assert all(
                [int(i[1:]) for i in part] == sorted(int(i[1:]) for i in part)
                for part in (fold.train, fold.test)
            )


def test_inner_folds_of_an_official_and_of_a_written_split(tmp_path: Path) -> None:
    official = by_fold(chase(), 2, test="official", inner=3)
    tested = {s.id for s in chase() if s.split == "test"}
    assert len(official) == 6
    assert not any(tested & {*fold.train, *fold.val, *fold.test} for fold in official)
    path = tmp_path / "folds.json"
    write_folds(path, by_fold(chase(), 2), chase())
    made = by_fold(chase(), 2, predefined=path, inner=2)
    assert made == by_fold(chase(), 2, inner=2)
    # What they are is a split like any other.
    write_folds(path, made, chase())
    assert by_fold(chase(), 4, predefined=path) == made


def test_the_least_groups_that_inner_folds_need() -> None:
    # Of five groups one tests and one validates: three are left to be dealt.
    assert len(by_fold(pairs(5), 5, inner=3)) == 15
    with pytest.raises(UserError) as caught:
        by_fold(pairs(5), 5, inner=4)
    assert str(caught.value).startswith(
        "split.inner: 3 groups that train in fold 0 are too few for 4 parts; allowed: a group"
    )


def test_the_same_image_on_two_sides() -> None:
    # Two children, two names, one picture: the split by group cannot see it.
    sources = [info(i, f"g{i}", image="twin" if i in (1, 4) else "") for i in range(6)]
    fold = Fold(0, ("s0", "s1"), ("s2", "s3"), ("s4", "s5"), {s.id: s.digest for s in sources})
    with pytest.raises(UserError) as caught:
        check_leaks([fold], sources, {}, store="chase.h5")
    assert str(caught.value).startswith("chase.h5: 's1' and 's4' are the same image")
    together = Fold(0, ("s1", "s4"), ("s2", "s3"), ("s0", "s5"), fold.content)
    check_leaks([together], sources, {})


def test_the_same_image_in_training_and_out_of_distribution() -> None:
    with pytest.raises(UserError) as caught:
        check_leaks(by_fold(pairs(6), 3), pairs(6), {"stare": [info(7, "x", image="i2")]})
    for part in ("'s2'", "'s7'", "the training store", "'stare'"):
        assert part in str(caught.value)
