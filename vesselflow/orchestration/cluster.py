"""A Ray that this process started or joined: its start, its health, its end.

Ray lives in a thread of its own from its start to its end, so that Ctrl-C is honoured while it
starts, and because Linux kills Ray's processes when the *thread* that started them ends.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil
import ray
from ray._private import ray_constants
from ray.experimental.internal_kv import internal_kv_get_gcs_client

from vesselflow.errors import VesselflowError
from vesselflow.notices.ray_drain import drain
from vesselflow.orchestration.chatter import Chatter
from vesselflow.orchestration.environment import (
    ADDRESS,
    STARTUP_WAIT_S,
    quiet_environment,
    settle_environment,
    without,
)
from vesselflow.orchestration.joining import Answer, ask, reachable
from vesselflow.orchestration.machines import Seen, leaving_nodes
from vesselflow.orchestration.ray_thread import (
    RayThread,
    TryAgain,
    may_pass,
    no_dashboard,
    patient,
    start_dashboard,
)
from vesselflow.sweeps.capacity import Node
from vesselflow.sweeps.leaving import Leaving
from vesselflow.sweeps.machine import cpus_here
from vesselflow.sweeps.outcome import ClusterLost, Stopped
from vesselflow.sweeps.wishes import ON_DEMAND, SPOT

_T = TypeVar("_T")

NAMESPACE = "vesselflow"
#: Every cluster's head has this resource, also one that `ray up` made.
HEAD = "node:__internal_head__"


@dataclass(frozen=True)
class Limits:
    """How long is waited for what, in seconds.

    Attributes:
        start: For one try to start Ray, or to join it.
        tell: Between two lines about a start that takes long.
        answer: For one answer of a control service.
        refused: A control service that refuses to answer for this long is lost.
        silent: One that does not answer at all; a busy machine may be silent for a while.
        end: For Ray to end in an orderly way; then it is killed.
    """

    start: float = 2.0 * STARTUP_WAIT_S
    tell: float = 6.0
    answer: float = 5.0
    refused: float = 15.0
    silent: float = 40.0
    end: float = 15.0


class Pulse:
    """Tells from answers to a repeated question whether a control service is lost. Pure.

    Args:
        where: Its address.
        now: Seconds of a monotonic clock: the service is taken to live then.
        limits: For how long what is borne.
    """

    def __init__(self, where: str, now: float, limits: Limits) -> None:
        self._where, self._limits = where, limits
        self._heard = now

    def take(self, answer: Answer, now: float) -> str | None:
        """What was lost, in words, or None.

        Args:
            answer: "yes"; "refused": nobody listens; "silent": no answer in time; "no node": it
                answers, and says that the node that this process is connected to is dead.
            now: When it came.
        """
        if answer == "yes":
            self._heard = now
            return None
        if answer == "no node":
            return f"the node of this driver left the Ray cluster at {self._where}"
        limit = self._limits.refused if answer == "refused" else self._limits.silent
        since = now - self._heard
        if since < limit:
            return None
        return f"Ray's control service at {self._where} has not answered for {since:.0f} s"


class Cluster:
    """See the module. Use `connect`, or `begin` early and `ready` when Ray is needed.

    Args:
        address: Of a running cluster ("auto" finds one on this machine); None starts a Ray of
            its own here, whatever else runs on this machine.
        notify: Gets a line for whatever takes long.
        stop: Set by whoever wants a clean stop.
        log: Where Ray's words go until the end; None leaves stderr as it is.
        cpus: Of a Ray that is started here; None for those of this machine.
        dashboard: Whether a Ray that is started here gets one, see `open_dashboard`.
        limits: How long is waited for what.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        notify: Callable[[str], None] = lambda text: None,
        stop: threading.Event | None = None,
        log: Path | None = None,
        cpus: int | None = None,
        dashboard: bool = False,
        limits: Limits | None = None,
    ) -> None:
        self.address = None if address == "local" else address
        self._notify, self._stop = notify, stop or threading.Event()
        self._wanted_log = log
        self._cpus, self._dashboard = cpus, dashboard
        self._limits = limits or Limits()
        self._chatter: Chatter | None = None
        self._before: set[int] = set()
        self._family: dict[int, psutil.Process] = {}
        self._thread: RayThread | None = None
        self._began = time.monotonic()
        self._over = threading.Event()
        self._lost: str | None = None
        self._leaving: dict[str, Leaving] = {}
        self._standing = False

    @property
    def log(self) -> Path | None:
        """The file that has Ray's words; None when they go to stderr."""
        return self._chatter.log if self._chatter else None

    # -- start ---------------------------------------------------------------------------------

    def begin(self) -> Cluster:
        """Start or join Ray in the background.

        Raises:
            VesselflowError: This process is connected to a Ray already.
        """
        if ray.is_initialized():
            raise VesselflowError(
                "this process is connected to a Ray already; ray.shutdown() first, or start the "
                "sweep from another process"
            )
        settle_environment()
        if self._wanted_log is not None:
            self._chatter = Chatter(self._wanted_log)
        self._before = {child.pid for child in psutil.Process().children(recursive=True)}
        self._began = time.monotonic()
        named = os.environ.get(ADDRESS)
        if self.address is None:
            if named:
                self._notify(
                    f"{ADDRESS}={named} is ignored: without --address Ray is started on this "
                    "machine; --address auto joins that cluster"
                )
            self._notify("starting Ray")
        else:
            self._notify(f"connecting to Ray at {self.address}")
        self._start_thread()
        return self

    def started(self) -> bool:
        """Whether Ray is there, or failed to come up: `ready` will not wait."""
        return self._thread is not None and self._thread.is_ready.is_set()

    def ready(self) -> None:
        """Wait until Ray is there.

        Raises:
            Stopped: A clean stop was asked for meanwhile.
            UserError: There is no such cluster, or it is none that this process can join.
            VesselflowError: Ray could not be started, in two tries.
        """
        assert self._thread is not None, "begin() comes first"
        try:
            self._wait()
        except TryAgain as first:
            self._notify(f"Ray did not come up ({_first_line(first)}); trying once more")
            self._kill_family()
            self._start_thread()
            try:
                self._wait()
            except TryAgain as second:
                raise self._not_started(second) from second
        if self._thread.dashboard_url:
            self._notify(f"Ray dashboard: http://{self._thread.dashboard_url}")
        take_signals_back()
        threading.Thread(target=self._watch, name="ray-health", daemon=True).start()

    def _start_thread(self) -> None:
        self._thread = RayThread(self._join if self.address else self._start)
        self._thread.start()

    def _wait(self) -> None:
        thread = self._thread
        assert thread is not None
        verb = "starting Ray" if self.address is None else f"connecting to Ray at {self.address}"
        began = time.monotonic()
        told = began
        while not thread.is_ready.wait(0.05):
            if self._stop.is_set():
                raise Stopped("stopped while Ray was starting")
            now = time.monotonic()
            if now - told >= self._limits.tell:
                told = now
                self._notify(f"{verb}, {now - self._began:.0f} s")
            if now - began > self._limits.start:
                raise self._not_started(TimeoutError(f"no answer in {now - began:.0f} s"))
        error = thread.error
        if error is None:
            return
        traceback.print_exception(error)  # Into the log: the person gets one line.
        if isinstance(error, VesselflowError):
            raise error
        if self.address is None and may_pass(error):
            raise TryAgain(str(error)) from error
        raise self._not_started(error) from error

    def _not_started(self, error: BaseException) -> VesselflowError:
        kind = "" if isinstance(error, TryAgain) else f"{type(error).__name__}: "
        did = "be started" if self.address is None else f"be reached at {self.address}"
        return VesselflowError(f"Ray could not {did} ({kind}{_first_line(error)}){self._told()}")

    def _told(self) -> str:
        return f"; what Ray said stands in {self.log}" if self.log else ""

    def _start(self) -> Any:
        cpus = cpus_here() if self._cpus is None else self._cpus
        with without(ADDRESS), patient(STARTUP_WAIT_S, self._broken_child), no_dashboard():
            return ray.init(
                address="local",
                num_cpus=cpus,
                include_dashboard=False,
                namespace=NAMESPACE,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )

    def _join(self) -> Any:
        assert self.address is not None
        address = reachable(self.address, self._limits.answer)
        return ray.init(
            address=address,
            namespace=NAMESPACE,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": quiet_environment()},
        )

    def _broken_child(self) -> str | None:
        """A process of a Ray that is starting here, and that ended already."""
        for child in self._children():
            with contextlib.suppress(psutil.Error):
                name = child.name()
                if name in ("raylet", "gcs_server") and child.status() == psutil.STATUS_ZOMBIE:
                    return name
        return None

    def open_dashboard(self) -> None:
        """Start the dashboard in the background, once, and say where it is.

        Not a part of `ready`: it would be waited for (2 s), and its processes want CPUs at the very
        moment at which the slots do.
        """
        if self._thread is None or self.address is not None or not self._dashboard:
            return
        self._dashboard = False

        def start() -> None:
            self._notify(f"Ray dashboard: http://{start_dashboard()}")

        self._thread.do(start)

    # -- health --------------------------------------------------------------------------------

    def lost(self) -> str | None:
        """What of the cluster was lost, in one line that names the log; None while it lives."""
        return self._lost

    def check(self) -> None:
        """Raise `ClusterLost` when the cluster is lost."""
        if self._lost is not None:
            raise ClusterLost(self._lost)

    def explained(self, error: BaseException, *, wait_s: float = 5.0) -> VesselflowError:
        """The one line for an error of Ray's: what was lost, as soon as that is known.

        Args:
            error: What Ray raised.
            wait_s: Ray's calls may fail a moment before the reason is seen.
        """
        deadline = time.monotonic() + wait_s
        while self._lost is None and time.monotonic() < deadline:
            time.sleep(0.05)
        if self._lost is not None:
            return ClusterLost(self._lost)
        traceback.print_exception(error)
        what = f"{type(error).__name__}: {_first_line(error)}"
        return ClusterLost(f"Ray failed ({what}){self._told()}")

    def attend(self, work: Callable[[], _T], *, stoppable: bool = True) -> _T:
        """Do what may block (calls of Ray) in a thread, and stay open to a stop and to a loss.

        Args:
            work: What is to be done.
            stoppable: Whether a clean stop ends the wait; a loss does in any case.

        Raises:
            Stopped: A clean stop was asked for; the work is left to itself.
            ClusterLost: The cluster went away meanwhile.
            BaseException: What the work raises.
        """
        done = threading.Event()
        found: list[_T] = []
        failed: list[BaseException] = []

        def run() -> None:
            try:
                found.append(work())
            except BaseException as error:
                failed.append(error)
            finally:
                done.set()

        threading.Thread(target=run, name="attended", daemon=True).start()
        wait_s = 0.0
        # Looked at once even when the work is quick: a loop of such calls must end, too.
        while True:
            if stoppable and self._stop.is_set():
                raise Stopped("stopped before the first run began")
            self.check()
            if done.wait(wait_s):
                break
            wait_s = 0.05
        if failed:
            error = failed[0]
            raise self.explained(error) if isinstance(error, ray.exceptions.RayError) else error
        return found[0]

    def _watch(self) -> None:
        """The body of the health thread: processes every second, questions every three."""
        where, node, mine = self._facts()
        pulse = Pulse(where, time.monotonic(), self._limits)
        for beat in range(1 << 62):
            if self._over.wait(1.0):
                return
            gone = next((name for name, ended in mine if ended()), None)
            what = f"Ray's {gone} ended" if gone else None
            if what is None and beat % 3 == 0:
                self._remember_family()
                answer = ask(where, node, self._limits.answer)
                what = pulse.take(answer, time.monotonic())
            if what is not None and not self._over.is_set():
                self._lost = f"{what}{self._told()}"
                return

    def _facts(self) -> tuple[str, bytes, list[tuple[str, Callable[[], bool]]]]:
        """The control service's address, this driver's node, and processes that must live."""
        node = ray._private.worker._global_node
        node_id = bytes.fromhex(ray.get_runtime_context().get_node_id())
        mine: list[tuple[str, Callable[[], bool]]] = []
        for kind, name in (
            (ray_constants.PROCESS_TYPE_GCS_SERVER, "control service (gcs_server)"),
            (ray_constants.PROCESS_TYPE_RAYLET, "node manager on this machine (raylet)"),
        ):
            for entry in node.all_processes.get(kind, ()):
                mine.append((name, _ended(entry.process)))
        if not mine:
            raylet = _raylet_here(node.raylet_socket_name)
            if raylet is not None:
                mine.append(("node manager on this machine (raylet)", lambda: _gone(raylet)))
        return str(node.gcs_address), node_id, mine

    # -- facts ---------------------------------------------------------------------------------

    def nodes(self) -> list[Node]:
        """The machines that can take work: alive, and not about to leave; the head first.

        Raises:
            ClusterLost: The control service, which is asked, is gone.
        """
        return list(self.machines().nodes)

    def machines(self) -> Seen:
        """The machines that can take work, and those that are about to leave.

        Raises:
            ClusterLost: The control service, which is asked, is gone.
        """
        # Such a call waits for a dead control service until Ray ends the process.
        alive, leaving = self.attend(lambda: _alive(self._leaving), stoppable=False)
        return Seen([as_node(entry) for entry in alive], leaving)

    def release(self, node: str, why: str) -> None:
        """Drain a machine: its work goes elsewhere, and then it ends.

        Raises:
            ClusterLost: The control service, which is asked, is gone.
        """
        self.attend(lambda: drain(internal_kv_get_gcs_client(), node, why, None), stoppable=False)

    # -- end -----------------------------------------------------------------------------------

    def let_go(self) -> None:
        """Begin to end Ray, when nothing is asked of it any more; `end` then waits less."""
        self._over.set()
        if self._thread is not None and self._lost is None:
            self._thread.let_go(self._limits.end)

    def leave_standing(self) -> None:
        """Let Ray end with this process: a thread waits for it that cannot be ended.

        Ray's C++ ends a process, with 1, of which a thread asks something after `ray.shutdown`.
        """
        self._over.set()
        self._standing = True

    def end(self) -> None:
        """End Ray (one that was joined is left); returns within `Limits.end`, also when lost.

        After a loss stderr stays in the log: Ray's threads go on complaining until the process
        ends. Whoever has a last line to say uses stdout, and `os._exit`.
        """
        self._over.set()
        thread, self._thread = self._thread, None
        if self._standing:
            if self._chatter is not None:
                self._chatter.end()
            return
        orderly = thread is not None and self._lost is None and thread.leave(self._limits.end)
        if not orderly and self.address is None:
            self._kill_family()
        if self._chatter is not None and self._lost is None:
            self._chatter.end()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def _children(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.Error):
            children = psutil.Process().children(recursive=True)
            return [child for child in children if child.pid not in self._before]
        return []

    def _remember_family(self) -> None:
        """Workers lose their parent when a raylet is killed; those seen before are known still."""
        if self.address is None:
            self._family = {child.pid: child for child in self._children()}

    def _kill_family(self) -> None:
        family = {**self._family, **{child.pid: child for child in self._children()}}
        for process in family.values():
            with contextlib.suppress(psutil.Error):
                process.kill()  # psutil looks whether the id is still that process.
        psutil.wait_procs(list(family.values()), timeout=3)


