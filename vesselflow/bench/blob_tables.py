"""The blobs bench's numbers as tables: means over folds and seeds, and their text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

LOG, WHOLE, OURS = "LoG", "LoG, whole voxels", "the sweep"
METRICS = ("f1", "precision", "recall", "error_voxels")
EVERY = "all"


def means(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Means over folds and seeds of the same peer, domain and class; NaN is left out."""
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["role"], row["domain"], row["class"], row["peer"]), []).append(row)
    found = []
    for (role, domain, kind, peer), members in groups.items():
        values: dict[str, Any] = {}
        for metric in (*METRICS, "isolated_error_voxels"):
            given = [row[metric] for row in members if not math.isnan(row[metric])]
            values[metric] = float(np.mean(given)) if given else None
        found.append(
            {
                "peer": peer,
                "domain": domain,
                "role": role,
                "class": kind,
                **values,
                "isolated": sum(row["isolated"] for row in members),
                "n": len(members),
            }
        )
    return found


def scores_table(rows: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> dict[str, Any]:
    """Columns and rows of text: domain by domain, class by class, the peers below each other."""
    names = [EVERY, *classes] if len(classes) > 1 else [EVERY]
    keys = list(dict.fromkeys((row["role"], row["domain"]) for row in rows))
    by = {(row["role"], row["domain"], row["class"], row["peer"]): row for row in rows}
    lines = []
    for (role, domain), name in ((key, name) for key in keys for name in names):
        for peer in (OURS, LOG, WHOLE):
            row = by.get((role, domain, name, peer))
            if row is not None:
                values = [_number(row[metric]) for metric in (*METRICS, "isolated_error_voxels")]
                lines.append([f"{domain} ({role})", name, peer, *values, str(row["isolated"])])
    heads = ["F1", "precision", "recall", "error, voxels", "isolated", "of"]
    return {"columns": ["domain", "class", "peer", *heads], "rows": lines}


def settings_table(settings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Columns and rows of text: what was found best for each fold and class."""
    lines = [
        [
            str(row["fold"]),
            row["class"],
            f"{row['sigma']:.3g} {row['unit']}",
            "bright" if row["bright"] else "dark",
            row["mode"],
            f"{row['border']:g} sigma",
            f"{row['apart']:g} radii",
            "each volume" if row["scaled"] else "none",
            "yes" if row["exclusive"][LOG] else "no",
        ]
        for row in settings
    ]
    heads = [
        "fold",
        "class",
        "sigma",
        "blobs",
        "beyond the border",
        "border",
        "apart",
        "scaled by",
        "one class a place",
    ]
    return {"columns": heads, "rows": lines}


def known(value: Any) -> Any:
    """What JSON can hold: nothing in place of NaN and infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
