"""How Ray is started on the nodes: watcher, environment, token, dashboard."""

from __future__ import annotations

import re
from collections.abc import Iterator

from vesselflow.clusters.checks.parts import Command, commands
from vesselflow.clusters.document import Keys
from vesselflow.clusters.findings import Finding, error, warning
from vesselflow.clusters.surroundings import Checked

#: Without them a machine that vanishes is missed after a minute, and calls to it after seven.
HEALTH = (
    "RAY_health_check_period_ms",
    "RAY_health_check_timeout_ms",
    "RAY_health_check_failure_threshold",
    "RAY_grpc_client_keepalive_time_ms",
    "RAY_grpc_client_keepalive_timeout_ms",
)
#: How long a slot of several workers waits for its machines; Ray's own is 60 s.
START_TIMEOUT, LEAST_START_S = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", 600
#: What the watcher is told of the cloud.
CLOUD_OF = {"aws": "aws", "gcp": "gcp", "local": "none"}

_HEAD, _WORKER = "head_start_ray_commands", "worker_start_ray_commands"
_SIDES = ((_HEAD, "the head"), (_WORKER, "the workers"))
_WATCH = re.compile(r"vesselflow\.notices\s+watch\b(?P<rest>[^\n;|]*)")
_CLOUD = re.compile(r"--cloud[ =](?P<cloud>[\w-]+)")


def check_ray_start(checked: Checked) -> Iterator[Finding]:
    """That the head knows its file, and the workers their head."""
    if head := _start(checked, _HEAD):
        if "--head" not in head.full:
            yield error("ray-start", head.keys, "starts no head", allowed="ray start --head ...")
        if "--autoscaling-config" not in head.full:
            yield error(
                "ray-start",
                head.keys,
                "does not tell the head of this file: no worker ever starts",
                allowed="--autoscaling-config=~/ray_bootstrap_config.yaml",
            )
    elif checked.document.at(_HEAD) is not None:
        yield error("ray-start", (_HEAD,), "no command starts Ray", allowed="ray start --head ...")
    if worker := _start(checked, _WORKER):
        if "RAY_HEAD_IP" not in worker.full:
            yield error(
                "ray-start",
                worker.keys,
                "does not tell the workers where the head is",
                allowed="ray start --address=$RAY_HEAD_IP:6379",
            )
    elif checked.document.at(_WORKER) is not None:
        allowed = "ray start --address=$RAY_HEAD_IP:6379"
        yield error("ray-start", (_WORKER,), "no command starts Ray", allowed=allowed)


def check_watcher(checked: Checked) -> Iterator[Finding]:
    """That every node hears when it is about to be taken away."""
    cloud = CLOUD_OF.get(checked.cluster.cloud, "none")
    line = (
        f"nohup python -m vesselflow.notices watch --cloud {cloud} "
        ">/tmp/vesselflow-notices.log 2>&1 </dev/null &"
    )
    for name, who in _SIDES:
        given = commands(checked, name)
        if not given:
            continue
        watches = [(c, found) for c in given for found in _WATCH.finditer(c.full)]
        started = [(c, found) for c, found in watches if "pkill" not in c.full[: found.start()]]
        if not started:
            yield warning(
                "watcher",
                (name,),
                f"{who} start no watcher: nobody hears the two minutes' notice, and the work since "
                "the last checkpoint is done twice"
                if name == _WORKER
                else "the head starts no watcher: a SIGTERM of its machine is not heard",
                allowed=line,
            )
        for command, found in started:
            told = _CLOUD.search(found["rest"])
            if told and told["cloud"] != cloud:
                yield error(
                    "watcher",
                    command.keys,
                    f"watches for notices of '{told['cloud']}', and the machines are of "
                    f"'{checked.cluster.cloud}'",
                    allowed=f"--cloud {cloud}",
                )


def check_environment(checked: Checked) -> Iterator[Finding]:
    """That nodes and driver notice at once when a machine is gone, and wait for new ones."""
    for name, who in _SIDES:
        command = _start(checked, name)
        if command is None:
            continue
        missing = [one for one in HEALTH if f"{one}=" not in command.full]
        if missing:
            yield warning(
                "environment",
                command.keys,
                f"{who} start without {', '.join(missing)}: a machine that vanishes is missed "
                "after a minute, calls to it after seven",
                allowed=". ~/vesselflow/clusters/env.sh; ray start ...",
            )
        told = re.search(rf"{START_TIMEOUT}=(\d+)", command.full)
        if told is None or int(told[1]) < LEAST_START_S:
            given = f"{told[1]} s" if told else "60 s, as it is not set"
            yield warning(
                "environment",
                command.keys,
                f"{START_TIMEOUT} is {given}: slots give up while their machines are being set up",
                allowed=f"{LEAST_START_S} or more; clusters/env.sh sets 1800",
            )


def check_token(checked: Checked) -> Iterator[Finding]:
    """That only who has the token is answered, and that every node has it."""
    for command in commands(checked, _HEAD, _WORKER):
        if re.search(r"RAY_AUTH_MODE=[\"']?disabled", command.full):
            yield error(
                "token",
                command.keys,
                "token authentication is off: whoever reaches the head runs code on all machines",
                allowed="RAY_AUTH_MODE=token",
            )
    there = [path for path in checked.document.mapping("file_mounts") if _is_token(path)]
    if not there:
        at: Keys = ("file_mounts",) if checked.document.at("file_mounts") else ()
        yield error(
            "token",
            at,
            "the token is not copied to the nodes: each makes one of its own, and none lets in "
            "another",
            allowed="file_mounts: {~/.ray/auth_token: ~/.ray/auth_token}",
            hint="ray get-auth-token --generate makes it",
        )


def check_dashboard(checked: Checked) -> Iterator[Finding]:
    """That the dashboard, which runs whatever it is given, answers on the head alone."""
    for command in commands(checked, _HEAD):
        if re.search(r"--dashboard-host[ =][\"']?(0\.0\.0\.0|::)", command.full):
            yield warning(
                "dashboard",
                command.keys,
                "the dashboard answers on all addresses of the head",
                allowed="--dashboard-host=127.0.0.1",
                hint="it comes by tunnel: ray dashboard FILE",
            )


def check_autoscaler(checked: Checked) -> Iterator[Finding]:
    """Machines of one's own need the older autoscaler."""
    if checked.cluster.cloud != "local":
        return
    head = _start(checked, _HEAD)
    inside = head is not None and "RAY_enable_autoscaler_v2=0" in head.full
    if not inside and checked.around.environ.get("RAY_UP_enable_autoscaler_v2") != "0":
        yield error(
            "autoscaler",
            head.keys if head else (),
            "with Ray's newer autoscaler no worker of one's own machines ever starts",
            allowed="export RAY_enable_autoscaler_v2=0; ray start --head ...",
            hint="or call RAY_UP_enable_autoscaler_v2=0 ray up ...",
        )


def _start(checked: Checked, name: str) -> Command | None:
    for command in commands(checked, name):
        if re.search(r"\bray start\b", command.full):
            return command
    return None


def _is_token(path: object) -> bool:
    return str(path).endswith("/.ray/auth_token")
