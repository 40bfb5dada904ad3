"""What the synthetic kinds take, and what a plan may know of their sources without making them.

Beside no generator, because those import numpy and scipy, and naming a store must not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field

from vesselflow.config.registry import Arguments
from vesselflow.stores.fundus import spacing_um

#: An angstrom in micrometres.
ANGSTROM_UM = 1e-4


class SynthArguments(Arguments):
    """Base of the argument models of all kinds.

    Attributes:
        domain: Camera, microscope or scanner.
        sources: How many images or volumes.
        seed: Seed of all of them.
        layout: What all sources are, as `stores.layout.Layout` takes it.
    """

    domain: Literal["a", "b", "c"] = Field("a", description="camera, microscope or scanner")
    sources: int = Field(12, ge=1, le=100_000, description="number of images or volumes")
    seed: int = Field(0, ge=0, lt=2**63, description="seed of all images or volumes")

    layout: ClassVar[Mapping[str, Any]] = {}

    def filled(self) -> Self:
        """The same with the domain's own values where none is given."""
        raise NotImplementedError

    def shape(self) -> tuple[int, ...]:
        """Spatial sizes of every source; only of what is filled."""
        raise NotImplementedError

    def spacing(self) -> tuple[float, ...]:
        """Micrometres a voxel along each axis; only of what is filled."""
        raise NotImplementedError


#: Side of the square image in px that each camera (domain) takes by default.
FUNDUS_SIZES_PX = {"a": 256, "b": 288, "c": 224}
#: Radius of each camera's fov in halves of the image's side; above 1 it is cut above and below.
FUNDUS_RADII = {"a": 0.95, "b": 1.06, "c": 0.92}
#: What every camera sees, in degrees across its fov: the optic disc is drawn accordingly.
FUNDUS_FIELD_DEG = 45.0


class FundusArguments(SynthArguments):
    """Photographs of the back of the eye, by one of three cameras."""

    domain: Literal["a", "b", "c"] = Field("a", description="camera: colour, contrast, blur")
    sources: int = Field(12, ge=1, le=100_000, description="number of images")
    seed: int = Field(0, ge=0, lt=2**63, description="seed of all images")
    size_px: Annotated[int, Field(ge=64, le=4096)] | None = Field(
        None, description="side of the images in px; null for the camera's own: 256, 288, 224"
    )

    layout: ClassVar[Mapping[str, Any]] = {"channels": 3}

    def filled(self) -> Self:
        """With the camera's own size."""
        return self.model_copy(update={"size_px": self.size_px or FUNDUS_SIZES_PX[self.domain]})

    def shape(self) -> tuple[int, ...]:
        """Height and width."""
        assert self.size_px is not None
        return self.size_px, self.size_px

    def spacing(self) -> tuple[float, ...]:
        """Height and width of a pixel in micrometres of the retina."""
        assert self.size_px is not None
        return spacing_um(FUNDUS_FIELD_DEG, FUNDUS_RADII[self.domain] * self.size_px)


#: Angstrom a voxel that each microscope (domain) has by default.
TOMOGRAM_SPACINGS = {"a": 10.0, "b": 12.0, "c": 8.0}
#: The particles' classes.
PARTICLES = ("shell", "rod", "dimer")


class TomogramArguments(SynthArguments):
    """Electron tomograms of three kinds of particles, by one of three microscopes."""

    domain: Literal["a", "b", "c"] = Field(
        "a", description="microscope: defocus, noise, tilt range, spacing"
    )
    sources: int = Field(8, ge=1, le=100_000, description="number of tomograms")
    seed: int = Field(0, ge=0, lt=2**63, description="seed of all tomograms")
    size_px: Annotated[int, Field(ge=32, le=1024)] | None = Field(
        None, description="voxels along y and x; null for 128"
    )
    depth_px: Annotated[int, Field(ge=32, le=1024)] | None = Field(
        None, description="voxels along z; null for 64"
    )
    particles: int = Field(
        36, ge=0, le=10_000, description="particles in a tomogram, fewer where they find no room"
    )
    spacing_angstrom: Annotated[float, Field(ge=4, le=40)] | None = Field(
        None, description="angstrom a voxel; null for the microscope's own: 10, 12, 8"
    )

    layout: ClassVar[Mapping[str, Any]] = {
        "kind": "keypoint",
        "axes": "zyx",
        "dtype": "float16",
        "channels": 1,
        "classes": PARTICLES,
        "target": "",
        # Particles are 9 to 20 voxels wide: cells of 16 would hold several.
        "ds_factor": 4,
        "sigma_angstrom": 40.0,
    }

    def filled(self) -> Self:
        """With the microscope's own spacing and the usual size."""
        return self.model_copy(
            update={
                "size_px": self.size_px or 128,
                "depth_px": self.depth_px or 64,
                "spacing_angstrom": self.spacing_angstrom or TOMOGRAM_SPACINGS[self.domain],
            }
        )

    def shape(self) -> tuple[int, ...]:
        """Depth, height and width."""
        assert self.size_px is not None
        assert self.depth_px is not None
        return self.depth_px, self.size_px, self.size_px

    def spacing(self) -> tuple[float, ...]:
        """Micrometres a voxel, the same along all axes."""
        assert self.spacing_angstrom is not None
        return (self.spacing_angstrom * ANGSTROM_UM,) * 3


#: Micrometres a voxel of each scanner (domain).
VASCULATURE_SPACINGS = {"a": (20.0, 20.0, 20.0), "b": (25.0, 25.0, 25.0), "c": (32.0, 20.0, 20.0)}


class VasculatureArguments(SynthArguments):
    """Volumes of branching vessels, by one of three scanners."""

    domain: Literal["a", "b", "c"] = Field(
        "a", description="scanner: spacing, blur, contrast, light, noise"
    )
    sources: int = Field(8, ge=1, le=100_000, description="number of volumes")
    seed: int = Field(0, ge=0, lt=2**63, description="seed of all volumes")
    size_px: Annotated[int, Field(ge=32, le=1024)] | None = Field(
        None, description="voxels along y and x; null for 96"
    )
    depth_px: Annotated[int, Field(ge=16, le=1024)] | None = Field(
        None, description="voxels along z; null for 64"
    )

    layout: ClassVar[Mapping[str, Any]] = {"axes": "zyx"}

    def filled(self) -> Self:
        """With the usual size."""
        return self.model_copy(
            update={"size_px": self.size_px or 96, "depth_px": self.depth_px or 64}
        )

    def shape(self) -> tuple[int, ...]:
        """Depth, height and width."""
        assert self.size_px is not None
        assert self.depth_px is not None
        return self.depth_px, self.size_px, self.size_px

    def spacing(self) -> tuple[float, ...]:
        """Micrometres a voxel along z, y and x."""
        return VASCULATURE_SPACINGS[self.domain]
