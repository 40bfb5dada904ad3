"""The patch store: what other rooms use of it."""

from __future__ import annotations

from vesselflow.stores.reader import Store
from vesselflow.stores.schema import Box, Source, SourceInfo
from vesselflow.stores.suspicions import SUSPICIONS, Tally, suspicions
from vesselflow.stores.verify import Report, check, verify
from vesselflow.stores.writer import write_store

__all__ = [
    "SUSPICIONS",
    "Box",
    "Report",
    "Source",
    "SourceInfo",
    "Store",
    "Tally",
    "check",
    "suspicions",
    "verify",
    "write_store",
]
