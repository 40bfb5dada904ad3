"""Keyed random draws: every part and every sample has a stream of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from vesselflow.augment.chain import Lookup
    from vesselflow.targets.keypoints import Keypoints


class Draws:
    """The random numbers of one part for one batch.

    The stream of sample i depends on the batch's base number, the part's name and i alone. So the
    outcome of one part or sample never shifts another's, and a part draws the same whether or not
    other parts are configured: two arms of an ablation differ in the ablated part only.

    Args:
        base: Drawn once per batch from the caller's generator.
        part: Name of the part.
        samples: Number of samples.
        skipped: Those that `choose` leaves out, whatever is drawn.
        factors: On the probability of each sample to be chosen; None: 1.
    """

    def __init__(
        self,
        base: int,
        part: str,
        samples: int,
        skipped: frozenset[int] = frozenset(),
        factors: Sequence[float] | None = None,
    ) -> None:
        self._base, self._part, self.samples = base, part, samples
        self.skipped = skipped
        self.factors = [1.0] * samples if factors is None else list(factors)

    def without(self, samples: Iterable[int]) -> Draws:
        """The same draws, by which these samples are not chosen."""
        skipped = self.skipped.union(samples)
        return Draws(self._base, self._part, self.samples, skipped, self.factors)

    def stream(self, sample: int, purpose: str = "values") -> torch.Generator:
        """A fresh CPU generator for one sample and purpose."""
        import torch

        text = f"{self._base}/{self._part}/{sample}/{purpose}".encode()
        digest = hashlib.blake2b(text, digest_size=8).digest()
        # 63 bits: manual_seed takes no more on all platforms.
        return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)

    def uniform(self, numbers: int) -> Tensor:
        """float64 (samples, numbers) in [0, 1); calling it again gives the same numbers."""
        import torch

        rows = [
            torch.rand(numbers, generator=self.stream(sample), dtype=torch.float64)
            for sample in range(self.samples)
        ]
        return torch.stack(rows) if rows else torch.zeros(0, numbers, dtype=torch.float64)


class Part(Protocol):
    """One augmentation."""

    def apply(self, image: Tensor, target: Tensor, fov: Tensor, draws: Draws) -> None:
        """Change the chosen samples in place; leave the others bit-identical.

        Args:
            image: float (N, C, *S) in [0, 1].
            target: float (N, K, *S) in [0, 1]; K may be 0.
            fov: float (N, 1, *S), 0 or 1.
            draws: The only source of randomness.
        """
        ...


@runtime_checkable
class Mover(Part, Protocol):
    """An augmentation that moves pixels, and therefore keypoints."""

    def move(self, keypoints: Keypoints, size: Sequence[int], draws: Draws) -> Keypoints:
        """Where `apply` with the same draws takes keypoints; those given stay as they are.

        Keypoints of samples that are not chosen stay bit-identical. One that lies, or comes to lie,
        beyond the frame is kept: its Gaussian may reach into it. Where pixels are mirrored, so are
        keypoints (see `mirrors`).

        Args:
            keypoints: Of the batch, in voxels of the samples as they are before.
            size: S, the samples' sizes along (y, x) or (z, y, x).
            draws: Those that `apply` was given.
        """
        ...


@runtime_checkable
class Resampler(Mover, Protocol):
    """A mover that interpolates; several of them in a row are one resampling (see `chain`)."""

    def lookups(self, image: Tensor, draws: Draws) -> dict[int, Lookup]:
        """Where `apply` with the same draws finds what it shows, of each chosen sample.

        Args:
            image: float (N, C, *S); only its size, type and device matter.
            draws: Those that `apply` would be given.
        """
        ...


@runtime_checkable
class Mixer(Protocol):
    """An augmentation that mixes each sample with another one of its micro-batch (see `mixing`).

    Attributes:
        p: Probability, for each sample by itself, beside those of other mixers.
        places: Where it mixes, "input" or "encoder"; of several each micro-batch has one.
    """

    p: float
    places: Sequence[str]

    def share(self, size: Sequence[int], numbers: Tensor) -> Tensor:
        """How much of each place is the sample's own.

        Args:
            size: Sizes of the target.
            numbers: float64 (2 + D,) in [0, 1), of the sample.

        Returns:
            float32 (*size) in [0, 1], on the CPU; where it is 1, nothing is mixed.
        """
        ...


def choose(draws: Draws, p: float, numbers: int) -> tuple[list[int], Tensor]:
    """Which samples a part changes, and its further random numbers.

    Args:
        draws: Of the part.
        p: Probability, times the sample's factor; 0 chooses none, 1 or more all.
        numbers: Further numbers per sample.

    Returns:
        Indices of the chosen samples (k of them) and float64 (k, numbers) in [0, 1).
    """
    table = draws.uniform(numbers + 1)
    chosen = [
        index
        for index, first in enumerate(table[:, 0].tolist())
        if first < p * draws.factors[index] and index not in draws.skipped
    ]
    return chosen, table[chosen, 1:]


def spread(uniform: Tensor, most: float) -> Tensor:
    """[0, 1) to [-most, most)."""
    return (2.0 * uniform - 1.0) * most


def spread_log(uniform: Tensor, limits: tuple[float, float]) -> Tensor:
    """[0, 1) to [low, high], uniform in the logarithm."""
    low, high = limits
    return low * (high / low) ** uniform
