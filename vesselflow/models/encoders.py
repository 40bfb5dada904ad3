"""Which encoders there are, and which architecture takes which: known without importing torch.

segmentation-models-pytorch imports torch (seconds), so its own encoders stand here as a table that
a test holds against the library. Those of timm (prefix "tu-") are far too many: their names are
read out of timm's source text, where each stands below ``@register_model``.
"""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Collection
from pathlib import Path

from vesselflow.errors import UserError, closest

#: One encoder of the library per line, then the names of its pretrained weights.
_TABLE = """
resnet18 imagenet ssl swsl
resnet34 imagenet
resnet50 imagenet ssl swsl
resnet101 imagenet
resnet152 imagenet
resnext50_32x4d imagenet ssl swsl
resnext101_32x4d ssl swsl
resnext101_32x8d imagenet instagram ssl swsl
resnext101_32x16d instagram ssl swsl
resnext101_32x32d instagram
resnext101_32x48d instagram
dpn68 imagenet
dpn68b imagenet+5k
dpn92 imagenet+5k
dpn98 imagenet
dpn107 imagenet+5k
dpn131 imagenet
vgg11 imagenet
vgg11_bn imagenet
vgg13 imagenet
vgg13_bn imagenet
vgg16 imagenet
vgg16_bn imagenet
vgg19 imagenet
vgg19_bn imagenet
senet154 imagenet
se_resnet50 imagenet
se_resnet101 imagenet
se_resnet152 imagenet
se_resnext50_32x4d imagenet
se_resnext101_32x4d imagenet
densenet121 imagenet
densenet169 imagenet
densenet201 imagenet
densenet161 imagenet
inceptionresnetv2 imagenet imagenet+background
inceptionv4 imagenet imagenet+background
efficientnet-b0 imagenet advprop
efficientnet-b1 imagenet advprop
efficientnet-b2 imagenet advprop
efficientnet-b3 imagenet advprop
efficientnet-b4 imagenet advprop
efficientnet-b5 imagenet advprop
efficientnet-b6 imagenet advprop
efficientnet-b7 imagenet advprop
mobilenet_v2 imagenet
xception imagenet
timm-efficientnet-b0 imagenet advprop noisy-student
timm-efficientnet-b1 imagenet advprop noisy-student
timm-efficientnet-b2 imagenet advprop noisy-student
timm-efficientnet-b3 imagenet advprop noisy-student
timm-efficientnet-b4 imagenet advprop noisy-student
timm-efficientnet-b5 imagenet advprop noisy-student
timm-efficientnet-b6 imagenet advprop noisy-student
timm-efficientnet-b7 imagenet advprop noisy-student
timm-efficientnet-b8 imagenet advprop
timm-efficientnet-l2 noisy-student noisy-student-475
timm-tf_efficientnet_lite0 imagenet
timm-tf_efficientnet_lite1 imagenet
timm-tf_efficientnet_lite2 imagenet
timm-tf_efficientnet_lite3 imagenet
timm-tf_efficientnet_lite4 imagenet
timm-skresnet18 imagenet
timm-skresnet34 imagenet
timm-skresnext50_32x4d imagenet
mit_b0 imagenet
mit_b1 imagenet
mit_b2 imagenet
mit_b3 imagenet
mit_b4 imagenet
mit_b5 imagenet
mobileone_s0 imagenet
mobileone_s1 imagenet
mobileone_s2 imagenet
mobileone_s3 imagenet
mobileone_s4 imagenet
"""

#: Encoders of the library -> names of their pretrained weights.
ENCODERS = {
    name: tuple(weights) for name, *weights in (line.split() for line in _TABLE.split("\n") if line)
}
#: What a "tu-" encoder's `weights` may be: the variant stands in its name.
TIMM_WEIGHTS: tuple[str, ...] = ("imagenet",)

#: Encoders that halve the size by pooling cannot be dilated.
_NOT_DILATED = ("vgg", "densenet", "inceptionresnetv2", "inceptionv4", "xception")
#: Encoders without residual blocks throughout.
_PLAIN = ("vgg", "densenet", "dpn", "inceptionv4", "mobileone")
#: Those that have stochastic depth of their own (.1 of mit_b*, .2 of the others), and those
#: of timm, of which that is not known.
_DROPPING = ("mit_b", "efficientnet", "timm-efficientnet", "timm-tf_efficientnet", "tu-")
#: Encoders whose levels end in no single module.
_UNSTAGED = ("dpn", "mit_b")
#: Encoders whose convolutions pad by themselves.
_SELF_PADDED = ("efficientnet",)
#: Architecture -> beginnings of the names that it does not take.
_REFUSED = {"unetplusplus": ("mit_b",), "linknet": ("mit_b",)}


