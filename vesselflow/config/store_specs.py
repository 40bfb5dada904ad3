"""The stores that a space names, as models: a file, a synthetic store, a file that is imported."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from vesselflow.config.experiment import StoreView
from vesselflow.config.named import Named


class Synth(BaseModel):
    """A synthetic store, made when it is needed; further keys go to its generator."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    kind: Annotated[str, Named("synth")] = Field("fundus", description="Generator")

    @property
    def arguments(self) -> dict[str, Any]:
        """Kind and arguments, as `vesselflow.stores.synth` takes them."""
        return self.model_dump()


class Import(BaseModel):
    """Where a store comes from when its file is missing; further keys go to the importer."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    layout: str = Field(description="Importer: how the source's files are laid out")
    source: str = Field(description="Folder of the data set, as it was published")


class StoreSpec(StoreView):
    """One named store: a file, or a synthetic one."""

    path: str | None = Field(
        None,
        description="HDF5 file or index of several, relative to the YAML (${VARIABLES} and ~ are "
        "expanded), or s3://, gs://",
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
