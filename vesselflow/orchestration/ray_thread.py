"""The thread in which Ray lives: Linux kills Ray's processes with the *thread* that began them."""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import ray
from ray._private import services

from vesselflow.errors import VesselflowError


class TryAgain(VesselflowError):
    """Ray did not come up, in a way that a busy machine explains."""


def may_pass(error: BaseException) -> bool:
    """Whether a failed start of Ray is worth a second try: something took too long."""
    text = str(error).lower()
    return any(word in text for word in ("timed out", "timeout", "failed to start gcs"))


class RayThread(threading.Thread):
    """Starts Ray, stays, and ends it."""

    def __init__(self, start: Callable[[], Any]) -> None:
        super().__init__(name="ray", daemon=True)
        self._start_ray = start
        self.is_ready = threading.Event()
        self._orders: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._ended = threading.Event()
        self.error: BaseException | None = None
        self.dashboard_url = ""

    def run(self) -> None:
        """Ray's life."""
        try:
            context = self._start_ray()
            self.dashboard_url = str(context.dashboard_url or "")
        except BaseException as error:
            self.error = error
            return
        finally:
            self.is_ready.set()
        # What a cluster has to say to its drivers would go to stdout, into the live view.
        worker = ray._private.worker
        before, worker.print_to_stdstream = worker.print_to_stdstream, _to_stderr
        while (order := self._orders.get()) is not None:
            try:
                order()
            except Exception:
                traceback.print_exc()
        try:
            ray.shutdown()
        finally:
            worker.print_to_stdstream = before
            self._ended.set()

    def do(self, order: Callable[[], None]) -> None:
        """Have something done in this thread, when its turn comes; an error goes to stderr."""
        self._orders.put(order)

    def let_go(self, within_s: float) -> None:
        """Begin to end Ray; returns when this process is disconnected, before its processes ended.

        Not before: an object of Ray's that is collected in the midst of it ends the process.
        """
        self._orders.put(None)
        worker, deadline = ray._private.worker.global_worker, time.monotonic() + within_s
        while hasattr(worker, "core_worker") and time.monotonic() < deadline:
            if self._ended.wait(0.01):
                return

    def leave(self, within_s: float) -> bool:
        """End Ray; False when it is not known to have ended."""
        self._orders.put(None)
        return self.is_ready.is_set() and self.error is None and self._ended.wait(within_s)


@contextlib.contextmanager
def no_dashboard() -> Iterator[None]:
    """Let Ray start without its dashboard's processes, which it waits for: 2 s of its start.

    Also without a dashboard Ray starts one of them, for statistics of use.
    """
    original = services.start_api_server
    services.start_api_server = lambda *arguments, **options: ("", None)
    try:
        yield
    finally:
        services.start_api_server = original


def start_dashboard() -> str:
    """Start the dashboard of the Ray that this process started; its HOST:PORT."""
    node = ray._private.worker._global_node
    node.start_api_server(include_dashboard=True, raise_on_failure=True)
    return str(node.webui_url)


def _to_stderr(data: dict[str, Any], ignore_prefix: bool = False) -> None:
    for line in data.get("lines", ()):
        print(line, file=sys.stderr)


@contextlib.contextmanager
def patient(seconds: float, broken: Callable[[], str | None]) -> Iterator[None]:
    """Let a node take longer to register than the 30 s that stand in Ray's code as a constant.

    `Node` asks for the node again and again until its time is over; within one such question
    there is no limit but ours.
    """
    original = services.get_node

    def get_node(*arguments: Any) -> Any:
        deadline = time.monotonic() + seconds
        while True:
            try:
                return original(*arguments)
            except RuntimeError:
                ended = broken()
                if ended is not None:
                    raise OSError(f"{ended} ended while it started") from None
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    services.get_node = get_node
    try:
        # Not for processes that outlive the block: a worker would look for a dead service as long.
        with _exported("RAY_gcs_server_port_wait_time_s", str(int(seconds))):
            yield
    finally:
        services.get_node = original


@contextlib.contextmanager
def _exported(name: str, value: str) -> Iterator[None]:
    given = os.environ.get(name)
    os.environ.setdefault(name, value)
    try:
        yield
    finally:
        if given is None:
            os.environ.pop(name, None)
