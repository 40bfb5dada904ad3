"""Stale runs: by which part, from which version, and why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vesselflow.cli.main import main
from vesselflow.config.experiment import load_experiment
from vesselflow.config.fingerprint import SECTION_CHANGES, SECTION_VERSIONS, experiment_identity
from vesselflow.config.yaml_files import dump_yaml
from vesselflow.errors import UserError
from vesselflow.records.runs import RunRecord
from vesselflow.runs.registries import REGISTRIES
from vesselflow.runs.stale import Mended, mended_since

CONFIG = {
    "data": {"train": "a"},
    "loss": {"name": "combined"},
    "model": {"name": "wnet"},
    "schedule": {"name": "cyclic"},
    "augment": {"hflip": {}},
    "normalise": {"scope": "dataset"},
}


def _identity(config: dict[str, object] = CONFIG) -> dict[str, object]:
    experiment = load_experiment(config, registries=REGISTRIES, fit=False)
    return {"experiment": json.loads(json.dumps(experiment_identity(experiment, REGISTRIES)))}


def test_every_later_version_says_what_was_mended() -> None:
    for registry in REGISTRIES.values():
        for part in registry:
            last = max(part.version, part.revised[0] if part.revised else 1, part.beside or 1)
            assert set(part.changes) == set(range(2, last + 1)), (registry.kind, part.name)
    assert set(SECTION_CHANGES) <= set(SECTION_VERSIONS)


def test_a_run_of_today_is_not_stale() -> None:
    assert mended_since(CONFIG, _identity(), REGISTRIES) == []


def test_parts_and_sections_that_were_mended_are_named() -> None:
    identity = _identity()
    identity["experiment"]["schedule"]["version"] = 1  # type: ignore[index]
    identity["experiment"]["normalise"]["version"] = 1  # type: ignore[index]
    found = mended_since(CONFIG, identity, REGISTRIES)
    assert {entry.part: (entry.was, entry.now) for entry in found} == {
        "schedule cyclic": (1, 2),
        "normalise": (1, 2),
    }
    assert (
        Mended("schedule cyclic", 1, 2, "cycles have whole steps and restart at the top") in found
    )
    # Another value of the same section, which the mended code does not reach.
    plain = {**CONFIG, "normalise": {}}
    assert mended_since(plain, _identity(plain), REGISTRIES) == []


def test_an_augmentation_that_was_mended(monkeypatch: pytest.MonkeyPatch) -> None:
    identity = _identity()
    part = REGISTRIES["augment"].part("hflip")
    monkeypatch.setitem(
        REGISTRIES["augment"]._parts,
        "hflip",
        type(part)(part.name, part.target, part.arguments, 3, changes={2: "one", 3: "two"}),
    )
    assert mended_since(CONFIG, identity, REGISTRIES) == [Mended("augment hflip", 1, 3, "one; two")]


def test_a_config_of_another_version_cannot_be_judged() -> None:
    with pytest.raises(UserError, match="nosuch"):
        mended_since({**CONFIG, "loss": {"name": "nosuch"}}, _identity(), REGISTRIES)


def test_the_command_names_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = _identity()
    old["experiment"]["schedule"]["version"] = 1  # type: ignore[index]
    for name, identity, text in (
        ("new", _identity(), dump_yaml(CONFIG)),
        ("old", old, dump_yaml(CONFIG)),
        ("odd", old, "loss: {name: nosuch}\n"),
        ("torn", old, "{"),
    ):
        record = RunRecord(tmp_path, name)
        record.create(text, identity)
        record.begin_attempt()
    before = sorted(map(str, tmp_path.rglob("*")))
    assert main(["runs", str(tmp_path), "--stale"]) == 0
    said = capsys.readouterr().out
    assert "old  running  schedule cyclic, version 1, is 2 now: cycles have whole steps" in said
    assert "odd  running  made by another version of vesselflow" in said
    assert "torn  running  its config.yaml is damaged" in said
    assert "new  running" not in said
    assert "3 of 4 runs are stale; the same sweep command trains their successors" in said
    assert main(["runs", str(tmp_path), "--stale", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [entry["run_id"] for entry in found] == ["odd", "old", "torn"]
    assert found[1]["mended"][0]["now"] == 2
    # Looking changes nothing.
    assert sorted(map(str, tmp_path.rglob("*"))) == before
