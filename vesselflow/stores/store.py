"""The patch store: what other rooms use of it."""

from __future__ import annotations

from vesselflow.stores.reader import Store
from vesselflow.stores.schema import Box, Source, SourceInfo
from vesselflow.stores.verify import verify
from vesselflow.stores.writer import write_store

__all__ = ["Box", "Source", "SourceInfo", "Store", "verify", "write_store"]
