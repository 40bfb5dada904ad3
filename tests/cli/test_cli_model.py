"""`vesselflow model`: a row for each network of a space."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bad_input import command, refused

SPACE = """
stores: {a: "synth:fundus?domain=a&sources=4&size_px=96"}
data: {train: a, working_size_px: 64}
train: {micro_batch_size: 2}
model: {name: wnet, filters: [4, 8]}
grid: {model.se: [null, sse], model.se_at: [encoder, [skip, decoder]], loss.beta: [0.2, 0.8]}
"""


@pytest.fixture
def space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.yaml").write_text(SPACE)
    return tmp_path / "space.yaml"


def test_networks_stand_in_a_table(space: Path) -> None:
    done = command("model", "space.yaml")
    assert (done.code, done.err) == (0, "")
    rows = [line.split() for line in done.out.splitlines() if line.strip().startswith("wnet")]
    # Points that differ by their loss train one network, and so do those without gates.
    assert [row[row.index("x") - 2] for row in rows] == ["4", "2", "2"]
    assert "wnet (se sse, se_at skip+decoder, filters 4+8)" in done.out
    assert not (space.parent / "results").exists()


def test_the_table_is_there_for_machines(space: Path) -> None:
    done = command("model", "space.yaml", "--json", "--set", "loss.beta=0.5")
    told = json.loads(done.out)
    assert told["space"] == "space"
    first, *others = told["networks"]
    assert len(first["points"]) == 2
    assert first["sample_px"] == [64, 64]
    assert first["output_stride"] == [1, 1]
    assert all(row["parameters"] > first["parameters"] for row in others)
    assert 0 < first["receptive_px"][0] < 64


def test_widths_that_were_matched_stand_beside_those_given(space: Path) -> None:
    space.write_text(SPACE.replace("[4, 8]", "[8, 16, 32]") + "match_parameters: true\n")
    done = command("model", "space.yaml")
    assert done.code == 0
    rows = [line.split() for line in done.out.splitlines() if line.strip().startswith("wnet")]
    assert "wnet (se sse, se_at skip+decoder, filters 8+16+32)" not in done.out
    first, *others = json.loads(command("model", "space.yaml", "--json").out)["networks"]
    assert first["given_parameters"] == first["parameters"] == 68_482
    assert all(row["given_parameters"] > first["parameters"] for row in others)
    assert all(abs(row["parameters"] / first["parameters"] - 1) < 0.01 for row in others)
    assert rows[0].count("68,482") == 2
    assert f"{others[0]['given_parameters']:,}" in rows[1]
    assert "given_parameters" not in command("model", "space.yaml", "--json", "--set",
                                             "match_parameters=false").out  # fmt: skip


def test_what_is_wrong_is_a_line(space: Path) -> None:
    space.write_text(SPACE.replace("sse", "ssse"))
    assert "did you mean 'sse'?" in refused(space.parent, "model", "space.yaml")
