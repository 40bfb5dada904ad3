"""What sweeps ask Ray's autoscaler for: kept together, and let go when a sweep is gone.

`request_resources` has one slot for a whole cluster, which outlives whoever filled it. So one small
actor on the head keeps what each sweep asks for, passes on the sum, forgets a sweep that it has not
heard of for a while (killed with -9, say: its machines would cost money for ever), and ends with
the last of them.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply
from ray.experimental.internal_kv import internal_kv_get_gcs_client

from vesselflow import __version__
from vesselflow.sweeps.wishes import Answer

#: Seconds between two words of a sweep (while it waits for an answer), and those after which one
#: that is silent is forgotten.
SAY_S, ASK_S, FORGET_S = 3.0, 1.0, 60.0
#: Resources and how many bundles of them: picklable, and shorter than a list of bundles.
Wanted = tuple[tuple[tuple[tuple[str, float], ...], int], ...]


def counted(bundles: Sequence[Mapping[str, float]]) -> Wanted:
    """Equal bundles together."""
    return tuple(sorted(Counter(tuple(sorted(bundle.items())) for bundle in bundles).items()))


class Keeper:
    """See the module; an actor without CPUs, under a name that all sweeps of a cluster know.

    Args:
        request: Passes bundles on to the autoscaler.
        status: What the autoscaler says: (number of its latest look, `Answer` at that look).
        clock: Monotonic seconds.
        end: Ends this actor.
    """

    def __init__(
        self,
        request: Callable[[list[dict[str, float]]], int] | None = None,
        status: Callable[[], tuple[int, Answer]] | None = None,
        clock: Callable[[], float] = time.monotonic,
        end: Callable[[], None] | None = None,
    ) -> None:
        self._request, self._status = request or _request, status or _status
        self._clock, self._end = clock, end or ray.actor.exit_actor
        self._asks: dict[str, tuple[Wanted, float]] = {}
        self._sum: Counter[tuple[tuple[str, float], ...]] = Counter()
        self._passed_at = 0
        self._lock = threading.Lock()
        if end is None:
            threading.Thread(target=self._watch, daemon=True, name="keeper").start()

    def ask(self, who: str, wanted: Wanted) -> Answer:
        """What a sweep wants from now on, to be said again every so often.

        Returns:
            What the autoscaler says to all that is wanted; `granted` is None while it has not
            looked at it.
        """
        with self._lock:
            self._asks[who] = (wanted, self._clock())
            self._settle()
            seen, answer = self._status()
            # Its look must have begun after the request was passed on.
            known = seen > self._passed_at
            return Answer(answer.granted if known else None, answer.pending, answer.failed)

    def leave(self, who: str = "") -> None:
        """A sweep ends (or, with "", time has passed); the last one ends this actor."""
        with self._lock:
            self._asks.pop(who, None)
            self._settle()
            over = not self._asks
        if over:
            self._end()

    def _watch(self) -> None:
        """Forget those that are silent. By a call: only within one may an actor end itself."""
        while True:
            time.sleep(FORGET_S / 4)
            ray.get_runtime_context().current_actor.leave.remote()

    def _settle(self) -> None:
        now = self._clock()
        for name, (_, heard) in list(self._asks.items()):
            if now - heard > FORGET_S:
                del self._asks[name]
        total: Counter[tuple[tuple[str, float], ...]] = Counter()
        for wanted, _ in self._asks.values():
            total.update(dict(wanted))
        if total != self._sum:
            bundles = [dict(bundle) for bundle in total.elements()]
            self._passed_at, self._sum = self._request(bundles), total


class Asking:
    """A sweep's side: says what is wanted, and waits for nothing.

    Args:
        who: Name of the sweep, its driver's own.
        keeper: The actor; started when something is first wanted.
        clock: Monotonic seconds.

    Attributes:
        answer: The latest, to what is wanted now.
    """

    def __init__(
        self,
        who: str,
        keeper: Callable[[], Any],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._who, self._make, self._clock = who, keeper, clock
        self._keeper: Any = None
        self._wanted: Wanted = ()
        self._said: Any = None
        self._said_of: Wanted = ()
        self._next = 0.0
        self.answer = Answer()

    @property
    def begun(self) -> bool:
        """Whether something was wanted yet."""
        return self._keeper is not None

    def want(self, bundles: Sequence[Mapping[str, float]]) -> None:
        """What is wanted from now on; called again and again."""
        wanted = counted(bundles)
        if wanted != self._wanted:
            self._wanted, self._next = wanted, 0.0
            self.answer = Answer(None, self.answer.pending, self.answer.failed)
        self._hear()
        if self._said is None and self._clock() >= self._next and (wanted or self._keeper):
            with contextlib.suppress(ray.exceptions.RayError, ValueError):
                self._keeper = self._keeper or self._make()
                self._said, self._said_of = self._keeper.ask.remote(self._who, wanted), wanted
            self._next = self._clock() + (SAY_S if self.answer.granted is not None else ASK_S)

    def leave(self, within_s: float) -> None:
        """Want nothing any more."""
        if self._keeper is not None:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.get(self._keeper.leave.remote(self._who), timeout=within_s)
            self._keeper = None

    def _hear(self) -> None:
        if self._said is None or not ray.wait([self._said], timeout=0)[0]:
            return
        try:
            answer: Answer = ray.get(self._said)
        except ray.exceptions.RayError:
            self._keeper = None  # It ended with another sweep, or with the head: a new one is made.
        else:
            if self._said_of == self._wanted:
                self.answer = answer
        self._said = None


def keeper(namespace: str, head: str) -> Any:
    """The keeper of this cluster; the first sweep starts it.

    Args:
        namespace: Of Ray, in which its name is known.
        head: A resource that the head alone has.
    """
    actor = (
        ray.remote(Keeper)
        .options(
            name=f"autoscaler-keeper-{__version__}",
            namespace=namespace,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            resources={head: 0.001},
            max_concurrency=4,
        )
        .remote()
    )
    return actor


def _request(bundles: list[dict[str, float]]) -> int:
    from ray.autoscaler.sdk import request_resources

    request_resources(bundles=bundles)
    return int(_reply().cluster_resource_state.cluster_resource_state_version)


def _status() -> tuple[int, Answer]:
    from ray.autoscaler.v2.utils import is_autoscaler_v2

    if not is_autoscaler_v2():
        # Version 1 grants what it can of a request, and does not say what it cannot.
        return 1 << 62, Answer(True)
    state = _reply().autoscaling_state
    pending: Counter[str] = Counter()
    for request in state.pending_instance_requests:
        pending[request.ray_node_type_name] += request.count
    for instance in state.pending_instances:
        pending[instance.ray_node_type_name] += 1
    failed = {entry.ray_node_type_name: entry.reason for entry in state.failed_instance_requests}
    granted = not state.infeasible_cluster_resource_constraints
    return state.last_seen_cluster_resource_state_version, Answer(granted, dict(pending), failed)


def _reply() -> GetClusterStatusReply:
    reply = GetClusterStatusReply()
    reply.ParseFromString(internal_kv_get_gcs_client().get_cluster_status(timeout_s=5))
    return reply
