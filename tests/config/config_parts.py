"""Small registries, most of parts that exist on paper only, and a way to write and load a space."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from vesselflow.config.loading import load_space
from vesselflow.config.registry import Arguments, Registry
from vesselflow.config.space import Space
from vesselflow.feed.sampling import SAMPLING
from vesselflow.optimizers import OPTIMIZERS
from vesselflow.optimizers.learning_rates import LEARNING_RATES
from vesselflow.stores.synth import SYNTH_KINDS


class Ramp(Arguments):
    schedule: Literal["linear", "cosine"]
    to: float = Field(1.0, ge=0, le=1)


class Mixed(Arguments):
    beta: Annotated[float, Field(ge=0, le=1)] | Ramp = 0.5
    smooth: float = Field(1.0, gt=0)


class Plain(Arguments):
    pos_weight: float = Field(1.0, gt=0)


class Net(Arguments):
    width: int = Field(8, ge=1, le=64)


class Flip(Arguments):
    p: float = Field(0.5, ge=0, le=1)


def _registry(kind: str, **parts: type[Arguments]) -> Registry:
    registry = Registry(kind)
    for name, arguments in parts.items():
        registry.add(name, target="nowhere:nothing", arguments=arguments)
    return registry


REGISTRIES = {
    "sampling": SAMPLING,
    "augment": _registry("augmentation", hflip=Flip, vflip=Flip),
    "model": _registry("model", wnet=Net, unet=Net),
    "loss": _registry("loss", bce=Plain, combined=Mixed, fuzzy=Mixed),
    "optimizer": OPTIMIZERS,
    "schedule": LEARNING_RATES,
    "synth": SYNTH_KINDS,
}

STORES = "stores: {a: synth:fundus, b: 'synth:fundus?domain=b'}\ndata: {train: a}\n"


def load(folder: Path, text: str, *, name: str = "space.yaml", **options: Any) -> Space:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return load_space(file, registries=options.pop("registries", REGISTRIES), **options)


def names(space: Space) -> list[str]:
    return [point.name for point in space.expand().points]
