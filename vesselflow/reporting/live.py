"""The live view of a running sweep: a panel on a terminal, plain lines anywhere else."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from types import TracebackType

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from vesselflow.reporting.wording import count, duration, printable, spread
from vesselflow.sweeps.progress import Best, Progress, SlotView

#: Rows of messages, and the fewest rows that slots get on a low terminal.
_MESSAGES = 4
_FEWEST_SLOTS = 2
_REDRAWS_PER_S = 4
#: Seconds between two plain lines where the second tells of trouble.
_PRESSING_S = 1.0
#: Columns from which on a slot's row has room for its clock and a long bar.
_WIDE = 96

_PHASE_STYLE = {
    "starting": "yellow",
    "training": "cyan",
    "saving": "cyan",
    "evaluating": "magenta",
    "idle": "bright_black",
    "restarting": "yellow",
    "waiting": "yellow",
    "leaving": "yellow",
    "silent": "red",
}


class LiveView:
    """Shows a sweep while it runs; a context manager.

    On a terminal: one panel, redrawn in place, that stays in its last state at the end. Anywhere
    else (a file, a pipe, a log collector): plain lines without control characters, only when
    something changed, and no more often than every `interval` seconds, but for a storage that is in
    trouble; the last state is always printed.

    Args:
        console: Where to; the standard output by default.
        interval: Least seconds between two plain lines; has no effect on a terminal.
        clock: Seconds of a monotonic clock.
    """

    def __init__(
        self,
        console: Console | None = None,
        interval: float = 15.0,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console or Console()
        self._plain = None if self._console.is_terminal else _PlainLines(interval, clock)
        self._live: Live | None = None

    def __enter__(self) -> LiveView:
        if self._plain is None:
            self._live = Live(
                console=self._console,
                refresh_per_second=_REDRAWS_PER_S,
                vertical_overflow="crop",
            )
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        if self._plain is not None:
            self._write(self._plain.close())

    def update(self, progress: Progress) -> None:
        """Show the sweep as it is now; cheap enough for several calls a second."""
        if self._live is not None:
            self._live.update(_Board(progress))
        elif self._plain is not None:
            self._write(self._plain.lines(progress))

    def _write(self, lines: Sequence[str]) -> None:
        file = self._console.file
        encoding = getattr(file, "encoding", None) or "utf-8"
        for line in lines:
            file.write(line.encode(encoding, "replace").decode(encoding) + "\n")
        if lines:
            file.flush()


class _PlainLines:
    """Decides which plain lines are due; pure but for the clock that it is given."""

    def __init__(self, interval: float, clock: Callable[[], float]) -> None:
        self._interval, self._clock = interval, clock
        self._printed_at: float | None = None
        self._printed: tuple[object, ...] | None = None
        self._latest: Progress | None = None
        self._seen: tuple[str, ...] = ()
        self._waiting: list[str] = []
        self._troubled = False

    def lines(self, progress: Progress) -> list[str]:
        self._waiting += _newer(self._seen, progress.messages)
        self._seen, self._latest = progress.messages, progress
        now = self._clock()
        since = math.inf if self._printed_at is None else now - self._printed_at
        # A storage in trouble is told at once: whoever reads this may be able to mend it.
        news = progress.trouble is not None and not self._troubled
        due = since >= (min(_PRESSING_S, self._interval) if news else self._interval)
        return self._emit(now) if due else []

    def close(self) -> list[str]:
        return self._emit(self._clock())

    def _emit(self, now: float) -> list[str]:
        progress = self._latest
        if progress is None or (_substance(progress) == self._printed and not self._waiting):
            return []
        line = plain_line(progress)
        if self._waiting:
            line += " | " + " | ".join(printable(message) for message in self._waiting)
        self._printed_at, self._printed, self._waiting = now, _substance(progress), []
        self._troubled = progress.trouble is not None
        return [line]


def plain_line(progress: Progress) -> str:
    """The sweep at one moment as one line of text without control characters."""
    parts = [
        f"{printable(progress.sweep)}: points {progress.points_done}/{progress.points_total}",
        f"runs {progress.runs_done}/{progress.runs_total}{_asides(progress)}",
        f"steps {progress.steps_done}/{progress.steps_total}",
        f"{duration(progress.elapsed_s)} so far",
    ]
    if progress.eta_s is not None:
        parts.append(f"{duration(progress.eta_s)} left")
    if progress.best is not None:
        parts.append(f"best {_best(progress.best)}")
    if progress.trouble is not None:
        parts.append(_trouble(progress.trouble))
    if progress.waiting is not None:
        parts.append(_waiting(progress.waiting))
    if progress.stopping:
        parts.append("stopping")
    return ", ".join(parts)


def render(progress: Progress, *, height: int = 40) -> RenderableType:
    """The panel of the live view.

    Args:
        progress: The sweep.
        height: Rows of the terminal; slots that do not fit are counted in one line.
    """
    bars = Table.grid(padding=(0, 2, 0, 0), expand=True)
    bars.add_column(no_wrap=True, style="bold", min_width=6)
    bars.add_column(ratio=1)
    bars.add_column(no_wrap=True, justify="right")
    bars.add_row(
        "points",
        _Bar(((progress.points_done, "green"),), progress.points_total),
        _ratio(progress.points_done, progress.points_total),
    )
    bars.add_row(
        "runs",
        _Bar(
            (
                (progress.runs_reused, "bright_black"),
                (progress.runs_done - progress.runs_reused, "green"),
                (progress.runs_failed, "red"),
                (progress.runs_running, "cyan"),
            ),
            progress.runs_total,
        ),
        _ratio(progress.runs_done, progress.runs_total),
    )
    bars.add_row(
        "steps",
        _Bar(((progress.steps_done, "green"),), progress.steps_total),
        _ratio(progress.steps_done, progress.steps_total),
    )
    parts: list[RenderableType] = [bars, Text()]
    if progress.slots:
        # Borders, bars, facts, messages and blank lines take the rest of the rows.
        rows = max(_FEWEST_SLOTS, height - 14 - min(len(progress.messages), _MESSAGES))
        parts += [_Slots(progress.slots, rows), Text()]
    parts.append(_facts(progress))
    if progress.trouble is not None:
        parts.append(Text(_trouble(progress.trouble), style="yellow"))
    if progress.waiting is not None:
        parts.append(Text(_waiting(progress.waiting), style="yellow"))
    if progress.messages:
        parts.append(Text())
        parts += [
            Text(f"· {printable(message)}", style="dim", no_wrap=True, overflow="ellipsis")
            for message in progress.messages[-_MESSAGES:]
        ]
    stopping = Text("stopping: runs are saved at their next step; again Ctrl-C stops at once")
    return Panel(
        Group(*parts),
        title=Text(printable(progress.sweep), style="bold"),
        title_align="left",
        subtitle=stopping if progress.stopping else Text("Ctrl-C stops cleanly", style="dim"),
        subtitle_align="right",
        border_style="yellow" if progress.stopping else "bright_black",
        box=box.ROUNDED,
        padding=(1, 2),
    )


class _Board:
    """Renders a progress at the size that the terminal has at that moment."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> list[RenderableType]:
        return [render(self.progress, height=console.size.height)]


