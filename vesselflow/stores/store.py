"""Stores: what other rooms use of them."""

from __future__ import annotations

from vesselflow.stores.keypoints import Keypoints
from vesselflow.stores.layout import Layout
from vesselflow.stores.reader import Store
from vesselflow.stores.schema import Box, Shard, Source, SourceInfo, layout_of
from vesselflow.stores.suspicions import SUSPICIONS, Tally, suspicions
from vesselflow.stores.verify import Report, check, verify
from vesselflow.stores.writer import write_store

__all__ = [
    "SUSPICIONS",
    "Box",
    "Keypoints",
    "Layout",
    "Report",
    "Shard",
    "Source",
    "SourceInfo",
    "Store",
    "Tally",
    "check",
    "layout_of",
    "suspicions",
    "verify",
    "write_store",
]
