"""The answer of a sweep, and its runs, as tables: in the terminal and in Markdown."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd
from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from vesselflow.metrics.summary import Summary
from vesselflow.records.paths import AnyPath
from vesselflow.reporting.cost_lines import cost_json, cost_lines
from vesselflow.reporting.run_list import GONE, RunRow, has_records, lost_runs, results_of
from vesselflow.reporting.sweep_tables import BLIND, DomainKey, SweepTables, load_tables
from vesselflow.reporting.wording import (
    MISSING,
    count,
    listing,
    metric_digits,
    metric_label,
    number,
    plain,
    printable,
    spread,
    value_text,
)
from vesselflow.tasks import TASKS

_CHOSEN = "▶"
#: Marks a mean that some runs did not enter because their value is undefined.
_PARTIAL = "†"
_STATE_STYLE = {
    "finished": "green",
    "failed": "red",
    "running": "cyan",
    "paused": "yellow",
    GONE: "red",
}


@dataclass(frozen=True)
class Column:
    """A column of the answer: a metric on one domain, or (without a domain) the gap."""

    title: str
    domain: DomainKey | None
    metric: str

    @property
    def digits(self) -> int:
        """Decimals of its numbers."""
        return metric_digits(self.metric)

    def score(self, tables: SweepTables, point: str) -> Summary:
        """What stands in the column for a point; the gap has no spread and no count of its own."""
        if self.domain is None:
            return Summary(tables.gap(point, self.metric), math.nan, 0, 0)
        return tables.score(point, self.domain, self.metric)

    def text(self, tables: SweepTables, point: str) -> str:
        """The score in one line, with the mark of a mean that some runs did not enter."""
        score = self.score(tables, point)
        if self.domain is None:
            return number(score.mean, self.digits)
        mark = _PARTIAL if score.n_undefined and score.n else ""
        return spread(score.mean, score.std, score.n, self.digits) + mark


def answer_table(tables: SweepTables | str | AnyPath) -> RenderableType:
    """The answer of a sweep: one row per point in grid order, and a sentence on the chosen one.

    Columns: the axes, the objective's metric (pooled over a domain, inside the fov) on val, test
    and each out-of-distribution domain as mean ± standard deviation over runs, the gap between test
    and the mean of the out-of-distribution domains, and on test the metrics that ask to be shown.
    Undefined values are a dash and are counted below. The table takes the form that fits the
    terminal: with the deviation beside the mean, below it, or with the domains in several tables.

    Args:
        tables: A sweep's tables, or the path of its folder or of its ``tables`` folder.

    Raises:
        UserError: The folder is no sweep or has no results.
    """
    return _Answer(tables if isinstance(tables, SweepTables) else load_tables(tables))


class _Answer:
    def __init__(self, tables: SweepTables) -> None:
        self.tables = tables

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> list[RenderableType]:
        columns = score_columns(self.tables)
        # Forms are tried with the few points that make them wide, of what may be thousands.
        wide = _widest(self.tables, columns)
        form: _Form = ((tuple(columns),), False)
        for form in _forms(columns):
            if _fits(_drawn(self.tables, form, wide), console, options):
                break
        chosen = _drawn(self.tables, form, self.tables.order)
        lines: list[RenderableType] = [Text()]
        sentence = chosen_sentence(self.tables)
        lines.append(Text(sentence, style="bold" if self.tables.selected else "yellow"))
        lines += [Text(warning, style="yellow") for warning in warnings(self.tables)]
        lines += [Text(note, style="dim") for note in footnotes(self.tables)]
        return [*chosen, *lines]


#: Which columns of scores stand in each of the tables, and whether deviations stand below means.
_Form = tuple[Sequence[Sequence[Column]], bool]


def _forms(columns: Sequence[Column]) -> Iterator[_Form]:
    """From the widest one down."""
    yield [columns], False
    # Few columns a table where even the stacked form is too wide; one is the least.
    for size in range(max(len(columns), 1), 0, -1):
        yield [columns[start : start + size] for start in range(0, len(columns), size)], True


def _drawn(tables: SweepTables, form: _Form, points: Sequence[str]) -> list[RenderableType]:
    groups, stacked = form
    return [_table(tables, columns, points, stacked=stacked) for columns in groups]


def _widest(tables: SweepTables, columns: Sequence[Column]) -> list[str]:
    """Points that hold the widest text of each column, in whatever form."""
    found: dict[str, None] = {}

    def look(texts: Mapping[str, str]) -> None:
        found[max(texts, key=lambda point: cell_len(texts[point]))] = None

    if tables.axes:
        for axis in tables.axes:
            look({point: value_text(tables.values[point][axis]) for point in tables.order})
    else:
        look({point: printable(point) for point in tables.order})
    for column in columns:
        texts = {point: column.text(tables, point) for point in tables.order}
        look(texts)
        # Mean and deviation stand below each other in the stacked form.
        look({point: text.partition(" ")[0] for point, text in texts.items()})
        look({point: text.partition(" ")[2] for point, text in texts.items()})
    look({point: str(tables.n_runs(point)) for point in tables.order})
    return list(found)


def _fits(form: Sequence[RenderableType], console: Console, options: ConsoleOptions) -> bool:
    widest = max(
        Measurement.get(console, options.update(width=10_000), part).maximum for part in form
    )
    return widest <= options.max_width


def score_columns(tables: SweepTables) -> list[Column]:
    """The objective's metric on every domain, its gap, what else is shown on test.

    The gap and the others stand where they are defined for some point.
    """
    metric = tables.objective.metric
    columns = [_column(tables, domain, metric) for domain in tables.domains]
    columns.append(Column("gap", None, metric))
    columns += [
        _column(tables, domain, other.name)
        for other in TASKS.judging(metric).metrics
        if other.shown and other.name != metric
        for domain in tables.of_role("test")
    ]
    return [
        column
        for column in columns
        if (column.metric == metric and column.domain is not None)
        or any(math.isfinite(column.score(tables, point).mean) for point in tables.order)
    ]


def _column(tables: SweepTables, domain: DomainKey, metric: str) -> Column:
    return Column(f"{domain_title(tables, domain)} {metric_label(metric)}", domain, metric)


def domain_title(tables: SweepTables, domain: DomainKey) -> str:
    """The shortest clear title of a domain: its role where it is the only one in it."""
    if domain.role == "ood":
        return printable(domain.name)
    single = len(tables.of_role(domain.role)) == 1
    return domain.role if single else printable(domain.label)


def _table(
    tables: SweepTables, columns: Sequence[Column], points: Sequence[str], *, stacked: bool
) -> Table:
    """One table of some points; what concerns a whole column is said of all points."""
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        header_style="bold",
        padding=(0, 1, 0, 0) if stacked else (0, 1),
    )
    table.add_column("", no_wrap=True)
    for axis in tables.axes or ("point",):
        values = [tables.values[point].get(axis) for point in tables.order]
        numeric = all(isinstance(value, int | float) for value in values)
        title = tables.names.get(axis, axis)
        table.add_column(title, justify="right" if numeric else "left", overflow="fold")
    for column in columns:
        header = column.title.replace(" ", "\n", 1) if stacked else column.title
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("runs", justify="right", no_wrap=True)
    marked = [
        any(column.text(tables, point).endswith(_PARTIAL) for point in tables.order)
        for column in columns
    ]
    for point in points:
        chosen = point == tables.selected
        cells: list[RenderableType] = [Text(_CHOSEN if chosen else " ", style="green")]
        if tables.axes:
            cells += [Text(value_text(tables.values[point][axis])) for axis in tables.axes]
        else:
            cells.append(Text(printable(point)))
        cells += [
            _cell(column.text(tables, point), marked=mark, stacked=stacked)
            for column, mark in zip(columns, marked, strict=True)
        ]
        cells.append(Text(str(tables.n_runs(point))))
        table.add_row(*cells, style="bold green" if chosen else "")
    return table


def _cell(text: str, *, marked: bool, stacked: bool) -> Text:
    # In a column with marks the other cells end in a space, so that the digits stand in line.
    filler = " " if marked and not text.endswith(_PARTIAL) else ""
    mean, _, rest = text.partition(" ")
    cell = Text(mean)
    if rest:
        tight = rest.strip("()").replace("± ", "±") if stacked else rest.strip("()")
        cell.append("\n" if stacked else " ")
        cell.append(tight, style="dim")
        if stacked and marked:
            cell = Text(mean + " \n") + Text(tight, style="dim")
    return cell + Text(filler)


def chosen_sentence(tables: SweepTables) -> str:
    """What was chosen, on what, and how it does elsewhere, in words."""
    point = tables.selected
    if point is None:
        label = metric_label(tables.objective.metric)
        reason = f"a defined {label} on validation" if tables.progress.points else "all its runs"
        return f"No point was chosen yet: none has {reason}."
    vals, metric = tables.of_role("val"), tables.objective.metric
    score = tables.score(point, vals[0] if vals else None, metric)
    runs, digits = count(score.n, "run"), metric_digits(metric)
    val = number(score.mean, digits)
    if score.n > 1:
        val = spread(score.mean, score.std, score.n, digits)
    parts = [
        f"Chosen on validation: {tables.text(point)} ({tables.objective.label} {val}, n = {runs})"
    ]
    places = [
        f"{place} {_in_words(tables.score(point, domain, metric), digits)}"
        for role, phrase in (("test", "on the test part of {}"), ("ood", "on {}"))
        for domain in tables.of_role(role)
        for place in [phrase.format(printable(domain.name))]
    ]
    if places:
        parts.append(listing(places))
    return "; ".join(parts) + ". Nothing was chosen on test or out-of-distribution data."


def _in_words(score: Summary, digits: int) -> str:
    if not math.isfinite(score.mean):
        return "undefined"
    if score.n > 1:
        return spread(score.mean, score.std, score.n, digits)
    return number(score.mean, digits)


def warnings(tables: SweepTables) -> list[str]:
    """What stands against taking the answer as it is, a line each; empty when nothing does."""
    lines = []
    done = tables.progress
    if not done.complete:
        lines.append(
            f"incomplete: {done.points} of {count(done.points_total, 'point')} ({done.runs} of "
            f"{count(done.runs_total, 'run')}) have all their runs; "
            + ("the choice may change" if done.points else "none can be chosen yet")
        )
    lost = lost_runs(tables)
    for gone, verb, place, next_start in (
        (True, "gone", "from", "trains {} again"),
        (False, "no longer finished", "in", "takes {} up"),
    ):
        runs = [run for run in lost if (run.state == GONE) == gone]
        if runs:
            named = [_run_text(tables, run.point, run.fold, run.seed) for run in runs]
            one = len(runs) == 1
            lines.append(
                f"{count(len(runs), 'run')} of these tables {'is' if one else 'are'} {verb} "
                f"{place} runs/: {_some(named)}; {'its' if one else 'their'} scores are those of "
                f"before, the next start of the sweep {next_start.format('it' if one else 'them')}"
            )
    for kind in BLIND:
        blind = [run for run in tables.blind if run.predicts == kind]
        if blind:
            named = [_run_text(tables, run.point, run.fold, run.seed) for run in blind]
            lines.append(
                f"{count(len(blind), 'run')} found no signal on validation: "
                f"{'its' if len(blind) == 1 else 'their'} threshold predicts {kind}: "
                f"{_some(named)}"
            )
    return lines


def _run_text(tables: SweepTables, point: str, fold: int, seed: int) -> str:
    """A run by its point, fold and seed; no comma in it, so that runs can be listed."""
    return f"{tables.text(point, between=' ')} (fold {fold} seed {seed})"


def _some(words: Sequence[str], most: int = 3) -> str:
    """At most `most` words, and the number of the others."""
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more


def answer_json(tables: SweepTables) -> dict[str, Any]:
    """The answer as plain data: chosen point, how complete it is, warnings, points, cost."""
    done = tables.progress
    return {
        "sweep": tables.name,
        "selected": tables.selected,
        "objective": asdict(tables.objective),
        "complete": done.complete,
        "points_complete": done.points,
        "points_total": done.points_total,
        "runs_complete": done.runs,
        "runs_total": done.runs_total,
        "warnings": warnings(tables),
        "gone": [asdict(run) for run in lost_runs(tables)],
        "no_signal": [asdict(run) for run in tables.blind],
        "matched": tables.provenance.get("matched") if tables.matched else None,
        "points": points_json(tables),
        "cost": cost_json(tables),
    }


def _threshold(tables: SweepTables) -> str:
    """Where the thresholds come from, as they are: chosen ones are not exactly 1/2."""
    fixed = tables.runs.threshold.dropna() == 0.5
    if fixed.any() and fixed.all():
        return "a probability of 0.5"
    return "chosen on val and frozen elsewhere" + ", or a probability of 0.5" * bool(fixed.any())


def footnotes(tables: SweepTables) -> list[str]:
    """What the numbers mean, and how many values are undefined where."""
    objective = tables.objective
    label, pooled = metric_label(objective.metric), TASKS.judging(objective.metric).pooled
    notes = [
        f"{label} is pooled over the {pooled} inside the fov of a domain; the threshold is "
        f"{_threshold(tables)}. ± is the standard deviation over runs (folds and seeds)."
    ]
    if objective.direction == "min" or objective.reduction != "mean":
        better = "larger" if objective.direction == "max" else "smaller"
        notes.append(
            f"Validation chooses by the {objective.reduction} of {label} over runs; "
            f"{better} is better."
        )
    ood = [printable(domain.name) for domain in tables.of_role("ood")]
    if ood and tables.of_role("test"):
        outside = f"the mean of {listing(ood)}" if len(ood) > 1 else ood[0]
        notes.append(f"gap = test {label} minus {outside}.")
    for store in dict.fromkeys(tables.unlabelled.values()):
        points = [tables.text(point) for point, own in tables.unlabelled.items() if own == store]
        which = "All points" if len(points) == len(tables.order) else _some(points, 8)
        notes.append(
            f"{which} learnt from the images of {printable(store)}, too, without their labels; "
            "none of these is scored."
        )
    if tables.matched is not None:
        point, parameters, within = tables.matched
        notes.append(
            f"Widths were scaled: the models of all points have the {parameters:,} parameters of "
            f"{tables.text(point)}, within {within:.1%}."
        )
    if not has_records(results_of(tables.folder)):
        notes.append("The records of these runs are not beside the tables (no folder runs/).")
    undefined = [
        (column.title, tables.text(point), score)
        for column in score_columns(tables)
        for point in tables.order
        for score in [column.score(tables, point)]
        if score.n_undefined
    ]
    if undefined:
        total = sum(score.n_undefined for *_, score in undefined)
        named = [
            f"{title} at {text}: {score.n_undefined} of {score.n_undefined + score.n}"
            for title, text, score in undefined[:3]
        ]
        more = f", and {count(len(undefined) - 3, 'more cell')}" if len(undefined) > 3 else ""
        notes.append(
            f"{MISSING} or {_PARTIAL}: {count(total, 'value')} undefined, left out of the means "
            f"({'; '.join(named)}{more})."
        )
    return notes


def summary_markdown(tables: SweepTables) -> str:
    """The answer table in Markdown: sentence, warnings, table, notes and where it comes from."""
    columns = score_columns(tables)
    axes = tables.axes or ("point",)
    header = ["", *(tables.names.get(axis, axis) for axis in axes)]
    header += [*(column.title for column in columns), "runs"]
    rows = []
    for point in tables.order:
        chosen = point == tables.selected
        cells = [value_text(tables.values[point].get(axis, point)) for axis in axes]
        cells += [column.text(tables, point) for column in columns]
        cells.append(str(tables.n_runs(point)))
        cells = [cell.replace("|", "\\|") for cell in cells]
        if chosen:
            cells = [f"**{cell}**" for cell in cells]
        rows.append([_CHOSEN if chosen else "", *cells])
    rule = [":-:", *["---"] * len(axes), *["--:"] * (len(header) - 1 - len(axes))]
    table = "\n".join("| " + " | ".join(row) + " |" for row in [header, rule, *rows])
    notes = "\n".join(f"- {note}" for note in [*footnotes(tables), *cost_lines(tables)])
    head = [f"# {printable(tables.name)}", chosen_sentence(tables)]
    head += [f"**{warning}**" for warning in warnings(tables)]
    return "\n\n".join([*head, table, notes, provenance_line(tables)]) + "\n"


def provenance_line(tables: SweepTables) -> str:
    """Where the numbers come from: sweep, runs, and the plain entries of ``provenance.json``."""
    known = [
        f"{printable(key)} {printable(value)}"
        for key, value in tables.provenance.items()
        if isinstance(value, str | int | float | bool)
    ]
    done = int(tables.runs["epoch"].notna().sum())
    made = f"From {count(done, 'run')} of {len(tables.runs)} of the sweep {printable(tables.name)}"
    return f"{made}; {', '.join(known)}." if known else f"{made}."


def points_json(tables: SweepTables) -> list[dict[str, Any]]:
    """The points and all their scores as plain data in grid order; undefined is None.

    ``config`` holds the axes that apply to the point.
    """
    return [
        {
            "point": point,
            "config": {
                axis: plain(value)
                for axis, value in tables.values[point].items()
                if value is not None
            },
            "selected": point == tables.selected,
            "unlabelled": tables.unlabelled.get(point),
            "n_runs": tables.n_runs(point),
            "gap": _finite(tables.gap(point)),
            "scores": [
                {
                    "domain": str(row["domain"]),
                    "role": str(row["role"]),
                    "metric": str(row["metric"]),
                    "mean": _finite(row["mean"]),
                    "std": _finite(row["std"]),
                    "n": int(row["n"]),
                    "n_undefined": int(row["n_undefined"]),
                }
                for row in _score_rows(tables, point)
            ],
        }
        for point in tables.order
    ]


def _score_rows(tables: SweepTables, point: str) -> list[dict[Hashable, Any]]:
    return tables.points[tables.points["point"] == point].to_dict("records")


def failures_table(runs: Sequence[RunRow]) -> RenderableType | None:
    """The failed runs with their messages, or None when none failed."""
    failed = [run for run in runs if run.state == "failed"]
    if not failed:
        return None
    title = Text(f"{count(len(failed), 'run')} failed", style="bold red")
    return Group(title, _Runs(failed, with_state=False))


def runs_table(runs: Sequence[RunRow]) -> RenderableType:
    """All runs of a results folder, with a line of counts by state below.

    The point stands last, with the message below it, and takes the width that is left: it is
    folded between its axes, never cut. Where that is not enough, runs are named by the first
    letters of their names, as many as tell them apart.
    """
    if not runs:
        return Text("no runs")
    states = [run.state for run in runs]
    counts = listing(f"{states.count(state)} {state}" for state in sorted(set(states)))
    return Group(_Runs(runs, with_state=True), Text(f"{count(len(runs), 'run')}: {counts}"))


class _Runs:
    def __init__(self, runs: Sequence[RunRow], *, with_state: bool) -> None:
        self.runs, self.with_state = runs, with_state

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> list[RenderableType]:
        # With one sweep its name is said once, not in every row.
        sweeps = {point.partition("/")[0] for run in self.runs for point in run.points}
        single = len(sweeps) == 1 and all("/" in p for run in self.runs for p in run.points)
        names = {
            run.run_id: [point.partition("/")[2] if single else point for point in run.points]
            for run in self.runs
        }
        letters = len(max((run.run_id for run in self.runs), key=len))
        table = self._table(names, letters)
        if not _fits([self._table(names, letters, messages=False)], console, options):
            letters = _telling(run.run_id for run in self.runs)
            table = self._table(names, letters)
        head = [Text(f"sweep {printable(*sweeps)}", style="bold")] if single else []
        return [*head, table]

    def _table(
        self, names: Mapping[str, Sequence[str]], letters: int, *, messages: bool = True
    ) -> Table:
        table = Table(
            box=box.SIMPLE_HEAD,
            show_edge=False,
            pad_edge=False,
            header_style="bold",
            padding=(0, 1, 0, 0),
        )
        table.add_column("run", no_wrap=True)
        table.add_column("fold", justify="right", no_wrap=True)
        table.add_column("seed", justify="right", no_wrap=True)
        if self.with_state:
            table.add_column("state", no_wrap=True)
            table.add_column("epochs", justify="right", no_wrap=True)
            table.add_column("chosen", justify="right", no_wrap=True)
        table.add_column("point")
        for run in self.runs:
            cells: list[RenderableType] = [
                Text(printable(run.run_id[:letters]), style="dim"),
                Text(MISSING if run.fold is None else str(run.fold)),
                Text(MISSING if run.seed is None else str(run.seed)),
            ]
            style = _STATE_STYLE.get(run.state, "")
            if self.with_state:
                cells.append(Text(printable(run.state), style=style))
                cells.append(Text(MISSING if run.epochs is None else str(run.epochs)))
                cells.append(Text(MISSING if run.epoch is None else str(run.epoch)))
            last: list[RenderableType] = [
                _Folded(printable(name)) for name in names[run.run_id] or (MISSING,)
            ]
            if run.message and messages:
                last.append(Text(printable(run.message), style=style, overflow="fold"))
            table.add_row(*cells, Group(*last))
        return table


class _Folded:
    """A name that is folded behind its commas and slashes; within a part where that is longer."""

    def __init__(self, name: str) -> None:
        self.parts = re.findall(r"[^,/]*[,/]|[^,/]+", name)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> list[RenderableType]:
        lines = [""]
        for part in self.parts:
            if lines[-1] and cell_len(lines[-1] + part) > options.max_width:
                lines.append("")
            lines[-1] += part
        return [Text(line, overflow="fold") for line in lines]

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        widths = [cell_len(part) for part in self.parts]
        return Measurement(max(widths, default=0), sum(widths)).with_maximum(options.max_width)


def _telling(names: Iterable[str], least: int = 8) -> int:
    """How many first letters tell all names apart, at least `least`."""
    every = set(names)
    longest = max(map(len, every))
    known = (n for n in range(least, longest) if len({name[:n] for name in every}) == len(every))
    return next(known, longest)


def _finite(value: Any) -> float | None:
    return None if pd.isna(value) or not math.isfinite(float(value)) else float(value)
