"""What is installed on the machines: this very version, its packages, a Python that it runs on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from vesselflow.clusters.checks.parts import SETUP, Command, commands, kinds, mounted, mounts
from vesselflow.clusters.findings import Finding, error, warning
from vesselflow.clusters.surroundings import Checked, code_digest

#: The oldest Python that vesselflow runs on.
LEAST_PYTHON = (3, 11)

#: Lists that Ray fills with something of its own where the file has none.
_DEFAULTS = {
    "setup_commands": "installs an unfinished Ray 3 for Python 3.10",
    "head_setup_commands": "installs the cloud's client into the system's Python, which refuses it",
    "head_start_ray_commands": "opens the dashboard to all addresses, and starts no watcher",
    "worker_start_ray_commands": "starts no watcher, and sets none of our variables",
}
_INSTALL = re.compile(r"\b(?:pip|uv)\b[^\n;&|]*\binstall\b([^\n;&|]*)")
_WORD = re.compile(r"\"[^\"]*\"|'[^']*'|[^\s]+")
_PIN = re.compile(r"(?<![\w./-])(?P<name>ray|vesselflow)(?:\[[^\]]*\])?\s*==\s*(?P<version>[\w.]+)")
_RAY_WHEEL = re.compile(r"ray-(?P<version>\d[\w.]*?)-(?P<python>cp\d+)-")
_PYTHON = re.compile(
    r"(?:python(?:@|=+|-)?|uv python install |--python[ =]|pyenv install )"
    r"(?P<major>3)\.(?P<minor>\d+)"
)


def check_defaults(checked: Checked) -> Iterator[Finding]:
    """Lists that are missing: Ray's own take their place."""
    local = checked.cluster.cloud == "local"
    for name, does in _DEFAULTS.items():
        if checked.document.at(name) is None:
            if local and name == "head_setup_commands":
                continue
            what = "does nothing" if local and name == "setup_commands" else does
            yield error(
                "defaults",
                (),
                f"{name} is missing: Ray's own takes its place, which {what}",
                allowed=f"{name}: []" if name == "head_setup_commands" else "",
                hint="copy it from the files in clusters/",
            )


def check_version(checked: Checked) -> Iterator[Finding]:
    """That every node gets the vesselflow that runs here, with the packages of its tests."""
    if checked.document.at("setup_commands") is None:
        return
    every = commands(checked, *SETUP)
    installs = [c for c in every if _installs(c)]
    if not installs:
        both = ("head_setup_commands", "worker_setup_commands")
        installs = [c for name in both for c in commands(checked, name) if _installs(c)]
        if {c.keys[0] for c in installs} != set(both):
            yield error(
                "version",
                ("setup_commands",),
                "no command installs vesselflow on all nodes",
                allowed='pip install -e "$HOME/vesselflow" -c ~/vesselflow/constraints.txt',
                hint="copy file_mounts and setup_commands from the files in clusters/",
            )
            return
    for command in installs:
        yield from _version(checked, command)
        if not re.search(r"(?:-c|--constraint)[ =]", command.full):
            yield warning(
                "constraints",
                command.keys,
                "installs the newest packages of the day, not those that the tests passed with",
                allowed="... -c ~/vesselflow/constraints.txt",
            )
    for kind in kinds(checked):
        own = kind.given.get("worker_setup_commands")
        if isinstance(own, list) and not any("vesselflow" in str(one) for one in own):
            yield error(
                "version",
                (*kind.keys, "worker_setup_commands"),
                "takes the place of all setup_commands on this kind of node, and installs no "
                "vesselflow",
                hint="repeat the setup_commands there",
            )


def check_ray(checked: Checked) -> Iterator[Finding]:
    """That the nodes get the Ray that runs here."""
    ours = checked.around.ray
    lists = (*SETUP, "head_setup_commands", "worker_setup_commands")
    for command in commands(checked, *lists):
        for found in _PIN.finditer(command.full):
            if found["name"] == "ray" and ours and found["version"] != ours:
                yield _other_ray(command, found["version"], ours)
        for found in _RAY_WHEEL.finditer(command.full):
            if ours and found["version"] != ours:
                yield _other_ray(command, found["version"], ours)
    for there, path in _constraints(checked):
        for found in _PIN.finditer(path.read_text(encoding="utf-8", errors="replace")):
            if found["name"] == "ray" and ours and found["version"] != ours:
                yield error(
                    "ray-version",
                    ("file_mounts", there),
                    f"{path.name} has Ray {found['version']}, and here is Ray {ours}: `ray up` and "
                    "the cluster must have the same",
                    hint=f"pip install 'ray[default]=={found['version']}' here",
                )


