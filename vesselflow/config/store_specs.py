"""The stores that a space names, as models: a file, a synthetic store, a file that is imported."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from vesselflow.config.experiment import Section


class Synth(Section):
    """A synthetic store, made when it is needed."""

    kind: Literal["fundus"] = Field("fundus", description="Generator")
    domain: Literal["a", "b", "c"] = Field("a", description="Camera: colour, contrast, blur")
    sources: int = Field(12, ge=1, le=100_000, description="Number of images")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of all images")
    size_px: Annotated[int, Field(ge=64, le=4096)] | None = Field(
        None, description="Side of the images in px; null for the camera's own"
    )


class Import(BaseModel):
    """Where a store comes from when its file is missing; further keys go to the importer."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    layout: str = Field(description="Importer: how the source's files are laid out")
    source: str = Field(description="Folder of the data set, as it was published")


class StoreSpec(Section):
    """One named store: a file, or a synthetic one."""

    path: str | None = Field(
        None, description="HDF5 file, relative to the YAML; ${VARIABLES} and ~ are expanded"
    )
    synth: Synth | None = Field(None, description="Synthetic store, made when it is needed")
    importer: Import | None = Field(
        None, alias="import", description="How to make the file of `path` when it is missing"
    )

    @model_validator(mode="after")
    def _one(self) -> StoreSpec:
        if (self.path is None) == (self.synth is None):
            raise ValueError("a store has exactly one of path and synth")
        if self.importer is not None and self.path is None:
            raise ValueError("import belongs to a store with a path")
        return self
