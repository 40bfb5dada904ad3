"""From a file to a validated space: layers, overrides, stores, paths, and back to YAML."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from config_parts import REGISTRIES, STORES, load, names
from hypothesis import given, settings
from hypothesis import strategies as st

from vesselflow.config.experiment import Experiment, Score, load_experiment
from vesselflow.config.keys import describe_keys
from vesselflow.config.loading import load_space
from vesselflow.config.overrides import assign, merge
from vesselflow.config.space import Space
from vesselflow.config.yaml_files import dump_yaml, parse_yaml
from vesselflow.errors import UserError

GRID = (
    STORES + "grid:\n  loss.name: [bce, combined, fuzzy]\n"
    "  loss.beta: {values: [0, 0.5], when: {loss.name: [combined, fuzzy]}}\n"
)


def only(space: Space) -> Experiment:
    (point,) = space.expand().points
    return point.experiment


def test_smallest_space(tmp_path: Path) -> None:
    space = load(tmp_path, "stores: {a: synth:fundus}\n", name="my_space.yaml")
    assert space.name == "my_space"
    assert names(space) == ["base"]
    assert only(space).data.train == "a"
    assert only(space).loss == {"name": "combined", "beta": 0.5, "smooth": 1.0}
    assert [(fold, seed) for _, fold, seed in space.runs()] == [(0, 0), (1, 0), (2, 0), (3, 0)]


def test_folds_and_seeds_of_the_runs(tmp_path: Path) -> None:
    space = load(tmp_path, STORES + "folds: [2, 0]\nseeds: [5, 3]\n")
    assert [(fold, seed) for _, fold, seed in space.runs()] == [(2, 5), (2, 3), (0, 5), (0, 3)]


def test_stores_in_short_and_long_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORES_HERE", "/data")
    monkeypatch.setenv("HOME", "/home/someone")
    text = """
data: {train: short}
stores:
  short: synth:fundus?domain=c&sources=3&size_px=64
  long: {synth: {domain: c, sources: 3, size_px: 64}}
  file: sub/x.h5
  absolute: /y.h5
  variable: ${STORES_HERE}/z.h5
  home: {path: ~/z.h5, import: {layout: folder, source: raw, images: im}}
