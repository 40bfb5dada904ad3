"""Every registered part has golden values of its version; a change of them needs a new version."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from contract_parts import GOLDEN, PROBES, REQUIRED, REVISED, versions

from vesselflow.config.registry import Registry
from vesselflow.runs.registries import REGISTRIES

torch.set_num_threads(1)

PARTS = [(kind, part, number) for kind in REGISTRIES for part in REGISTRIES[kind]
         for number in versions(part)]  # fmt: skip


def wanting(registries: dict[str, Registry], golden: dict[str, Any]) -> list[str]:
    """Parts without golden values, and golden values without a part."""
    found = {
        f"{kind} {name} {version}"
        for kind, names in golden.items()
        for name, numbers in names.items()
        for version in numbers
    }
    needed = {
        f"{kind} {part.name} {number}"
        for kind, registry in registries.items()
        for part in registry
        for number in versions(part)
    }
    return sorted(found ^ needed)


def test_every_part_of_every_registry_has_golden_values() -> None:
    assert wanting(REGISTRIES, GOLDEN) == [], "see tests/contracts/golden.yaml"
    assert set(PROBES) == set(REGISTRIES)


def test_a_part_without_golden_values_is_found() -> None:
    new = Registry("loss")
    new.add("bce", target="nowhere:nothing", version=2)
    new.add("odd", target="nowhere:nothing", revised=(3, lambda arguments: False))
    golden = {"loss": {"bce": {1: [0.5]}, "odd": {1: [0.1]}}}
    assert wanting({"loss": new}, golden) == ["loss bce 1", "loss bce 2", "loss odd 3"]


@pytest.mark.parametrize(
    ("kind", "part", "version"),
    PARTS,
    ids=[f"{kind}-{part.name}-{number}" for kind, part, number in PARTS],
)
def test_golden_values(kind: str, part: Any, version: int) -> None:
    arguments = {} if version == part.version else REVISED[kind, part.name]
    if kind not in ("sampler", "importer", "synth"):  # these need more than their defaults
        whole = {**REQUIRED.get((kind, part.name), {}), **arguments}
        assert part.version_at(part.arguments.model_validate(whole)) == version
    found, expected = PROBES[kind](part.name, arguments), GOLDEN[kind][part.name][version]
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        if isinstance(other, str):
            assert one == other
        else:
            assert one == pytest.approx(other, abs=1e-6, rel=1e-6)


def test_no_golden_value_is_nothing() -> None:
    """All of them zero or not finite would hold for broken numbers, too."""
    for kind, names in GOLDEN.items():
        for name, numbers in names.items():
            for version, values in numbers.items():
                plain = [value for value in values if isinstance(value, int | float)]
                assert all(map(math.isfinite, plain)), (kind, name, version)
                assert any(values), (kind, name, version)


if __name__ == "__main__":  # prints what the parts give today, in the form of golden.yaml
    for kind_, part_, number_ in PARTS:
        beside = {} if number_ == part_.version else REVISED[kind_, part_.name]
        values_ = [v if isinstance(v, str | int) else float(f"{v:.10g}")
                   for v in PROBES[kind_](part_.name, beside)]  # fmt: skip
        print(f"{kind_}: {part_.name}: {{{number_}: {values_}}}")
