"""Paths in a space: relative to its file, with variables; addresses only where buckets do."""

from __future__ import annotations

import os
import re
from pathlib import Path

from vesselflow.errors import UserError

#: The address of an object store or of a server. A Windows drive ("C:/x") is none.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")


def url_scheme(text: str) -> str:
    """The "s3" of the address of an object store or a server, "" of a path."""
    match = _URL.match(text)
    return match[1] if match else ""


def bound(text: str, folder: Path) -> str:
    """An absolute path; what begins with a variable or ~ is left for `local`, and so is a URL."""
    return text if not text or text[0] in "~$" or url_scheme(text) else str(folder / text)


def local(text: str, folder: Path, where: str, *, buckets: bool = False) -> str:
    """The path that a text means once its variables are expanded.

    Args:
        text: As it was written.
        folder: What a relative path is relative to.
        where: File and key.
        buckets: Whether the address of an object in a bucket does as well; it is left as it is.

    Raises:
        UserError: Another address.
    """
    found = expand(text, where)
    scheme = url_scheme(found)
    if buckets and scheme in ("s3", "gs"):
        return found
    if scheme:
        also = ", or s3://BUCKET/KEY, gs://BUCKET/KEY" if buckets else ""
        raise UserError(
            f"'{found}' is no path; {scheme}:// is not supported",
            where=where,
            allowed=f"a path of this machine, or below a folder that is mounted{also}",
            hint="fetch it, or mount it",
        )
    return str(folder / found)


def expand(text: str, where: str) -> str:
    """A text with its variables and ~ expanded; UserError at `where` for one that is not set."""

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name not in os.environ:
            raise UserError(
                f"the environment variable {name} is not set", where=where,
                hint=f"export {name}=..., or write the path itself",
            )  # fmt: skip
        return os.environ[name]

    found = re.sub(r"\$(?:\{([A-Za-z_]\w*)\}|([A-Za-z_]\w*))", value, text)
    return os.path.expanduser(found)
