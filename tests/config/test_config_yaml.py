"""YAML is read as a person means it, and what is written is read back."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vesselflow.config.yaml_files import dump_yaml, load_yaml, parse_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        ("-2.5e+4", -25000.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("-3", -3),
        ("0", 0),
        ("010", "010"),
        ("+1e3", 1000.0),
        ("1E5", 100000.0),
        ("5.", 5.0),
        ("+.5", 0.5),
        ("+7", 7),
        ("1_000", 1000),
        ("-12_345_678", -12_345_678),
        ("0o17", 15),
        ("0x1F", 31),
        # What no person means as a number, or not surely so: text, which no number takes.
        ("08", "08"),
        ("1_00", "1_00"),
        ("2026_11", "2026_11"),
        ("1_000.5", "1_000.5"),
        ("0b11", "0b11"),
        ("0o8", "0o8"),
        ("1:30", "1:30"),
        ("1:30.5", "1:30.5"),
        ("1e", "1e"),
        ("1,5", "1,5"),
        ("on", "on"),
        ("no", "no"),
        ("none", "none"),
        ("true", True),
        ("~", None),
        ("null", None),
        ("2026-01-02", "2026-01-02"),
        ("'1e-3'", "1e-3"),
    ],
)
def test_scalars(text: str, value: object) -> None:
    found = parse_yaml(text, where="x")
    assert found == value
    assert type(found) is type(value)


def test_anchors_and_merge_keys_work() -> None:
    text = "base: &b {p: 1, q: 2}\nuse: {<<: *b, q: 3}\nagain: *b\n"
    data = parse_yaml(text, where="x")
    assert data["use"] == {"p": 1, "q": 3}
    assert data["again"] == {"p": 1, "q": 2}


def test_byte_order_mark_and_windows_lines(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_bytes(b"\xef\xbb\xbfseeds: [0]\r\nname: x\r\n")
    assert load_yaml(file) == {"seeds": [0], "name": "x"}


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc", "Cn")), max_size=12)
    | st.sampled_from(
        ["1e-3", "no", "~", "true", "010", "1_000", "0o17", "0x1F", "1:30", "", " a", "a: b", "="]
    ),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text("abc1.~ ", max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(deadline=None, max_examples=150)
@given(plain)
def test_what_is_dumped_is_read_back(data: Any) -> None:
    found = parse_yaml(dump_yaml(data), where="x")
    assert found == data
    assert repr(found) == repr(data)  # 1 stays an int, 1.0 a float


def test_same_object_twice_makes_no_alias() -> None:
    inner = {"p": 0.5}
    assert "*" not in dump_yaml({"a": inner, "b": inner})
