"""Synthetic fundus photographs with exact vessel masks.

Anatomy (disc, macula, two trees of arteries and veins along the arcades) is drawn in units of the
fov's radius, then photographed by one of three cameras that differ in colour, contrast, sharpness,
resolution, vignetting, noise and compression. All arithmetic is float64 and every draw comes from
a counter-based generator keyed by (seed, domain, source): an image depends on nothing else, and
rounding to 8 bits hides the last-digit differences between processors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator, Philox, SeedSequence
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import fft, ndimage

from vesselflow.stores.schema import Bytes, Source
from vesselflow.stores.synth import (
    FUNDUS_RADII,
    FUNDUS_SIZES_PX,
    fundus_spacing_um,
    lineage,
    source_id,
)

Floats = NDArray[np.float64]

#: Vessels are drawn on a canvas this many times finer and averaged down (anti-aliasing).
SUPERSAMPLING = 4
#: Step along a vessel, in radii of the fov.
STEP = 0.012
#: Calibre of the thinnest vessel in radii of the fov: about one pixel at the default sizes.
MIN_WIDTH = 0.0095
#: Calibre at which a vein has its full density, in radii.
WIDEST = 0.034
#: Murray's law: the cube of a parent's calibre is the sum of its children's cubes.
MURRAY = 3.0
#: A vessel no closer to the fovea than this, in radii.
FOVEAL_ZONE = 0.13


@dataclass(frozen=True)
class Camera:
    """How a domain sees a retina.

    Attributes:
        retina: RGB in [0, 1] of the bright retina.
        disc: RGB of the optic disc.
        absorption: RGB optical density of the widest vein.
        thin_contrast: Exponent of relative calibre in the density; larger: fainter thin ones.
        blur: Standard deviation of the optics' blur, in px at the domain's own size.
        vignetting: Loss of light at the edge of the fov.
        unevenness: Amplitude of the slow illumination field.
        texture: Amplitude of the choroid's pattern.
        noise: Standard deviation of the sensor's noise, in [0, 1].
        grain: Correlation length of the noise in px.
        gamma: Exponent of the tone curve.
        quantisation: Step of the 8 x 8 cosine coefficients (as in JPEG), 0 for none.
        radius: Radius of the fov in halves of the image's side; above 1 it is cut above and below.
        background: Level outside the fov.
    """

    retina: tuple[float, float, float]
    disc: tuple[float, float, float]
    absorption: tuple[float, float, float]
    thin_contrast: float
    blur: float
    vignetting: float
    unevenness: float
    texture: float
    noise: float
    grain: float
    gamma: float
    quantisation: float
    radius: float
    background: float


CAMERAS = {
    "a": Camera(
        retina=(0.86, 0.42, 0.17),
        disc=(1.10, 0.86, 0.42),
        absorption=(0.28, 0.62, 0.45),
        thin_contrast=0.75,
        blur=0.55,
        vignetting=0.35,
        unevenness=0.10,
        texture=0.07,
        noise=0.022,
        grain=0.6,
        gamma=1.0,
        quantisation=0.0,
        radius=FUNDUS_RADII["a"],
        background=0.01,
    ),
    "b": Camera(
        retina=(0.93, 0.60, 0.33),
        disc=(1.05, 0.93, 0.60),
        absorption=(0.16, 0.50, 0.50),
        thin_contrast=0.9,
        blur=1.0,
        vignetting=0.20,
        unevenness=0.16,
        texture=0.05,
        noise=0.028,
        grain=0.9,
        gamma=1.15,
        quantisation=0.09,
        radius=FUNDUS_RADII["b"],
        background=0.07,
    ),
    "c": Camera(
        retina=(0.68, 0.49, 0.29),
        disc=(0.95, 0.86, 0.56),
        absorption=(0.22, 0.48, 0.32),
        thin_contrast=0.8,
        blur=0.7,
        vignetting=0.45,
        unevenness=0.14,
        texture=0.08,
        noise=0.034,
        grain=0.5,
        gamma=0.85,
        quantisation=0.0,
        radius=FUNDUS_RADII["c"],
        background=0.02,
    ),
}


@dataclass
class _Vessel:
    """Centre line of one vessel: points (n, 2) as x, y in radii, calibres (n,) in radii."""

    x: list[float]
    y: list[float]
    width: list[float]
    vein: bool


@dataclass(frozen=True)
class _Eye:
    """Places in radii of the fov, origin in its centre, y downwards."""

    side: float  # +1: the macula lies to the right of the disc
    disc: tuple[float, float]
    disc_radius: float
    fovea: tuple[float, float]


def fundus(*, sources: int, seed: int, domain: str, size_px: int | None = None) -> Iterator[Source]:
    """Make synthetic fundus photographs, one after another.

    Args:
        sources: How many.
        seed: Another seed, other eyes.
        domain: Camera: "a" (sharp, orange, low noise), "b" (larger, pale, blurred, compressed, fov
            cut above and below), "c" (smaller, greenish, low contrast, noisy).
        size_px: Side of the square image; None: 256, 288 or 224 by domain.

    Yields:
        Source: image uint8 (S, S, 3); target uint8 (S, S), pixels that a vessel covers by at least
        half; fov uint8 (S, S). Vessels take about a tenth of the fov. Each source is its own group.
    """
    for index in range(sources):
        yield fundus_source(seed, domain, index, size_px)


def fundus_source(seed: int, domain: str, index: int, size_px: int | None = None) -> Source:
    """One synthetic photograph; depends on its arguments alone (see `fundus`)."""
    size = size_px or FUNDUS_SIZES_PX[domain]
    key = SeedSequence([seed, ord(domain), index])
    anatomy, photograph = (Generator(Philox(child)) for child in key.spawn(2))
    camera = CAMERAS[domain]
    radius = camera.radius * size / 2
    centre = (size / 2 + size * anatomy.uniform(-0.012, 0.012), size / 2)
    eye = _place(anatomy)
    vessels = _grow_trees(anatomy, eye)
    depth, cover, reflex = _rasterise(vessels, size, centre, radius)
    image, fov = _photograph(photograph, camera, eye, depth, reflex, size, centre, radius)
    name = source_id(domain, index)
    return Source(
        id=name,
        group=name,
        image=image,
        target=((cover >= 0.5) & (fov > 0)).astype(np.uint8),
        fov=fov,
        lineage=lineage(seed, domain, index, size),
        spacing_um=fundus_spacing_um(domain, size),
    )


def _place(rng: Generator) -> _Eye:
    side = 1.0 if rng.random() < 0.5 else -1.0
    # Disc-centred and macula-centred photographs both occur.
    disc = (-side * rng.uniform(0.25, 0.62), rng.uniform(-0.10, 0.10))
    radius = rng.uniform(0.135, 0.165)
    fovea = (disc[0] + side * rng.uniform(0.78, 0.88), disc[1] + rng.uniform(0.02, 0.12))
    return _Eye(side, disc, radius, fovea)


class _Growth:
    """Grows vessels step by step; vessels of one kind do not run into each other."""

    CELL = 0.03

    def __init__(self, rng: Generator, eye: _Eye, vein: bool) -> None:
        self.rng, self.eye, self.vein = rng, eye, vein
        self.vessels: list[_Vessel] = []
        self.taken: dict[tuple[int, int], int] = {}

    def grow(
        self,
        start: tuple[float, float],
        heading: float,
        length: float,
        width: float,
        *,
        bend: float,
        generation: int,
        parent: int = -1,
    ) -> None:
        """Grow one vessel and its branches.

        Args:
            start: Where it begins, radii.
            heading: Direction in radians, 0 to the right, y downwards.
            length: Length in radii.
            width: Calibre at the start, radii.
            bend: Change of heading over the whole length, most of it early.
            generation: 0 for vessels that leave the disc.
            parent: Number of the vessel that it leaves, -1 for none.
        """
        rng = self.rng
        number = len(self.vessels)
        steps = max(3, round(length / STEP))
        waves = rng.uniform(0, 2 * math.pi, 3).tolist()
        sway = rng.uniform(0.5, 1.3) * (0.16 if self.vein else 0.22) * (1 + 0.5 * generation)
        end = max(MIN_WIDTH, 0.50 * width)
        vessel = _Vessel([start[0]], [start[1]], [width], self.vein)
        self.vessels.append(vessel)
        x, y = start
        calibre = width
        # Branches at random distances, more of them along wide vessels.
        gap = (0.17 + 0.06 * generation) * math.sqrt(0.022 / max(width, 0.010))
        next_branch = gap * rng.uniform(0.5, 1.2)
        hand = 1 if rng.random() < 0.5 else -1
        children: list[tuple[tuple[float, float], float, float, float, float]] = []
        fovea_x, fovea_y = self.eye.fovea
        for step in range(1, steps + 1):
            t = step / steps
            s = step * STEP
            wobble = sway * (
                math.sin(9 * s + waves[0]) + 0.7 * math.sin(21 * s + waves[1])
                + 0.45 * math.sin(47 * s + waves[2])
            )  # fmt: skip
            # Most of the bend comes early: arcades turn around the macula, then run straight.
            angle = heading + bend * t * (2 - t) + wobble
            x += STEP * math.cos(angle)
            y += STEP * math.sin(angle)
            # Calibre falls by taper and, below, by what each branch takes away.
            calibre = max(min(calibre, width + (end - width) * t), MIN_WIDTH)
            if x * x + y * y > 1.25 or math.hypot(x - fovea_x, y - fovea_y) < FOVEAL_ZONE:
                break
            cell = (math.floor(x / self.CELL), math.floor(y / self.CELL))
            owner = self.taken.setdefault(cell, number)
            near_disc = math.hypot(x - self.eye.disc[0], y - self.eye.disc[1]) < 0.24
            if owner not in (number, parent) and generation > 0 and not near_disc and step > 4:
                break
            vessel.x.append(x)
            vessel.y.append(y)
            vessel.width.append(calibre)
            if s >= next_branch and not near_disc and calibre > 1.02 * MIN_WIDTH:
                share = rng.uniform(0.12, 0.42)
                child = calibre * share ** (1 / MURRAY)
                calibre *= (1 - share) ** (1 / MURRAY)
                turn = hand * rng.uniform(0.55, 1.15)
                hand = -hand if rng.random() < 0.75 else hand
                reach = rng.uniform(0.6, 1.25) * (0.17 + 20 * child) * 0.8**generation
                curl = -turn * rng.uniform(0.2, 0.9)
                children.append(((x, y), angle + turn, reach, child, curl))
                next_branch = s + gap * rng.uniform(0.6, 1.5)
        if generation < 4:
            for place, angle, reach, child, curl in children:
                self.grow(
                    place,
                    angle,
                    reach,
                    max(child, MIN_WIDTH),
                    bend=curl,
                    generation=generation + 1,
                    parent=number,
                )


def _grow_trees(rng: Generator, eye: _Eye) -> list[_Vessel]:
    """Arteries and veins: two temporal arcades, two nasal vessels and small ones for each."""
    vessels: list[_Vessel] = []
    for vein in (True, False):
        growth = _Growth(rng, eye, vein)
        calibre = rng.uniform(0.031, 0.036) * (1.0 if vein else 0.78)
        shift = 0.10 if vein else -0.06
        for up in (-1.0, 1.0):
            # Temporal arcade: leaves nearly upright and curves around the macula.
            rise = rng.uniform(1.20, 1.45) + shift
            _leave(growth, eye, up, rise, 1.75, calibre, -up * (rise + rng.uniform(-0.25, 0.12)))
            # Nasal vessel: runs away from the macula.
            rise = rng.uniform(2.15, 2.55) + shift
            _leave(growth, eye, up, rise, 1.25, 0.72 * calibre, up * rng.uniform(-0.25, 0.45))
        for _ in range(int(rng.integers(3, 6))):
            up = 1.0 if rng.random() < 0.5 else -1.0
            rise = rng.uniform(0.35, 0.75) if rng.random() < 0.5 else rng.uniform(2.6, 3.1)
            width = rng.uniform(0.30, 0.42) * calibre
            _leave(growth, eye, up, rise, 0.55, width, up * rng.uniform(-0.4, 0.3))
        vessels += growth.vessels
    return vessels


def _leave(
    growth: _Growth, eye: _Eye, up: float, rise: float, length: float, width: float, bend: float
) -> None:
    """Start a vessel inside the disc; `rise` is its angle from the temporal horizontal."""
    rng = growth.rng
    angle = up * (rise + rng.normal(0, 0.05))
    heading = angle if eye.side > 0 else math.pi - angle
    offset = eye.disc_radius * rng.uniform(0.05, 0.35)
    start = (
        eye.disc[0] - eye.side * 0.25 * eye.disc_radius + offset * math.cos(heading),
        eye.disc[1] + offset * math.sin(heading),
    )
    growth.grow(
        start,
        heading,
        length * rng.uniform(0.9, 1.1),
        max(width * rng.uniform(0.9, 1.1), MIN_WIDTH),
        bend=bend * eye.side,
        generation=0,
    )


def _rasterise(
    vessels: list[_Vessel], size: int, centre: tuple[float, float], radius: float
) -> tuple[Floats, Floats, Floats]:
    """Draw the vessels.

    Returns:
        Relative density (0 to 1, times coverage), coverage (0 to 1) and light reflex of the
        arteries (0 to 1), each (size, size).
    """
    scale = radius * SUPERSAMPLING
    middle = (centre[0] * SUPERSAMPLING, centre[1] * SUPERSAMPLING)
    canvas = Image.new("L", (size * SUPERSAMPLING,) * 2, 0)
    shine = Image.new("L", canvas.size, 0)
    draw, draw_shine = ImageDraw.Draw(canvas), ImageDraw.Draw(shine)
    pieces = []
    for vessel in vessels:
        for k in range(1, len(vessel.x)):
            pieces.append((vessel.width[k], vessel.vein, vessel.x[k - 1 : k + 1],
                           vessel.y[k - 1 : k + 1]))  # fmt: skip
    # Wide vessels hide thin ones, arteries cross over veins of the same calibre.
    pieces.sort(key=lambda piece: (piece[0], not piece[1]))
    for width, vein, (x0, x1), (y0, y1) in pieces:
        line = (
            middle[0] + scale * x0,
            middle[1] + scale * y0,
            middle[0] + scale * x1,
            middle[1] + scale * y1,
        )
        thick = width * scale
        relative = min(1.0, width / WIDEST)
        level = max(1, round(255 * relative * (1.0 if vein else 0.82)))
        draw.line(line, fill=level, width=max(1, round(thick)))
        half = thick / 2 - 0.5
        if half >= 1:
            end_x, end_y = line[2], line[3]
            draw.ellipse((end_x - half, end_y - half, end_x + half, end_y + half), fill=level)
        core = 0 if vein or thick < 2.2 * SUPERSAMPLING else round(0.3 * thick)
        draw_shine.line(line, fill=255 if core else 0, width=core or max(1, round(thick)))
    fine = np.asarray(canvas)
    depth = _average(fine / 255.0)
    cover = _average((fine > 0).astype(np.float64))
    return depth, cover, _average(np.asarray(shine) / 255.0)


def _average(fine: Floats) -> Floats:
    side = fine.shape[0] // SUPERSAMPLING
    return fine.reshape(side, SUPERSAMPLING, side, SUPERSAMPLING).mean(axis=(1, 3))


def _field(rng: Generator, size: int, sigma: float) -> Floats:
    """A smooth random field (size, size) of unit variance, correlated over `sigma` px."""
    # Slow fields are made on a coarse grid: blurring a full one by 60 px costs most of the time.
    coarse = max(8, min(size, math.ceil(4 * size / max(sigma, 1.0))))
    values = rng.standard_normal((coarse, coarse))
    values = ndimage.gaussian_filter(values, sigma * coarse / size, mode="reflect")
    values = (values - values.mean()) / max(values.std(), 1e-9)
    if coarse < size:
        values = ndimage.zoom(values, size / coarse, order=1, mode="nearest", grid_mode=True)
    return np.asarray(values[:size, :size])


def _photograph(
    rng: Generator,
    camera: Camera,
    eye: _Eye,
    depth: Floats,
    reflex: Floats,
    size: int,
    centre: tuple[float, float],
    radius: float,
) -> tuple[Bytes, Bytes]:
    """The image uint8 (S, S, 3) and the fov uint8 (S, S)."""
    rows, columns = np.mgrid[0:size, 0:size].astype(np.float64) + 0.5
    x, y = (columns - centre[0]) / radius, (rows - centre[1]) / radius
    from_centre = np.hypot(x, y)
    fov = from_centre <= 1.0
    pixel = size / 256.0

    # Retina: colour, pigment that varies slowly, choroid that shows through in red.
    tint = 1 + rng.normal(0, [0.04, 0.06, 0.09])
    retina = np.asarray(camera.retina) * tint
    slow = _field(rng, size, 45 * pixel)
    choroid = _choroid(rng, size, pixel)
    light = np.ones((size, size, 3)) * retina
    light *= (1 + camera.unevenness * slow)[:, :, None]
    light *= 1 + camera.texture * choroid[:, :, None] * np.array([1.0, 1.2, 0.8])

    fovea = np.hypot(x - eye.fovea[0], (y - eye.fovea[1]) * 1.1)
    macula = np.exp(-((fovea / 0.20) ** 2)) * 0.24 + np.exp(-((fovea / 0.055) ** 2)) * 0.18
    light *= np.exp(-macula[:, :, None] * np.array([0.7, 1.2, 0.9]))

    # Disc with a soft edge, a paler cup on its temporal side and a thin pigmented rim.
    tilt = rng.uniform(0.88, 1.0)
    edge = np.hypot((x - eye.disc[0]) / tilt, y - eye.disc[1]) / eye.disc_radius
    inside = 1 / (1 + np.exp((edge - 1) / 0.06))
    cup_x = eye.disc[0] + eye.side * 0.18 * eye.disc_radius
    cup = np.hypot((x - cup_x) / tilt, y - eye.disc[1]) / (0.48 * eye.disc_radius)
    cup_inside = 1 / (1 + np.exp((cup - 1) / 0.15))
    rim = np.exp(-(((edge - 1.12) / 0.10) ** 2)) * rng.uniform(0.0, 0.10)
    light *= (1 - rim)[:, :, None]
    disc = np.asarray(camera.disc) * (0.88 + 0.12 * cup_inside[:, :, None])
    light += (disc - light) * (inside * 0.92)[:, :, None]

    _lesions(rng, light, x, y, eye)

    # Vessels absorb; thin ones are fainter; arteries carry a bright line. A field lets the
    # contrast change along a vessel, as it does in photographs.
    local = 1 + 0.22 * _field(rng, size, 18 * pixel)
    density = np.power(depth, camera.thin_contrast, where=depth > 0, out=np.zeros_like(depth))
    density = np.clip(density * local, 0, None) * (1 - 0.35 * inside)
    absorption = np.asarray(camera.absorption) * rng.uniform(0.85, 1.1)
    light *= np.exp(-density[:, :, None] * absorption)
    light *= (1 + 0.16 * reflex)[:, :, None]

    # Camera: illumination off centre, vignetting, blur, tone, noise, compression.
    aim = rng.normal(0, 0.18, 2)
    falloff = 1 - camera.vignetting * np.clip((x - aim[0]) ** 2 + (y - aim[1]) ** 2, 0, 1.6)
    light *= np.clip(falloff, 0.1, None)[:, :, None] * rng.uniform(0.92, 1.06)
    # A crescent of stray light at the edge of the fov.
    direction = rng.uniform(0, 2 * math.pi)
    side = np.clip(x * math.cos(direction) + y * math.sin(direction), 0, None)
    stray = np.clip((from_centre - 0.86) / 0.14, 0, 1) * side**2
    light += rng.uniform(0, 0.12) * stray[:, :, None] * retina
    scale = size / _own_size(camera)
    image = ndimage.gaussian_filter(light, (camera.blur * scale, camera.blur * scale, 0))
    image = np.clip(image, 0, 1) ** camera.gamma
    noise = rng.standard_normal((size, size, 3))
    noise = ndimage.gaussian_filter(noise, (camera.grain, camera.grain, 0))
    noise *= camera.noise / noise.std()
    # Photon noise grows with the root of the signal.
    image += noise * np.sqrt(0.3 + image)
    image = np.where(fov[:, :, None], image, camera.background + 0.4 * np.abs(noise))
    if camera.quantisation:
        image = _compress(image, camera.quantisation)
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8), fov.astype(np.uint8)


def _own_size(camera: Camera) -> int:
    return next(FUNDUS_SIZES_PX[name] for name, known in CAMERAS.items() if known is camera)


def _choroid(rng: Generator, size: int, pixel: float) -> Floats:
    """Streaks of the choroid's wide vessels and fine mottling, about unit variance."""
    streaks = 1.0 - 2.0 * np.abs(np.tanh(1.6 * _field(rng, size, 9 * pixel)))
    return 0.7 * streaks + 0.5 * _field(rng, size, 2.2 * pixel)


