"""A cloud whose machines are raylets on this one; loaded by Ray's autoscaler, not by tests.

The machine types that the file of `NO_CAPACITY` names, a line each, cannot be had while they stand
there.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider
from ray.autoscaler.tags import TAG_RAY_USER_NODE_TYPE


class Cloud(FakeMultiNodeProvider):
    def create_node_with_resources_and_labels(
        self, node_config: Any, tags: dict[str, str], *more: Any
    ) -> None:
        without = Path(os.environ["NO_CAPACITY"])
        kind = tags[TAG_RAY_USER_NODE_TYPE]
        if without.exists() and kind in without.read_text().split():
            raise RuntimeError(f"InsufficientInstanceCapacity: there is no {kind} in this zone")
        super().create_node_with_resources_and_labels(node_config, tags, *more)