"""
    stores = load(tmp_path, text).stores
    assert stores["short"].synth == stores["long"].synth
    # Null: the camera's own size, which the generator knows.
    assert load(tmp_path, STORES).stores["b"].synth.arguments["size_px"] is None
    assert stores["file"].path == str(tmp_path / "sub/x.h5")
    assert stores["absolute"].path == "/y.h5"
    assert stores["variable"].path == "/data/z.h5"
    assert stores["home"].path == "/home/someone/z.h5"
    importer = stores["home"].importer
    assert importer is not None
    assert importer.source == str(tmp_path / "raw")
    assert importer.model_extra == {"images": "im"}


def test_variables_of_a_profile_that_is_not_taken_need_not_be_set(tmp_path: Path) -> None:
    text = STORES + "profiles: {chase: {stores: {a: '${NO_SUCH_VARIABLE}/a.h5'}}}\n"
    load(tmp_path, text)
    with pytest.raises(UserError, match=r"profiles\.chase\.stores\.a\.path: .*NO_SUCH_VARIABLE"):
        load(tmp_path, text, profile="chase")


def test_a_profile_replaces_a_store_of_another_kind(tmp_path: Path) -> None:
    text = STORES + "profiles: {x: {stores: {a: {path: a.h5}, b: {synth: {sources: 3}}}}}\n"
    stores = load(tmp_path, text, profile="x").stores
    assert stores["a"].synth is None
    assert stores["b"].synth is not None
    drawn = stores["b"].synth.arguments
    assert (drawn["domain"], drawn["sources"], drawn["seed"]) == ("b", 3, 0)


def test_a_profile_and_the_grid(tmp_path: Path) -> None:
    text = GRID + (
        "profiles:\n  short: {grid: {loss.beta: [1]}}\n  less: {grid: {loss.name: null, "
        "loss.beta: null}}\n"
    )
    assert names(load(tmp_path, text, profile="short")) == [
        "name=bce", "name=combined,beta=1", "name=fuzzy,beta=1",
    ]  # fmt: skip
    assert names(load(tmp_path, text, profile="less")) == ["base"]


def test_extends_lays_files_over_each_other(tmp_path: Path) -> None:
    folder = tmp_path / "bases"
    folder.mkdir()
    (folder / "one.yaml").write_text(
        "name: one\nstores: {a: a.h5}\ntrain: {epochs: 3, micro_batch_size: 2}\nseeds: [0, 1]\n"
        "profiles: {p: {train: {amp: bf16}}}\n"
    )
    (folder / "two.yaml").write_text("extends: one.yaml\ntrain: {epochs: 4}\n")
    text = "extends: [bases/one.yaml, bases/two.yaml]\nseeds: [7]\nprofiles: {p: {seeds: [8]}}\n"
    space = load(tmp_path, text, profile="p")
    train = only(space).train
    assert (space.name, space.seeds) == ("space", (8,))
    assert (train.epochs, train.micro_batch_size, train.amp) == (4, 2, "bf16")
    assert space.stores["a"].path == str(folder / "a.h5")


def test_arguments_of_another_part_are_dropped() -> None:
    lower = {"loss": {"name": "combined", "beta": 0.3}}
    assert merge(lower, {"loss": {"name": "bce"}})["loss"] == {"name": "bce"}
    assert merge(lower, {"loss": {"name": "fuzzy", "beta": 1}})["loss"] == {
        "name": "fuzzy", "beta": 1,
    }  # fmt: skip
    assert merge(lower, {"loss": {"name": "combined"}})["loss"] == lower["loss"]
    assert assign(lower, {"loss.name": "fuzzy", "loss.smooth": 2})["loss"] == {
        "name": "fuzzy", "smooth": 2,
    }  # fmt: skip
    assert assign({"loss": {"beta": 0.3}}, {"loss.name": "fuzzy"})["loss"] == {
        "name": "fuzzy", "beta": 0.3,
    }  # fmt: skip
    ramp = {"loss": {"name": "combined", "beta": {"schedule": "linear", "to": 0.5}}}
    other = {"loss": {"beta": {"schedule": "cosine"}}}
    assert merge(ramp, other)["loss"]["beta"] == {"schedule": "cosine"}


def test_the_axis_gives_another_part_its_own_defaults(tmp_path: Path) -> None:
    text = STORES + "loss: {name: combined, beta: 0.3}\ngrid: {loss.name: [combined, fuzzy]}\n"
    betas = [p.experiment.loss["beta"] for p in load(tmp_path, text).expand().points]
    assert betas == [0.3, 0.5]


def test_set_wins_over_everything(tmp_path: Path) -> None:
    text = STORES + "train: {epochs: 3}\nprofiles: {p: {train: {epochs: 4}}}\n"
    sets = ["train.epochs=5", "optimizer.lr=1e-4", "augment.hflip={}", "stores.a=c.h5"]
    space = load(tmp_path, text, profile="p", overrides=sets)
    assert only(space).train.epochs == 5
    assert only(space).optimizer["lr"] == 1e-4
    assert only(space).augment == {"hflip": {"p": 0.5}}
    assert space.stores["a"].path == str(Path.cwd() / "c.h5")


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        (["loss.name=fuzzy"], ["beta=0", "beta=0.5"]),
        (["loss.name=bce"], ["base"]),
        (["loss.beta=1"], ["name=bce", "name=combined", "name=fuzzy"]),
        (["loss.name=fuzzy", "loss.beta=1"], ["base"]),
        (["grid.loss.beta=[1]"], ["name=bce", "name=combined,beta=1", "name=fuzzy,beta=1"]),
        (["grid={}"], ["base"]),
        (["grid={seed: null}", "train.epochs=2"], None),
    ],
)
def test_set_on_an_axis_fixes_it(
    tmp_path: Path, sets: list[str], expected: list[str] | None
) -> None:
    if expected is None:
        with pytest.raises(UserError):
            load(tmp_path, GRID, overrides=sets)
        return
    space = load(tmp_path, GRID, overrides=sets)
    assert names(space) == expected
    for text in sets:
        key, _, value = text.partition("=")
        if not key.startswith("grid"):
            assert key not in space.grid
            for point in space.expand().points:
                found = point.experiment.loss.get(key.removeprefix("loss."))
                if point.experiment.loss["name"] != "bce":
                    assert found == parse_yaml(value, where="")


def test_set_under_a_part_that_is_an_axis_reaches_every_point(tmp_path: Path) -> None:
    text = STORES + "loss: {name: combined}\ngrid: {loss.name: [combined, fuzzy]}\n"
    space = load(tmp_path, text, overrides=["loss.smooth=3"])
    assert [p.experiment.loss["smooth"] for p in space.expand().points] == [3.0, 3.0]


def test_set_of_a_joint_axis_keeps_that_setting(tmp_path: Path) -> None:
    text = STORES + (
        "grid: {size: {settings: [{label: s, set: {train.epochs: 1}}, "
        "{label: l, set: {train.epochs: 9}}]}}\n"
    )
    assert names(load(tmp_path, text, overrides=["size=l"])) == ["size=l"]
    over = load(tmp_path, text, overrides=["train.epochs=2"]).expand()
    assert [p.experiment.train.epochs for p in over.points] == [2]
    assert over.duplicates == 1


def test_the_scale_of_a_store_in_the_file_as_an_axis_and_by_set(tmp_path: Path) -> None:
    plain = STORES.replace("{train: a}", "{train: a, ood: [b]}")
    scaled = plain + "grid: {stores.b.scale: [0.5, 2]}\n"
    space = load(tmp_path, scaled)
    assert names(space) == ["scale=0.5", "scale=2"]
    assert [p.experiment.scale_of("b") for p in space.expand().points] == [0.5, 2.0]
    assert {p.experiment.scale_of("a") for p in space.expand().points} == {None}
    fixed = load(tmp_path, scaled, overrides=["stores.b.scale=3"])
    assert (names(fixed), only(fixed).scale_of("b")) == (["base"], 3.0)
    given = load(tmp_path, plain, overrides=["stores.b.scale=3"])
    assert given.resolved()["stores"]["b"]["scale"] == 3.0
    assert only(given) == only(fixed)
    again = load(tmp_path, dump_yaml(given.resolved()), name="again.yaml")
    assert only(again) == only(given)
    # A layer that gives the file of a store keeps how it is seen.
    profile = plain + "profiles: {p: {stores: {b: {scale: 0.25}}}}\n"
    assert only(load(tmp_path, profile, profile="p")).scale_of("b") == 0.25


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (
            "data: {train: a, working_size_px: 64, spacing_um: 9}\n",
            "space.yaml: data.spacing_um: data.working_size_px says the size of a working px "
            "already; allowed: one of the two; set data.working_size_px: null",
        ),
        ("data: {train: a, spacing_um: 0}\n", "space.yaml: data.spacing_um: 0 is not allowed"),
        ("data: {train: a, spacing_um: [9]}\n", "space.yaml: data.spacing_um"),
        ("grid: {stores.b.scale: [0]}\n", "space.yaml: grid.stores.b.scale: 0 is not allowed"),
        ("grid: {stores.c.scale: [1]}\n", "space.yaml: grid.stores.c.scale: unknown store 'c'"),
        (
            "grid: {stores.b.path: [x.h5]}\n",
            "space.yaml: grid.stores.b.path: unknown key 'path'",
        ),
    ],
)
def test_a_size_of_a_pixel_that_is_none(tmp_path: Path, more: str, told: str) -> None:
    with pytest.raises(UserError) as caught:
        load(tmp_path, (STORES.splitlines()[0] + "\n" if "data:" in more else STORES) + more)
    assert str(caught.value).startswith(told)


def test_score_epochs() -> None:
    assert Score().at(5) == (5,)
    assert Score(epochs="all").at(3) == (1, 2, 3)
    assert Score.model_validate({"epochs": {"every": 2}}).at(5) == (2, 4, 5)
    assert Score.model_validate({"epochs": [4, 1]}).at(5) == (1, 4)


def test_every_takes_what_fits_and_the_last_epoch(tmp_path: Path) -> None:
    text = STORES + "train: {epochs: 2}\nscore: {epochs: {every: 4}}\n"
    assert only(load(tmp_path, text)).score.at(2) == (2,)


def test_a_split_that_is_given_may_be_a_single_one(tmp_path: Path) -> None:
    text = STORES + "split: {folds: 1, file: lists}\n"
    assert [fold for _, fold, _ in load(tmp_path, text).runs()] == [0]


def test_empty_sections_say_nothing(tmp_path: Path) -> None:
    assert load(tmp_path, STORES + "train:\naugment:\nloss:\nquestion:\nfolds:\n").resolved() == (
        load(tmp_path, STORES).resolved()
    )


SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "question": st.text("abc: '#\n", max_size=8),
        "loss": st.sampled_from(
            [
                {"name": "bce"},
                {"name": "bce", "pos_weight": 2},
                {"beta": 1},
                {"beta": {"schedule": "linear"}},
                {"name": "fuzzy"},
            ]
        ),
        "augment": st.sampled_from([None, {"hflip": None, "vflip": {"p": 1}}, {"hflip": {}}]),
        "train": st.fixed_dictionaries(
            {"epochs": st.integers(4, 6)},
            optional={"ema": st.none() | st.floats(0.1, 0.9), "clip_norm": st.none() | st.just(1)},
        ),
        "score": st.sampled_from([{"epochs": [2, 1]}, {"epochs": {"every": 2}}, {"tta": "flips"}]),
        "grid": st.sampled_from(
            [
                {"loss.name": ["combined", "fuzzy"], "loss.smooth": [1, 2]},
                {"loss": [{"name": "bce"}, {"name": "fuzzy", "beta": 0.1}]},
                {"optimizer.lr": [0.1, 0.2, 0.1], "schedule.name": ["cosine", "cyclic"]},
                {"data.train": ["a", "b"]},
                {"split.folds": [2, 3]},
                {
                    "size": {"settings": [{"label": "s", "set": {"train.epochs": 6}}]},
                    "train.amp": {"values": ["bf16"], "when": {"size": "s"}},
                },
            ]
        ),
        "seeds": st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True),
        "resources": st.sampled_from([{"slots": 2}, {"gpu": 0.5, "memory_gb": 3}]),
        "hypotheses": st.just([{"name": "h", "text": "t"}]),
    },
)


@settings(deadline=None, max_examples=60)
@given(SETTINGS, st.sampled_from([[], ["loss.beta=0.25"], ["train.epochs=5"], ["seeds=[4]"]]))
def test_config_to_yaml_to_config_is_identity(
    tmp_path_factory: pytest.TempPathFactory, data: dict[str, Any], sets: list[str]
) -> None:
    if "bce" in str(data):  # it has no beta
        sets = [text for text in sets if "beta" not in text]
    folder = tmp_path_factory.mktemp("space")
    text = STORES + dump_yaml(data) if data else STORES
    first = load(folder, text, overrides=sets)
    second = load(tmp_path_factory.mktemp("other"), dump_yaml(first.resolved()))
    assert second.resolved() == first.resolved()
    assert second.expand() == first.expand()


def test_experiment_to_yaml_to_experiment_is_identity(tmp_path: Path) -> None:
    text = STORES + "score: {epochs: {every: 2}}\naugment: {vflip: {}, hflip: {p: 0.1}}\n"
    experiment = only(load(tmp_path, text))
    again = load_experiment(
        parse_yaml(dump_yaml(experiment.plain()), where=""), registries=REGISTRIES
    )
    assert again == experiment
    assert list(again.augment) == ["hflip", "vflip"]  # in the registry's order


def test_every_accepted_key_is_described() -> None:
    docs = describe_keys()
    assert [doc.key for doc in docs if not doc.text] == []
    assert len({doc.key for doc in docs}) == len(docs)
    table = {doc.key: doc for doc in docs}
    assert table["train.ema"][1:3] == ("0 to 1 (both excluded), or null", "null")
    assert table["seeds"].default == "[0]"
    assert {"extends", "profiles", "grid.<key>.when", "stores.<name>.import.layout"} <= set(table)
    assert "loss[fuzzy].beta" in {doc.key for doc in describe_keys(REGISTRIES)}


def test_described_keys_are_accepted_by_set(tmp_path: Path) -> None:
    for doc in describe_keys():
        if doc.default in ("null", "true", "0", "none", "last", "auto"):
            key = doc.key
            if "<" not in key and "[" not in key:
                load(tmp_path, STORES, overrides=[f"{key}={doc.default}"])


def test_importers_are_checked_when_their_registry_is_given(tmp_path: Path) -> None:
    registries = {**REGISTRIES, "importer": REGISTRIES["model"]}
    text = "stores: {a: {path: a.h5, import: {layout: wnett, source: raw}}}\n"
    with pytest.raises(UserError) as caught:
        load(tmp_path, text, registries=registries)
    assert str(caught.value) == (
        "space.yaml: stores.a.import.layout: unknown model 'wnett'; allowed: wnet, unet; "
        "did you mean 'wnet'?"
    )


def test_config_imports_nothing_heavy() -> None:
    code = (
        "import sys; import vesselflow.config.loading, vesselflow.config.fingerprint; "
        "print([m for m in ('torch', 'ray', 'optuna', 'h5py', 'numpy', 'pandas', 'rich') "
        "if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_five_hundred_points_load_well_under_a_second(tmp_path: Path) -> None:
    text = STORES + (
        "grid: {optimizer.lr: [" + ", ".join(f"{i}e-4" for i in range(1, 26)) + "], "
        "train.epochs: [" + ", ".join(map(str, range(1, 21))) + "]}\n"
    )
    (tmp_path / "space.yaml").write_text(text)
    # Of this process alone: other work on the machine is no fault of the loader.
    start = time.process_time()
    space = load_space(tmp_path / "space.yaml", registries=REGISTRIES)
    assert len(space.expand().points) == 500
    assert time.process_time() - start < 2  # 0.15 s on an idle core


def test_folds_inside_folds_are_counted_and_run(tmp_path: Path) -> None:
    space = load(tmp_path, STORES + "split: {folds: 3, inner: 2}\n")
    assert [fold for _, fold, _ in space.runs()] == [0, 1, 2, 3, 4, 5]
    assert space.resolved()["folds"] == [0, 1, 2, 3, 4, 5]
    again = load(tmp_path, dump_yaml(space.resolved()), name="again.yaml")
    assert again.resolved() == space.resolved()
    axis = load(tmp_path, STORES + "split: {folds: 2}\ngrid: {split.inner: [null, 2]}\n")
    assert [fold for _, fold, _ in axis.runs()] == [0, 1, 0, 1, 2, 3]
    assert axis.resolved()["folds"] is None
    load(tmp_path, STORES + "split: {folds: 3, inner: 2}\nfolds: [5]\n")
    with pytest.raises(UserError) as caught:
        load(tmp_path, STORES + "split: {folds: 3, inner: 2}\nfolds: [6]\n").expand()
    assert "folds: fold 6 does not exist; allowed: 0 to 5 (split.folds is 3, split.inner 2)" in str(
        caught.value
    )
    with pytest.raises(UserError, match=r"split\.inner: 1 is not allowed; allowed: "):
        load(tmp_path, STORES + "split: {inner: 1}\n")
