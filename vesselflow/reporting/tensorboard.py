"""TensorBoard event files under the points' own names, written without torch."""

# tensorboard ships no types.
# mypy: disable-error-code="import-untyped"

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image
from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, tensor_shape_pb2, types_pb2
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2, summary_v2
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.image import metadata as image_metadata
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from vesselflow.records.atomic import write_bytes
from vesselflow.records.paths import AnyPath, BucketPath, any_path
from vesselflow.reporting.overlays import Preview, read_previews
from vesselflow.reporting.sweep_tables import SweepTables, load_tables
from vesselflow.reporting.wording import value_text

Row = tuple[str, float, int, int]
Told = Callable[[int, int], None]

#: Raised when the content of a board changes for equal tables, so that boards are written anew.
_VERSION = "1"


class RunBoard:
    """The event file of one run; a context manager.

    Values that are NaN or infinite are written as they are: TensorBoard marks them.

    In a bucket the file is put anew with each call of `scalars`, as far as the bucket takes it: a
    board is no reason to stop a sweep.

    Args:
        folder: Folder of the run; made when needed. Each board writes a new file of its own.
        suffix: End of the file's name.
    """

    def __init__(self, folder: str | AnyPath, *, suffix: str = "") -> None:
        folder = any_path(folder)
        self._away = folder if isinstance(folder, BucketPath) else None
        if isinstance(folder, BucketPath):
            self.folder = Path(tempfile.mkdtemp(prefix="vesselflow-board-"))
        else:
            self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventFileWriter(str(self.folder), filename_suffix=suffix)

    def __enter__(self) -> RunBoard:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def scalars(self, rows: Iterable[Row]) -> None:
        """Add rows of ``epochs.parquet``.

        Args:
            rows: (name, value, step, epoch). The step is TensorBoard's; the epoch is added as a
                scalar ``epoch`` of its own, once per step.
        """
        marked: dict[int, int] = {}
        for name, value, step, epoch in rows:
            self._scalar(name, value, step)
            marked[step] = epoch
        for step, epoch in sorted(marked.items()):
            self._scalar("epoch", epoch, step)
        # A person who watches a running sweep waits for these.
        self._writer.flush()
        self._put()

    def images(self, tag: str, arrays: Sequence[np.ndarray], step: int) -> None:
        """Add pictures under one tag.

        Args:
            tag: Name of the pictures.
            arrays: uint8 (h, w) or (h, w, 3), all of one size.
            step: Optimizer step that they show.

        Raises:
            ValueError: An array is of another type or shape, or sizes differ.
        """
        if not arrays:
            return
        sizes = {np.asarray(array).shape[:2] for array in arrays}
        if len(sizes) != 1:
            raise ValueError(f"pictures of one tag differ in size: {sorted(sizes)}")
        height, width = sizes.pop()
        # What the images plugin reads: width and height as text, then the encoded pictures.
        strings = [str(width).encode(), str(height).encode(), *(_png(array) for array in arrays)]
        tensor = tensor_pb2.TensorProto(
            dtype=types_pb2.DT_STRING,
            string_val=strings,
            tensor_shape=tensor_shape_pb2.TensorShapeProto(
                dim=[tensor_shape_pb2.TensorShapeProto.Dim(size=len(strings))]
            ),
        )
        about = image_metadata.create_summary_metadata(
            display_name=None, description="", converted_to_tensor=True
        )
        value = summary_pb2.Summary.Value(tag=tag, metadata=about, tensor=tensor)
        self._add(summary_pb2.Summary(value=[value]), step)

    def hparams(
        self,
        params: Mapping[str, Any],
        metrics: Mapping[str, float],
        *,
        group: str = "",
        step: int = 0,
    ) -> None:
        """Add one session to the HPARAMS tab.

        Args:
            params: Axis values; numbers, texts and truth values are kept, others become text.
            metrics: Final scores; written as scalars of the same names.
            group: Sessions of one group are one row of the tab, averaged; the point's name here.
            step: Step of the scalars.
        """
        plain = {key: _plain(value) for key, value in params.items() if value is not None}
        self._add(summary_v2.hparams_pb(plain, trial_id=group or None), 0)
        for name, value in metrics.items():
            self._scalar(name, value, step)
        self._add(_session_end(), 0)

    def experiment(self, params: Mapping[str, Sequence[Any]], metrics: Sequence[str]) -> None:
        """Name the columns of the HPARAMS tab: hyperparameters with all values, and metrics."""
        columns = []
        for name, values in params.items():
            plain = [_plain(value) for value in values if value is not None]
            columns.append(summary_v2.HParam(name, _discrete(plain)))
        shown = [summary_v2.Metric(name, display_name=name) for name in metrics]
        self._add(summary_v2.hparams_config_pb(columns, shown), 0)

    def close(self) -> None:
        """Write everything out; a second call does nothing."""
        if not self._closed:
            self._closed = True
            self._writer.close()
            self._put()
            if self._away is not None:
                shutil.rmtree(self.folder, ignore_errors=True)

    def _put(self) -> None:
        if self._away is not None:
            for path in self.folder.iterdir():
                with contextlib.suppress(OSError):
                    self._away.bucket.put((self._away / path.name).key, path)

    _closed = False

    def _scalar(self, name: str, value: float, step: int) -> None:
        entry = summary_pb2.Summary.Value(tag=name, simple_value=float(value))
        self._add(summary_pb2.Summary(value=[entry]), step)

    def _add(self, content: summary_pb2.Summary, step: int) -> None:
        self._writer.add_event(
            event_pb2.Event(wall_time=time.time(), step=int(step), summary=content)
        )


