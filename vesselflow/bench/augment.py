"""Augmentation: time of an image in each part, and of a chain of what moves pixels."""

from __future__ import annotations

import io
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch

from vesselflow.augment import AUGMENTATIONS
from vesselflow.augment.compose import Augmenter, compose
from vesselflow.bench import augment_peers
from vesselflow.bench.commands import row, spread, target

SAMPLES, CHANNELS, SIDE = 8, 3, 512
CHAIN = ("hflip", "rotate90", "affine", "elastic")
OURS, KORNIA = "chain", "chain, kornia"
#: What the chain is held to, times the faster peer, and each part that changes values.
MOST_OF_PEER = 0.5
MOST_OF = {"albumentations": 1.5, "MONAI": 0.5}
#: What moves or mixes samples is held to nothing by itself.
NO_TARGET = ("hflip", "vflip", "rotate90", "affine", "elastic", "random_resized_crop", OURS)

#: Of its two places the one that works on images.
PLACES = {"manifold_mixup": {"at": "input"}}

Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def augment(rounds: int = 5, progress: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Augment a batch of 8 images, 3 x 512 x 512, with a target and a full fov, on one thread.

    Every part has p = 1 and its default strength, and ours writes into tensors of its own, as in
    training; parts and peers take turns in an order that rotates. The first round warms all of them
    up and is not counted. Parts of volumes are left out.

    Args:
        rounds: Counted rounds, at least 1.
        progress: Takes lines that say how far it is.

    Returns:
        Rows of peers in ms per image, ratios and targets, as the other benches.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return summarise(_measured(rounds, progress or (lambda text: None)))
    finally:
        torch.set_num_threads(threads)


def _measured(rounds: int, say: Callable[[str], None]) -> dict[str, list[float]]:
    peers = peers_of(example())
    names = list(peers)
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            run = peers[name]
            if isinstance(run, InPlace):
                run.refill()
            began = time.perf_counter()
            run(number)
            took = 1000 * (time.perf_counter() - began) / SAMPLES
            say(f"round {number} of {rounds}, {name}: {took:.3g} ms")
            if number:
                times[name].append(took)
    return times


def example(samples: int = SAMPLES, side: int = SIDE) -> Tensors:
    """Image, target and fov; noise, since no part looks at what it is given."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(samples, CHANNELS, side, side, generator=generator)
    vessels = (torch.rand(samples, 1, side, side, generator=generator) < 0.1).float()
    return image, vessels, torch.ones(samples, 1, side, side)


def peers_of(given: Tensors) -> dict[str, Callable[[int], Any]]:
    """Name -> what augments the batch once, with a seed."""
    names = [name for name in AUGMENTATIONS.names() if name != "zflip"]
    own = _copied(given)
    found: dict[str, Callable[[int], Any]] = {
        name: InPlace(compose({name: {"p": 1.0, **PLACES.get(name, {})}}), given, own)
        for name in names
    }
    found[OURS] = InPlace(compose({name: {"p": 1.0} for name in CHAIN}), given, own)
    found[KORNIA] = _kornia(given)
    for library in augment_peers.installed():
        for name, run in augment_peers.peers_of(library, given, OURS).items():
            found[f"{name}, {library}"] = run
    return found


class InPlace:
    """Our augmentation as in training, whose tensors are there to be written into.

    Args:
        augmenter: What is timed.
        given: The batch.
        own: Memory for a copy of it, of which several may take turns.
    """

    def __init__(self, augmenter: Augmenter, given: Tensors, own: Tensors) -> None:
        self._augmenter, self._given, self._own = augmenter, given, own

    def refill(self) -> None:
        """Put back what was given; in training the feed does, and it is not timed."""
        for own, given in zip(self._own, self._given, strict=True):
            own.copy_(given)

    def __call__(self, seed: int) -> Any:
        """Augment the batch once."""
        image, vessels, fov = self._own
        generator = torch.Generator().manual_seed(seed)
        if self._augmenter.mixers:
            mixes = self._augmenter.mixes(len(image), image.shape[2:], generator=generator)
            return self._augmenter.mixed(image, fov, vessels, fov, mixes)
        return self._augmenter(image, vessels, fov, generator=generator, in_place=True)


def _copied(given: Tensors) -> Tensors:
    image, vessels, fov = given
    return image.clone(), vessels.clone(), fov.clone()


def _kornia(given: Tensors) -> Callable[[int], Any]:
    from kornia import augmentation as parts

    chain = parts.AugmentationSequential(
        parts.RandomHorizontalFlip(p=1.0),
        parts.RandomRotation90((1, 3), p=1.0),
        parts.RandomAffine(15.0, (0.05, 0.05), (0.9, 1.1), p=1.0),
        parts.RandomElasticTransform((63, 63), (16.0, 16.0), (0.01, 0.01), p=1.0),
        data_keys=["input", "mask"],
    )
    image, vessels, fov = given
    both = torch.cat([vessels, fov], dim=1)

    def run(seed: int) -> Any:
        with torch.random.fork_rng(devices=[]), torch.no_grad(), warnings.catch_warnings():
            # One of its parts leaves torch to choose align_corners, which torch tells each time.
            warnings.simplefilter("ignore", UserWarning)
            torch.manual_seed(seed)
            return chain(image, both)

    return run


def summarise(times: Mapping[str, list[float]]) -> dict[str, Any]:
    """The result of the bench from ms per image by round.

    Every part and the chain are compared with what the libraries that took part have of it, round
    by round, and the chain with the fastest of them as well.
    """
    how = f"batches of {SAMPLES} x {CHANNELS} x {SIDE} x {SIDE}, p = 1, defaults, one thread"
    chain = " + ".join(CHAIN)
    settings: dict[str, dict[str, str]] = {
        OURS: {"how": f"{chain}; {how}, in place"},
        KORNIA: {
            "how": f"AugmentationSequential of the same four, image and mask; {how}",
            "elastic": "kernel of 63 px, sigma 16 px",
        },
    }
    ratios, targets, others = {}, [], []
    for name, values in times.items():
        part, _, library = name.partition(", ")
        if not library:
            continue
        if library in augment_peers.PEERS:
            settings[name] = {"how": f"{augment_peers.PEERS[library]}; one thread"}
        what = f"{part} / {name}"
        ratios[what] = spread([a / b for a, b in zip(times[part], values, strict=True)])
        if part == OURS:
            others.append(values)
        elif part not in NO_TARGET:
            targets.append(target(what, ratios[what]["median"], MOST_OF[library]))
    if others:
        fastest = min(others, key=statistics.median)
        found = spread([a / b for a, b in zip(times[OURS], fastest, strict=True)])
        targets.insert(0, target(f"{OURS} / fastest peer", found["median"], MOST_OF_PEER))
    absent = [name for name in augment_peers.PEERS if not any(name in each for each in times)]
    return {
        "name": "augment",
        "tables": [_table(times)],
        "peers": {
            name: row(values, "ms / image", settings.get(name, {"how": how}))
            for name, values in times.items()
        },
        "ratios": ratios,
        "targets": targets,
        "notes": [
            f"{name} is not installed and was left out: pip install 'vesselflow[peers]'"
            for name in absent
        ],
    }


def _table(times: Mapping[str, list[float]]) -> dict[str, Any]:
    """Median ms per image, a row for each part and a column for each library."""
    libraries = ["kornia", *augment_peers.PEERS]

    def cell(name: str) -> str:
        return f"{statistics.median(times[name]):.3g}" if name in times else ""

    return {
        "columns": ["ms / image", "vesselflow", *libraries],
        "rows": [
            [name, cell(name), *(cell(f"{name}, {library}") for library in libraries)]
            for name in times
            if ", " not in name
        ],
    }


def figure(result: Mapping[str, Any]) -> bytes:
    """Bars of ms per image on a logarithmic axis, as a PNG; the slowest part on top.

    Args:
        result: Of `augment`.
    """
    from matplotlib import pyplot as plt

    from vesselflow.reporting.style import CATEGORIES, SOFT, styled

    medians = {name: each["median"] for name, each in result["peers"].items()}
    parts = sorted((name for name in medians if ", " not in name), key=medians.__getitem__)
    libraries = ["", *dict.fromkeys(name.partition(", ")[2] for name in medians if ", " in name)]
    height = 0.8 / len(libraries)
    with styled():
        drawn, axes = plt.subplots(figsize=(7, 1 + 0.36 * len(parts)), layout="constrained")
        for number, library in enumerate(libraries):
            names = [f"{part}, {library}" if library else part for part in parts]
            rows = [place for place, name in enumerate(names) if name in medians]
            shown = [result["peers"][names[place]] for place in rows]
            middle = [each["median"] for each in shown]
            axes.barh(
                [place + 0.4 - (number + 0.5) * height for place in rows],
                middle,
                height,
                color=CATEGORIES[number],
                label=library or "vesselflow",
                xerr=[
                    [each["median"] - each["low"] for each in shown],
                    [each["high"] - each["median"] for each in shown],
                ],
                error_kw={"ecolor": SOFT, "elinewidth": 0.7},
            )
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, place: f"{value:g}")
        axes.margins(y=0.01)
        axes.set_yticks(range(len(parts)), parts)
        axes.set_xlabel(f"ms per image of {CHANNELS} x {SIDE} x {SIDE}, one thread; low to high")
        axes.set_title("Augmentation, each part at p = 1")
        axes.legend(loc="lower right")
        picture = io.BytesIO()
        drawn.savefig(picture, format="png")
        plt.close(drawn)
    return picture.getvalue()
