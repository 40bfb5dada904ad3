"""What can happen to a JSON file: each kind spoils one, given its path."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def _rewrite(change: Callable[[Any], Any]) -> Callable[[Path], None]:
    return lambda path: path.write_text(json.dumps(change(json.loads(path.read_text()))))


def _text(text: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(text)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "inside").touch()


def _other_leaves(value: Any) -> Any:
    """The same keys, every value of another type."""
    if isinstance(value, dict):
        return {key: _other_leaves(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_other_leaves(entry) for entry in value]
    return [value] if isinstance(value, str) else "seven"


def _negative(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _negative(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_negative(entry) for entry in value]
    return -1.5


DAMAGE: dict[str, Callable[[Path], None]] = {
    "empty": _text(""),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-4]),
    "zeros": lambda path: path.write_bytes(bytes(len(path.read_bytes()))),
    "not UTF-8": lambda path: path.write_bytes(b"\xff\xfe{}"),
    "too deep": _text("[" * 100_000),
    "a list": _text("[1, 2]"),
    "a list of objects": _text('[{"epoch": 1}, {"step": null}]'),
    "a number": _text("7"),
    "null": _text("null"),
    "a text": _text('"finished"'),
    "no keys": _text("{}"),
    "other keys": _text('{"version": 9, "state": "finished", "attempts": {}}'),
    "other types": _rewrite(_other_leaves),
    "below zero": _rewrite(_negative),
    "a folder": _folder,
    "gone": Path.unlink,
}
