"""The command line in process, as a user meets it, and small things to give it."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from vesselflow.cli.main import main
from vesselflow.stores.store import Source, write_store

SIDE_PX = 64

SPACE = """
stores: {a: a.h5, b: b.h5}
data: {train: a, ood: [b], working_size_px: 64}
split: {folds: 3, val_fraction: 0.3}
folds: [0]
train: {epochs: 1, steps_per_epoch: 1, micro_batch_size: 2}
"""


class Answer(NamedTuple):
    """What a command answered."""

    code: int
    out: str
    err: str


def command(*words: str | Path) -> Answer:
    """`vesselflow WORDS`, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(word) for word in words])
        except SystemExit as exit_:
            code = int(exit_.code or 0)
    return Answer(code, out.getvalue(), err.getvalue())


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder, hidden files too: path -> content, None for a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def refused(folder: Path, *words: str | Path, said_before: str = "") -> str:
    """The one line of a command that must be refused and leave `folder` as it is."""
    before = tree(folder)
    answer = command(*words)
    assert answer.out == said_before
    assert_one_line(answer._replace(out=""))
    assert tree(folder) == before
    return answer.err.removeprefix("vesselflow: ").rstrip("\n")


def assert_one_line(answer: Answer) -> None:
    """Exit code 2, nothing on stdout, one line on stderr, no trace of how it came about."""
    assert answer.code == 2, answer
    assert answer.out == ""
    assert answer.err.startswith("vesselflow: "), answer.err
    assert answer.err.endswith("\n")
    assert answer.err.count("\n") == 1, answer.err
    assert not re.search(r"Traceback|Error\b|[Ee]rrno|pydantic|\bNone\b", answer.err), answer.err


def write_sources(
    path: Path,
    first: int,
    count: int,
    *,
    per_group: int = 1,
    channels: int = 3,
    fov_radius_px: int | None = None,
    **split: str,
) -> None:
    """A store of noise: ids s<n>, groups g<n>; `split` gives single sources theirs."""
    sources = []
    y, x = np.mgrid[:SIDE_PX, :SIDE_PX] - SIDE_PX / 2
    for number in range(first, first + count):
        random = np.random.default_rng(number)
        target = (random.random((SIDE_PX, SIDE_PX)) < 0.1).astype(np.uint8)
        fov = np.ones_like(target)
        if fov_radius_px is not None:
            fov = (np.hypot(y, x) < fov_radius_px).astype(np.uint8)
        sources.append(
            Source(
                id=f"s{number}",
                group=f"g{number // per_group}",
                split=split.get(f"s{number}", ""),
                image=random.integers(0, 256, (SIDE_PX, SIDE_PX, channels), dtype=np.uint8),
                target=target,
                fov=fov,
            )
        )
    write_store(path, sources, domain=path.stem, importer={"name": "test"})


def write_split(path: Path, train: list[str], val: list[str], test: list[str]) -> None:
    """A predefined split of one fold."""
    path.write_text(json.dumps([{"train": train, "val": val, "test": test}]))


def write_folder(folder: Path) -> Path:
    """A folder that `data import folder` takes: images i0, i1 (JPEG) and masks (PNG, 0 and 255)."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for number in range(2):
        random = np.random.default_rng(number)
        pixels = random.integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"i{number}.jpg")
        mask = 255 * (random.random((40, 48)) < 0.1).astype(np.uint8)
        Image.fromarray(mask).save(folder / "masks" / f"i{number}.png")
    return folder
