"""What the runs of a sweep read: brought to the slots once, by the driver."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from vesselflow.feed.batches import StorePath, resident_bytes
from vesselflow.feed.ray_data import Handles, Needed
from vesselflow.feed.ray_resident import SMALL_BYTES, Resident, hold, materialise, read_small
from vesselflow.feed.ray_stream import NodeRoom, Streamed, choose, streamed
from vesselflow.feed.view import image_view
from vesselflow.runs.cells import Job
from vesselflow.runs.specs import domain_view, view_of
from vesselflow.stores.store import Store
from vesselflow.sweeps.planning import Prepared


class Reading:
    """Gives the handles of everything that some runs need.

    Args:
        prepared: The sweep.
        jobs: Its runs that are missing.
        notify: Gets a line for whatever takes long.
    """

    def __init__(
        self, prepared: Prepared, jobs: Sequence[Job], notify: Callable[[str], None]
    ) -> None:
        self._paths = {name: facts.path.resolve() for name, facts in prepared.stores.items()}
        self._way = prepared.space.resources.feed
        self._notify = notify
        self._needed = _needed(jobs)
        self._small: dict[Needed, pa.Table] = {}

    def read_small(self, stop: threading.Event) -> None:
        """Read what is small into this process; Ray need not be there.

        Args:
            stop: Ends it between two stores.

        Raises:
            UserError: A store cannot be read, or gives not one sample.
        """
        if self._way == "stream":
            return
        self._notify("reading small stores")
        left = SMALL_BYTES
        for needed in self._needed:
            if stop.is_set():
                return
            kind, name, view = needed
            table = read_small(self._paths[name], view, kind, left)
            if table is not None:
                self._small[needed] = table
                left -= table.nbytes

    def in_place(self) -> list[str]:
        """Names of the stores that tasks or slots will open, on whatever machine they are."""
        return list(dict.fromkeys(need[1] for need in self._needed if need not in self._small))

    def handles(self, rooms: Sequence[NodeRoom], shared: Mapping[str, StorePath]) -> Handles:
        """One handle for everything that is needed; Ray must be there.

        What fits into the object store is read into it once, for all slots; the rest is streamed.

        Args:
            rooms: Those of the nodes that train.
            shared: The stores of `in_place`, by name, as every machine opens them.

        Raises:
            UserError: A store cannot be read, or gives not one sample.
        """
        handles: dict[Needed, Resident[Any] | Streamed] = {}
        taken = 0
        for needed in self._needed:
            kind, name, view = needed
            path = shared.get(name, self._paths[name])
            with Store.open(self._paths[name]) as store:
                need = resident_bytes(store, view) * (2 if kind == "images" else 1)
            way = choose(need + taken, rooms) if self._way == "auto" else self._way
            if way == "stream":
                self._notify(f"store '{name}' ({kind}) is streamed: {need / 1e9:.1f} GB")
                handles[needed] = streamed(path, view, kind)
                continue
            if needed in self._small:
                resident = hold(self._small.pop(needed), kind)
            else:
                self._notify(f"reading store '{name}' ({kind}) into shared memory")
                resident = materialise(path, view, kind)
            handles[needed] = resident
            taken += resident.nbytes
        self._small.clear()
        return handles


def _needed(jobs: Sequence[Job]) -> list[Needed]:
    """Every (kind, store, view) that runs need, once."""
    needed: dict[Needed, None] = {}
    for job in jobs:
        experiment, stride = job.run.experiment, job.run.task.stride
        for store in experiment.trained_on:
            needed["samples", store, view_of(experiment, store, stride)] = None
        for domain in (job.validation, *(each.domain for each in job.evaluations)):
            view = image_view(domain_view(experiment, domain, stride))
            needed["images", domain.store, view] = None
    return list(needed)


class Beside:
    """Does something beside the driver's loop, which so stays open to Ctrl-C.

    Args:
        work: What to do; its result is taken once.
    """

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work
        self._result: list[Any] = []
        self._error: BaseException | None = None
        self._taken = False
        self._thread = threading.Thread(target=self._run, daemon=True, name="reader")
        self._thread.start()

    def ready(self) -> bool:
        """Whether there is a result that nobody has taken; raises what the work raised."""
        if self._thread.is_alive():
            return False
        if self._error is not None:
            raise self._error
        return not self._taken

    def take(self) -> Any:
        """The result."""
        self._taken = True
        return self._result[0]

    def _run(self) -> None:
        try:
            self._result.append(self._work())
        except BaseException as error:
            self._error = error