@contextlib.contextmanager
def connect(address: str | None = None, **options: Any) -> Iterator[Cluster]:
    """A Ray that is ready, for the time of a block; arguments and errors are those of `Cluster`."""
    with Cluster(address, **options) as cluster:
        cluster.begin().ready()
        yield cluster


def take_signals_back() -> None:
    """Let SIGTERM and Ctrl-C reach Python's handlers again.

    A driver's C++ core puts its own handler over SIGTERM, which writes a stack trace and aborts.
    """
    if threading.current_thread() is not threading.main_thread():
        return  # Only the main thread may; it keeps what it has.
    for number in (signal.SIGTERM, signal.SIGINT):
        handler = signal.getsignal(number)
        if handler is not None:
            signal.signal(number, handler)


# -- processes and nodes -------------------------------------------------------------------------


def _ended(process: Any) -> Callable[[], bool]:
    return lambda: process.poll() is not None


def _raylet_here(socket_name: str) -> psutil.Process | None:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if f"--raylet_socket_name={socket_name}" in process.cmdline():
                return process
    return None


def _gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _alive(known: dict[str, Leaving]) -> tuple[list[dict[str, Any]], dict[str, Leaving]]:
    draining = ray._private.state.state.get_draining_nodes()
    alive = [entry for entry in ray.nodes() if entry["Alive"]]
    stay = [entry for entry in alive if entry["NodeID"] not in draining]
    stay.sort(key=lambda entry: (HEAD not in entry["Resources"], entry["NodeID"]))
    return stay, leaving_nodes(alive, draining, known)


def as_node(entry: dict[str, Any]) -> Node:
    """A node as `ray.nodes()` describes it."""
    resources = entry["Resources"]
    return Node(
        cpus=float(resources.get("CPU", 0.0)),
        gpus=float(resources.get("GPU", 0.0)),
        memory=int(resources.get("memory", 0)),
        object_store=int(resources.get("object_store_memory", 0)),
        name=entry["NodeID"],
        market=next((market for market in (SPOT, ON_DEMAND) if resources.get(market)), ""),
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].strip().rstrip(".") if lines else type(error).__name__
