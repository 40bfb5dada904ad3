"""Augmentations in a fixed order, as one call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from vesselflow.augment import AUGMENTATIONS
from vesselflow.augment.chain import resample_each
from vesselflow.augment.draws import Draws, Mixer, Mover, Part, Resampler, choose
from vesselflow.augment.mixing import mix, mix_fov, partners
from vesselflow.config.scalars import ScalarSchedule
from vesselflow.errors import ShapeError
from vesselflow.targets.keypoints import Keypoints


class Timed:
    """A part at any progress of training: made anew for each where an argument is a schedule.

    So parts know plain numbers only, and every argument that a model lets be a schedule is one.

    Args:
        name: Of the part.
        arguments: All of them; numbers, schedules, tuples of both, and what else there is.
    """

    def __init__(self, name: str, arguments: Mapping[str, Any]) -> None:
        self.name, self._arguments = name, dict(arguments)
        self._make = AUGMENTATIONS.part(name).load()
        settled = all(_at(value, 0.0) == value for value in self._arguments.values())
        self._settled: Any = self._make(**self._arguments) if settled else None

    def at(self, progress: float) -> Any:
        """The part at a progress in [0, 1]."""
        if self._settled is not None:
            return self._settled
        arguments = {key: _at(value, progress) for key, value in self._arguments.items()}
        return self._make(**arguments)


def _at(value: Any, progress: float) -> Any:
    if isinstance(value, ScalarSchedule):
        return value.value(progress)
    if isinstance(value, tuple):
        return tuple(_at(entry, progress) for entry in value)
    return value


@dataclass(frozen=True)
class Mix:
    """How one sample is mixed.

    Attributes:
        name: The way.
        other: Index of the sample that it is mixed with.
        share: float32 (*T) in [0, 1], on the CPU: how much of each place is the sample's own.
        hidden: The images stay as they are: a share that is the same everywhere is of what the
            encoder makes of them.
    """

    name: str
    other: int
    share: Tensor
    hidden: bool = False


class Augmenter:
    """Applies parts one after another to a batch; made by `compose`.

    Args:
        parts: In order of application; those that mix samples make `mixed`, the others the rest.
    """

    def __init__(self, parts: Sequence[Timed]) -> None:
        self.parts = tuple(part for part in parts if not isinstance(part.at(0.0), Mixer))
        self.mixers = tuple(part for part in parts if isinstance(part.at(0.0), Mixer))

    @property
    def grades(self) -> bool:
        """Whether any part changes values, and does not only move them."""
        return any(not isinstance(part.at(0.0), Mover) for part in self.parts)

    def __call__(
        self,
        image: Tensor,
        target: Tensor,
        fov: Tensor,
        *,
        generator: torch.Generator,
        progress: float = 0.0,
        in_place: bool = False,
        factors: Sequence[float] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Augment a batch.

        Args:
            image: float (N, C, *S) in [0, 1].
            target: float (N, K, *S) in [0, 1]; soft after a warp. K may be 0.
            fov: float (N, 1, *S), 0 or 1.
            generator: On the CPU. Exactly one number is drawn from it, whatever is configured and
                whatever comes out; all further draws are keyed by that number, the part and the
                index of the sample.
            progress: Of training, in [0, 1], for arguments that are schedules.
            in_place: Whether to write into the given tensors, each of memory of its own, and to
                return them: saves a copy of each, which costs more than many a part. Otherwise they
                are never written to. The numbers are the same.
            factors: On the probabilities of each sample (a product above 1 counts as 1); None: 1.
                They change no draw, so that no sample depends on another's.

        Returns:
            image, target and fov, moved together. A sample that no part chose is bit-identical.
            What lies beyond the frame comes in outside the fov, with image and target 0, or as a
            mirror image where a part says `border: reflect`; values change inside the fov only.

        Raises:
            ShapeError: The shapes do not fit each other.
        """
        image, target, fov, _ = self._augmented(
            image, target, fov, None, generator, progress, in_place, factors
        )
        return image, target, fov

    def moved(
        self,
        image: Tensor,
        target: Tensor,
        fov: Tensor,
        keypoints: Keypoints,
        *,
        generator: torch.Generator,
        progress: float = 0.0,
        in_place: bool = False,
        factors: Sequence[float] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Keypoints]:
        """Augment a batch that has keypoints, and move them with its pixels.

        Args:
            image: As of `__call__`.
            target: As of `__call__`.
            fov: As of `__call__`.
            keypoints: Of the batch.
            generator: As of `__call__`; one number is drawn.
            progress: As of `__call__`.
            in_place: As of `__call__`, of image, target and fov.
            factors: As of `__call__`.

        Returns:
            What `__call__` gives, bit for bit, and the keypoints where their pixels are now. Those
            of a sample that no part chose are bit-identical. Keypoints beyond the frame stay, so
            that their Gaussians reach into it; with `border: reflect` there are also mirror images
            (see `mirrors`). Covariances, if any, move along.

        Raises:
            ShapeError: The shapes do not fit each other.
        """
        if keypoints.axes != image.ndim - 2:
            raise ShapeError(
                f"keypoints of {keypoints.axes} axes do not fit image {tuple(image.shape)}"
            )
        image, target, fov, points = self._augmented(
            image, target, fov, keypoints, generator, progress, in_place, factors
        )
        assert points is not None
        return image, target, fov, points

    @torch.no_grad()
    def mixed(
        self,
        image: Tensor,
        fov: Tensor,
        target: Tensor,
        counted: Tensor,
        mixes: Sequence[Mix | None],
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Mix the samples of a micro-batch, as the network and the loss would be given them.

        A place of the target, a cell of a heat-map, is mixed whole, with the px that it stands for.
        So each cell's target is exactly that of what is seen in it, in the same shares; a Gaussian
        that reaches over the border of a box is cut off there as its particle is.

        Args:
            image: float (N, C, *S), normalised, 0 outside the fov.
            fov: float (N, 1, *S), 0 or 1.
            target: float (N, K, *T), rendered; S is T, or a multiple of it along each axis.
            counted: float (N, 1, *T): what the loss counts.
            mixes: Of each sample, as `mixes` drew them.

        Returns:
            All four, mixed with the sample's partner, that is another one of the micro-batch, as it
            was given. Places that are of both samples are inside the fov where both are; the image
            is 0 outside. A sample that is not mixed, or has the share 1, is bit-identical; the
            given tensors are never written to. Of samples that are mixed behind the encoder image
            and fov stay; target and what counts are mixed with those that the partner has here, as
            its maps are those of its image here.

        Raises:
            ShapeError: Sizes do not divide.
        """
        size, cells = image.shape[2:], target.shape[2:]
        factors = [n // m for n, m in zip(size, cells, strict=True)]
        if [n * m for n, m in zip(factors, cells, strict=True)] != list(size):
            raise ShapeError(f"target {tuple(cells)} does not divide image {tuple(size)}")
        given = (image, fov, target, counted)
        found = tuple(each.clone() for each in given)
        for sample, drawn in enumerate(mixes):
            if drawn is None or drawn.hidden:
                continue
            share = drawn.share.to(image.device)
            fine = share
            for axis, factor in enumerate(factors):
                fine = fine.repeat_interleave(factor, dim=axis)
            pairs = [(each[sample], each[drawn.other]) for each in given]
            found[1][sample] = mix_fov(*pairs[1], fine)
            found[0][sample] = mix(*pairs[0], fine) * found[1][sample]
            found[2][sample] = mix(*pairs[2], share)
            found[3][sample] = mix_fov(*pairs[3], share)
        shown = [each.clone() for each in found[2:]]
        for sample, drawn in enumerate(mixes):
            if drawn is not None and drawn.hidden:
                share = drawn.share.to(image.device)
                truth, counts = ((each[sample], each[drawn.other]) for each in shown)
                found[2][sample], found[3][sample] = mix(*truth, share), mix_fov(*counts, share)
        return found[0], found[1], found[2], found[3]

    def mixes(
        self,
        samples: int,
        cells: Sequence[int],
        *,
        generator: torch.Generator,
        progress: float = 0.0,
        factors: Sequence[float] | None = None,
    ) -> list[Mix | None]:
        """How each sample of a micro-batch is mixed, None where it is not.

        Args:
            samples: Of the micro-batch.
            cells: Sizes of the target.
            generator: On the CPU. One number is drawn; all further draws are keyed by it.
            progress: Of training, in [0, 1].
            factors: On the probability of each sample to be mixed; None: 1.

        Raises:
            ShapeError: The micro-batch has one sample.
        """
        if samples == 1:
            raise ShapeError("one sample has no other to be mixed with")
        base = _base(generator)
        draws = Draws(base, "mixing", samples)
        ways: list[Mixer] = [timed.at(progress) for timed in self.mixers]
        tables = [Draws(base, timed.name, samples).uniform(2 + len(cells)) for timed in self.mixers]
        odds = torch.tensor([way.p for way in ways], dtype=torch.float64)
        scale = torch.tensor(factors or [1.0] * samples, dtype=torch.float64).view(samples, 1)
        each = scale * odds
        ends: list[list[float]] = (each / each.sum(1, True).clamp(min=1.0)).cumsum(1).tolist()
        other = partners(draws)
        where = float(Draws(base, "place of mixing", 1).uniform(1)[0, 0])
        found: list[Mix | None] = []
        for sample, u in enumerate(draws.uniform(1)[:, 0].tolist()):
            way = next((number for number, end in enumerate(ends[sample]) if u < end), None)
            drawn = None
            if way is not None:
                share = ways[way].share(cells, tables[way][sample])
                if not bool((share == 1).all()):
                    places = ways[way].places
                    hidden = places[int(where * len(places))] != "input"
                    drawn = Mix(self.mixers[way].name, other[sample], share, hidden)
            found.append(drawn)
        return found

    def chosen(
        self,
        samples: int,
        *,
        generator: torch.Generator,
        progress: float = 0.0,
        factors: Sequence[float] | None = None,
    ) -> list[list[str]]:
        """Names of the parts that change each sample, in the order in which they are applied.

        Args:
            samples: Of the batch.
            generator: As of `__call__`; one number is drawn.
            progress: As of `__call__`.
            factors: As of `__call__`.
        """
        base = _base(generator)
        found: list[list[str]] = [[] for _ in range(samples)]
        for timed in self.parts:
            draws = Draws(base, timed.name, samples, factors=factors)
            for sample in choose(draws, timed.at(progress).p, 0)[0]:
                found[sample].append(timed.name)
        return found

    @torch.no_grad()
    def _augmented(
        self,
        image: Tensor,
        target: Tensor,
        fov: Tensor,
        keypoints: Keypoints | None,
        generator: torch.Generator,
        progress: float,
        in_place: bool,
        factors: Sequence[float] | None,
    ) -> tuple[Tensor, Tensor, Tensor, Keypoints | None]:
        if image.ndim not in (4, 5) or fov.shape != (image.shape[0], 1, *image.shape[2:]):
            raise ShapeError(
                "expected image (N, C, *S) and fov (N, 1, *S), got "
                f"{tuple(image.shape)} and {tuple(fov.shape)}"
            )
        if target.ndim != image.ndim or (target.shape[0], *target.shape[2:]) != (
            image.shape[0],
            *image.shape[2:],
        ):
            raise ShapeError(
                f"target {tuple(target.shape)} does not fit image {tuple(image.shape)}"
            )
        base = _base(generator)
        if self.parts and not in_place:
            image, target, fov = image.clone(), target.clone(), fov.clone()
        steps = [
            (timed.at(progress), Draws(base, timed.name, len(image), factors=factors))
            for timed in self.parts
        ]
        for resamples, group in groupby(steps, lambda step: isinstance(step[0], Resampler)):
            row: list[tuple[Part, Draws]] = list(group)
            chained = _chained(row, image, target, fov) if resamples and len(row) > 1 else set()
            for part, draws in row:
                part.apply(image, target, fov, draws.without(chained))
                if keypoints is not None and isinstance(part, Mover):
                    keypoints = part.move(keypoints, tuple(image.shape[2:]), draws)
        return image, target, fov, keypoints


def _chained(
    row: Sequence[tuple[Any, Draws]], image: Tensor, target: Tensor, fov: Tensor
) -> set[int]:
    """Resample the samples that several parts of a row have chosen, in place; which they are."""
    names: list[int] = [sample for part, draws in row for sample in choose(draws, part.p, 0)[0]]
    several = {sample for sample, times in Counter(names).items() if times > 1}
    if several:
        others = set(range(len(image))) - several
        found = [part.lookups(image, draws.without(others)) for part, draws in row]
        own = {index: [each[index] for each in found if index in each] for index in several}
        resample_each(image, target, fov, own)
    return several


def _base(generator: torch.Generator) -> int:
    """The number by which all draws of a batch are keyed."""
    return int(torch.randint(2**62, (1,), generator=generator).item())


def compose(spec: Mapping[str, Mapping[str, Any]]) -> Augmenter:
    """Build the `augment` section of a config.

    Args:
        spec: Name -> arguments, in any order; parts are applied in the order of the registry.

    Raises:
        UserError: Unknown name, unknown or bad argument.
    """
    models = {}
    for name, values in spec.items():
        AUGMENTATIONS.part(name, where="augment")
        models[name] = AUGMENTATIONS.arguments(name, values, where=f"augment.{name}")
    return Augmenter(
        [Timed(name, dict(models[name])) for name in AUGMENTATIONS.names() if name in models]
    )