def write_boards(sweep: SweepTables | str | AnyPath, *, told: Told | None = None) -> AnyPath:
    """Write the boards of all runs of a sweep that are not there yet or have changed.

    Each run has its curves, its final scores and its session for the HPARAMS tab (one row per
    point) and its kept predictions. The file's name ends in a digest of its content, so a second
    call writes nothing, and a changed board replaces the one before it.

    Args:
        sweep: The sweep's folder, or its tables where they are read already.
        told: Called before each board and at the end with (boards done, boards in all).

    Returns:
        The folder for ``tensorboard --logdir``: ``<sweep>/tensorboard``, with a folder
        ``<point>/fold<k>_seed<s>`` per run.

    Raises:
        UserError: The folder is no sweep or has no results.
    """
    tables = sweep if isinstance(sweep, SweepTables) else load_tables(sweep)
    root = tables.folder / "tensorboard"
    runs = tables.complete
    curves = {key: rows for key, rows in tables.epochs.groupby(["run_id", "point"])}
    scores = {key: rows for key, rows in tables.run_scores.groupby(["run_id", "point"])}
    metrics: dict[str, None] = {}
    for index, run in enumerate(runs.to_dict("records")):
        run_id, point = str(run["run_id"]), str(run["point"])
        name = board_name(point, int(run["fold"]), int(run["seed"]))
        if told is not None:
            told(index, len(runs))
        final = _final_scores(scores.get((run_id, point)))
        metrics.update(dict.fromkeys(final))
        rows = _rows(curves.get((run_id, point)))
        previews = read_previews(tables.folder.parent / "runs" / run_id, tables.protocol(point))
        step = max((row[2] for row in rows if row[3] == int(run["epoch"])), default=0)
        params = tables.values.get(point, {})
        digest = _digest(rows, final, params, step, previews)

        def fill(
            board: RunBoard,
            rows: list[Row] = rows,
            params: Mapping[str, Any] = params,
            final: dict[str, float] = final,
            point: str = point,
            step: int = step,
            previews: list[Preview] = previews,
        ) -> None:
            board.scalars(rows)
            board.hparams(params, final, group=point, step=step)
            for preview in previews:
                place = f"{preview.role or 'domain'} {preview.domain}"
                tag = f"{place}/{preview.kind} {preview.source_id}"
                board.images(tag, [preview.image, preview.overlay()], step)

        _replace_board(root, root / name, digest, fill)
    values = {axis: _distinct(tables, axis) for axis in tables.axes}
    digest = _digest([], dict.fromkeys(metrics, 0.0), values, 0, [])
    _replace_board(root, root, digest, lambda board: board.experiment(values, list(metrics)))
    if told is not None:
        told(len(runs), len(runs))
    return root


def board_name(point: str, fold: int, seed: int) -> str:
    """Folder of a run's board below ``<sweep>/tensorboard``: ``<point>/fold<k>_seed<s>``."""
    return f"{_folder_name(point)}/fold{fold}_seed{seed}"


