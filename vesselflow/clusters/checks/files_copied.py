"""What `ray up` copies to the nodes: is it there, is it little."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vesselflow.clusters.findings import Finding, error, warning
from vesselflow.clusters.surroundings import Checked

#: What a folder that is copied should not hold: Ray reads every byte at every `ray up`.
HEAVY = (".venv", "venv", ".git", "results", "data", "node_modules")


def check_mounts(checked: Checked) -> Iterator[Finding]:
    """Every file and folder of `file_mounts`."""
    for there, source in checked.document.mapping("file_mounts").items():
        place = ("file_mounts", str(there))
        if not isinstance(source, str):
            yield error("mount", place, "no path", allowed="'~/there': here")
            continue
        path = checked.around.local(source)
        if not path.exists():
            yield _missing(checked, str(there), source, path)
            continue
        heavy = [name for name in HEAVY if (path / name).is_dir()] if path.is_dir() else []
        if heavy:
            yield warning(
                "mount",
                place,
                f"{path} holds {', '.join(heavy)}: Ray reads all of it at every `ray up`, and sets "
                "the nodes up anew when any of it changed",
                hint="name what the nodes need, as the files in clusters/ do",
            )


def check_key(checked: Checked) -> Iterator[Finding]:
    """The keys for SSH."""
    for name in ("ssh_private_key", "ssh_public_key"):
        given = checked.document.at("auth", name)
        if isinstance(given, str) and not checked.around.local(given).exists():
            yield error(
                "ssh-key",
                ("auth", name),
                f"{given} does not exist",
                hint="ssh-keygen -t ed25519 makes one"
                if checked.cluster.cloud == "local"
                else "leave it out: Ray makes a key pair",
            )


def _missing(checked: Checked, there: str, source: str, path: Path) -> Finding:
    if there.endswith("/.ray/auth_token"):
        hint = "make it: ray get-auth-token --generate"
    elif not Path(source).is_absolute() and not source.startswith("~"):
        beside = checked.document.path.resolve().parent
        near = next((f for f in (beside, *beside.parents) if (f / source).exists()), None)
        hint = (
            f"call this, and `ray up`, from {near}"
            if near
            else "paths count from where you call it"
        )
    else:
        hint = ""
    return error(
        "mount",
        ("file_mounts", there),
        f"{path} does not exist: `ray up` notices when the head is already running",
        hint=hint,
    )
