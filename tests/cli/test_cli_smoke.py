"""`vesselflow smoke`: what it prints, and how it ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from vesselflow.cli.main import main
from vesselflow.sweeps import smoke as smoke_module
from vesselflow.sweeps.smoke import Smoke

SPACE = """
name: tiny
stores: {a: "synth:fundus?domain=a&sources=6&size_px=64"}
data: {train: a, working_size_px: 64}
split: {folds: 3, val_fraction: 0.25}
folds: [0]
grid: {loss.name: [bce, dice]}
"""


@pytest.mark.parametrize("passed", [True, False])
def test_what_it_prints(passed: bool, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    Path("space.yaml").write_text(SPACE)
    tried: list[str] = []

    def smoke(plan: object, cell: object, scratch: Path) -> Smoke:
        tried.append(cell.point)
        return Smoke("dice", 0.97 if passed else 0.4, 81, 12.3, faults=[] if passed else ["a", "b"])

    monkeypatch.setattr(smoke_module, "smoke", smoke)
    code = main(["smoke", "space.yaml", "name=dice"])
    assert (code, tried) == (0 if passed else 1, ["name=dice"])
    said = capsys.readouterr().out.splitlines()
    if passed:
        assert said == ["name=dice: dice 0.970 on the samples that it learnt (81 steps, 12 s)"]
    else:
        assert said == [
            "name=dice: dice 0.400 on the samples that it learnt (81 steps, 12 s); "
            "above 0.95 was asked for",
            "  a",
            "  b",
        ]
    assert [path.name for path in tmp_path.iterdir()] == ["space.yaml"]  # no results, no store
