"""Which parameters of a model are trained, and at which rates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from vesselflow.config.experiment import Train
from vesselflow.errors import UserError
from vesselflow.models.strided import Averaged

#: Of a parameter group: factor on the rate that the schedule gives.
FACTOR = "lr_factor"


def freeze(model: nn.Module, prefixes: tuple[str, ...]) -> None:
    """Take parameters out of the training; those of a name, or below it ("encoder", "down.0").

    Args:
        model: Changed in place. What `strided` wraps is looked at, under its own names.
        prefixes: Names of modules or parameters.

    Raises:
        UserError: A name has no parameter, or none is left.
    """
    inner = unwrapped(model)
    for prefix in prefixes:
        below = [p for name, p in inner.named_parameters() if _below(name, prefix)]
        if not below:
            raise UserError(
                f"the model has no parameter below '{prefix}'",
                where="train.freeze",
                allowed=f"{', '.join(blocks(model))}, or names below these",
            )
        for parameter in below:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in inner.parameters()):
        raise UserError(
            "no parameter is left to train",
            where="train.freeze",
            allowed=f"some of {', '.join(blocks(model))}, or names below these",
        )


def training_mode(model: nn.Module, prefixes: tuple[str, ...] = ()) -> None:
    """Put a model into training mode; batch-norms below frozen names keep their statistics.

    Dropout works on, below these names too: it is no part of the weights.
    """
    model.train()
    for name, module in unwrapped(model).named_modules():
        if isinstance(module, nn.modules.batchnorm._NormBase) and any(
            _below(name, prefix) for prefix in prefixes
        ):
            module.eval()


def parameter_groups(
    model: nn.Module, train: Train
) -> list[dict[str, Any]] | Iterator[nn.Parameter]:
    """What an optimizer gets: the parameters, in groups where they are not treated alike.

    Args:
        model: Its frozen parameters are left out.
        train: How the others are treated.

    Returns:
        All parameters, or groups with `FACTOR` and, where it is 0, a `weight_decay` of their own.

    Raises:
        UserError: A factor for the encoder of a model that has none, or whose encoder is frozen.
    """
    inner, factor = unwrapped(model), train.encoder_lr_factor
    if factor is None and not train.no_decay_on_norms:
        return (p for p in inner.parameters() if p.requires_grad)
    within = {id(p) for name, p in inner.named_parameters() if _below(name, "encoder")}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in inner.parameters():
        if parameter.requires_grad:
            kind = (
                factor is not None and id(parameter) in within,
                # Biases and the weights of norms are the parameters of one dimension.
                train.no_decay_on_norms and parameter.ndim < 2,
            )
            groups.setdefault(kind, []).append(parameter)
    if factor is not None and not any(encoder for encoder, _ in groups):
        why = "is frozen" if within else f"is none: it has {', '.join(blocks(model))}"
        raise UserError(
            f"the encoder of the model {why}", where="train.encoder_lr_factor", allowed="null"
        )
    return [
        {
            "params": parameters,
            FACTOR: factor if encoder else 1.0,
            **({"weight_decay": 0.0} if undecayed else {}),
        }
        for (encoder, undecayed), parameters in groups.items()
    ]


def rate(group: Mapping[str, Any], lr: float) -> float:
    """The rate of a parameter group when that of the run is `lr`."""
    return float(lr * group.get(FACTOR, 1.0))


def blocks(model: nn.Module) -> list[str]:
    """The top-level modules that hold parameters, in the order of the model."""
    return list(
        dict.fromkeys(name.split(".")[0] for name, _ in unwrapped(model).named_parameters())
    )


def unwrapped(model: nn.Module) -> nn.Module:
    """The registered model itself, where its answer is averaged over cells."""
    return model.model if isinstance(model, Averaged) else model


def _below(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")
