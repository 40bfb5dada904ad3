"""A small sweep on disk, as evaluation writes it: 2 losses x 5 betas x 2 folds x 2 seeds."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vesselflow.records.runs import RunRecord

BETAS = (0.0, 0.25, 0.5, 0.75, 1.0)
LOSSES = ("combined", "fuzzy")
DOMAINS = (("val", "a"), ("test", "a"), ("ood", "b"), ("ood", "c"))
METRICS = ("dice", "roc_auc")
_EPOCHS = 4
_STEPS = 20


def write_sweep(
    results: Path,
    *,
    name: str = "loss_beta",
    betas: Sequence[Any] = BETAS,
    losses: Sequence[str] = LOSSES,
    folds: int = 2,
    seeds: int = 2,
    domains: Sequence[tuple[str, str]] = DOMAINS,
    undefined: Sequence[tuple[str, str, str, int]] = (),
    failed: Sequence[str] = (),
    previews: bool = True,
    write_records: bool = False,
) -> Path:
    """Write ``results/<name>`` with its tables and the previews of its runs; return it.

    Args:
        undefined: (point, domain, metric, seed) whose pooled score is NaN, in every fold.
        failed: points whose run of fold 0 and seed 0 failed.
    """
    draws = np.random.default_rng(7)
    points, runs, epochs, images = [], [], [], []
    grid = list(itertools.product(losses, betas))
    for index, (loss, beta) in enumerate(grid):
        point = f"loss={loss},beta={beta if not isinstance(beta, dict) else beta['schedule']}"
        config = {"config.loss.name": json.dumps(loss), "config.loss.beta": json.dumps(beta)}
        scores: dict[tuple[str, str, str], list[float]] = {}
        n_runs = 0
        for fold, seed in itertools.product(range(folds), range(seeds)):
            run_id = f"{index:02d}{fold}{seed}".ljust(12, "0")
            identity = {"run_id": run_id, "point": point, "fold": fold, "seed": seed}
            broken = point in failed and (fold, seed) == (0, 0)
            state = "failed" if broken else "finished"
            runs.append(
                {**identity, "state": state, "epoch": None if broken else _EPOCHS}
                | {"threshold": None if broken else 0.47}
                | {"message": "loss is not finite at step 7" if broken else "", **config}
            )
            if write_records:
                write_record(results, run_id, state, "loss is not finite at step 7")
            if broken:
                continue
            n_runs += 1
            shift = float(draws.normal(0, 0.006))
            for epoch, (role, domain), metric in itertools.product(
                range(1, _EPOCHS + 1), domains, METRICS
            ):
                value = _score(loss, beta, role, domain, metric, epoch) + shift
                value += float(draws.normal(0, 0.002))
                if (point, domain, metric, seed) in undefined:
                    value = math.nan
                place = {"epoch": epoch, "step": epoch * _STEPS, "domain": domain, "role": role}
                for source in ("*", "s0", "s1"):
                    images.append(
                        {**identity, **place, "source_id": source, "metric": metric}
                        | {"value": value, "threshold": 0.47}
                    )
                if epoch == _EPOCHS:
                    scores.setdefault((domain, role, metric), []).append(value)
            epochs += _curves(identity, loss, beta, shift, draws)
            if previews:
                _write_previews(results / "runs" / run_id, domains, draws)
        for (domain, role, metric), values in scores.items():
            defined = [value for value in values if not math.isnan(value)]
            points.append(
                {"point": point, "index": index, **config, "n_runs": n_runs, "selected": False}
                | {"domain": domain, "role": role, "metric": metric}
                | {"mean": float(np.mean(defined)) if defined else math.nan}
                | {"std": float(np.std(defined, ddof=1)) if len(defined) > 1 else math.nan}
                | {"n": len(defined), "n_undefined": len(values) - len(defined)}
            )
    return _save(results / name, points, runs, epochs, images)


def _save(
    sweep: Path,
    points: Sequence[dict[str, Any]],
    runs: Sequence[dict[str, Any]],
    epochs: Sequence[dict[str, Any]],
    images: Sequence[dict[str, Any]],
) -> Path:
    table = pd.DataFrame(points)
    val = table[(table["role"] == "val") & (table["metric"] == "dice")]
    table["selected"] = table["point"] == val.loc[val["mean"].idxmax(), "point"]
    (sweep / "tables").mkdir(parents=True)
    (sweep / "space.yaml").write_text("name: loss_beta\n", encoding="utf-8")
    (sweep / "provenance.json").write_text(
        json.dumps({"vesselflow": "0.1.0", "commit": "a5defea", "python": "3.11.7"}),
        encoding="utf-8",
    )
    for file, frame in (
        ("points", table),
        ("runs", pd.DataFrame(runs)),
        ("epochs", pd.DataFrame(epochs)),
        ("images", pd.DataFrame(images)),
    ):
        frame.to_parquet(sweep / "tables" / f"{file}.parquet")
    return sweep


def write_grid(
    results: Path,
    axes: Mapping[str, Sequence[Any]],
    *,
    name: str = "grid",
    when: Mapping[str, Mapping[str, Sequence[Any]]] | None = None,
    drawn: int | None = None,
    seeds: int = 2,
    domains: Sequence[tuple[str, str]] = DOMAINS,
    epochs: int = 8,
    scored: Sequence[int] | None = None,
    moving: bool = False,
) -> Path:
    """Write ``results/<name>`` for any grid, pooled scores only and without previews.

    Args:
        axes: Config key -> values.
        when: Key of an axis -> the values of other axes where it applies.
        drawn: Number of random draws in place of all combinations; a number's axis is a range.
        scored: Epochs that are scored on validation; None for all.
        moving: Whether a scalar of the loss changes within the runs.
    """
    draws = np.random.default_rng(11)
    settings = _settings(axes, when or {}, drawn, draws)
    points, runs, curves, images = [], [], [], []
    for index, setting in enumerate(settings):
        point = ",".join(f"{key.split('.')[-1]}={json.dumps(v)}" for key, v in setting.items())
        point = point or f"point{index}"
        config = {
            f"config.{key}": json.dumps(setting[key], sort_keys=True) if key in setting else None
            for key in axes
        }
        places = [_place(axes[key], value) for key, value in setting.items()]
        effect = sum(0.03 * math.sin(2.3 * i + place) for i, place in enumerate(places))
        values: dict[tuple[str, str], list[float]] = {}
        for seed in range(seeds):
            run_id = f"{index:03d}{seed}".ljust(12, "0")
            identity = {"run_id": run_id, "point": point, "fold": 0, "seed": seed}
            runs.append(
                {**identity, "state": "finished", "epoch": epochs, "threshold": 0.5}
                | {"message": "", **config}
            )
            shift = float(draws.normal(0, 0.006))
            for place, (role, domain) in enumerate(domains):
                score = 0.82 - 0.06 * place + effect * (1 + 0.3 * place) + shift
                values.setdefault((role, domain), []).append(score)
                images.append(
                    {**identity, "epoch": epochs, "step": epochs * _STEPS, "domain": domain}
                    | {"role": role, "source_id": "*", "metric": "dice", "value": score}
                    | {"threshold": 0.5}
                )
            for epoch in range(1, epochs + 1):
                share = math.exp(-0.6 * epoch)
                row = {"train/loss": 0.2 - effect + share, "train/loss.beta": 0.5}
                row["train/loss.beta"] += 0.3 * epoch / epochs if moving else 0
                if epoch in (scored or range(1, epochs + 1)):
                    row["val/dice"] = 0.82 + effect + shift - 0.4 * share
                curves += [
                    {**identity, "epoch": epoch, "step": epoch * _STEPS, "name": key, "value": v}
                    for key, v in row.items()
                ]
        for (role, domain), found in values.items():
            points.append(
                {"point": point, "index": index, **config, "n_runs": seeds, "selected": False}
                | {"domain": domain, "role": role, "metric": "dice", "mean": float(np.mean(found))}
                | {"std": float(np.std(found, ddof=1)) if seeds > 1 else math.nan}
                | {"n": seeds, "n_undefined": 0}
            )
    return _save(results / name, points, runs, curves, images)


def _settings(
    axes: Mapping[str, Sequence[Any]],
    when: Mapping[str, Mapping[str, Sequence[Any]]],
    drawn: int | None,
    draws: np.random.Generator,
) -> list[dict[str, Any]]:
    """The points of a grid: an axis that does not apply is left out, equal points are merged."""
    if drawn is None:
        rows = list(itertools.product(*axes.values()))
    else:
        rows = [tuple(_draw(draws, choices) for choices in axes.values()) for _ in range(drawn)]
    settings = []
    for row in rows:
        setting = dict(zip(axes, row, strict=True))
        for key, where in when.items():
            if any(setting[other] not in allowed for other, allowed in where.items()):
                del setting[key]
        if setting not in settings:
            settings.append(setting)
    return settings


def _draw(draws: np.random.Generator, choices: Sequence[Any]) -> Any:
    if all(isinstance(value, int | float) for value in choices):
        return float(f"{draws.uniform(min(choices), max(choices)):.6g}")
    return choices[int(draws.integers(len(choices)))]


def _place(choices: Sequence[Any], value: Any) -> float:
    return float(choices.index(value) if value in choices else value)


def write_record(results: Path, run_id: str, state: str, message: str = "") -> None:
    """Write the record of a run that finished or failed, as a worker does."""
    record = RunRecord(results, run_id)
    record.create("", {})
    attempt = record.begin_attempt()
    if state == "failed":
        record.fail(attempt, message, "")
    else:
        record.finish(attempt, {})


def _beta_end(beta: Any) -> float:
    return float(beta["to"] if isinstance(beta, dict) else beta)


def _score(loss: str, beta: Any, role: str, domain: str, metric: str, epoch: int) -> float:
    best = 0.55 if loss == "combined" else 0.4
    level = {"a": 0.81, "b": 0.74, "c": 0.66}[domain] - (0.008 if role == "test" else 0)
    value = level - 0.09 * (_beta_end(beta) - best) ** 2 * (2.0 if role == "ood" else 1.0)
    if metric == "roc_auc":
        value = 1 - (1 - value) * 0.15
    return value - 0.25 * math.exp(-1.1 * epoch)


def _curves(
    identity: dict[str, Any], loss: str, beta: Any, shift: float, draws: np.random.Generator
) -> list[dict[str, Any]]:
    rows = []
    for epoch in range(1, _EPOCHS + 1):
        share = epoch / _EPOCHS
        scalar = (
            beta["from"] + (beta["to"] - beta["from"]) * share if isinstance(beta, dict) else beta
        )
        values = {
            "train/loss": (0.5 + 0.2 * _beta_end(beta)) * math.exp(-0.5 * epoch)
            + 0.1
            + float(draws.normal(0, 0.01)),
            "train/loss.beta": float(scalar),
            "train/lr": 1e-3 * (1 - share / 2),
            "val/dice": _score(loss, beta, "val", "a", "dice", epoch) + shift,
        }
        rows += [
            {**identity, "epoch": epoch, "step": epoch * _STEPS, "name": name, "value": value}
            for name, value in values.items()
        ]
    return rows


def _write_previews(
    run: Path, domains: Sequence[tuple[str, str]], draws: np.random.Generator
) -> None:
    folder = run / "previews"
    folder.mkdir(parents=True, exist_ok=True)
    for domain in sorted({name for _, name in domains}):
        for kind, noise in (("best", 0.15), ("worst", 0.45)):
            np.savez_compressed(
                folder / f"{domain}_{kind}_s{int(kind == 'worst')}.npz", **_preview(noise, draws)
            )


def _preview(noise: float, draws: np.random.Generator) -> dict[str, np.ndarray]:
    height, width = 120, 140
    y, x = np.mgrid[:height, :width]
    fov = np.hypot(y - height / 2, x - width / 2) < 56
    waves = (np.abs(y - 60 - 18 * np.sin(x / 14)) < 3) | (np.abs(x - 70 - 12 * np.sin(y / 9)) < 2)
    target = waves & fov
    blurred = np.where(target, 0.85, 0.1) + draws.normal(0, noise, (height, width))
    probability = np.clip(blurred, 0, 1)
    image = (
        np.stack([170 - 60 * target, 90 - 45 * target, 50 - 20 * target], axis=-1) * fov[..., None]
    )
    prediction = (probability >= 0.47) & fov
    overlap = int((prediction & target).sum())
    return {
        "image": image.astype(np.uint8),
        "probability": np.round(probability * 255).astype(np.uint8),
        "target": target.astype(np.uint8),
        "fov": fov.astype(np.uint8),
        "threshold": np.float64(0.47),
        "metric": np.str_("dice"),
        "value": np.float64(2 * overlap / (int(prediction.sum()) + int(target.sum()))),
    }