def _replace_board(
    root: AnyPath, folder: AnyPath, digest: str, fill: Callable[[RunBoard], None]
) -> None:
    """Write a board beside the tree and move its file in; older files of the folder go."""
    folder.mkdir(parents=True, exist_ok=True)
    before: list[AnyPath] = sorted(folder.glob("events.out.tfevents.*"), key=str)
    if [path for path in before if path.name.endswith(f".{digest}")]:
        return
    # Beside the tree: a TensorBoard that watches it must not read a board that is half-written.
    if isinstance(root, BucketPath):
        making = Path(tempfile.mkdtemp(prefix="vesselflow-boards-"))
    else:
        making = root.parent / f".tensorboard-{os.getpid()}"
    try:
        with RunBoard(making, suffix=f".{digest}") as board:
            fill(board)
        for path in making.glob("events.out.tfevents.*"):
            if isinstance(folder, BucketPath):
                write_bytes(folder / path.name, path.read_bytes())
            else:
                os.replace(path, folder / path.name)
        for old in before:
            old.unlink(missing_ok=True)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _session_end() -> summary_pb2.Summary:
    """That a session ended well; tensorboard's own helper for it needs TensorFlow."""
    ended = plugin_data_pb2.SessionEndInfo(status=api_pb2.STATUS_SUCCESS, end_time_secs=time.time())
    value = summary_pb2.Summary.Value(
        tag=hparams_metadata.SESSION_END_INFO_TAG,
        metadata=hparams_metadata.create_summary_metadata(
            plugin_data_pb2.HParamsPluginData(session_end_info=ended)
        ),
        tensor=hparams_metadata.NULL_TENSOR,
    )
    return summary_pb2.Summary(value=[value])


def _rows(frame: Any) -> list[Row]:
    if frame is None:
        return []
    ordered = frame.sort_values(["step", "name"])
    return [
        (str(name), float(value), int(step), int(epoch))
        for name, value, step, epoch in ordered[["name", "value", "step", "epoch"]].itertuples(
            index=False
        )
    ]


def _final_scores(frame: Any) -> dict[str, float]:
    """``final/<role> <domain> <metric>`` -> score at the chosen epoch; undefined ones left out."""
    if frame is None:
        return {}
    ordered = frame.sort_values(["role", "domain", "metric"])
    return {
        f"final/{row.role} {row.domain} {row.metric}": float(row.value)
        for row in ordered.itertuples(index=False)
        if math.isfinite(row.value)
    }


def _distinct(tables: SweepTables, axis: str) -> list[Any]:
    seen = {repr(tables.values[p][axis]): tables.values[p][axis] for p in tables.order}
    return list(seen.values())


def _digest(
    rows: Sequence[Row],
    final: Mapping[str, float],
    params: Mapping[str, Any],
    step: int,
    previews: Sequence[Preview],
) -> str:
    digest = hashlib.blake2b(digest_size=8)
    text = json.dumps([_VERSION, rows, dict(final), dict(params), step], sort_keys=True)
    digest.update(text.encode())
    for preview in previews:
        digest.update(
            f"{preview.role}/{preview.domain}/{preview.kind}/{preview.source_id}".encode()
        )
        digest.update(preview.image.tobytes() + preview.overlay().tobytes())
    return digest.hexdigest()


def _plain(value: Any) -> bool | int | float | str:
    return value if isinstance(value, bool | int | float | str) else value_text(value)


def _discrete(values: Sequence[bool | int | float | str]) -> summary_v2.Discrete | None:
    """All values as a domain, or None (open) where they are of more than one type."""
    unique = list(dict.fromkeys(values))
    numbers = [value for value in unique if not isinstance(value, bool | str)]
    if unique and len(numbers) == len(unique):
        return summary_v2.Discrete([float(value) for value in numbers])
    if unique and len({type(value) for value in unique}) == 1:
        return summary_v2.Discrete(unique)
    return None


def _folder_name(point: str) -> str:
    """A point's name as one folder: separators of paths replaced, nothing else."""
    name = "".join(
        "_" if char in '/\\:*?"<>|' or not char.isprintable() else char for char in point
    )
    return name.strip(". ") or "point"


def _png(array: np.ndarray) -> bytes:
    picture = np.asarray(array)
    if (
        picture.dtype != np.uint8
        or picture.ndim not in (2, 3)
        or picture.shape[2:] not in ((), (3,))
    ):
        raise ValueError(
            f"a picture is uint8 (h, w) or (h, w, 3), not {picture.dtype} {picture.shape}"
        )
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return buffer.getvalue()
