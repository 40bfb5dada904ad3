"""A script for Slurm, read as a cluster file: what its #SBATCH lines ask for, line by line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from vesselflow.clusters.document import Document, Keys, read_text

#: Long names of the options that have a short one.
SHORT = {"N": "nodes", "c": "cpus-per-task", "t": "time", "p": "partition", "J": "job-name",
         "o": "output", "A": "account", "G": "gpus", "n": "ntasks", "k": "no-kill"}  # fmt: skip
_LINE = re.compile(r"#SBATCH\s+(?P<words>.+)")
_OPTION = re.compile(
    r"--(?P<long>[\w-]+)(?:[= ](?P<value>[^\s#-]\S*))?|-(?P<short>\w)\s*(?P<of>[^\s#-]\S*)?"
)


def is_script(path: str | Path) -> bool:
    """Whether a file is a script and no YAML."""
    return Path(path).suffix in (".sh", ".bash", ".slurm", ".sbatch")


def read_script(path: str | Path) -> Document:
    """Read a script; its options stand under "sbatch", its text under "script".

    Raises:
        UserError: missing, unreadable, not UTF-8.
    """
    path = Path(path)
    text = read_text(path)
    options: dict[str, str] = {}
    lines: dict[Keys, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        found = _LINE.match(line.partition(" #")[0])
        if found:
            lines.setdefault(("sbatch",), number)
        for option in _OPTION.finditer(found["words"]) if found else ():
            name = option["long"] or SHORT.get(option["short"], option["short"])
            options[name] = option["value"] or option["of"] or ""
            lines["sbatch", name] = number
    data: dict[str, Any] = {"provider": {"type": "slurm"}, "sbatch": options, "script": text}
    return Document(path, data, lines)


def whole(options: dict[str, Any], name: str, otherwise: int) -> int:
    """A number among the options; of a range ("2-4") the last one."""
    last = str(options.get(name, "")).rpartition("-")[2].rpartition(":")[2]
    return int(last) if last.isdigit() else otherwise


def megabytes(text: str) -> float:
    """Memory as Slurm writes it, in MiB: "2G", "500", "1.5T"; 0 where it cannot be read."""
    found = re.fullmatch(r"([\d.]+)([KMGT]?)B?", text.strip(), re.IGNORECASE)
    try:
        number = float(found[1]) if found else 0.0
    except ValueError:
        return 0.0
    scale = {"K": 1 / 1024, "": 1.0, "M": 1.0, "G": 1024.0, "T": 1024.0**2}
    return number * scale[found[2].upper()] if found else 0.0
