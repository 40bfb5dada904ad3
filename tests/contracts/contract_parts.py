"""Every registry, the fixed examples that golden values belong to, and the file of these."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
import yaml
from PIL import Image
from torch import nn

from vesselflow.augment.compose import compose
from vesselflow.config.axes import Axis
from vesselflow.config.registry import Part
from vesselflow.config.samplers import Search
from vesselflow.feed.batches import SampleTable
from vesselflow.feed.layout import SampleLayout
from vesselflow.feed.sampling import SAMPLING
from vesselflow.losses import LOSSES
from vesselflow.metrics import METRICS
from vesselflow.metrics.detection import DETECTION
from vesselflow.metrics.detection.best import best_thresholds
from vesselflow.metrics.histogram import Histogram
from vesselflow.metrics.matches import Matches
from vesselflow.metrics.thresholds import THRESHOLDS
from vesselflow.metrics.thresholds.best import best as best_threshold
from vesselflow.models import MODELS
from vesselflow.models.layers import (
    ACTIVATIONS,
    CONVOLUTIONS,
    EXCITATIONS,
    FUSIONS,
    NORMS,
    SKIP_GATES,
    WINDOW_FUSIONS,
)
from vesselflow.models.layers.fusions import Maps
from vesselflow.models.needs import VOLUMETRIC
from vesselflow.optimizers import OPTIMIZERS
from vesselflow.optimizers.learning_rates import LEARNING_RATES
from vesselflow.stores.importers import IMPORTERS
from vesselflow.stores.normalisations import NORMALISATIONS
from vesselflow.stores.synth import SYNTH_KINDS
from vesselflow.targets.keypoints import Keypoints
from vesselflow.tasks import TASKS
from vesselflow.tasks.spec import TaskSpec
from vesselflow.tasks.task import build_task

#: kind -> name -> version -> values, as a person reads and checks them.
GOLDEN: dict[str, dict[str, dict[int, list[Any]]]] = yaml.safe_load(
    (Path(__file__).parent / "golden.yaml").read_text(encoding="utf-8")
)

#: Arguments with which a part has its revised version (see `Part.revised`).
REVISED: dict[tuple[str, str], dict[str, Any]] = {
    ("schedule", "constant"): {"warmup": 0.5},
    ("schedule", "cosine"): {"floor": 0.1},
}

#: Arguments that a part has no default for.
REQUIRED: dict[tuple[str, str], dict[str, Any]] = {
    ("loss", "compose"): {"terms": {"dice": {"weight": 2, "smooth": 2}, "bce": {"weight": 0.5}}},
}

#: Smaller encoders and larger images than the defaults, where a model needs them.
ENCODERS = {"segformer": "mit_b0", "dpt": "tu-vit_tiny_patch16_224"}
SIZES = {"pan": 128, "dpt": 32}


def model_sides(name: str) -> tuple[int, ...]:
    """Sides of an image or a volume that a model takes."""
    if name in VOLUMETRIC:
        return (8, 32, 32) if name == "encoded25d" else (8, 16, 16)
    return (SIZES.get(name, 64),) * 2


def versions(part: Part) -> list[int]:
    """The versions whose numbers a part has today."""
    return [part.version, *([part.revised[0]] if part.revised else [])]


# -- one example of each kind ----------------------------------------------------------------------


def loss_example() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two images of one channel, 6 x 8, with soft targets and a corner outside the fov."""
    n, y, x = torch.meshgrid(*(torch.arange(s) for s in (2, 6, 8)), indexing="ij")
    logits = 3.0 * torch.sin(1.0 + 0.7 * y + 1.3 * x + 2.0 * n)
    target = ((3 * y + 5 * x + 7 * n) % 4).float() / 3.0
    fov = (y + x) > 1 + 2 * n
    return logits.unsqueeze(1).float(), target.unsqueeze(1), fov.unsqueeze(1)


def loss_spec(name: str) -> dict[str, Any]:
    """A loss with its defaults, and with what it requires."""
    return {"name": name, **REQUIRED.get(("loss", name), {})}


