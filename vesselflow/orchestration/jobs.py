"""Sweeps as jobs of a Ray cluster: handed in over its dashboard, followed, stopped."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import requests
from ray._private.runtime_env import packaging
from ray.dashboard.modules import dashboard_sdk
from ray.dashboard.modules.job import sdk
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

from vesselflow.errors import UserError, VesselflowError

#: Where the launcher's files put what drives a sweep, on every node.
DRIVER = "$HOME/vesselflow/clusters/driver.sh"
#: Seconds until a tunnel to the dashboard must stand, until a new head must take jobs, and between
#: two tries.
TUNNEL_S, READY_S, AGAIN_S = 90.0, 120.0, 3.0
#: What a job hands on to the workers of its driver: they would begin anew for it, with another
#: folder each, though the code is on every machine already.
_JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"


_NO_AGENT = (
    "on the head, dashboard_agent.log in /tmp/ray/session_latest/logs says why; if another Ray "
    "there has its port (52365), stop that one, and ray up again"
)


class Jobs:
    """The jobs of a cluster.

    Args:
        address: Of its dashboard, ``http://127.0.0.1:8265``.

    Raises:
        UserError: Nobody answers there, or not to this token.
    """

    def __init__(self, address: str) -> None:
        for module in (dashboard_sdk, sdk, packaging):
            # Each sets its own level when it is imported.
            logging.getLogger(module.__name__).setLevel(logging.WARNING)
        try:
            self._client = JobSubmissionClient(address)
        except AuthenticationError as error:
            raise UserError(
                f"the cluster does not take this machine's token ({_first(error)})",
                where=address,
                hint="the token that `ray up` copied there is ~/.ray/auth_token; after "
                "`ray get-auth-token --generate`, ray up again",
            ) from None
        except (ConnectionError, RuntimeError, requests.RequestException) as error:
            raise UserError(
                f"the cluster's dashboard does not answer ({_line(error)})",
                where=address,
                hint="is the cluster up (ray up), and this token its own (ray get-auth-token)?",
            ) from None

    def submit(self, name: str, folder: Path, words: Sequence[str], driver: str = DRIVER) -> None:
        """Hand a sweep in.

        Args:
            name: Of the job; one that is taken is refused.
            folder: What the sweep needs; it lies in the job's working directory then.
            words: Those of `vesselflow sweep`; paths are relative to the folder.
            driver: The script that drives it, on the head.

        Raises:
            UserError: The cluster does not take it.
        """
        command = f'exec bash "{driver}" {shlex.join(words)}'
        # The driver leaves the working directory: what is given by a relative path is made whole.
        whole = command.replace(shlex.quote(words[0]), f'"$PWD"/{shlex.quote(words[0])}', 1)
        deadline = time.monotonic() + READY_S
        while True:
            try:
                self._client.submit_job(
                    entrypoint=f"env -u {_JOB_CONFIG} bash -c {shlex.quote(whole)}",
                    submission_id=name,
                    runtime_env={"working_dir": str(folder)},
                    metadata={"vesselflow": words[0]},
                )
                return
            except (RuntimeError, ValueError, requests.RequestException) as error:
                # A head that was started just now takes no jobs yet.
                if "No available agent" not in str(error) or time.monotonic() > deadline:
                    raise UserError(
                        f"the cluster does not take the job ({_line(error)})",
                        where=name,
                        hint=_NO_AGENT if "No available agent" in str(error) else "",
                    ) from None
            time.sleep(AGAIN_S)

    def state(self, name: str) -> str:
        """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
        return str(self._asked(lambda: self._client.get_job_status(name)).value)

    def exit_code(self, name: str) -> int | None:
        """The exit code of the driver; None while it runs, or where nobody knows."""
        code = self._asked(lambda: self._client.get_job_info(name)).driver_exit_code
        return None if code is None else int(code)

    def stop(self, name: str) -> None:
        """Let a sweep stop as by SIGTERM: its runs write checkpoints."""
        self._asked(lambda: self._client.stop_job(name))

    def follow(self, name: str, say: Callable[[str], None]) -> str:
        """Say what a job says, from its beginning to its end; return the state of its end.

        A connection that breaks is made again.
        """
        seen = 0
        while True:
            # The job goes on, whatever becomes of the line to it.
            with contextlib.suppress(RuntimeError, OSError, asyncio.TimeoutError):
                seen = asyncio.run(self._tail(name, seen, say))
            state = self.state(name)
            if JobStatus(state).is_terminal():
                text = self._asked(lambda: self._client.get_job_logs(name))
                say(text[seen:])
                return state
            time.sleep(AGAIN_S)

    async def _tail(self, name: str, seen: int, say: Callable[[str], None]) -> int:
        at = 0
        async for text in self._client.tail_job_logs(name):
            new = text[max(0, seen - at) :]
            at += len(text)
            if new:
                say(new)
                seen = at
        return max(seen, at)

    def _asked(self, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except RuntimeError as error:
            raise UserError(f"the cluster knows no such job ({_line(error)})") from None
        except requests.RequestException as error:
            raise VesselflowError(
                f"the cluster's dashboard does not answer any more ({_line(error)})"
            ) from None


@contextlib.contextmanager
def tunnel(file: Path) -> Iterator[str]:
    """The address of a cluster's dashboard on this machine, by a tunnel over SSH.

    Raises:
        UserError: It does not come to stand.
    """
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    ray = str(Path(sys.executable).with_name("ray"))
    process = subprocess.Popen(
        [ray, "dashboard", str(file), "--port", str(port)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # Ctrl-C is ours.
    )
    address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + TUNNEL_S
    try:
        while not _answers(address):
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                said = (process.communicate()[0] or "").strip().splitlines()
                raise UserError(
                    f"no tunnel to the cluster's dashboard ({said[-1] if said else 'no answer'})",
                    where=str(file),
                    hint="is the cluster up? ray up FILE; ray dashboard FILE shows more",
                )
            time.sleep(0.5)
        yield address
    finally:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, 15)
        process.wait()


def _answers(address: str) -> bool:
    with contextlib.suppress(requests.RequestException):
        requests.get(f"{address}/api/version", timeout=2)
        return True
    return False


def _first(error: BaseException) -> str:
    """The first line; the others are Ray's advice."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _line(error: BaseException) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:200]
