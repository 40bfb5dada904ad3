"""What all checks look at: kinds of nodes with their places, commands with their scripts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vesselflow.clusters.document import Keys
from vesselflow.clusters.files import NodeType
from vesselflow.clusters.surroundings import Checked

TYPES = "available_node_types"
#: Lists of commands that every node, the head alone, and workers alone run.
SETUP = ("initialization_commands", "setup_commands")
HEAD = ("head_setup_commands", "head_start_ray_commands")
WORKER = ("worker_setup_commands", "worker_start_ray_commands")


@dataclass(frozen=True)
class Kind:
    """One kind of node, and where it stands.

    Attributes:
        name: Its name.
        keys: Its place.
        given: What the file says of it.
        config: Its `node_config`.
        node: What was read of it.
        is_head: Whether the head is of this kind.
    """

    name: str
    keys: Keys
    given: dict[str, Any]
    config: dict[str, Any]
    node: NodeType
    is_head: bool

    @property
    def is_worker(self) -> bool:
        """Whether workers may be of this kind."""
        return self.node.max_workers > 0

    @property
    def at_config(self) -> Keys:
        """The place of its `node_config`."""
        return (*self.keys, "node_config")


def kinds(checked: Checked) -> Iterator[Kind]:
    """All kinds of nodes of a cloud, in the order of the file."""
    for node in checked.cluster.types:
        keys: Keys = (TYPES, node.name)
        given = checked.document.mapping(*keys)
        config = checked.document.mapping(*keys, "node_config")
        yield Kind(node.name, keys, given, config, node, node is checked.cluster.head)


@dataclass(frozen=True)
class Command:
    """One shell command of the file.

    Attributes:
        keys: Its place.
        text: The command.
        full: The command, and the text of every copied script that it names.
    """

    keys: Keys
    text: str
    full: str


def commands(checked: Checked, *names: str) -> list[Command]:
    """The commands of some lists, in their order; what is no text is left out."""
    found = []
    for name in names:
        entries = checked.document.at(name)
        for index, text in enumerate(entries if isinstance(entries, list) else []):
            if isinstance(text, str):
                found.append(Command((name, index), text, _with_scripts(checked, text)))
    return found


def mounts(checked: Checked) -> dict[str, str]:
    """`file_mounts`: path on the node -> path here."""
    given = checked.document.mapping("file_mounts")
    return {str(there): here for there, here in given.items() if isinstance(here, str)}


def mounted(checked: Checked, there: str) -> Path | None:
    """The file or folder here that a path on the node is copied from; None when none is.

    Args:
        checked: The file.
        there: A path on the node; `$HOME` and quotes are understood.
    """
    path = there.strip("\"'").replace("${HOME}", "~").replace("$HOME", "~").rstrip("/")
    for target, source in mounts(checked).items():
        target = target.rstrip("/")
        if path == target:
            return checked.around.local(source)
        if path.startswith(f"{target}/"):
            return checked.around.local(source) / path[len(target) + 1 :]
    return None


def script_text(checked: Checked) -> str:
    """What a script for Slurm does, and every script that it sources; without its comments."""
    lines = str(checked.document.at("script") or "").splitlines()
    parts = [line for line in lines if not line.lstrip().startswith("#")]
    for line in list(parts):
        found = _SOURCED.match(line)
        path = checked.around.local(found["path"]) if found else None
        if path is not None and path.is_file():
            parts.append(path.read_text(encoding="utf-8", errors="replace"))
    return "\n".join(parts)


_SOURCED = re.compile(r"\s*(?:\.|source)\s+[\"']?(?P<path>[^\s\"']+\.sh)")


#: A path in a command that a copied script may stand at.
_PATH = re.compile(r"[^\s;&|<>()\"']+\.sh\b")


def _with_scripts(checked: Checked, text: str) -> str:
    parts = [text]
    for there in _PATH.findall(text):
        script = mounted(checked, there)
        if script is not None and script.is_file():
            parts.append(script.read_text(encoding="utf-8", errors="replace"))
    return "\n".join(parts)
