"""The tables that are a sweep's answer, as bytes: what two sweeps over the same runs have equal."""

from __future__ import annotations

from vesselflow.records.paths import AnyPath

#: All long tables but ``cost``, which says what the answer took.
ANSWER_TABLES = ("points", "runs", "epochs", "images")


def read_answer(sweep: AnyPath) -> dict[str, bytes | None]:
    """Table -> its bytes in a sweep's folder; None for one that is not there."""
    found: dict[str, bytes | None] = {}
    for name in ANSWER_TABLES:
        try:
            found[name] = (sweep / "tables" / f"{name}.parquet").read_bytes()
        except FileNotFoundError:
            found[name] = None
    return found
