"""Each fault that `ray up` takes silently: one change of a shipped file, one finding."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from cluster_file_cases import Checker, filled, told
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vesselflow.clusters.surroundings import Slots
from vesselflow.errors import UserError

TABLE = Path(__file__).with_name("faults.yaml")


class Case(NamedTuple):
    """A change of a shipped file and what is to be said of it, as `faults.yaml` gives it."""

    file: str
    change: dict[str, str]
    rule: str
    key: str
    says: tuple[str, ...]
    more: tuple[str, ...] = ()

    def text(self) -> str:
        """The changed file."""
        return filled(self.file, *self.change.items())


CASES = [
    pytest.param(Case(**case), id=f"{group}-{name}")
    for group, cases in yaml.safe_load(TABLE.read_text(encoding="utf-8")).items()
    for name, case in cases.items()
]


@pytest.mark.parametrize("case", CASES)
def test_a_fault_is_found_at_its_place_with_its_remedy(look: Checker, case: Case) -> None:
    rows = look(case.text())
    severity, _, rule = case.rule.partition(" ")
    meant = [
        row
        for row in rows
        if (row.finding.severity.value, row.finding.rule) == (severity, rule)
        and row.key.endswith(case.key)
        and all(part in row.text() for part in case.says)
    ]
    assert meant, told(rows)
    # Once, or once for each kind of machine that shares the line.
    assert len({row.line for row in meant}) == 1, told(meant)
    row = meant[0]
    others = {row.finding.rule for row in rows} - {rule}
    assert others <= set(case.more), told(rows)
    assert "\n" not in row.text()


@pytest.mark.parametrize("case", CASES)
def test_the_line_is_the_one_to_edit(look: Checker, case: Case) -> None:
    """It holds the key that is named, or, of what is missing, a key above it."""
    text = case.text()
    lines = text.splitlines()
    for row in look(text):
        if row.line is None:
            assert not row.finding.keys or row.finding.keys[0] not in text
            continue
        names = [str(key) for key in row.finding.keys if isinstance(key, str)]
        in_list = row.finding.keys and isinstance(row.finding.keys[-1], int)
        assert in_list or any(
            name in lines[row.line - 1].lower() for name in map(str.lower, names)
        ), row.text()


def test_a_folder_that_holds_everything_is_named(look: Checker) -> None:
    everything = look.folder / "all"
    for name in (".git", ".venv", "vesselflow"):
        (everything / name).mkdir(parents=True)
    line = "  ~/vesselflow/LICENSE: LICENSE\n"
    rows = look(filled("aws", (line, f"{line}  ~/all: {everything}\n")))
    assert [row.finding.rule for row in rows] == ["mount"], told(rows)
    assert "holds .venv, .git: Ray reads all of it at every `ray up`" in rows[0].text()


def test_all_faults_are_told_at_once(look: Checker) -> None:
    text = filled(
        "aws",
        ("MarketType: spot", "MarketType: spto"),
        ("HttpTokens: required", "HttpTokens: optional"),
        ("region: us-east-1", "region: us-east1"),
        ("LICENSE: LICENSE", "LICENSE: LICENCE"),
        ("idle_timeout_minutes: 10", "idle_timeout_minute: 10"),
    )
    rows = look(text)
    rules = [row.finding.rule for row in rows]
    assert {"node-value", "imds", "region", "mount", "ray-schema", "idle-timeout"} <= set(rules)
    severities = [row.finding.severity.value for row in rows]
    assert severities == sorted(severities), "errors first"
    assert len(set(rows)) == len(rows)


def test_what_many_kinds_lack_is_said_once(look: Checker) -> None:
    text = filled("aws", ("      SecurityGroupIds: *groups\n", ""))
    (row,) = look(text)
    assert row.key == "available_node_types.head.node_config"
    assert "likewise spot_c7i, spot_m7i, spot_r7i, steady, gpu_spot_2x" in row.text()
    assert row.row()["also"] == list(row.also)


@pytest.mark.parametrize("name", ["aws", "gcp", "local"])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("file_mounts:\n", "file_mounts: 3\nmetadata_x:\n"),
        ("setup_commands:\n", "setup_commands: go\nmetadata_x:\n"),
        ("provider:\n", "provider: [aws]\nx:\n"),
        ("auth:\n", "auth: me\nx:\n"),
        ("  vesselflow:\n", "  vesselflow: 3\n  other:\n"),
    ],
)
def test_no_shape_of_a_file_is_too_odd_for_a_line(
    look: Checker, name: str, old: str, new: str
) -> None:
    text = filled(name)
    assert f"\n{old}" in text
    rows = look(text.replace(f"\n{old}", f"\n{new}", 1))
    assert any(row.finding.severity.value == "error" for row in rows)


ODD = st.sampled_from(
    [None, 3, -1, "x", True, "", [], {}, [None], [[1]], [{"a": 1}], {"a": {"b": 1}}]
)


def places(data: object, keys: tuple[object, ...] = ()) -> Iterator[tuple[object, ...]]:
    """Every place of plain data."""
    steps = data.items() if isinstance(data, dict) else enumerate(data)  # type: ignore[arg-type]
    for key, below in steps:
        yield (*keys, key)
        if isinstance(below, dict | list):
            yield from places(below, (*keys, key))


@functools.cache
def parsed(name: str) -> dict[object, object]:
    """A whole file, to be copied."""
    data: dict[object, object] = yaml.safe_load(filled(name))
    return data


@pytest.mark.parametrize("name", ["aws", "gcp", "local"])
@given(draw=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_stands_anywhere_it_is_told_and_not_a_crash(
    look: Checker, name: str, draw: st.DataObject
) -> None:
    """What is made of a file with odd values: findings, or one line; never a traceback."""
    data = copy.deepcopy(parsed(name))
    for _ in range(2):
        place = draw.draw(st.sampled_from(sorted(places(data), key=str)))
        here = data
        for step in place[:-1]:
            here = here[step]
        here[place[-1]] = copy.deepcopy(draw.draw(ODD))  # else a list is put into itself
    with contextlib.suppress(UserError):
        look(yaml.safe_dump(data), Slots("s.yaml"))
