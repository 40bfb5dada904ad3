"""Another cluster: whether it can be joined, and whether it lives; one plain question each."""

from __future__ import annotations

import contextlib
import json
import platform
import socket
from collections.abc import Iterator
from typing import Literal

import grpc
import ray
from ray._private import ray_constants, services
from ray._private.authentication.authentication_token_setup import (
    ensure_token_if_auth_enabled,
    maybe_enable_token_auth_if_token_available,
)
from ray._private.grpc_utils import init_grpc_channel
from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc
from ray.core.generated.gcs_pb2 import GcsNodeInfo
from ray.exceptions import AuthenticationError

from vesselflow.errors import UserError

#: Where `--address` may lead.
_ADDRESSES = "HOST:PORT of a Ray cluster's head (6379 unless told otherwise), or auto"

Answer = Literal["yes", "refused", "silent", "no node"]


def reachable(address: str, limit_s: float) -> str:
    """Look whether a cluster can be joined, before Ray waits for it for 40 s and gives no reason.

    Args:
        address: As given with --address.
        limit_s: For each answer.

    Returns:
        HOST:PORT of its control service.

    Raises:
        UserError: Nobody answers there, or somebody else does; it wants another token; its Ray or
            Python is another one; no machine of it is this one.
    """
    found = _located(address)
    named = address if address == found else f"{address} ({found})"
    host, _, port = found.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=limit_s).close()
    except OSError as error:
        raise _refused(
            f"nobody answers at {named}: {error.strerror or error}",
            "start the cluster, or leave --address away to use this machine alone",
        ) from None
    try:
        ensure_token_if_auth_enabled({}, create_token_if_missing=False)
    except AuthenticationError:
        raise _refused("RAY_AUTH_MODE=token is set, and there is no token", _TOKEN) from None
    with _channel(found) as channel:
        try:
            alive = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel).CheckAlive(
                gcs_service_pb2.CheckAliveRequest(), timeout=limit_s
            )
            python = _python_of(channel, limit_s)
            nodes = _nodes_of(channel, limit_s)
        except grpc.RpcError as error:
            if error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
                raise _refused(f"the Ray cluster at {named} wants another token", _TOKEN) from None
            raise _refused(
                f"what answers at {named} is no Ray cluster that lives ({error.code().name})",
                "give the port of the head itself, not that of its dashboard or of Ray Client",
            ) from None
    here = platform.python_version()
    for name, theirs, ours in (
        ("Ray", alive.ray_version, ray.__version__),
        ("Python", python, here),
    ):
        if theirs and theirs != ours:
            raise _refused(
                f"the cluster at {named} runs {name} {theirs}, this command {name} {ours}",
                "use the same on all machines",
            )
    if not nodes & set(services.find_node_ids()):
        raise _refused(
            f"no node of the cluster at {named} runs on this machine",
            f"run the command on its head, or join it first: ray start --address={found}",
        )
    return found


_TOKEN = (
    "set RAY_AUTH_MODE=token, with the cluster's token in RAY_AUTH_TOKEN, in the file that "
    "RAY_AUTH_TOKEN_PATH names, or in ~/.ray/auth_token"
)


def _refused(what: str, hint: str) -> UserError:
    return UserError(what, where="--address", hint=hint)


def _located(address: str) -> str:
    """HOST:PORT of what was given, "auto" included."""
    if address == "auto":
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
        services.find_gcs_addresses.cache_clear()
        try:
            address = services.get_ray_address_from_environment("auto", None)
        except ConnectionError:
            raise _refused(
                "no Ray cluster runs on this machine",
                "start one (ray start --head), or leave --address away",
            ) from None
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UserError(f"'{address}' is no address", where="--address", allowed=_ADDRESSES)
    return address


@contextlib.contextmanager
def _channel(address: str) -> Iterator[grpc.Channel]:
    options = [*ray_constants.GLOBAL_GRPC_OPTIONS, ("grpc.enable_retries", 0)]
    channel = init_grpc_channel(address, options=options)
    try:
        yield channel
    finally:
        channel.close()


def _python_of(channel: grpc.Channel, limit_s: float) -> str:
    """The Python of a cluster; "" when it does not say."""
    reply = gcs_service_pb2_grpc.InternalKVGcsServiceStub(channel).InternalKVGet(
        gcs_service_pb2.InternalKVGetRequest(key=b"CLUSTER_METADATA", namespace=b"cluster"),
        timeout=limit_s,
    )
    try:
        return str(json.loads(reply.value)["python_version"])
    except (ValueError, KeyError, TypeError):
        return ""


def _nodes_of(channel: grpc.Channel, limit_s: float) -> set[str]:
    """Ids of the nodes that are alive."""
    reply = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel).GetAllNodeInfo(
        gcs_service_pb2.GetAllNodeInfoRequest(), timeout=limit_s
    )
    alive = GcsNodeInfo.GcsNodeState.ALIVE
    return {info.node_id.hex() for info in reply.node_info_list if info.state == alive}


def ask(address: str, node: bytes, limit_s: float) -> Answer:
    """Ask a control service whether it lives, and whether a node does."""
    try:
        with _channel(address) as channel:
            reply = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel).CheckAlive(
                gcs_service_pb2.CheckAliveRequest(node_ids=[node]), timeout=limit_s
            )
    except grpc.RpcError as error:
        return "refused" if error.code() is grpc.StatusCode.UNAVAILABLE else "silent"
    return "no node" if list(reply.raylet_alive) == [False] else "yes"