def _loss(name: str, arguments: Mapping[str, Any]) -> list[float]:
    return [float(LOSSES.build({**loss_spec(name), **arguments})(*loss_example())[0])]


def _augmentation(name: str, arguments: Mapping[str, Any]) -> list[float]:
    """Weighted means of image and target after it; the weights tell pixels and channels apart."""
    size = (4, 8, 8) if name == "zflip" else (8, 8)
    ramp = torch.arange(2 * 3 * math.prod(size), dtype=torch.float32).view(2, 3, *size)
    image = 0.5 + 0.45 * torch.sin(ramp * 0.7)
    target = (image[:, :1] > 0.5).float()
    generator = torch.Generator().manual_seed(7)
    augmenter = compose({name: {"p": 1.0, **arguments}})
    moved = augmenter(image, target, torch.ones_like(target), generator=generator)
    if augmenter.mixers:
        image, fov, target = moved[0], moved[2], moved[1]
        mixes = augmenter.mixes(len(image), image.shape[2:], generator=generator)
        mixed = augmenter.mixed(image, fov, target, fov, mixes)
        moved = mixed[0], mixed[2], mixed[3]
    weights = torch.cos(ramp.double() * math.pi / 50)
    return [float((tensor.double() * weights[:, : tensor.shape[1]]).mean()) for tensor in moved]


def model_spec(name: str) -> dict[str, Any]:
    """A model with the smallest encoder that it takes."""
    if "encoder" not in MODELS.part(name).arguments.model_fields:
        return {"name": name}
    return {"name": name, "encoder": ENCODERS.get(name, "resnet18")}


def _model(name: str, arguments: Mapping[str, Any]) -> list[float]:
    spec = {**model_spec(name), **arguments}
    return model_answer(MODELS.build(spec, in_channels=3, classes=1), name)


def made_up(module: nn.Module) -> nn.Module:
    """The module in float64, with weights that no generator made."""
    module = module.double()
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            ramp = torch.arange(parameter.numel(), dtype=torch.float64) * 0.71 + number
            fan = parameter.numel() / parameter.shape[0] if parameter.ndim > 1 else 1.0
            values = torch.sin(ramp) * math.sqrt(2.0 / fan)
            parameter.copy_(values.view(parameter.shape))
    return module


def maps_example(channels: int, *sides: int, samples: int = 2) -> torch.Tensor:
    """float64 (samples, channels, *sides): a sine along all of them."""
    shape = (samples, channels, *sides)
    return torch.sin(torch.arange(math.prod(shape), dtype=torch.float64) * 0.37).view(shape)


def _weighed(answer: torch.Tensor) -> list[float]:
    """The mean, and one that tells channels and places apart."""
    weights = torch.cos(torch.arange(answer.numel(), dtype=torch.float64) * 0.11)
    return [float(answer.mean()), float((answer.reshape(-1) * weights).mean())]


def _convolution(name: str, arguments: Mapping[str, Any]) -> list[float]:
    layer = CONVOLUTIONS.build({"name": name}, inputs=16, outputs=6, kernel=(3, 3, 3))
    return _weighed(made_up(layer)(maps_example(16, 3, 4, 5)).detach())


def _norm(name: str, arguments: Mapping[str, Any]) -> list[float]:
    layer = made_up(NORMS.build({"name": name}, width=16, axes=2))
    return _weighed(layer(maps_example(16, 3, 4)).detach())


def _activation(name: str, arguments: Mapping[str, Any]) -> list[float]:
    values = torch.tensor([-3.0, -0.5, 0.0, 2.0], dtype=torch.float64)
    return list(ACTIVATIONS.build({"name": name})(values).tolist())


def _excitation(name: str, arguments: Mapping[str, Any]) -> list[float]:
    """Of images, then of volumes."""
    found = []
    for sides in ((3, 4), (2, 3, 4)):
        spec = {"name": name, **arguments}
        layer = made_up(EXCITATIONS.build(spec, channels=16, axes=len(sides)))
        found += _weighed(layer(maps_example(16, *sides)).detach())
    return found


