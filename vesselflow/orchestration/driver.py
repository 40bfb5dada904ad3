"""The driver of a sweep: cluster, data, broker, slots, trials, tables."""

from __future__ import annotations

import contextlib
import math
import os
import pickle
import shutil
import socket
import statistics
import threading
import time
from typing import Any, Literal

import psutil
import ray

from vesselflow.config.fingerprint import digest
from vesselflow.errors import VesselflowError
from vesselflow.evaluation.long_tables import point_scores, write_tables
from vesselflow.feed.batches import resident_bytes
from vesselflow.feed.ray_resident import Resident, materialise
from vesselflow.feed.ray_stream import Streamed, choose
from vesselflow.feed.view import View
from vesselflow.orchestration.broker import Broker
from vesselflow.orchestration.cluster import NAMESPACE, Cluster
from vesselflow.orchestration.slots import (
    Handles,
    SlotConfig,
    Slots,
    image_view,
)
from vesselflow.orchestration.study import categories, enqueue, open_storage, open_study
from vesselflow.orchestration.tuner import run_trials
from vesselflow.runs import cells
from vesselflow.runs.specs import view_of
from vesselflow.stores.store import Store
from vesselflow.sweeps.book import Job
from vesselflow.sweeps.capacity import Plan, make_plan
from vesselflow.sweeps.outcome import Failure, Outcome, Watch
from vesselflow.sweeps.prepare import Prepared
from vesselflow.sweeps.progress import Best, Progress, eta

#: In a sweep's folder: what Ray said.
LOG = "driver.log"
#: Seconds between two looks at the broker.
LOOK_S = 0.5


def run_sweep(prepared: Prepared, watch: Watch, *, address: str | None = None) -> Outcome:
    """Bring every run that is missing to its end, and write the tables.

    Args:
        prepared: The sweep.
        watch: Who looks on.
        address: Of a Ray cluster; None starts one on this machine.

    Raises:
        VesselflowError: No slot could be kept alive.
    """
    outcome = Outcome()
    missing = prepared.jobs()
    if missing:
        _Driver(prepared, missing, watch, outcome).run(address)
        prepared.rescore()
    outcome.failures = [
        Failure(row.cell.label, row.message) for row in prepared.scored if row.state == "failed"
    ]
    write_tables(prepared.folder / "tables", prepared.scored, prepared.results, prepared.objective)
    return outcome


