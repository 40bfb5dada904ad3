"""The driver of a sweep: cluster, broker, slots, data, trials, tables."""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import pickle
import secrets
import shutil
import socket
import statistics
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vesselflow.clusters.prices import PriceList
from vesselflow.errors import VesselflowError
from vesselflow.evaluation.long_tables import point_scores
from vesselflow.feed.ray_data import Handles
from vesselflow.feed.ray_shared import SharedStore, StoreDesk, desk_files, shared_store
from vesselflow.feed.ray_stream import NodeRoom
from vesselflow.orchestration.autoscaler import Asking, keeper
from vesselflow.orchestration.broker import Broker, Snapshot
from vesselflow.orchestration.cluster import HEAD, NAMESPACE, Cluster
from vesselflow.orchestration.machines import Machines
from vesselflow.orchestration.reading import Beside, Reading
from vesselflow.orchestration.serving import SlotConfig
from vesselflow.orchestration.slots import Slots, kill_controllers, kill_processes, starter
from vesselflow.records.atomic import remove_abandoned
from vesselflow.records.cache import cache_folder
from vesselflow.records.drivers import Driver
from vesselflow.records.paths import AnyPath, BucketPath
from vesselflow.records.runs import RunRecord, tidy
from vesselflow.runs.cells import Job
from vesselflow.sweeps.book import Entry, JobState
from vesselflow.sweeps.budget import Budget
from vesselflow.sweeps.capacity import Node, SlotPlan, make_plan, workers_that_fit
from vesselflow.sweeps.events import Failed, Finished, Message, Started
from vesselflow.sweeps.outcome import Failure, Outcome, Stopped, Watch, conclude
from vesselflow.sweeps.planning import Prepared
from vesselflow.sweeps.progress import Best, Progress, eta
from vesselflow.sweeps.spending_file import SpendingFile
from vesselflow.sweeps.wishes import Wishes

if TYPE_CHECKING:
    from vesselflow.orchestration.study import Study

#: What the end of a sweep imports: the study and the tables.
_END_NEEDS = ("optuna", "pandas")
#: In a sweep's folder: what Ray said.
LOG = "driver.log"
#: Seconds between two looks at the broker, and between two looks at the machines: a notice may be
#: all of 30 s long.
LOOK_S, MACHINES_S = 0.5, 0.9
#: Runs that are handed to the broker in one call.
SUBMIT = 500
#: Seconds that the end of a sweep waits for slots, and for the last trials.
CLOSE_S = 15.0
#: Seconds that it waits for slots whose controllers it had to kill.
KILLED_S = 5.0
#: Seconds after the first run has begun at which trials begin to follow, and Ray's dashboard
#: starts; a sweep that is over by then needs neither: what is done enters the study directly.
ASIDE_S = 20.0
#: Seconds after which the dashboard starts though no run has begun: it may tell why.
DASHBOARD_S = 20.0
#: Messages that are kept for the live view.
MESSAGES = 50


def run_sweep(
    prepared: Prepared,
    watch: Watch,
    *,
    address: str | None = None,
    on_demand_after_s: float | None = None,
    budget: float | None = None,
) -> Outcome:
    """Bring every run that is missing to its end, and write the tables.

    Args:
        prepared: The sweep.
        watch: Who looks on.
        address: Of a Ray cluster; None starts one on this machine.
        on_demand_after_s: How long too few spot machines are borne before on-demand ones are asked
            for; None where the cluster's machines are of no market.
        budget: Dollars that the machines of this call may cost; None for no limit.

    Raises:
        VesselflowError: The cluster was lost, or no slot could be started.
    """
    outcome = Outcome()
    missing = prepared.jobs()
    if missing:
        driver = _Driver(prepared, missing, watch, outcome)
        driver.on_demand_after_s, driver.budget = on_demand_after_s, budget
        driver.run(address)
        return outcome
    return conclude(prepared, outcome, PriceList(prepared.space.prices))


