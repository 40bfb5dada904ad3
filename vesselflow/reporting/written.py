"""Everything that a report leaves on disk: the summary, the figures, TensorBoard's files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vesselflow.records.atomic import write_bytes
from vesselflow.records.paths import AnyPath, BucketPath
from vesselflow.reporting.figure_files import remove_outdated
from vesselflow.reporting.sweep_tables import SweepTables
from vesselflow.reporting.terminal import summary_markdown


def boards_command(boards: AnyPath) -> str:
    """What shows event files: TensorBoard reads a bucket itself, where boto3 is installed."""
    if not isinstance(boards, BucketPath):
        return f"tensorboard --logdir {boards}"
    address, _, _ = str(boards).partition("?")
    endpoint = boards.bucket.options.get("endpoint_override")
    before = f"AWS_ENDPOINT_URL={endpoint} " if endpoint else ""
    return f"{before}tensorboard --logdir {address}"


#: (what is written, parts done, parts in all).
Told = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Report:
    """Where the parts of a report stand.

    Attributes:
        summary: The answer table in Markdown.
        figures: The PNG files; each has a CSV file of the same name beside it.
        boards: Folder for ``tensorboard --logdir``, or None where none was written.
    """

    summary: AnyPath
    figures: tuple[AnyPath, ...]
    boards: AnyPath | None


def write_report(tables: SweepTables, *, pictures: bool = True, told: Told | None = None) -> Report:
    """Write ``report/summary.md`` and, with `pictures`, the figures and the boards.

    Figures that an earlier report drew are replaced; without `pictures` they stay as long as they
    show the tables as they are, and are removed once those changed. A user's own files stay.

    Args:
        tables: The sweep's tables.
        pictures: Whether to draw figures and write TensorBoard's files.
        told: Called before each part that takes time.
    """
    summary = tables.folder / "report" / "summary.md"
    summary.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(summary, summary_markdown(tables).encode())
    if not pictures or tables.complete.empty:
        remove_outdated(tables.folder)
        return Report(summary, (), None)
    # matplotlib and tensorboard take most of a second to import: only where they are used.
    from vesselflow.reporting.figures import write_figures
    from vesselflow.reporting.tensorboard import write_boards

    figures = write_figures(tables, told=_part("figures", told))
    boards = write_boards(tables, told=_part("TensorBoard", told))
    return Report(summary, tuple(figures), boards)


def _part(name: str, told: Told | None) -> Callable[[int, int], None] | None:
    if told is None:
        return None
    return lambda done, total: told(name, done, total)
