"""What networks are made of, by name: convolutions, norms, activations, excitations, fusions.

An argument of a model names such a layer (``norm: group``), so that it is an axis of a grid like
any other. This module imports no torch. A layer is its function or class in the file of its family,
its line here and its test.

Norms, excitations and fusions are built for maps of some axes: 2 of images, 3 of volumes.
"""

from typing import Annotated

from pydantic import Field

from vesselflow.config.registry import Arguments, Registry

CONVOLUTIONS = Registry("convolution")
NORMS = Registry("norm")
ACTIVATIONS = Registry("activation")
EXCITATIONS = Registry("se")
FUSIONS = Registry("fusion")
WINDOW_FUSIONS = Registry("window fusion")
SKIP_GATES = Registry("skip_gate")

_HERE = "vesselflow.models.layers"


class Reduction(Arguments):
    """Arguments of an excitation with a bottleneck.

    Attributes:
        reduction: Channels over those of the bottleneck, which has 4 at least.
    """

    reduction: Annotated[int, Field(ge=1)] = 16


class ProjectExciteArguments(Reduction):
    """Arguments of `project_excite`."""

    reduction: Annotated[int, Field(ge=1)] = 2


for _name in ("full", "separated", "shifted"):
    CONVOLUTIONS.add(_name, target=f"{_HERE}.convolutions:{_name}")

for _name in ("batch", "instance", "group", "layer"):
    NORMS.add(_name, target=f"{_HERE}.norms:{_name}")

for _name in ("relu", "leaky_relu", "elu", "gelu", "silu", "mish"):
    ACTIVATIONS.add(_name, target=f"{_HERE}.activations:{_name}")

EXCITATIONS.add("cse", target=f"{_HERE}.excitations:ChannelExcitation", arguments=Reduction)
EXCITATIONS.add("sse", target=f"{_HERE}.excitations:SpatialExcitation")
EXCITATIONS.add("scse", target=f"{_HERE}.excitations:ConcurrentExcitation", arguments=Reduction)
EXCITATIONS.add("ese", target=f"{_HERE}.excitations:EffectiveExcitation")
EXCITATIONS.add("eca", target=f"{_HERE}.excitations:EfficientChannelAttention")
EXCITATIONS.add(
    "project_excite",
    target=f"{_HERE}.excitations:ProjectExcite",
    arguments=ProjectExciteArguments,
)

FUSIONS.add("parallel", target=f"{_HERE}.fusions:Parallel")
FUSIONS.add("cascade", target=f"{_HERE}.fusions:Cascade")
FUSIONS.add("parallel_cascade", target=f"{_HERE}.fusions:ParallelCascade")

WINDOW_FUSIONS.add("mean", target=f"{_HERE}.windows:Mean")
WINDOW_FUSIONS.add("max", target=f"{_HERE}.windows:Max")
WINDOW_FUSIONS.add("attention", target=f"{_HERE}.windows:Attention")
WINDOW_FUSIONS.add("conv3d", target=f"{_HERE}.windows:Convolved")

SKIP_GATES.add("attention", target=f"{_HERE}.skip_gates:AttentionGate")