def check_encoder(
    architecture: str, encoder: str, weights: str | None, *, dilated: bool = False
) -> None:
    """Refuse an encoder or weights that are not there, or that the architecture does not take.

    Whether timm's encoders fit is not known here (see `vesselflow.models.trial`).

    Args:
        architecture: Registered name of the model.
        encoder: As in the config.
        weights: As in the config.
        dilated: The architecture dilates the encoder for its output stride.

    Raises:
        UserError: The key in `where` is `model.encoder` or `model.weights`.
    """
    if architecture == "dpt" and not encoder.startswith("tu-"):
        raise UserError(
            f"dpt cannot use encoder '{encoder}'",
            where="model.encoder",
            allowed="vision transformers of timm, for instance tu-vit_tiny_patch16_224",
        )
    if encoder.startswith("tu-"):
        names = timm_encoders()
        # Behind a dot stands the variant of the weights.
        if encoder.removeprefix("tu-").partition(".")[0] not in names:
            raise UserError(
                f"unknown encoder '{encoder}'",
                where="model.encoder",
                allowed="tu-<a model of timm>",
                hint=closest(encoder, [f"tu-{name}" for name in sorted(names)]),
            )
    elif encoder not in ENCODERS:
        raise UserError(
            f"unknown encoder '{encoder}'",
            where="model.encoder",
            allowed=", ".join(ENCODERS) + ", tu-<a model of timm>",
            hint=closest(encoder, ENCODERS),
        )
    else:
        refused = _REFUSED.get(architecture, ()) + (_NOT_DILATED if dilated else ())
        if encoder.startswith(refused):
            why = ", which cannot be dilated" if dilated else ""
            raise UserError(
                f"{architecture} cannot use encoder '{encoder}'{why}",
                where="model.encoder",
                allowed=f"encoders but for {', '.join(f'{start}*' for start in refused)}",
                hint="resnet34 suits all but dpt",
            )
    known = ENCODERS.get(encoder, TIMM_WEIGHTS)
    if weights is not None and weights not in known:
        hint = closest(weights, known)
        if encoder.startswith("tu-"):
            hint = "the variant stands in the encoder's name: tu-resnet18.a1_in1k"
        raise UserError(
            f"unknown weights '{weights}' of encoder '{encoder}'",
            where="model.weights",
            allowed=", ".join(["null", *known]),
            hint=hint,
        )


def check_drop_path(encoder: str, p: float | None) -> None:
    """Refuse stochastic depth of an encoder without residual blocks.

    Whether timm's encoders have such blocks is not known here (see `vesselflow.models.trial`).

    Raises:
        UserError: The key in `where` is `model.drop_path`.
    """
    if p and encoder.startswith(_PLAIN):
        raise UserError(
            f"encoder '{encoder}' has no residual blocks whose branches could be left out",
            where="model.drop_path",
            allowed=f"0 or null beside encoders {', '.join(f'{start}*' for start in _PLAIN)}",
        )


def check_stages(encoder: str, places: Collection[str]) -> None:
    """Refuse excitations in an encoder that has no place for them behind its levels.

    Whether timm's encoders have one is not known here (see `vesselflow.models.trial`).

    Args:
        encoder: As in the config.
        places: Where excitations stand; none where there are none.

    Raises:
        UserError: The key in `where` is `model.se_at`.
    """
    if "encoder" in places and encoder.startswith(_UNSTAGED):
        raise UserError(
            f"encoder '{encoder}' has no modules that end its levels",
            where="model.se_at",
            allowed="skip, decoder beside encoders "
            f"{', '.join(f'{start}*' for start in _UNSTAGED)}",
        )


def check_padding(encoder: str, padding: str) -> None:
    """Refuse anything but zeros where the encoder's convolutions pad by themselves.

    Raises:
        UserError: The key in `where` is `model.padding`.
    """
    if padding != "zeros" and encoder.startswith(_SELF_PADDED):
        raise UserError(
            f"encoder '{encoder}' has convolutions that pad by themselves",
            where="model.padding",
            allowed=f"zeros beside encoders {', '.join(f'{start}*' for start in _SELF_PADDED)}",
        )


def drops_paths(encoder: str) -> bool:
    """Whether an encoder has stochastic depth of its own, as far as is known."""
    return encoder.startswith(_DROPPING)


@functools.cache
def timm_encoders() -> frozenset[str]:
    """Names of timm's models, without variants; read from its source, which imports nothing."""
    found = importlib.util.find_spec("timm")
    names: set[str] = set()
    for folder in (found.submodule_search_locations or ()) if found else ():
        for file in Path(folder, "models").glob("*.py"):
            text = file.read_text(encoding="utf-8")
            names.update(re.findall(r"^@register_model\s*\n(?:@.*\n)*def (\w+)", text, re.M))
            # Old names that still work.
            for block in re.findall(r"^register_model_deprecations\((.*?)^\}\)", text, re.M | re.S):
                names.update(re.findall(r"^\s*'(\w+)(?:\.\w+)?'\s*:", block, re.M))
    return frozenset(names)