def pyramid_example(axes: int) -> tuple[Maps, list[torch.Tensor]]:
    """What a fusion takes, and a pyramid of three levels."""
    maps = Maps(5, 4, [(3,) * axes] * 3, [(2,) * axes] * 2, norm="layer")
    return maps, [maps_example(5, *[side] * axes) for side in (8, 4, 2)]


def _fusion(name: str, arguments: Mapping[str, Any]) -> list[float]:
    """Of images, then of volumes."""
    found = []
    for axes in (2, 3):
        maps, pyramid = pyramid_example(axes)
        found += _weighed(made_up(FUSIONS.build({"name": name}, maps=maps))(pyramid).detach())
    return found


def _window_fusion(name: str, arguments: Mapping[str, Any]) -> list[float]:
    """Of three windows."""
    layer = made_up(WINDOW_FUSIONS.build({"name": name}, channels=4, windows=3))
    windows = maps_example(12, 2, 5).unflatten(1, (3, 4))
    return _weighed(layer(windows).detach())


def _skip_gate(name: str, arguments: Mapping[str, Any]) -> list[float]:
    """Of images, then of volumes whose slices are not halved."""
    found = []
    for factor, coarse in (((2, 2), (3, 4)), ((1, 2, 2), (2, 3, 4))):
        fine = [side * part for side, part in zip(coarse, factor, strict=True)]
        gate = SKIP_GATES.build({"name": name}, skip=8, signal=6, factor=factor)
        gated = made_up(gate)(maps_example(8, *fine), maps_example(6, *coarse))
        found += _weighed(gated.detach())
    return found