class _Bar:
    """A bar of coloured segments on a dim track, as wide as its column."""

    def __init__(self, segments: Sequence[tuple[int, str]], total: int) -> None:
        self.segments, self.total = segments, total

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> list[RenderableType]:
        width = max(1, options.max_width)
        full, track = ("#", "-") if options.ascii_only else ("━", "─")
        text = Text(no_wrap=True)
        reached, drawn = 0, 0
        for amount, style in self.segments:
            reached += max(0, amount)
            # Ends are rounded from the running sum, so that no segment shifts another's end.
            end = min(width, int(width * reached / self.total)) if self.total > 0 else 0
            text.append(full * (end - drawn), style=style)
            drawn = max(drawn, end)
        text.append(track * (width - drawn), style="bright_black")
        return [text]


class _Slots:
    """One row per slot; a narrow terminal gives its room to the runs' labels."""

    def __init__(self, slots: Sequence[SlotView], rows: int) -> None:
        self.slots, self.rows = slots, rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> list[RenderableType]:
        wide = options.max_width >= _WIDE
        fits = len(self.slots) <= self.rows
        shown = self.slots if fits else self.slots[: self.rows - 1]
        table = Table.grid(padding=(0, 2, 0, 0), expand=True)
        table.add_column(no_wrap=True, style="bold")
        table.add_column(no_wrap=True, ratio=3, overflow="ellipsis")
        table.add_column(no_wrap=True, min_width=10)
        if wide:
            table.add_column(ratio=2)
        else:
            table.add_column(width=8)
        table.add_column(no_wrap=True, justify="right")
        if wide:
            table.add_column(no_wrap=True, justify="right")
        for slot in shown:
            style = _PHASE_STYLE[slot.phase]
            busy = bool(slot.run)
            epoch = f"{slot.epoch}/{slot.epochs}" if busy and slot.epochs else ""
            cells: list[RenderableType] = [
                Text(printable(slot.name)),
                Text(printable(slot.run)),
                Text(slot.phase, style=style),
                _Bar(((slot.step, style),), slot.steps) if busy and slot.steps else Text(),
                Text(f"epoch {epoch}" if wide and epoch else epoch),
            ]
            if wide:
                cells.append(Text(duration(slot.seconds), style="dim"))
            table.add_row(*cells)
        if fits:
            return [table]
        rest = [slot.phase for slot in self.slots[len(shown) :]]
        kinds = ", ".join(f"{rest.count(phase)} {phase}" for phase in dict.fromkeys(rest))
        return [table, Text(f"and {count(len(rest), 'more slot')}: {kinds}", style="dim")]


