"""Where a library's encoder gives the map of each level, found by looking on while it runs."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from vesselflow.errors import UserError
from vesselflow.models.layers.gates import Gates, Hook

#: Side of the image that is followed: two px at the coarsest level of a stride of 32.
_SIDE_PX = 64
#: Modules that hand on what they are given; whoever gave it comes before them.
_PASSING = (nn.Identity, nn.Dropout, nn.Dropout2d)


def stage_ends(encoder: Any, name: str, in_channels: int) -> dict[int, nn.Module]:
    """Level -> the module whose output is the map of that level, and what the next one gets.

    Nothing of the encoder changes: it is followed on torch's meta device, in evaluation mode.

    Args:
        encoder: Of segmentation-models-pytorch, on any device.
        name: As in the config, for errors.
        in_channels: Of the image.

    Returns:
        Of every level from 1 on that has channels.

    Raises:
        UserError: A map is none that a single module gives; the key in `where` is `model.se_at`.
    """
    given: list[tuple[nn.Module, Tensor]] = []
    calls: Counter[nn.Module] = Counter()

    def note(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        calls[module] += 1
        if isinstance(output, Tensor) and not isinstance(module, _PASSING):
            given.append((module, output))

    inner = [module for module in encoder.modules() if module is not encoder]
    handles = [module.register_forward_hook(note) for module in inner]
    modes = {module: module.training for module in encoder.modules()}
    # Nothing is computed: sizes tell all.
    own = itertools.chain(encoder.named_parameters(), encoder.named_buffers())
    sizes = {path: torch.empty_like(value, device="meta") for path, value in own}
    image = torch.empty(1, in_channels, _SIDE_PX, _SIDE_PX, device="meta")
    try:
        with torch.no_grad():
            maps = functional_call(encoder.eval(), sizes, (image,))
    except (ValueError, RuntimeError, AssertionError) as error:
        raise _nowhere(name) from error
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
    ends = {}
    for level, x in enumerate(maps):
        if not level or not x.shape[1]:
            continue
        # The last that finished: of nested modules the outermost, behind what works in place.
        found = [module for module, output in given if output is x and calls[module] == 1]
        if not found:
            raise _nowhere(name)
        ends[level] = found[-1]
    return ends


def gate_levels(gates: Gates, encoder: Any, name: str, in_channels: int) -> None:
    """Put the gates of the place "encoder" behind the levels of an encoder; see `stage_ends`."""
    for level, module in stage_ends(encoder, name, in_channels).items():
        module.register_forward_hook(Hook(gates, "encoder", level))


def _nowhere(name: str) -> UserError:
    return UserError(
        f"encoder '{name}' has no modules that end its levels",
        where="model.se_at",
        allowed="skip, decoder",
        hint="or take another encoder",
    )