def model_answer(built: nn.Module, name: str) -> list[float]:
    """Number of parameters, and four logits in float64 with weights that no generator made."""
    model, shape = made_up(copy.deepcopy(built)).eval(), model_sides(name)
    image = torch.sin(torch.arange(3 * math.prod(shape), dtype=torch.float64) * 0.37)
    with torch.inference_mode():
        logits = model(image.view(1, 3, *shape))[0, 0]
    *depth, height, width = shape
    places = ((0, 0), (3, width - 4), (height // 2, width // 2), (height - 1, width - 1))
    count = sum(parameter.numel() for parameter in model.parameters())
    middle = [side // 2 for side in depth]
    return [count, *(float(logits[(*middle, *place)]) for place in places)]


def _sampling(name: str, arguments: Mapping[str, Any]) -> list[int]:
    """The first twelve of ten samples, the last seven of which hold a class, or two.

    Four more, 10 to 13, are cut around keypoints where these are drawn. The losses of hard samples
    are 0 to 9 in the order of the first epoch.
    """
    held = np.zeros((10, 2), np.uint8)
    held[3:, 0] = held[8:, 1] = 1
    nothing = np.zeros((10, 2), np.int32)
    table = SampleTable(SampleLayout((4, 4), 1, 2), nothing[:, 0], nothing, nothing, nothing)
    table, rows = replace(table, held=held), np.arange(10)
    if name == "keypoint":
        table, rows = replace(table, centred=np.repeat([-1, 0], [10, 4])), np.arange(14)
    draws = SAMPLING.build({"name": name, **arguments}, table=table, rows=rows, seed=7)
    if name == "hard":
        draws.learn(0, np.arange(10.0))
        draws.end_epoch()
    return list(draws.at(0, 12).tolist())


def _optimizer(name: str, arguments: Mapping[str, Any]) -> list[float]:
    weight = nn.Parameter(torch.tensor([2.0, -1.0], dtype=torch.float64))
    optimizer = OPTIMIZERS.build({"name": name, **arguments}, parameters=[weight])
    for gradient in ([0.5, 0.1], [-1.0, 0.2], [0.25, 0.4]):
        weight.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
    return weight.tolist()


def _schedule(name: str, arguments: Mapping[str, Any]) -> list[float]:
    factor = LEARNING_RATES.build({"name": name, **arguments})
    # Epochs of two steps, whose loss stands still from the second on.
    losses = [1.0] + [0.5] * 9
    return [factor(step, 20, losses[: step // 2]) for step in (0, 1, 5, 10, 14, 15, 19)]


#: Intensities inside the fov of `test_golden_by_hand` (tests/stores): 0, 51, 102, 255 of 255.
LEVELS = (0.0, 0.2, 0.4, 1.0)


def _normalisation(name: str, arguments: Mapping[str, Any]) -> list[float]:
    part = NORMALISATIONS.build({"name": name, **arguments})
    centre, scale = part.columns(np.array(LEVELS)[:, None])
    return [float(centre[0]), float(scale[0])]


#: A range, and an axis that counts at some points only.
AXES = {
    "optimizer.lr": {"low": 1e-4, "high": 1e-1, "log": True},
    "loss.name": {"values": ["bce", "fuzzy"]},
    "loss.beta": {"values": [0.2, 0.8], "when": {"loss.name": "fuzzy"}},
}


def chosen(name: str, samples: int = 4, seed: int = 0) -> list[dict[str, Any]]:
    """The points that a sampler takes of `AXES`; of the range its ends, where it takes none."""
    search = Search(sampler=name)
    axes = dict(AXES)
    if search.kind.draws:
        search = Search(sampler=name, samples=samples, seed=seed)
    else:
        axes["optimizer.lr"] = {"values": [1e-4, 1e-1]}
    grid = {key: Axis.model_validate(axis) for key, axis in axes.items()}

    def holds(when: Mapping[str, tuple[Any, ...]] | None, point: dict[str, Any]) -> bool:
        return all(point[key] in allowed for key, allowed in (when or {}).items())

    return list(search.kind.choose(grid, search, holds))


def _sampler(name: str, arguments: Mapping[str, Any]) -> list[Any]:
    return [value for point in chosen(name) for value in point.values()]


def metric_example() -> Histogram:
    """Logits 1 2 2 3 4 4 with target 0 0 1 1 0 1: at 3 TP 2, FP 1, FN 1, TN 2."""
    logits = np.array([1, 2, 2, 3, 4, 4], np.float32)
    return Histogram.of(logits, np.array([0, 0, 1, 1, 0, 1], np.uint8))


def matches_example() -> Matches:
    """Five keypoints; picks by falling score: hit, miss, hit, hit, miss; distances 1, 2 and 6."""
    nan = math.nan
    away = np.array([1.0, nan, 2.0, 6.0, nan])
    return Matches.of_arrays(
        {
            "truth": np.array([5]),
            "class_index": np.zeros(5, int),
            "score": np.array([0.9, 0.8, 0.7, 0.6, 0.5]),
            "voxels": away,
            "angstrom": 10 * away,
            "undefined": np.array(0),
        }
    )


def _metric(name: str, arguments: Mapping[str, Any]) -> list[float]:
    if name in DETECTION:
        return [float(DETECTION.part(name).load()(matches_example(), 0.6)[0])]
    return [float(METRICS.part(name).load()(metric_example(), 3.0))]


def _threshold(name: str, arguments: Mapping[str, Any]) -> list[float]:
    # A second one 10 higher: a rule that looks at nothing is told by it.
    first = metric_example()
    moved = Histogram(first.values + np.float32(10), first.positives, first.negatives)
    choose = THRESHOLDS.part(name).load()
    return [choose(first, "dice"), choose(moved, "dice"), choose(first, "accuracy") + 1]


def _threshold_metric(name: str, arguments: Mapping[str, Any]) -> list[float]:
    if name in DETECTION:
        beta = {"f1": 1.0, "f4": 4.0}[name]
        return [float(best_thresholds(matches_example(), beta)[0])]
    return [best_threshold(metric_example(), name)]


#: Layout -> files of a small data set: image -> (mask of the vessels, fov mask or None).
TREES: dict[str, dict[str, tuple[str, str | None]]] = {
    "chase": {
        f"images/Image_{eye}.png": (f"labels/Image_{eye}.png", f"masks/Image_{eye}.png")
        for eye in ("01L", "01R", "11L")
    },
    "stare": {
        f"images/{name}.png": (f"labels/{name}.png", f"masks/{name}.png")
        for name in ("im0001", "im0002")
    },
    "folder": {f"images/{name}.png": (f"masks/{name}.png", None) for name in ("p1_a", "p2_a")},
    "volume": {f"images/{name}.tif": (f"labels/{name}.tif", None) for name in ("p1_a", "p2_a")},
}


def write_tree(root: Path, layout: str, *, backwards: bool = False) -> None:
    """Make a layout's small data set, its files in either order."""
    tree = list(TREES[layout].items())
    for number, (image, (mask, fov)) in enumerate(reversed(tree) if backwards else tree):
        seed = len(tree) - 1 - number if backwards else number
        pixels = np.random.default_rng(seed).integers(60, 200, (24, 30, 3), dtype=np.uint8)
        vessels = np.zeros((24, 30), np.uint8)
        vessels[4:9, 3:20] = 255
        full = np.full((24, 30), 255, np.uint8)
        for place, values in ((image, pixels), (mask, vessels), (fov, full)):
            if place is not None:
                (root / place).parent.mkdir(parents=True, exist_ok=True)
                if layout == "volume":
                    flat = values if values.ndim == 2 else values[..., 0]
                    # Vessels in one slice of three, so that their number is that of the others.
                    slices = [0 * flat, flat, 0 * flat] if place == mask else [flat] * 3
                    kind = {"photometric": "minisblack"}  # three slices are no RGB
                    tifffile.imwrite(root / place, np.stack(slices), **kind)
                else:
                    Image.fromarray(values).save(root / place)


def _importer(name: str, arguments: Mapping[str, Any]) -> list[str]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        write_tree(Path(folder), name)
        listing = IMPORTERS.build({"name": name, **arguments}, source=Path(folder))
    return [f"{item.id} of {item.group}, {item.split or 'no split'}" for item in listing.items]


def _synth(name: str, arguments: Mapping[str, Any]) -> list[float]:
    (source,) = SYNTH_KINDS.build({"name": name, "sources": 1, "size_px": 64, **arguments})
    bright = 255 if source.image.dtype == np.uint8 else 1
    truth = source.target if source.keypoints is None else source.keypoints.positions
    return [
        float(np.abs(source.image.astype(np.float64)).mean() / bright),
        float(truth.mean()),
        float(source.fov.mean()),
    ]


def _task(name: str, arguments: Mapping[str, Any]) -> list[float]:
    """Weighted means of what the loss compares with, and of the fov, on cells of 2 x 2."""
    cells = 2 if TASKS.task(name).kind == "keypoint" else 1
    widths = ((1.0, 1.0),) if cells > 1 else None
    spec = TaskSpec(name, 1, ("a",), 2, (cells, cells), ds_sigma=widths)
    points = Keypoints(
        torch.tensor([[2.0, 3.0], [6.0, 9.0]], dtype=torch.float64),
        torch.zeros(2, dtype=torch.int64),
        torch.zeros(2, dtype=torch.int64),
    )
    ramp = torch.arange(64.0).view(1, 1, 8, 8)
    fov = (ramp > 10).float()
    made = build_task(spec).supervise((ramp % 3 == 0).float(), fov, points, None)
    return [float((each * torch.arange(each.numel()).view(each.shape)).mean()) for each in made]


#: kind -> its golden numbers of a part with these arguments beside the defaults.
PROBES: dict[str, Callable[[str, Mapping[str, Any]], list[Any]]] = {
    "sampling": _sampling,
    "augment": _augmentation,
    "model": _model,
    "convolution": _convolution,
    "norm": _norm,
    "activation": _activation,
    "se": _excitation,
    "fusion": _fusion,
    "window fusion": _window_fusion,
    "skip_gate": _skip_gate,
    "loss": _loss,
    "optimizer": _optimizer,
    "schedule": _schedule,
    "normalisation": _normalisation,
    "sampler": _sampler,
    "importer": _importer,
    "synth": _synth,
    "metric": _metric,
    "threshold": _threshold,
    "threshold metric": _threshold_metric,
    "task": _task,
}
