"""How large a sample must be, and how many a micro-batch: known without importing torch.

Batch-norm cannot normalise one value per channel, so a model that pools to one pixel, or whose
coarsest map is one pixel, cannot be trained on one sample. Tests hold these rules against the
models themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: Architectures that normalise what they pooled to one pixel.
_POOLING = ("pan", "deeplabv3", "deeplabv3plus", "upernet")
#: PAN pools three times below its stride.
_PAN_STRIDES = 8
#: Encoders without batch-norm on their coarsest map (VGG halves the size once more behind its last,
#: a mix transformer has none) -> architectures whose decoder normalises that map itself.
_NORMALISED_LATER = {"vgg": ("unet", "manet", "linknet"), "mit_b": ("manet",)}


@dataclass(frozen=True)
class Needs:
    """What a model asks of its input.

    Attributes:
        stride: Of its coarsest map; heights and widths must be multiples of it.
        least_px: Least height and width.
        pools: It normalises single pixels, so that a micro-batch needs two samples.
        normalises_coarsest: It normalises its coarsest map.
    """

    stride: int
    least_px: int
    pools: bool = False
    normalises_coarsest: bool = True

    def trains(self, height: int, width: int, samples: int) -> bool:
        """Whether batch-norm gets two values per channel everywhere."""
        if samples > 1:
            return True
        pixels = (height // self.stride) * (width // self.stride)
        return not self.pools and (pixels > 1 or not self.normalises_coarsest)


def needs(spec: Mapping[str, Any]) -> Needs | None:
    """The needs of a model; None where only trying it tells (encoders of timm).

    Args:
        spec: Name and arguments with all defaults filled in.
    """
    name = spec["name"]
    if name == "wnet":
        stride = 2 ** (len(spec["filters"]) - 1)
        return Needs(stride, stride)
    encoder = spec["encoder"]
    if encoder.startswith("tu-"):
        return None
    stride = min(spec.get("output_stride", 32), 2 ** spec["depth"])
    later = [names for start, names in _NORMALISED_LATER.items() if encoder.startswith(start)]
    return Needs(
        stride,
        stride * (_PAN_STRIDES if name == "pan" else 1),
        pools=name in _POOLING or encoder.startswith("timm-sk"),
        normalises_coarsest=all(name in names for names in later),
    )
