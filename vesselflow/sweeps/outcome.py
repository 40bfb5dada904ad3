"""What a sweep tells while it runs, and how it ended. Imports no Ray."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from vesselflow.sweeps.progress import Progress


@dataclass
class Outcome:
    """How a sweep ended.

    Attributes:
        trained: Runs that this call brought to their end.
        failed: (label, message) of runs that failed.
        stopped: True when it was stopped on request before its end.
        seconds: By phase of the driver.
    """

    trained: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    stopped: bool = False
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass
class Watch:
    """What a sweep tells while it runs; every default does nothing.

    Attributes:
        progress: Gets a `Progress` about twice a second.
        event: Gets every event: ``{"type": "epoch", "run_id": ..., ...}`` and the like.
        notify: Gets a line for whatever takes long before the first run.
        stop: Set to ask for a clean stop.
    """

    progress: Callable[[Progress], None] = lambda progress: None
    event: Callable[[dict[str, Any]], None] = lambda event: None
    notify: Callable[[str], None] = lambda text: None
    stop: threading.Event = field(default_factory=threading.Event)