def check_python(checked: Checked) -> Iterator[Finding]:
    """That no command asks for a Python that is too old."""
    least = ".".join(map(str, LEAST_PYTHON))
    lists = (*SETUP, "head_setup_commands", "worker_setup_commands")
    for command in commands(checked, *lists):
        named = {(int(m["major"]), int(m["minor"])) for m in _PYTHON.finditer(command.full)}
        named |= {
            (int(w["python"][2]), int(w["python"][3:])) for w in _RAY_WHEEL.finditer(command.full)
        }
        for python in sorted(named):
            text = ".".join(map(str, python))
            if python < LEAST_PYTHON:
                yield error(
                    "python-version",
                    command.keys,
                    f"Python {text} is too old for vesselflow",
                    allowed=f"{least} or newer, the same on all nodes",
                )


def _installs(command: Command) -> bool:
    return bool(_targets(command))


def _version(checked: Checked, command: Command) -> Iterator[Finding]:
    """What the command installs against what runs here."""
    around = checked.around
    for pinned in _PIN.finditer(command.full):
        if pinned["name"] == "vesselflow" and pinned["version"] != around.vesselflow:
            yield error(
                "version",
                command.keys,
                f"installs vesselflow {pinned['version']}, and here is {around.vesselflow}",
                allowed=f"vesselflow=={around.vesselflow}",
            )
            return
        if pinned["name"] == "vesselflow":
            return
    for word in _targets(command):
        folder = mounted(checked, word.split("[")[0])
        if folder is None:
            package = mounted(checked, f"{word.split('[')[0]}/vesselflow")
        else:
            package = folder / "vesselflow"
        if package is None:
            yield warning(
                "version",
                command.keys,
                f"whether '{word}' is version {around.vesselflow}, which is here, cannot be told",
                allowed=f"vesselflow=={around.vesselflow}, or the code here by file_mounts",
            )
        elif package.is_dir():
            yield from _same_code(checked, command, package)


def _same_code(checked: Checked, command: Command, package: Path) -> Iterator[Finding]:
    around = checked.around
    if package.resolve() == around.code.resolve():
        return
    found = re.search(
        r"__version__ = [\"']([^\"']+)",
        (package / "__init__.py").read_text(encoding="utf-8", errors="replace")
        if (package / "__init__.py").is_file()
        else "",
    )
    there = found[1] if found else "without a version"
    if there != around.vesselflow:
        yield error(
            "version",
            command.keys,
            f"{package} is vesselflow {there}, and {around.vesselflow} runs here",
            hint="copy the code that runs here, or run that one: its .venv/bin/vesselflow",
        )
    elif code_digest(package) != code_digest(around.code):
        yield error(
            "version",
            command.keys,
            f"{package} is other code than the vesselflow that runs here, {around.code}",
            hint="copy the code that runs here, or run that one: its .venv/bin/vesselflow",
        )


def _targets(command: Command) -> list[str]:
    """What is installed that has vesselflow in its name: paths and requirements."""
    words = []
    for found in _INSTALL.finditer(command.full):
        previous = ""
        for word in _WORD.findall(found[1]):
            plain = word.strip("\"'")
            is_file = previous in ("-c", "--constraint", "-r", "--requirement")
            if "vesselflow" in plain and not plain.startswith("-") and not is_file:
                words.append(plain)
            previous = plain
    return words


def _constraints(checked: Checked) -> Iterator[tuple[str, Path]]:
    for there, source in mounts(checked).items():
        path = checked.around.local(source)
        if path.name.endswith(".txt") and path.is_file():
            yield there, path


def _other_ray(command: Command, there: str, ours: str) -> Finding:
    return error(
        "ray-version",
        command.keys,
        f"installs Ray {there}, and here is Ray {ours}: the cluster must have the same",
        allowed=f"ray=={ours}",
        hint="vesselflow with its constraints.txt brings the right one",
    )
