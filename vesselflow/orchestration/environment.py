"""What a sweep exports before it imports Ray. Imports no Ray, so that it can come first."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Ray's own way to be told a cluster's address.
ADDRESS = "RAY_ADDRESS"
#: Seconds that Ray waits for its control service and for a raylet while it starts (30 and 10 of
#: its own): on a busy machine a start takes longer, and is still sound.
STARTUP_WAIT_S = 150
#: Seconds after which Ray's own code ends this process when the control service is gone (60 of
#: its own); `Cluster.lost` knows far earlier, so this is only the last resort.
GIVE_UP_S = 120


def quiet_environment() -> dict[str, str]:
    """Environment of the driver and its workers: what Ray Train and Tune are not to do."""
    return {
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": os.environ.get(
            "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5"
        ),
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        "RAY_AIR_NEW_OUTPUT": "0",
        "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",
        # While it looks for dead controllers, which it asks a dashboard for, nobody is answered:
        # without a dashboard for 40 s, and the end of a slot waits for its answer.
        "RAY_TRAIN_ENABLE_STATE_ACTOR_RECONCILIATION": "0",
        # A slot returns by itself when its machine is to go (107 MB for each slot).
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    }


def settle_environment() -> None:
    """Export what a sweep needs; what the person has set stays.

    Ray reads much of it once, when it is imported: call this first.
    """
    patient = {
        "RAY_raylet_start_wait_time_s": str(STARTUP_WAIT_S),
        "RAY_gcs_rpc_server_reconnect_timeout_s": str(GIVE_UP_S),
        # A call that comes after the end must not start another Ray.
        "RAY_ENABLE_AUTO_CONNECT": "0",
    }
    for name, value in {**quiet_environment(), **patient}.items():
        os.environ.setdefault(name, value)


def settle_token() -> None:
    """Have Ray's clients show the token that this machine has: left alone, those of jobs do not.

    What the person has set stays. Call this before Ray is imported, which reads it once.
    """
    file = os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token"
    if os.environ.get("RAY_AUTH_TOKEN") or Path(file).is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Take variables out of the environment, for children that are started in the block."""
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)
