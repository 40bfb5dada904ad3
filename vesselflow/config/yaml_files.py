"""YAML in and out: plain data only, one-line errors, nothing that could execute.

Reading follows the core schema of YAML 1.2 where PyYAML follows 1.1: ``1e-3`` is a number, ``0o17``
is 15, ``on``, ``off``, ``yes`` and ``no`` are text, ``010`` is text and not 8, ``1:30`` is text and
not 90, dates are text. Beyond it, ``1_000`` is a thousand (groups of three digits alone). Tags
(``!!python/...``) are refused, and so are keys that are not text, keys given twice in one mapping
(PyYAML keeps the last one silently), and aliases that contain themselves or blow up.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from vesselflow.errors import UserError, closest

#: Nodes that a file may have once its aliases are written out; a space has some hundred.
MAX_NODES = 100_000

_CORE = [
    ("tag:yaml.org,2002:null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    (
        "tag:yaml.org,2002:int",
        r"""^(?:[-+]?(?:0|[1-9][0-9]*|[1-9][0-9]{0,2}(?:_[0-9]{3})+)
            |0o[0-7]+|0x[0-9a-fA-F]+)$""",
        list("-+0123456789"),
    ),
    (
        "tag:yaml.org,2002:float",
        r"""^(?:[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)\.[0-9]*)(?:[eE][-+]?[0-9]+)?
            |[-+]?(?:0|[1-9][0-9]*)[eE][-+]?[0-9]+
            |[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$""",
        list("-+0123456789."),
    ),
    ("tag:yaml.org,2002:merge", r"^<<$", ["<"]),
]


class _Loader(yaml.SafeLoader):
    """The safe loader with the core schema and without any other tag."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012
    yaml_constructors = {  # noqa: RUF012
        tag: construct
        for tag, construct in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.rpartition(":")[2] in ("null", "bool", "int", "float", "str", "seq")
    }

    def mapping(self, node: yaml.MappingNode) -> dict[str, Any]:
        """Plain data of a mapping; a key that is given twice or is not text is an error."""
        lines: dict[str, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key, mark = self.construct_object(key_node, deep=True), key_node.start_mark
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is not text (write it in quotes)", mark
                )
            if key in lines:
                problem = f"the key '{key}' is given twice (first at line {lines[key]})"
                raise yaml.constructor.ConstructorError(None, None, problem, mark)
            lines[key] = mark.line + 1
        self.flatten_mapping(node)
        return {self.construct_object(k, deep=True): self.construct_object(v, deep=True)
                for k, v in node.value}  # fmt: skip


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads back: quotes by the same core schema, no aliases."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _tag, _pattern, _first in _CORE:
    for _kind in (_Loader, _Dumper):
        _kind.add_implicit_resolver(_tag, re.compile(_pattern, re.X), _first)
_Loader.add_constructor("tag:yaml.org,2002:map", _Loader.mapping)
# Short lists of plain values on one line, as a person writes them.
_Dumper.add_representer(
    list,
    lambda dumper, data: dumper.represent_sequence(
        "tag:yaml.org,2002:seq",
        data,
        flow_style=not any(isinstance(entry, list | dict) for entry in data),
    ),
)


def parse_yaml(text: str, *, where: str) -> Any:
    """Plain data of one YAML document; None for an empty one.

    Args:
        text: The document.
        where: Name of the file or option, for the error's line.

    Raises:
        UserError: broken YAML, a tag, a key given twice, more than one document.
    """
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _count(node, [], {})
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        raise _broken(error, where) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError(
            f"not valid YAML at line {line}: the character #x{error.character:04x} is not allowed",
            where=where,
        ) from None
    except RecursionError:
        raise UserError("not valid YAML: nested too deeply", where=where) from None


def _broken(error: yaml.MarkedYAMLError, where: str) -> UserError:
    mark = error.problem_mark or error.context_mark
    place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "its end"
    problem = error.problem or error.context or "unreadable"
    tag = re.search(r"constructor for the tag '([^']*)'", problem)
    if tag:
        return UserError(
            f"the tag '{tag[1].replace('tag:yaml.org,2002:', '!!')}' at {place} is refused",
            where=where,
            allowed="plain text, numbers, true, false, null, lists, mappings",
        )
    hint = "indent with spaces, never with tabs" if "\\t" in problem else ""
    if problem.endswith("but got '?'"):
        # As in {a: synth:fundus?sources=4}, which without the braces is text.
        hint = "inside braces and brackets a text with ? stands in quotes"
    return UserError(f"not valid YAML at {place}: {problem}", where=where, hint=hint)


def _count(node: yaml.Node, above: list[int], sizes: dict[int, int]) -> int:
    """Nodes below and with `node`, aliases written out; refuses loops and explosions."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) in above:
        raise yaml.composer.ComposerError(None, None, "an alias contains itself", node.start_mark)
    if id(node) not in sizes:
        above.append(id(node))
        children = (
            [part for pair in node.value for part in pair]
            if isinstance(node, yaml.MappingNode)
            else node.value
        )
        sizes[id(node)] = 1 + sum(_count(child, above, sizes) for child in children)
        above.pop()
    if sizes[id(node)] > MAX_NODES:
        raise yaml.composer.ComposerError(
            None, None, f"more than {MAX_NODES} entries once aliases are written out",
            node.start_mark,
        )  # fmt: skip
    return sizes[id(node)]


def read_utf8(path: Path, kind: str = "YAML", suffixes: tuple[str, ...] = (".yaml", ".yml")) -> str:
    """The text of a file that a person wrote.

    Args:
        path: The file.
        kind: What kind of file it should be, in words.
        suffixes: How names of such files end: one of them may have been meant.

    Raises:
        UserError: it is missing (names the closest one beside it), a directory, unreadable, or not
            UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        folder = path.parent
        beside = [p.name for p in folder.iterdir() if p.is_file()] if folder.is_dir() else []
        files = sorted(name for name in beside if name.endswith(suffixes))
        hint = closest(path.name, files) or closest(path.stem, [Path(f).stem for f in files])
        if not hint and 0 < len(files) <= 6:
            hint = f"there are {', '.join(files)}"
        raise UserError("no such file", where=str(path), hint=hint) from None
    except IsADirectoryError:
        raise UserError(f"a directory, not a {kind} file", where=str(path)) from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"not UTF-8 text (byte {error.start})", where=str(path), hint="save it as UTF-8"
        ) from None
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=str(path)) from None


def load_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file, as plain data.

    Raises:
        UserError: the file is missing (names the closest one beside it), a directory, unreadable,
            not UTF-8, empty, broken, or not a mapping.
    """
    path = Path(path)
    text = read_utf8(path)
    data = parse_yaml(text, where=path.name)
    if data is None:
        raise UserError("the file is empty", where=path.name, hint="write at least 'stores:'")
    if not isinstance(data, dict):
        kind = "a list" if isinstance(data, list) else "a single value"
        raise UserError(f"the file holds {kind}", where=path.name, allowed="a mapping (key: value)")
    return data


def dump_yaml(data: Any) -> str:
    """Plain data as YAML text, keys in their order; `load_yaml` reads the same data back."""
    return yaml.dump(
        data, Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True,
        width=100,
    )  # fmt: skip
