"""Synthetic electron tomograms with exact keypoints at the particles' centres of mass.

Particles of three classes float in ice among smaller proteins, in random orientations and without
overlap. An electron microscope sees their density through its contrast transfer function, from a
limited range of tilts, in noise. All arithmetic is float64 and every draw comes from a
counter-based generator keyed by (seed, domain, source); rounding to float16 last hides the
last-digit differences between processors.

Reference for the transfer function: Rohou and Grigorieff, CTFFIND4, J Struct Biol 192, 2015, eq. 1
to 3, without astigmatism.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator, Philox, SeedSequence
from numpy.typing import NDArray
from scipy import fft

from vesselflow.stores.keypoints import Keypoints
from vesselflow.stores.schema import Source
from vesselflow.stores.synth import lineage, source_id
from vesselflow.stores.synth.arguments import TomogramArguments
from vesselflow.stores.synth.particles import Particle, paint, place

Floats = NDArray[np.float64]

#: Voxels around the volume that are made and cut away, so that no fringe comes in from the other
#: side, as the Fourier transform would have it.
PAD = 8
#: Degrees over which the edge of the missing wedge is soft.
WEDGE_EDGE_DEG = 2.0
#: Smaller proteins: standard deviation of their Gaussian in angstrom.
SMALL_ANGSTROM = 18.0
#: How many there are, of voxels of 10 angstrom.
SMALL_SHARE = 0.004


@dataclass(frozen=True)
class Microscope:
    """How a domain sees a sample.

    Attributes:
        voltage_kv: Of the electrons.
        aberration_mm: Spherical aberration (Cs).
        defocus_um: Underfocus; a tomogram's own differs by up to a tenth.
        amplitude_contrast: Share of the contrast that does not come from phase, 0 to 1.
        b_factor: Loss of fine detail in square angstrom: exp(-B k^2 / 4).
        snr: Variance of the signal over that of the noise; a tomogram's own differs by a fifth.
        tilt_deg: Largest tilt to either side; what lies beyond in Fourier space is missing.
        crowding: Density of the smaller proteins.
    """

    voltage_kv: float
    aberration_mm: float
    defocus_um: float
    amplitude_contrast: float
    b_factor: float
    snr: float
    tilt_deg: float
    crowding: float


MICROSCOPES = {
    "a": Microscope(300.0, 2.7, 4.0, 0.07, 1000.0, 0.18, 60.0, 0.35),
    "b": Microscope(200.0, 2.0, 6.0, 0.10, 2500.0, 0.12, 54.0, 0.35),
    "c": Microscope(300.0, 2.7, 2.5, 0.07, 1500.0, 0.10, 60.0, 0.45),
}


def tomogram(
    *,
    sources: int,
    seed: int,
    domain: str,
    size_px: int | None = None,
    depth_px: int | None = None,
    particles: int = 36,
    spacing_angstrom: float | None = None,
) -> Iterator[Source]:
    """Make synthetic tomograms, one after another.

    Args:
        sources: How many.
        seed: Another seed, other samples.
        domain: Microscope: "a" (300 kV, 4 um underfocus, 10 angstrom a voxel), "b" (200 kV, 6 um,
            12 angstrom, blurred, noisier, a wider missing wedge), "c" (300 kV, 2.5 um, 8 angstrom,
            less contrast of large things, noisier).
        size_px: Voxels along y and x; None: 128.
        depth_px: Voxels along z, the direction of the beam; None: 64.
        particles: Particles in each, fewer where they find no room; classes take turns.
        spacing_angstrom: Angstrom a voxel; None: the microscope's own.

    Yields:
        Source: image float16 (D, S, S, 1) of mean 0 and standard deviation 1, particles dark;
        keypoints at the centres of mass, of classes shell, rod and dimer; the fov is all of it.
        Each source is its own group.
    """
    for index in range(sources):
        yield tomogram_source(
            seed,
            domain,
            index,
            size_px=size_px,
            depth_px=depth_px,
            particles=particles,
            spacing_angstrom=spacing_angstrom,
        )


def tomogram_source(seed: int, domain: str, index: int, **given: float | None) -> Source:
    """One synthetic tomogram; depends on its arguments alone (see `tomogram`)."""
    values = {"seed": seed, "domain": domain, **given}
    arguments = TomogramArguments.model_validate(values).filled()
    assert arguments.spacing_angstrom is not None
    shape, spacing = arguments.shape(), arguments.spacing_angstrom
    key = SeedSequence([seed, ord(domain), index, 1])
    sample, recording = (Generator(Philox(child)) for child in key.spawn(2))
    found = place(sample, shape, spacing, arguments.particles)
    image = _recorded(recording, MICROSCOPES[domain], found, shape, spacing)
    name = source_id(domain, index)
    return Source(
        id=name,
        group=name,
        image=image[..., None],
        target=None,
        fov=np.ones(shape, np.uint8),
        lineage=lineage("tomogram", index, arguments.model_dump(exclude={"sources"})),
        spacing_um=arguments.spacing(),
        keypoints=Keypoints(
            np.array([particle.centre for particle in found]).reshape(-1, 3),
            np.array([particle.kind for particle in found], np.int32),
        ),
    )


def _recorded(
    rng: Generator,
    microscope: Microscope,
    particles: Sequence[Particle],
    shape: Sequence[int],
    spacing: float,
) -> NDArray[np.float16]:
    """The tomogram of a sample, (D, S, S)."""
    around = tuple(fft.next_fast_len(side + 2 * PAD, real=True) for side in shape)
    density = np.zeros(around)
    for particle in particles:
        paint(density, Particle(particle.kind, particle.centre + PAD, particle.axis), spacing)
    defocus = microscope.defocus_um * (1 + 0.1 * rng.uniform(-1, 1))
    snr = microscope.snr * (1 + 0.2 * rng.uniform(-1, 1))
    z, y, x = (
        fft.fftfreq(around[0], spacing)[:, None, None],
        fft.fftfreq(around[1], spacing)[None, :, None],
        fft.rfftfreq(around[2], spacing)[None, None, :],
    )
    square = z * z + y * y + x * x
    measured = wedge(z, x, microscope.tilt_deg)
    # The smaller proteins are points in Fourier space's eyes, blurred to their size.
    share = min(1.0, SMALL_SHARE * (spacing / 10.0) ** 3)
    small = fft.rfftn((rng.random(around) < share) * 1.0)
    blur = np.exp(-2 * (math.pi * SMALL_ANGSTROM) ** 2 * square)
    mass = microscope.crowding * (2 * math.pi) ** 1.5 * (SMALL_ANGSTROM / spacing) ** 3
    spectrum = fft.rfftn(density) + mass * blur * small
    spectrum *= transfer(np.sqrt(square), microscope, defocus) * measured
    signal = fft.irfftn(spectrum, around)
    noise = fft.irfftn(fft.rfftn(rng.standard_normal(around)) * measured, around)
    inner = tuple(slice(PAD, PAD + side) for side in shape)
    signal, noise = signal[inner], noise[inner]
    spread = signal.std()
    if spread > 0:
        noise = noise * (spread / math.sqrt(snr) / noise.std())
    image = signal + noise
    return ((image - image.mean()) / image.std()).astype(np.float16)


def wavelength(voltage_kv: float) -> float:
    """Of an electron in angstrom, with relativity."""
    volt = 1e3 * voltage_kv
    return 12.2643 / math.sqrt(volt * (1 + 0.978466e-6 * volt))


def transfer(frequency: Floats, microscope: Microscope, defocus_um: float) -> Floats:
    """Contrast transfer function with its envelope; below 0 density is dark.

    A frequency of the volume is one of the projection that it lies in, so the function depends on
    its length alone.

    Args:
        frequency: Spatial frequency in 1 / angstrom, 0 or more.
        microscope: What sees.
        defocus_um: Underfocus in micrometres.
    """
    square, length = frequency * frequency, wavelength(microscope.voltage_kv)
    phase = math.pi * length * (1e4 * defocus_um) * square
    phase = phase - math.pi / 2 * 1e7 * microscope.aberration_mm * length**3 * square * square
    share = microscope.amplitude_contrast
    envelope = np.exp(-microscope.b_factor / 4 * square)
    return -envelope * (math.sqrt(1 - share * share) * np.sin(phase) + share * np.cos(phase))


def wedge(z: Floats, x: Floats, tilt_deg: float) -> Floats:
    """How much of each frequency tilts up to `tilt_deg` around y measure, 0 to 1.

    Args:
        z: Frequency along the beam.
        x: Frequency across the beam and the axis of tilt.
        tilt_deg: Largest tilt to either side.
    """
    angle = np.degrees(np.arctan2(np.abs(z), np.abs(x)))
    return np.clip((tilt_deg - angle) / WEDGE_EDGE_DEG + 0.5, 0.0, 1.0)