class _Driver:
    def __init__(
        self, prepared: Prepared, missing: Sequence[Job], watch: Watch, outcome: Outcome
    ) -> None:
        self.prepared, self.missing, self.watch, self.outcome = prepared, missing, watch, outcome
        self.began = time.monotonic()
        self.started_at: float | None = None
        self.first_step_at: float | None = None
        self.objective = prepared.objective
        self.scores = point_scores(prepared.scored, self.objective)
        self.values: dict[str, dict[str, float]] = {}
        for row in prepared.scored:
            if row.complete:
                self.values.setdefault(row.cell.point, {})[row.cell.run.run_id] = row.value
        self.runs_of: dict[str, set[str]] = {}
        for cell in prepared.cells:
            self.runs_of.setdefault(cell.point, set()).add(cell.run.run_id)
        self.messages: list[str] = []
        self.seen = 0
        self.failed: dict[str, Failed] = {}
        self.can_grow = False
        self.on_demand_after_s: float | None = None
        self.budget: float | None = None
        self.ledger = SpendingFile(prepared.folder)
        self.scratch = Path()
        self.plan: SlotPlan | None = None
        self.reading = Reading(prepared, missing, watch.notify)
        self.broker: Any = None
        self.desk: Any = None
        self.shared: dict[str, SharedStore] = {}
        self.slots: Slots | None = None
        self.machines: Machines | None = None
        self.study: Study | None = None
        self.trials: threading.Thread | None = None
        self.trials_over = threading.Event()

    # -- phases --------------------------------------------------------------------------------

    def run(self, address: str | None) -> None:
        """The whole sweep, from Ray's start to its end."""
        self.can_grow = address is not None
        self.scratch = Path(tempfile.mkdtemp(prefix=f"vesselflow-{os.getpid()}-"))
        try:
            with Cluster(
                address,
                notify=self.watch.notify,
                stop=self.watch.stop,
                log=_log_file(self.prepared.folder),
                dashboard=_dashboard_wanted(),
            ) as self.cluster:
                try:
                    with self._phase("cluster"):
                        self.cluster.begin()
                        self._while_ray_starts()
                        self.cluster.ready()
                    self._serve()
                    if self._asks_ray():
                        self.cluster.leave_standing()
                    else:
                        # Nothing more is asked of Ray, which takes a second to end.
                        self.cluster.let_go()
                    self._conclude()
                except ray.exceptions.RayError as error:
                    raise self.cluster.explained(error) from error
        finally:
            _keep_log(self.prepared.folder)
            shutil.rmtree(self.scratch, ignore_errors=True)

    @contextlib.contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.outcome.seconds[name] = time.perf_counter() - began

    def _serve(self) -> None:
        self.plan = self._plan()
        self.watch.notify(f"plan: {self.plan.describe()}")
        self._start_broker()
        self._share_stores()
        self.slots = self._make_slots()
        self.machines = self._make_machines()
        # The slots' processes import what they need while the data are read.
        self.slots.reconcile(self.machines.turn(len(self.missing)))
        self._submit()
        reader = Beside(self._handles)
        threading.Thread(target=self._tidy, daemon=True, name="tidy").start()
        try:
            with self._phase("runs"):
                self._watch(reader)
        finally:
            if self.cluster.lost() is None:
                with self._phase("close"):
                    self._close()

    def _plan(self) -> SlotPlan:
        wanted = self.prepared.space.resources
        return make_plan(
            self.cluster.nodes(),
            slots=self.prepared.space.slot_range,
            workers=wanted.workers,
            threads=wanted.threads,
            gpu=wanted.gpu,
            runs=len(self.missing),
            runs_per_point=max(1, len(self.prepared.cells) // len(self.prepared.expansion.points)),
            micro_batches_per_step=min(
                job.run.experiment.train.micro_batches_per_step for job in self.missing
            ),
            can_grow=self.can_grow,
            where=self.prepared.file.name,
        )

    def _start_broker(self) -> None:
        prepared = self.prepared
        self.entry = Driver.begin(prepared.results.resolve(), owner())
        # Pid and a random word: two drivers of one sweep may share a cluster.
        self.broker_name = f"broker-{prepared.folder.name}-{os.getpid()}-{secrets.token_hex(4)}"
        self.broker = (
            ray.remote(Broker)
            .options(
                name=self.broker_name,
                num_cpus=0,
                # On the head: where it dies, the sweep has ended anyway.
                resources={HEAD: 0.001},
                max_concurrency=100_000,
            )
            .remote(
                str(prepared.results.resolve()),
                self.entry,
                prepared.space.resources.retries,
                self.objective.curve,
                pricing=PriceList(prepared.space.prices),
                budget=None if self.budget is None else Budget(self.budget, self.can_grow),
            )
        )

    def _share_stores(self) -> None:
        """Let every machine of the cluster find what is read in place."""
        names = self.reading.in_place()
        stores = {name: self.prepared.stores[name] for name in names}
        desk = None
        if self.can_grow and stores:
            desk = (f"{self.broker_name}-stores", NAMESPACE)
            here = NodeAffinitySchedulingStrategy(
                ray.get_runtime_context().get_node_id(), soft=False
            )
            paths: dict[str, str] = {}
            for facts in stores.values():
                paths |= desk_files(facts.path.resolve())
            self.desk = (
                ray.remote(StoreDesk)
                .options(name=desk[0], num_cpus=0, max_concurrency=8, scheduling_strategy=here)
                .remote(paths)
            )
        self.shared = {
            name: shared_store(facts.path.resolve(), facts.digest, facts.origin, desk)
            for name, facts in stores.items()
        }

    def _make_slots(self) -> Slots:
        prepared, plan, broker = self.prepared, self.plan, self.broker
        assert plan is not None
        config = SlotConfig(
            slot="",
            broker=self.broker_name,
            namespace=NAMESPACE,
            results=str(prepared.results.resolve()),
            threads=plan.threads,
            gpu=plan.gpu,
            token=self.entry.token,
            stores=tuple(self.shared.values()),
            memory_gb=prepared.space.resources.memory_gb,
        )
        return Slots(
            start=starter(plan, config, self.scratch / "train"),
            lose=lambda name, gone: ray.get(broker.lose.remote(name, gone=gone)),
            starting=lambda name, note: ray.get(broker.starting.remote(name, note)),
            say=lambda text: ray.get(broker.note.remote(text)),
        )

    def _make_machines(self) -> Machines:
        plan, slots, broker = self.plan, self.slots, self.broker
        assert plan is not None
        assert slots is not None
        asks = self.can_grow
        return Machines(
            self.cluster.machines,
            plan,
            waits=self.can_grow,
            wishes=Wishes(plan, self.on_demand_after_s) if asks else None,
            asking=Asking(self.broker_name, self._keeper) if asks else None,
            release=lambda node: self.cluster.release(node, "spot machines are back"),
            drain=lambda leaving: ray.get(broker.drain.remote(leaving)),
            came_or_went=slots.forgive,
            say=self.say,
        )

    def _keeper(self) -> Any:
        """Who keeps what sweeps ask for; such a call waits for a dead control service."""
        return self.cluster.attend(lambda: keeper(NAMESPACE, HEAD), stoppable=False)

    def _submit(self) -> None:
        """Queue all runs that are missing."""
        entries = self._entries()
        ray.get(self.broker.submit.remote([], self.values))
        for first in range(0, len(entries), SUBMIT):
            ray.get(self.broker.submit.remote(entries[first : first + SUBMIT], {}))

    def _entries(self) -> list[Entry]:
        entries = []
        for job in self.missing:
            spec, train = job.run, job.run.experiment.train
            # With patches the true number is known once the samples are; a beat mends it.
            per_step = train.micro_batch_size * train.micro_batches_per_step
            per_epoch = train.steps_per_epoch or -(-len(spec.train) // per_step)
            entries.append(
                Entry(
                    run_id=spec.run_id,
                    label=spec.label,
                    payload=zlib.compress(pickle.dumps(job)),
                    points=job.points,
                    epochs=train.epochs,
                    steps=train.epochs * per_epoch,
                )
            )
        return entries

    def _while_ray_starts(self) -> None:
        """Read small data, and import what the end needs: Ray takes seconds, and few of a CPU's."""
        self.reading.read_small(self.watch.stop)
        for name in _END_NEEDS:
            if self.cluster.started():
                return
            importlib.import_module(name)

    def _handles(self) -> Handles:
        plan = self.plan
        assert plan is not None
        # A head that only leads holds no data.
        while not (training := self._training_nodes(plan)):
            if self.watch.stop.wait(MACHINES_S):
                raise Stopped("stopped while it waited for machines")
        rooms = [NodeRoom(node.object_store, node.memory) for node in training]
        return self.reading.handles(rooms, self.shared)

    def _training_nodes(self, plan: SlotPlan) -> list[Node]:
        nodes = self.cluster.nodes()
        return [node for node in nodes if workers_that_fit([node], plan.threads, plan.gpu)]

    # -- trials --------------------------------------------------------------------------------

    def _start_trials(self) -> None:
        """Let Tune and Optuna follow, once the first runs train: they are in nobody's way then."""
        self.trials = threading.Thread(target=self._follow, daemon=True, name="trials")
        self.trials.start()

    def _make_study(self) -> Study:
        from vesselflow.orchestration.study import Study

        return Study(
            f"vesselflow-{self.prepared.folder.name}",
            self.prepared.expansion.points,
            dict(self.scores),
            maximise=self.objective.direction == "max",
        )

    def _follow(self) -> None:
        plan = self.plan
        assert plan is not None
        try:
            from vesselflow.orchestration.tuner import PointSearch, run_trials

            self.study = self._make_study()
            left = list(dict.fromkeys(point for job in self.missing for point in job.points))
            constants = {
                "broker": self.broker_name,
                "namespace": NAMESPACE,
                "objective": self.objective,
            }
            search = PointSearch(
                self.study, left, constants, self.scores.__contains__, self.trials_over
            )
            run_trials(search, len(left), relays=plan.relays, folder=self.scratch / "tune")
        except Exception as error:
            if not self.trials_over.is_set():
                reason = (str(error) or type(error).__name__).splitlines()[0]
                self.messages.append(
                    f"Tune's view of the sweep ended early ({reason}); the runs go on"
                )

    # -- watching ------------------------------------------------------------------------------

    def _watch(self, reader: Beside) -> None:
        asked, looked_at_machines, wanted = False, -math.inf, 0
        assert self.slots is not None
        assert self.machines is not None
        while True:
            self.cluster.check()
            look: Snapshot = ray.get(self.broker.look.remote(self.seen))
            self._take(look)
            for verdict in look.verdicts:
                self.say(f"{verdict.slot} {verdict.reason}; it is replaced")
                self.slots.kill(verdict.slot)
                kill_processes(verdict.places)
            now = time.monotonic()
            if not asked:
                self._start_aside(now)
            if now - looked_at_machines > MACHINES_S:
                looked_at_machines = now
                wanted = self.machines.turn(0 if look.broke else look.outstanding)
                self._recall(look, wanted)
            ending = asked or look.broke != ""
            self.slots.reconcile(wanted, ending=ending)
            self.watch.progress(self._progress(look))
            if reader.ready():
                ray.get(self.broker.provide.remote(reader.take()))
            if self.watch.stop.is_set() and not asked:
                asked = True
                self.trials_over.set()
                ray.get(self.broker.stop.remote())
                self._recall(look, 0)
            if look.broke and not self.outcome.budget:
                self.outcome.budget = look.broke
                self.say(f"no more runs are taken: {look.broke}")
                self._recall(look, 0)
            if not look.outstanding:
                self.outcome.budget = ""
                return
            if ending:
                if not self.slots.alive:
                    self.outcome.stopped = asked
                    return
            elif reason := self.slots.hopeless():
                raise VesselflowError(f"no slot could be started: {reason}")
            if ending:
                time.sleep(LOOK_S)
            else:
                self.watch.stop.wait(LOOK_S)

    def _recall(self, look: Snapshot, wanted: int) -> None:
        """End slots beyond those that are wanted which have not come up yet: they may never."""
        assert self.slots is not None
        leaving = sum(view.phase == "leaving" for view in look.slots)
        unborn = [view for view in look.slots if view.phase in ("starting", "restarting")]
        beyond = max(0, self.slots.alive - leaving - wanted)
        for view in unborn[max(0, len(unborn) - beyond) :]:
            self.slots.kill(view.name)

    def _start_aside(self, now: float) -> None:
        """Start what only looks on, once runs have trained for a while."""
        aside = now - (self.started_at or now) > ASIDE_S
        if aside and self.trials is None:
            self._start_trials()
        if aside or now - self.began > DASHBOARD_S:
            self.cluster.open_dashboard()

    def say(self, text: str) -> None:
        """Tell the person."""
        self.messages.append(text)
        del self.messages[:-MESSAGES]

    def _take(self, look: Snapshot) -> None:
        self.seen = look.seen
        self.outcome.spent = list(look.spent)
        self.ledger.note(self.outcome.spent)
        for event in look.events:
            if isinstance(event, Started):
                assert self.slots is not None
                self.slots.served(event.slot)
                if self.started_at is None:
                    self.started_at = time.monotonic()
            elif isinstance(event, Finished):
                self.outcome.trained += 1
                for point, value in event.values.items():
                    self._value(point, event.run_id, value)
            elif isinstance(event, Failed):
                self.failed[event.run_id] = event
                if not event.recorded:
                    self._give_up(event)
            elif isinstance(event, Message):
                self.say(event.text)
            self.watch.event(event)

    def _failures(self) -> list[Failure]:
        """What is known of the runs that ended without a result, by cell."""
        return [
            Failure(cell.label, event.message, event.place, event.log)
            for cell in self.prepared.cells
            if (event := self.failed.get(cell.run.run_id)) is not None
        ]

    def _give_up(self, event: Failed) -> None:
        """Let the record of a run that no slot could bring to its end say so."""
        with contextlib.suppress(OSError, VesselflowError):
            RunRecord(self.prepared.results, event.run_id).give_up(event.message, event.place)

    def _value(self, point: str, run_id: str, value: float) -> None:
        known = self.values.setdefault(point, {})
        known[run_id] = value
        if len(known) == len(self.runs_of[point]):
            score = self.objective.reduce(known.values())
            if not math.isnan(score):
                self.scores[point] = score

    def _progress(self, look: Snapshot) -> Progress:
        prepared, now = self.prepared, time.monotonic()
        total = len({cell.run.run_id for cell in prepared.cells})
        reused = total - len(self.missing)
        finished, failed = look.counts[JobState.FINISHED], look.counts[JobState.FAILED]
        if look.steps_done and self.first_step_at is None:
            self.first_step_at = now
        stepping = now - (self.first_step_at or now)
        waiting = self.machines.waiting() if self.machines is not None else None
        return Progress(
            sweep=prepared.folder.name,
            points_total=len(prepared.expansion.points),
            points_done=len(self.scores),
            runs_total=total,
            runs_done=reused + finished,
            runs_running=look.counts[JobState.RUNNING],
            runs_failed=failed,
            runs_reused=reused,
            steps_done=look.steps_done,
            steps_total=look.steps_total,
            elapsed_s=now - self.began,
            eta_s=None if waiting else eta(look.steps_done, look.steps_total, stepping),
            best=self._best(),
            slots=look.slots,
            messages=tuple(self.messages[-5:]),
            stopping=look.stopping,
            trouble=look.trouble,
            waiting=waiting,
        )

    def _best(self) -> Best | None:
        point = self.objective.best(self.scores)
        if point is None:
            return None
        values = list(self.values[point].values())
        spread = statistics.stdev(values) if len(values) > 1 else math.nan
        return Best(point, self.scores[point], spread, len(values), self.objective.label)

    def _tidy(self) -> None:
        """Clear away what killed processes left: half-written files, checkpoints of done runs."""
        results = self.prepared.results
        with contextlib.suppress(OSError, VesselflowError):
            remove_abandoned(results / "evaluations")
            tidy(results, {row.cell.run.run_id for row in self.prepared.scored if row.complete})

    # -- the end -------------------------------------------------------------------------------

    def _close(self) -> None:
        """Let slots and trials end, give the leases back."""
        assert self.slots is not None
        self.trials_over.set()
        if self.machines is not None:
            self.machines.leave(CLOSE_S)
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(self.broker.close.remote(), timeout=CLOSE_S)
            self._recall(ray.get(self.broker.look.remote(self.seen), timeout=CLOSE_S), 0)
            deadline = time.monotonic() + CLOSE_S
            self._until_slots_end(deadline)
            if self.slots.asks_ray:
                kill_controllers()
                self._until_slots_end(time.monotonic() + KILLED_S)
            if self.trials is not None:
                self.trials.join(max(1.0, deadline - time.monotonic()))
            ray.get(self.broker.release.remote(), timeout=CLOSE_S)

    def _until_slots_end(self, deadline: float) -> None:
        assert self.slots is not None
        while self.slots.alive and time.monotonic() < deadline:
            self.slots.reconcile(0, ending=True)
            time.sleep(0.05)

    def _asks_ray(self) -> bool:
        """Whether a thread still waits for Ray, whose end would then be this process's, with 1."""
        following = self.trials is not None and self.trials.is_alive()
        return following or (self.slots is not None and self.slots.asks_ray)

    def _conclude(self) -> None:
        self.ledger.note(self.outcome.spent, last=True)
        self.prepared.rescore()
        self.outcome.failures = self._failures()
        conclude(self.prepared, self.outcome, PriceList(self.prepared.space.prices))
        if self.trials is None or not self.trials.is_alive():
            self._leave_study()

    def _leave_study(self) -> None:
        """Leave the study for whoever wants to look at it; nothing reads it again."""
        study = self.study or self._make_study()
        with contextlib.suppress(OSError, VesselflowError):
            study.close(self.scores, self.prepared.folder / "study.journal")


def owner() -> Mapping[str, Any]:
    """Who this driver is, for leases: enough to tell whether it still lives."""
    process = psutil.Process()
    return {
        "host": socket.gethostname(),
        "pid": process.pid,
        "started": process.create_time(),
    }


def _log_file(folder: AnyPath) -> Path:
    """Where Ray's words go while the sweep runs: of a bucket, first to this machine's cache."""
    if isinstance(folder, Path):
        return folder / LOG
    logs = cache_folder() / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    return logs / f"{folder.name}.log"


def _keep_log(folder: AnyPath) -> None:
    """Put the log of a sweep whose results are in a bucket beside them, if the bucket is there."""
    if isinstance(folder, BucketPath):
        with contextlib.suppress(OSError):
            folder.bucket.put((folder / LOG).key, _log_file(folder).read_bytes())


def _dashboard_wanted() -> bool:
    return os.environ.get("VESSELFLOW_DASHBOARD", "1") != "0"
