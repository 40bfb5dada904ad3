"""Models, by name.

Own architectures first, then those of segmentation-models-pytorch under its lowercase names. This
module imports neither torch nor segmentation-models-pytorch.
"""

from vesselflow.config.registry import Registry
from vesselflow.models import arguments as _arguments

MODELS = Registry("model")

MODELS.add("wnet", target="vesselflow.models.wnet:WNet", arguments=_arguments.WNetArguments)
MODELS.add("unet", target="vesselflow.models.smp:unet", arguments=_arguments.UnetArguments)
MODELS.add(
    "unetplusplus",
    target="vesselflow.models.smp:unetplusplus",
    arguments=_arguments.UnetPlusPlusArguments,
)
MODELS.add("manet", target="vesselflow.models.smp:manet", arguments=_arguments.ManetArguments)
MODELS.add("linknet", target="vesselflow.models.smp:linknet", arguments=_arguments.LinknetArguments)
MODELS.add("fpn", target="vesselflow.models.smp:fpn", arguments=_arguments.FpnArguments)
MODELS.add("pspnet", target="vesselflow.models.smp:pspnet", arguments=_arguments.PspnetArguments)
MODELS.add("pan", target="vesselflow.models.smp:pan", arguments=_arguments.PanArguments)
MODELS.add(
    "deeplabv3", target="vesselflow.models.smp:deeplabv3", arguments=_arguments.Deeplabv3Arguments
)
MODELS.add(
    "deeplabv3plus",
    target="vesselflow.models.smp:deeplabv3plus",
    arguments=_arguments.Deeplabv3PlusArguments,
)
MODELS.add("upernet", target="vesselflow.models.smp:upernet", arguments=_arguments.UpernetArguments)
MODELS.add(
    "segformer", target="vesselflow.models.smp:segformer", arguments=_arguments.SegformerArguments
)
MODELS.add("dpt", target="vesselflow.models.smp:dpt", arguments=_arguments.DptArguments)
