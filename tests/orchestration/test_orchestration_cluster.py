"""Start, health and end of a cluster, with a Ray that is none and services that are fakes."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from types import SimpleNamespace

import grpc
import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st
from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

from vesselflow.errors import UserError, VesselflowError
from vesselflow.orchestration import cluster as module
from vesselflow.orchestration import joining, machines
from vesselflow.orchestration.cluster import Cluster, Limits, Pulse, connect
from vesselflow.orchestration.joining import ask, reachable
from vesselflow.sweeps.leaving import Leaving
from vesselflow.sweeps.outcome import ClusterLost, Stopped

STARTUP = "The current node timed out during startup. This could happen because\nof this and that."
NODE = "ab" * 28


# -- health --------------------------------------------------------------------------------------


def test_a_service_that_answers_lives() -> None:
    pulse = Pulse("h:1", 0.0, Limits(refused=15, silent=40))
    for now in range(0, 1000, 39):
        assert pulse.take("yes", float(now)) is None
    assert pulse.take("silent", 1013.0) is None


def test_refusals_are_borne_for_less_long_than_silence() -> None:
    pulse = Pulse("h:1", 100.0, Limits(refused=15, silent=40))
    assert pulse.take("refused", 114.9) is None
    assert pulse.take("silent", 139.9) is None
    said = pulse.take("refused", 140.0)
    assert said == "Ray's control service at h:1 has not answered for 40 s"
    assert Pulse("h:1", 0.0, Limits(refused=15)).take("refused", 15.0) is not None
    assert Pulse("h:1", 0.0, Limits(silent=40)).take("silent", 39.0) is None
    assert Pulse("h:1", 0.0, Limits(silent=40)).take("silent", 40.0) is not None


def test_a_node_that_left_is_told_at_once() -> None:
    assert "the node of this driver left" in str(Pulse("h:1", 0.0, Limits()).take("no node", 0.1))


@given(st.lists(st.tuples(st.sampled_from(["yes", "refused", "silent"]), st.floats(0, 14.9))))
def test_a_service_that_answers_in_between_is_never_lost(answers) -> None:
    pulse, now = Pulse("h:1", 0.0, Limits(refused=15, silent=40)), 0.0
    for answer, later in answers:
        assert pulse.take("yes", now) is None
        now += later
        assert pulse.take(answer, now) is None


# -- a start, with a Ray that is none -------------------------------------------------------------


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch, told: list[str]) -> Callable[..., Cluster]:
    """A cluster whose `ray.init` does what the steps say: return, raise, or wait."""
    # What a start exports is for its own process alone.
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setattr(Cluster, "_watch", lambda self: None)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def make(*steps: object, **options: object) -> Cluster:
        left = list(steps)

        def init(**given: object) -> object:
            told.append(f"init {given['address']} {os.environ.get('RAY_ADDRESS')}")
            step = left.pop(0)
            if isinstance(step, threading.Event):
                assert step.wait(10)
            elif isinstance(step, BaseException):
                raise step
            return SimpleNamespace(dashboard_url="")

        monkeypatch.setattr(ray, "init", init)
        return Cluster(notify=told.append, **options)

    return make


def test_a_start_that_works(make, told) -> None:
    with make(None) as cluster:
        cluster.begin().ready()
        assert cluster.lost() is None
        cluster.check()
    assert told == ["starting Ray", "init local None"]


def test_the_dashboard_starts_when_it_is_asked_for_and_once(make, told, monkeypatch) -> None:
    threads = []

    def start() -> str:
        threads.append(threading.current_thread().name)
        return "127.0.0.1:8265"

    monkeypatch.setattr(module, "start_dashboard", start)
    with make(None, dashboard=True) as cluster:
        cluster.open_dashboard()  # Too early: nothing is there yet.
        cluster.begin().ready()
        assert len(told) == 2
        cluster.open_dashboard()
        cluster.open_dashboard()
    assert told[2:] == ["Ray dashboard: http://127.0.0.1:8265"]
    # Linux kills what a thread started when it ends: it is Ray's.
    assert threads == ["ray"]
    with make(None) as cluster:
        cluster.begin().ready()
        cluster.open_dashboard()
    assert len(threads) == 1


def test_a_dashboard_that_does_not_start_harms_nobody(make, told, monkeypatch) -> None:
    def start() -> str:
        raise RuntimeError("no port")

    monkeypatch.setattr(module, "start_dashboard", start)
    with make(None, dashboard=True) as cluster:
        cluster.begin().ready()
        cluster.open_dashboard()
    assert cluster.lost() is None
    assert len(told) == 2


def test_ray_address_is_named_and_not_used(make, told, monkeypatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.9:6379")
    with make(None) as cluster:
        cluster.begin().ready()
    assert told[0].startswith("RAY_ADDRESS=10.0.0.9:6379 is ignored: ")
    assert "--address auto" in told[0]
    assert told[1:] == ["starting Ray", "init local None"]
    assert os.environ["RAY_ADDRESS"] == "10.0.0.9:6379"


def test_a_start_that_took_too_long_is_tried_once_more(make, told) -> None:
    with make(Exception(STARTUP), None) as cluster:
        cluster.begin().ready()
    assert told == [
        "starting Ray",
        "init local None",
        "Ray did not come up (The current node timed out during startup. This could happen "
        "because); trying once more",
        "init local None",
    ]


def test_a_second_one_is_one_line(make, told) -> None:
    with (
        make(Exception(STARTUP), Exception(STARTUP)) as cluster,
        pytest.raises(VesselflowError, match=r"^Ray could not be started \(The .*\)$"),
    ):
        cluster.begin().ready()
    assert told.count("init local None") == 2


def test_what_a_second_try_cannot_mend_is_not_tried_again(make, told, tmp_path, capsys) -> None:
    log = tmp_path / "driver.log"
    with (
        make(OSError("No space left on device\nand more"), log=log) as cluster,
        pytest.raises(VesselflowError) as caught,
    ):
        cluster.begin().ready()
    assert str(caught.value) == (
        "Ray could not be started (OSError: No space left on device); what Ray said stands in "
        f"{log}"
    )
    assert "Traceback" in capsys.readouterr().err  # Of pytest; in the log outside.
    assert told.count("init local None") == 1


def test_the_seconds_are_said_and_an_end_is_put_to_it(make, told) -> None:
    never = threading.Event()
    limits = Limits(start=0.5, tell=0.1, end=0.1)
    with (
        make(never, limits=limits) as cluster,
        pytest.raises(VesselflowError, match=r"TimeoutError: no answer in"),
    ):
        cluster.begin().ready()
    never.set()
    assert "starting Ray, 0 s" in told


def test_a_stop_during_the_start_is_honoured(make) -> None:
    never, stop = threading.Event(), threading.Event()
    with make(never, stop=stop, limits=Limits(end=0.1)) as cluster:
        cluster.begin()
        stop.set()
        with pytest.raises(Stopped, match="while Ray was starting"):
            cluster.ready()
    never.set()


def test_a_process_that_has_a_ray_is_refused(make, told, monkeypatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    with make(None) as cluster, pytest.raises(VesselflowError, match="connected to a Ray already"):
        cluster.begin()
    assert told == []


def test_the_environment_comes_before_ray(make, monkeypatch) -> None:
    monkeypatch.setenv("TUNE_DISABLE_SIGINT_HANDLER", "0")
    monkeypatch.delenv("RAY_TRAIN_ENABLE_STATE_TRACKING", raising=False)
    with make(None) as cluster:
        cluster.begin().ready()
    assert os.environ["TUNE_DISABLE_SIGINT_HANDLER"] == "0"
    assert os.environ["RAY_TRAIN_ENABLE_STATE_TRACKING"] == "1"


# -- while it lives ------------------------------------------------------------------------------


def test_attended_work_gives_what_it_gives(make) -> None:
    with make(None) as cluster:
        cluster.begin().ready()
        assert cluster.attend(lambda: 7) == 7
        with pytest.raises(ZeroDivisionError):
            cluster.attend(lambda: 1 // 0)


def test_attended_work_yields_to_a_stop_and_to_a_loss(make) -> None:
    stop, blocked = threading.Event(), threading.Event()
    with make(None, stop=stop) as cluster:
        cluster.begin().ready()
        cluster._lost = "Ray's heart ended"
        for work in (blocked.wait, lambda: True):
            with pytest.raises(ClusterLost, match="heart"):
                cluster.attend(work)
        cluster._lost = None
        stop.set()
        for work in (blocked.wait, lambda: True):
            with pytest.raises(Stopped):
                cluster.attend(work)
    blocked.set()


def test_an_error_of_rays_is_explained_by_the_loss_that_follows(make) -> None:
    def fail() -> None:
        threading.Timer(0.1, setattr, (cluster, "_lost", "Ray's heart ended")).start()
        raise ray.exceptions.RayActorError

    with make(None) as cluster:
        cluster.begin().ready()
        with pytest.raises(ClusterLost, match=r"^Ray's heart ended$"):
            cluster.attend(fail)
        cluster._lost = None
        error = ray.exceptions.RaySystemError("broken\npipe")
        said = str(cluster.explained(error, wait_s=0.0))
        assert said == "Ray failed (RaySystemError: System error: broken)"


def test_nodes_that_drain_or_are_dead_take_no_work(make, monkeypatch) -> None:
    def node(name: str, *, alive: bool = True, **resources: float) -> dict[str, object]:
        host = f"host-{name}"
        return {
            "NodeID": name,
            "Alive": alive,
            "Resources": resources,
            "NodeManagerHostname": host,
        }

    head = {"node:__internal_head__": 1.0}
    nodes = [
        node("a", CPU=4.0, GPU=2.0, memory=8e9, object_store_memory=2e9),
        node("b", CPU=4.0, alive=False),
        node("c", CPU=4.0),
        node("d", CPU=1.0, **head),
    ]
    state = SimpleNamespace(get_draining_nodes=lambda: {"c": 0, "b": 0})
    monkeypatch.setattr(machines, "_internal_kv_get", lambda *_, **__: None)
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    monkeypatch.setattr(ray._private.state, "state", state)
    with make(None) as cluster:
        cluster.begin().ready()
        found, leaving = cluster.nodes(), cluster.machines().leaving
    assert leaving == {"c": Leaving("host-c")}
    assert [(entry.name, entry.cpus, entry.gpus) for entry in found] == [("d", 1, 0), ("a", 4, 2)]
    assert (found[1].memory, found[1].object_store) == (8_000_000_000, 2_000_000_000)


def test_questions_about_nodes_do_not_wait_for_a_dead_service(make, monkeypatch) -> None:
    blocked, stop = threading.Event(), threading.Event()
    monkeypatch.setattr(module, "_alive", lambda known: blocked.wait())
    with make(None, stop=stop) as cluster:
        cluster.begin().ready()
        stop.set()  # A stop is no reason to know nothing of the nodes.
        threading.Timer(0.1, setattr, (cluster, "_lost", "Ray's heart ended")).start()
        with pytest.raises(ClusterLost, match="heart"):
            cluster.nodes()
    blocked.set()


def test_a_ray_that_a_thread_waits_for_is_not_ended(make, monkeypatch) -> None:
    ended: list[str] = []
    monkeypatch.setattr(ray, "shutdown", lambda: ended.append("ray"))
    monkeypatch.setattr(Cluster, "_kill_family", lambda self: ended.append("family"))
    with make(None) as cluster:
        cluster.begin().ready()
        cluster.leave_standing()
    assert ended == []
    with make(None) as cluster:
        cluster.begin().ready()
    assert ended == ["ray"]


def test_a_ray_that_does_not_end_is_left(make, monkeypatch) -> None:
    blocked = threading.Event()
    monkeypatch.setattr(ray, "shutdown", blocked.wait)
    began = time.monotonic()
    with make(None, limits=Limits(end=0.1)) as cluster:
        cluster.begin().ready()
    assert time.monotonic() - began < 10
    blocked.set()


# -- another cluster, served by fakes ------------------------------------------------------------


class Service(
    gcs_service_pb2_grpc.NodeInfoGcsServiceServicer,
    gcs_service_pb2_grpc.InternalKVGcsServiceServicer,
):
    """A control service of a cluster with one node."""

    def __init__(self) -> None:
        self.ray, self.python = (
            ray.__version__,
            ".".join(map(str, __import__("sys").version_info[:3])),
        )
        self.status: grpc.StatusCode | None = None
        self.alive: list[bool] = []

    def CheckAlive(self, request, context):
        if self.status is not None:
            context.abort(self.status, "no")
        return gcs_service_pb2.CheckAliveReply(ray_version=self.ray, raylet_alive=self.alive)

    def InternalKVGet(self, request, context):
        assert (request.namespace, request.key) == (b"cluster", b"CLUSTER_METADATA")
        value = json.dumps({"python_version": self.python}).encode()
        return gcs_service_pb2.InternalKVGetReply(value=value)

    def GetAllNodeInfo(self, request, context):
        reply = gcs_service_pb2.GetAllNodeInfoReply()
        reply.node_info_list.add(node_id=bytes.fromhex(NODE), state=0)
        reply.node_info_list.add(node_id=b"\1" * 28, state=1)
        return reply


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    service = Service()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    gcs_service_pb2_grpc.add_NodeInfoGcsServiceServicer_to_server(service, server)
    gcs_service_pb2_grpc.add_InternalKVGcsServiceServicer_to_server(service, server)
    service.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    monkeypatch.setattr(joining.services, "find_node_ids", lambda: {NODE})
    yield service
    server.stop(None).wait()


def refusal(address: str) -> str:
    with pytest.raises(UserError) as caught:
        reachable(address, 2.0)
    assert caught.value.where == "--address"
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_a_cluster_that_can_be_joined(service) -> None:
    assert reachable(service.address, 2.0) == service.address


@pytest.mark.parametrize(
    "address", ["", "here", "host:", ":6379", "host:0", "host:99999", "ray://h:1", "s3://b/x"]
)
def test_what_is_no_address(address: str) -> None:
    assert f"'{address}' is no address; allowed: HOST:PORT " in refusal(address)


def test_nobody_answers() -> None:
    began = time.monotonic()
    assert "nobody answers at 127.0.0.1:1: Connection refused; start the cluster" in refusal(
        "127.0.0.1:1"
    )
    assert "nobody answers at no-such-host.invalid:6379: " in refusal("no-such-host.invalid:6379")
    assert time.monotonic() - began < 20  # Ray takes 25 to 40 s for each.


def test_nothing_runs_here_to_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*_: object) -> str:
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr(joining.services, "get_ray_address_from_environment", nothing)
    assert "no Ray cluster runs on this machine; start one (ray start --head)" in refusal("auto")


def test_the_cluster_that_is_found_is_named(service, monkeypatch: pytest.MonkeyPatch) -> None:
    found = service.address
    monkeypatch.setattr(joining.services, "get_ray_address_from_environment", lambda *_: found)
    assert reachable("auto", 2.0) == found
    service.ray = "1.0.0"
    assert f"the cluster at auto ({found}) runs Ray 1.0.0" in refusal("auto")


def test_somebody_else_answers() -> None:
    class Silent(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Silent) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{server.server_port}"
        assert f"what answers at {address} is no Ray cluster that lives (" in refusal(address)
        server.shutdown()


@pytest.mark.parametrize("status", ["UNAUTHENTICATED", "PERMISSION_DENIED"])
def test_another_token_is_wanted(service, status) -> None:
    service.status = grpc.StatusCode[status]
    line = refusal(service.address)
    assert "wants another token; set RAY_AUTH_MODE=token, with the cluster's token in " in line


def test_another_version(service) -> None:
    service.ray = "2.9.3"
    assert f"runs Ray 2.9.3, this command Ray {ray.__version__}; use the " in refusal(
        service.address
    )
    service.ray, service.python = ray.__version__, "3.8.1"
    assert "runs Python 3.8.1, this command Python 3." in refusal(service.address)


def test_no_node_of_it_is_here(service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining.services, "find_node_ids", lambda: {"01" * 28})
    line = refusal(service.address)
    assert "no node of the cluster at" in line
    assert f"ray start --address={service.address}" in line


def test_a_refused_address_ends_the_connection(service, told, monkeypatch) -> None:
    service.ray = "2.9.3"
    with pytest.raises(UserError, match=r"runs Ray 2\.9\.3"), contextlib.ExitStack() as stack:
        stack.enter_context(connect(service.address, notify=told.append))
    assert told == [f"connecting to Ray at {service.address}"]


def test_questions_have_four_answers(service) -> None:
    node = bytes.fromhex(NODE)
    assert ask(service.address, node, 2.0) == "yes"
    service.alive = [True]
    assert ask(service.address, node, 2.0) == "yes"
    service.alive = [False]
    assert ask(service.address, node, 2.0) == "no node"
    service.status = grpc.StatusCode.DEADLINE_EXCEEDED
    assert ask(service.address, node, 2.0) == "silent"
    assert ask("127.0.0.1:1", node, 2.0) == "refused"