class _Driver:
    def __init__(
        self, prepared: Prepared, missing: list[cells.Job], watch: Watch, outcome: Outcome
    ) -> None:
        self.prepared, self.missing, self.watch, self.outcome = prepared, missing, watch, outcome
        self.began = time.monotonic()
        self.first_step_at: float | None = None
        self.objective = prepared.objective
        self.values = point_scores(prepared.scored, self.objective)
        self.messages: list[str] = []
        self.seen = 0
        self.jobs: dict[str, Job] = {job.run.run_id: self._job(job) for job in missing}
        self.run_values: dict[tuple[str, str], float] = {
            (row.cell.point, row.cell.run.run_id): row.value
            for row in prepared.scored
            if row.complete
        }

    def _job(self, job: cells.Job) -> Job:
        spec, train = job.run, job.run.experiment.train
        # With patches the true number is known once the samples are; the first beat mends it.
        per_step = train.micro_batch_size * train.micro_batches_per_step
        per_epoch = train.steps_per_epoch or -(-len(spec.train) // per_step)
        return Job(
            run_id=spec.run_id,
            label=spec.label,
            payload=pickle.dumps(job),
            epochs=train.epochs,
            steps=train.epochs * per_epoch,
        )

    # -- phases --------------------------------------------------------------------------------

    def run(self, address: str | None) -> None:
        with Cluster(
            address,
            notify=self.watch.notify,
            stop=self.watch.stop,
            log=self.prepared.folder / LOG,
            dashboard=_dashboard_wanted(),
        ) as self.cluster:
            try:
                with self._phase("cluster"):
                    self.cluster.begin().ready()
                if self.cluster.dashboard_url:
                    self.watch.notify(f"Ray dashboard: http://{self.cluster.dashboard_url}")
                plan = self._plan(can_grow=address is not None)
                self.watch.notify(f"plan: {plan.describe()}")
                with self._phase("data"):
                    handles = self.cluster.attend(self._handles)
                self._serve(plan, handles)
            except ray.exceptions.RayError as error:
                raise self.cluster.explained(error) from error

    @contextlib.contextmanager
    def _phase(self, name: str) -> Any:
        began = time.perf_counter()
        yield
        self.outcome.seconds[name] = time.perf_counter() - began

    def _plan(self, *, can_grow: bool) -> Plan:
        space = self.prepared.space
        wanted = space.resources
        return make_plan(
            self.cluster.nodes(),
            slots=wanted.slots,
            workers=wanted.workers,
            threads=wanted.threads,
            gpu=wanted.gpu,
            runs=len(self.missing),
            runs_per_point=max(1, len(self.prepared.cells) // len(self.prepared.expansion.points)),
            micro_batches_per_step=min(
                job.run.experiment.train.micro_batches_per_step for job in self.missing
            ),
            can_grow=can_grow,
            where=self.prepared.file.name,
        )

    def _handles(self) -> Handles:
        """One handle for every (kind, store, view) that the missing runs need.

        What fits into the object store is read into it once, for all slots; the rest is streamed.
        """
        wanted: dict[tuple[Literal["samples", "images"], str, View], None] = {}
        for job in self.missing:
            view = view_of(job.run.experiment)
            wanted["samples", job.run.experiment.data.train, view] = None
            for domain in (job.validation, *(each.domain for each in job.evaluations)):
                wanted["images", domain.store, image_view(view)] = None
        handles: dict[tuple[str, str, View], Resident | Streamed] = {}
        free = min(node.object_store for node in self.cluster.nodes())
        for kind, name, view in wanted:
            path = self.prepared.stores[name].path.resolve()
            with Store.open(path) as store:
                need = resident_bytes(store, view) * (2 if kind == "images" else 1)
            way = self.prepared.space.resources.feed
            if way == "auto":
                way = choose(need, free)
            if way == "stream":
                self.watch.notify(f"store '{name}' ({kind}) is streamed: {need / 1e9:.1f} GB")
                handles[kind, name, view] = Streamed(str(path), view, kind)
                continue
            self.watch.notify(f"reading store '{name}' ({kind}) into shared memory")
            resident = materialise(path, view, kind)
            handles[kind, name, view] = resident
            free -= resident.nbytes
        return handles

    def _serve(self, plan: Plan, handles: Handles) -> None:
        prepared, space = self.prepared, self.prepared.space
        scratch = prepared.folder / ".ray"
        shutil.rmtree(scratch, ignore_errors=True)
        name = f"broker-{prepared.folder.name}-{os.getpid()}"
        broker = (
            ray.remote(Broker)
            .options(name=name, num_cpus=0, max_concurrency=64 + 4 * plan.slots)
            .remote(str(prepared.results.resolve()), owner(), space.resources.retries)
        )
        points = self._register(broker)
        config = SlotConfig(
            slot="",
            broker=name,
            namespace=NAMESPACE,
            results=str(prepared.results.resolve()),
            threads=plan.threads,
            gpu=plan.gpu,
            handles=handles,
            memory_gb=space.resources.memory_gb,
        )
        storage = open_storage(prepared.folder / "study.journal")
        # Optuna refuses other values of a category in a study that has begun: another grid is
        # another study in the same journal, which finished points enter directly.
        # So is another objective, whose values are not to be compared with these.
        chosen_by = [self.objective.metric, self.objective.direction, self.objective.reduction]
        axes = digest([categories(prepared.expansion.points), chosen_by], 8)
        study = f"vesselflow-{prepared.folder.name}-{axes}"
        opened = open_study(
            storage, study, prepared.expansion.points, self.values, self.objective.direction
        )
        enqueue(opened, points)
        slots = Slots(
            plan,
            config,
            (scratch / "train").resolve(),
            gone=lambda slot: ray.get(broker.slot_gone.remote(slot)),
            closed=lambda: ray.get(broker.closed.remote()),
        )
        failure: list[BaseException] = []

        def tune_points() -> None:
            try:
                run_trials(
                    points,
                    every=prepared.expansion.points,
                    storage=storage,
                    study_name=study,
                    relays=plan.relays,
                    folder=(scratch / "tune").resolve(),
                    constants={
                        "broker": name,
                        "namespace": NAMESPACE,
                        "objective": self.objective,
                    },
                )
            except BaseException as error:
                failure.append(error)

        tuner = threading.Thread(target=tune_points, daemon=True)
        tuner.start()
        try:
            with self._phase("runs"):
                self._watch(broker, slots, tuner)
        finally:
            # Of a cluster that is lost nothing can be asked, and its calls may hang.
            if self.cluster.lost() is None:
                with contextlib.suppress(ray.exceptions.RayError):
                    ray.get(broker.close.remote())
                with self._phase("close"):
                    slots.join(timeout_s=30)
                    with contextlib.suppress(ray.exceptions.RayError):
                        ray.get(broker.release.remote())
        if failure and not self.outcome.stopped:
            raise VesselflowError(f"the trials ended early: {failure[0]}") from failure[0]
        shutil.rmtree(scratch, ignore_errors=True)

    def _register(self, broker: Any) -> list[Any]:
        """Tell the broker which runs each point needs; return the points that need any."""
        jobs: dict[str, list[Job]] = {}
        known: dict[str, dict[str, float]] = {}
        for job in self.missing:
            for point in job.points:
                jobs.setdefault(point, []).append(self.jobs[job.run.run_id])
        for row in self.prepared.scored:
            if row.complete:
                known.setdefault(row.cell.point, {})[row.cell.run.run_id] = row.value
        ray.get(broker.register.remote(jobs, known))
        return [point for point in self.prepared.expansion.points if point.name in jobs]

    # -- watching ------------------------------------------------------------------------------

    def _watch(self, broker: Any, slots: Slots, tuner: threading.Thread) -> None:
        asked = False
        while True:
            self.cluster.check()
            state = ray.get(broker.snapshot.remote(self.seen))
            self._take(state)
            self.watch.progress(self._progress(state))
            if self.watch.stop.is_set() and not asked:
                asked = True
                ray.get(broker.stop.remote())
            if asked and not slots.alive:
                self.outcome.stopped = state["outstanding"] > 0 or self._unsubmitted(state)
                return
            if not asked and not tuner.is_alive():
                return
            if not asked and not slots.alive:
                raise VesselflowError(
                    "every slot ended: " + ("; ".join(slots.errors) or "no reason was given")
                )
            self.watch.stop.wait(LOOK_S) if not asked else time.sleep(LOOK_S)

    def _unsubmitted(self, state: dict[str, Any]) -> bool:
        return state["finished"] + state["failed"] < len(self.jobs)

    def _take(self, state: dict[str, Any]) -> None:
        self.seen = state["seen"]
        for event in state["events"]:
            if event["type"] == "finished":
                self.outcome.trained += 1
                for point, value in event["values"].items():
                    self.run_values[point, event["run_id"]] = value
                    self._point_value(point)
            elif event["type"] == "message":
                self.messages.append(event["text"])
            self.watch.event(event)

    def _point_value(self, point: str) -> None:
        value = self.objective.reduce(
            self.run_values.get((point, cell.run.run_id), math.nan)
            for cell in self.prepared.cells
            if cell.point == point
        )
        if not math.isnan(value):
            self.values[point] = value

    def _progress(self, state: dict[str, Any]) -> Progress:
        prepared = self.prepared
        now = time.monotonic()
        total = len({cell.run.run_id for cell in prepared.cells})
        reused = total - len(self.missing)
        steps_total = sum(job.steps for job in self.jobs.values())
        if state["steps_done"] > 0 and self.first_step_at is None:
            self.first_step_at = now
        stepping_s = now - (self.first_step_at or now)
        best = self.objective.best(self.values)
        return Progress(
            sweep=prepared.folder.name,
            points_total=len(prepared.expansion.points),
            points_done=len(self.values),
            runs_total=total,
            runs_done=reused + state["finished"],
            runs_running=state["running"],
            runs_failed=state["failed"],
            runs_reused=reused,
            steps_done=state["steps_done"],
            steps_total=steps_total,
            elapsed_s=now - self.began,
            eta_s=eta(state["steps_done"], steps_total, stepping_s),
            best=self._best(best),
            slots=state["slots"],
            messages=tuple(self.messages[-5:]),
            stopping=state["stopping"],
        )

    def _best(self, point: str | None) -> Best | None:
        if point is None:
            return None
        runs = [cell.run.run_id for cell in self.prepared.cells if cell.point == point]
        values = [self.run_values[point, run] for run in runs]
        spread = statistics.stdev(values) if len(values) > 1 else math.nan
        return Best(point, self.values[point], spread, len(values), self.objective.label)


def owner() -> dict[str, Any]:
    """Who this driver is, for leases: enough to tell whether it still lives."""
    process = psutil.Process()
    return {
        "host": socket.gethostname(),
        "pid": process.pid,
        "started": process.create_time(),
    }


def _dashboard_wanted() -> bool:
    return os.environ.get("VESSELFLOW_DASHBOARD", "1") != "0"