def _lesions(rng: Generator, light: Floats, x: Floats, y: Floats, eye: _Eye) -> None:
    """Darken a few spots and brighten a few: what a vessel finder must not take for vessels."""
    for _ in range(int(rng.integers(0, 7))):
        angle, distance = rng.uniform(0, 2 * math.pi), rng.uniform(0.15, 0.9)
        spot_x, spot_y = distance * math.cos(angle), distance * math.sin(angle)
        turn, long = rng.uniform(0, math.pi), rng.uniform(0.012, 0.035)
        short = long * rng.uniform(0.35, 1.0)
        bright = rng.random() < 0.35
        strength = rng.uniform(0.15, 0.45)
        if math.hypot(spot_x - eye.disc[0], spot_y - eye.disc[1]) < 2 * eye.disc_radius:
            continue
        u = (x - spot_x) * math.cos(turn) + (y - spot_y) * math.sin(turn)
        v = -(x - spot_x) * math.sin(turn) + (y - spot_y) * math.cos(turn)
        shape = np.exp(-(((u / long) ** 2 + (v / short) ** 2) ** 1.5))[:, :, None]
        if bright:
            light += shape * strength * np.array([0.35, 0.55, 0.30])
        else:
            light *= np.exp(-shape * strength * np.array([0.6, 1.3, 1.0]))


def _compress(image: Floats, step: float) -> Floats:
    """Round the cosine coefficients of 8 x 8 blocks as JPEG does, high frequencies coarser."""
    height, width, channels = image.shape
    padded = np.pad(image, ((0, -height % 8), (0, -width % 8), (0, 0)), mode="edge")
    blocks = padded.reshape(padded.shape[0] // 8, 8, padded.shape[1] // 8, 8, channels)
    order = np.add.outer(np.arange(8), np.arange(8))
    steps = (step * (0.35 + 0.25 * order))[None, :, None, :, None]
    coefficients = fft.dctn(blocks, axes=(1, 3), norm="ortho")
    blocks = fft.idctn(np.rint(coefficients / steps) * steps, axes=(1, 3), norm="ortho")
    return np.asarray(blocks.reshape(padded.shape)[:height, :width])
