"""The shipped cluster files, filled in as a user would, and changed as one should not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from vesselflow import __version__
from vesselflow.clusters.checks import check
from vesselflow.clusters.files import read_any
from vesselflow.clusters.findings import Placed
from vesselflow.clusters.surroundings import Slots, Surroundings

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ("aws", "gcp", "local")

#: What a user writes, file by file.
FILLED = {
    "aws": (
        ("s3://CHANGE-ME/", "s3://my-bucket/"),
        ("sg-CHANGE-ME", "sg-0123456789abcdef0"),
    ),
    "gcp": (
        ("gs://CHANGE-ME/", "gs://my-bucket/"),
        ("&project CHANGE-ME", "&project my-project"),
        ("@CHANGE-ME.iam", "@my-project.iam"),
    ),
    "local": (
        ("storage: CHANGE-ME", "storage: /shared/results"),
        ("head_ip: CHANGE-ME", "head_ip: 10.0.0.1"),
        ("[CHANGE-ME]", "[10.0.0.2]"),
        ("ssh_user: CHANGE-ME", "ssh_user: me"),
    ),
}


def filled(name: str, *changes: tuple[str, str]) -> str:
    """A shipped file as a user fills it in, with further changes; each must find its place."""
    file = f"{name}.sh" if name == "slurm" else f"{name}.yaml"
    text = (ROOT / "clusters" / file).read_text(encoding="utf-8")
    for old, new in (*FILLED.get(name, ()), *changes):
        assert old in text, f"{file} no longer holds {old!r}"
        text = text.replace(old, new)
    return text


@dataclass(frozen=True)
class Checker:
    """Checks files as if `ray up` were called in the repository by somebody with a token."""

    folder: Path
    around: Surroundings

    def __call__(self, text: str, slots: Slots | None = None, **other: object) -> list[Placed]:
        path = self.folder / ("cluster.sh" if text.startswith("#!") else "cluster.yaml")
        path.write_text(text, encoding="utf-8")
        around = replace(self.around, **other)  # type: ignore[arg-type]
        return check(read_any(path), around, slots)


def checker(folder: Path) -> Checker:
    home = folder / "home"
    (home / ".ray").mkdir(parents=True)
    (home / ".ray" / "auth_token").write_text("secret\n")
    (home / ".ssh").mkdir()
    (home / ".ssh" / "id_ed25519").write_text("key\n")
    around = Surroundings(
        folder=ROOT,
        home=home,
        environ={},
        code=ROOT / "vesselflow",
        vesselflow=__version__,
        ray="2.60.0",
    )
    return Checker(folder, around)


def told(rows: list[Placed]) -> str:
    return "\n".join(
        f"{row.finding.severity.value}: {row.finding.rule}: {row.text()}" for row in rows
    )


Check = Callable[..., list[Placed]]
