"""A cluster file as Ray reads it (YAML 1.1), with the line of every key."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vesselflow.config.yaml_files import read_utf8
from vesselflow.errors import UserError

#: Keys and indices from the top of a file to one of its places.
Keys = tuple[str | int, ...]


@dataclass(frozen=True)
class Document:
    """What a cluster file says, and where.

    Attributes:
        path: The file.
        data: Plain data, aliases and merge keys written out.
        lines: Place -> line, counted from 1. Of what an alias or a merge key brought in, the line
            where it is written: that is the one to edit.
    """

    path: Path
    data: dict[str, Any]
    lines: dict[Keys, int]

    def at(self, *keys: str | int) -> Any:
        """What stands at a place; None when nothing does, or what is above it has no such key."""
        here: Any = self.data
        for key in keys:
            if isinstance(here, dict):
                here = here.get(key)
            elif isinstance(here, list) and isinstance(key, int) and -len(here) <= key < len(here):
                here = here[key]
            else:
                return None
        return here

    def mapping(self, *keys: str | int) -> dict[str, Any]:
        """The mapping at a place; {} when there is none."""
        here = self.at(*keys)
        return here if isinstance(here, dict) else {}

    def line(self, keys: Keys) -> int | None:
        """The line of a place, or of what is next above it; None for the file as a whole."""
        while keys and keys not in self.lines:
            keys = keys[:-1]
        return self.lines.get(keys)


def read_document(path: str | Path) -> Document:
    """Read a cluster file.

    Raises:
        UserError: missing (names the closest one beside it), unreadable, not UTF-8, empty, broken
            YAML, tags, aliases that contain themselves, a key given twice (Ray takes the last one
            without a word), or not a mapping.
    """
    path = Path(path)
    text = read_text(path)
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                raise UserError("the file is empty", where=str(path))
            lines = dict(_lines(node, (), []))
            data = loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}" if mark else "its end"
        problem = error.problem or error.context or "unreadable"
        raise UserError(f"not valid YAML at {place}: {problem}", where=str(path)) from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        first = str(error).splitlines()[:1] or ["unreadable"]
        raise UserError(f"not valid YAML: {first[0]}", where=str(path)) from None
    if not isinstance(data, dict):
        raise UserError(
            "the file does not hold a mapping",
            where=str(path),
            allowed="key: value, as in clusters/",
        )
    return Document(path, data, lines)


def read_text(path: Path) -> str:
    """The text of a cluster file, YAML or a script.

    Raises:
        UserError: As of `read_utf8`.
    """
    return read_utf8(path, "cluster", (".yaml", ".yml", ".sh"))


def _lines(node: yaml.Node, keys: Keys, above: list[yaml.Node]) -> Iterator[tuple[Keys, int]]:
    """Place and line of everything below `node`; of what a merge key brings in, the first one."""
    if node in above:
        raise yaml.composer.ComposerError(None, None, "an alias contains itself", node.start_mark)
    above = [*above, node]
    if isinstance(node, yaml.MappingNode):
        merged: list[tuple[Keys, int]] = []
        own: dict[Hashable, int] = {}
        for key_node, value_node in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                many = isinstance(value_node, yaml.SequenceNode)
                for part in value_node.value if many else [value_node]:
                    merged += list(_lines(part, keys, above))
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                continue
            key, line = str(key_node.value), key_node.start_mark.line + 1
            if key in own:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key}' is given twice (first at line {own[key]})",
                    key_node.start_mark,
                )  # fmt: skip
            own[key] = line
        # `dict` keeps the last of a place: what is written here goes before what is merged in.
        yield from reversed(merged)
        for key_node, value_node in node.value:
            if isinstance(key_node, yaml.ScalarNode) and key_node.tag != "tag:yaml.org,2002:merge":
                place = (*keys, str(key_node.value))
                # What an alias stands for was written further up.
                alias = isinstance(value_node, yaml.ScalarNode) and (
                    value_node.start_mark.index < key_node.start_mark.index
                )
                yield place, (value_node if alias else key_node).start_mark.line + 1
                yield from _lines(value_node, place, above)
    elif isinstance(node, yaml.SequenceNode):
        for index, part in enumerate(node.value):
            yield (*keys, index), part.start_mark.line + 1
            yield from _lines(part, (*keys, index), above)