def _facts(progress: Progress) -> RenderableType:
    facts = Table.grid(padding=(0, 2, 0, 0))
    facts.add_column(no_wrap=True, style="bold", min_width=6)
    facts.add_column()
    clock = Text(f"{duration(progress.elapsed_s)} so far")
    if progress.eta_s is not None:
        clock.append(f", about {duration(progress.eta_s)} left")
    facts.add_row("time", clock)
    kinds = Text()
    for n, word, style in (
        (progress.runs_running, "running", "cyan"),
        (progress.runs_failed, "failed", "red"),
        (progress.runs_reused, "reused", "default"),
    ):
        if n:
            kinds.append(f"{', ' if kinds else ''}{n} {word}", style=style)
    facts.add_row("now", kinds or Text("nothing is running", style="dim"))
    best = _best(progress.best) if progress.best else "no result yet"
    facts.add_row("best", Text(best, style="green" if progress.best else "dim"))
    return facts


def _best(best: Best) -> str:
    value = spread(best.value, best.std, best.n)
    runs = "" if best.n < 2 else f" (n = {best.n})"
    return f"{printable(best.point)}: {best.metric} {value}{runs}"


def _trouble(trouble: tuple[str, float]) -> str:
    text, seconds = trouble
    return f"waiting for the storage for {duration(seconds)}: {printable(text)}"


def _waiting(waiting: tuple[str, float]) -> str:
    text, seconds = waiting
    return f"waiting for machines for {duration(seconds)}: {printable(text)}"


def _asides(progress: Progress) -> str:
    kinds = (
        (progress.runs_running, "running"),
        (progress.runs_failed, "failed"),
        (progress.runs_reused, "reused"),
    )
    words = ", ".join(f"{n} {word}" for n, word in kinds if n)
    return f" ({words})" if words else ""


def _ratio(done: int, total: int) -> Text:
    return Text.assemble((f"{done}", "bold"), (f"/{total}", "dim"))


def _substance(progress: Progress) -> tuple[object, ...]:
    """All that counts as a change: everything but the clock, slots and messages."""
    return (
        progress.points_done,
        progress.runs_done,
        progress.runs_running,
        progress.runs_failed,
        progress.steps_done,
        progress.best,
        progress.stopping,
        progress.trouble is None,
    )


def _newer(before: tuple[str, ...], now: tuple[str, ...]) -> list[str]:
    """Messages of a rolling window that were not in the window before it."""
    for start in range(len(before) + 1):
        kept = before[start:]
        if now[: len(kept)] == kept:
            return list(now[len(kept) :])
    return list(now)
