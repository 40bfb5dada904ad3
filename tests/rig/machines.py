"""Machines made of namespaces: each with its own network, processes, root, users and sshd.

Nothing of them outlives the process that made them: they have no name outside of it, and die with
it (`--kill-child`, PR_SET_PDEATHSIG), their mounts and networks with them. Their network is one
switch, which leads nowhere else.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

#: What the rig calls, and the packages of Debian that have it.
PROGRAMS = ("/usr/sbin/sshd", "ssh", "ssh-keygen", "rsync", "ip", "unshare", "nsenter", "setpriv")
PACKAGES = "openssh-server openssh-client rsync iproute2 util-linux"
#: New namespaces, whose processes die with the one that asks for them.
UNSHARE = ("setpriv", "--pdeathsig", "KILL", "unshare", "--kill-child", "--net")
MACHINE = (*UNSHARE, "--mount", "--pid", "--uts", "--ipc")
#: Seconds until a machine's sshd must answer.
BOOT_S = 60.0
#: What a machine is made of, tried out with nothing but the kernel.
_PROBE = """
set -e
mount -t tmpfs tmpfs "$1"; mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
mount -t proc proc "$1/root/proc"
ip link add probe type bridge
ip link add probe0 type veth peer name probe1
"""


def why_not(folder: Path) -> str:
    """Why there can be no machines here; empty where there can.

    Args:
        folder: Empty; a file system is mounted there for a moment.
    """
    if sys.platform != "linux":
        return "machines are made of Linux namespaces"
    if os.geteuid() != 0:
        return "machines are made by root alone"
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"no {', '.join(missing)} (apt-get install {PACKAGES})"
    words = [*MACHINE, "sh", "-c", _PROBE, "probe", str(folder)]
    tried = subprocess.run(words, capture_output=True, text=True, timeout=60)
    if tried.returncode:
        said = tried.stderr.strip().splitlines()
        return f"the kernel lets no machine be made: {said[-1] if said else 'no reason given'}"
    return ""


@dataclass(frozen=True)
class Plan:
    """What a machine is.

    Attributes:
        name: Its host name; at most 12 characters (names of interfaces have 15).
        addresses: Its own; the first is the one by which it speaks.
        folder: Empty, on the outer machine; all that it writes lies below, in memory.
        user, home: Who is let in, besides root.
        keys: Public keys that let in.
        private_key: Of the user, at ~/.ssh/id_ed25519; empty for none.
        env: Variables of its login shells.
        shared: Folder of the outer machine -> path on it, as a network disk would be.
        venv: The outer environment, of which ~/venv is a copy (by an overlay).
        python, python_home: The interpreter of that, and where it is installed.
    """

    name: str
    addresses: Sequence[str]
    folder: str
    user: str = "root"
    home: str = "/root"
    keys: Sequence[str] = ()
    private_key: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    shared: Mapping[str, str] = field(default_factory=dict)
    venv: str = sys.prefix
    python: str = os.path.realpath(sys.executable)
    python_home: str = sys.base_prefix


class Machine:
    """A machine from its start to its end.

    Args:
        plan: What it is.
        log: Where its console goes.

    Attributes:
        plan: As given.
        started: Monotonic seconds.
    """

    def __init__(self, plan: Plan, log: Path) -> None:
        self.plan, self.started = plan, time.monotonic()
        Path(plan.folder).mkdir(parents=True)
        with log.open("wb") as console:
            self._process = subprocess.Popen(
                [
                    *MACHINE,
                    sys.executable,
                    "-I",
                    str(Path(__file__).with_name("boot.py")),
                    _json(plan),
                ],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                cwd="/",
            )
        self._plug = f"to-{plan.name}"
        self._wait_for_network()
        ip("link", "add", self._plug, "type", "veth", "peer", "name", "eth0", "netns", self._pid)
        self._inside("link", "set", "lo", "up")
        for address in plan.addresses:
            self._inside("addr", "add", f"{address}/32", "dev", "eth0")
        ip("link", "set", self._plug, "master", BRIDGE)
        self.mend()

    @property
    def first(self) -> int | None:
        """The process id, outside, of its first process; None while there is none, or no more."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return next((each.pid for each in psutil.Process(self._process.pid).children()), None)
        return None

    def answers(self) -> bool:
        """Whether its sshd does.

        Raises:
            RuntimeError: It ended, or it has been too long.
        """
        if self._process.poll() is not None:
            raise RuntimeError(f"{self.plan.name} did not start")
        if time.monotonic() > self.started + BOOT_S:
            raise RuntimeError(f"{self.plan.name} does not answer after {BOOT_S:g} s")
        with (
            contextlib.suppress(OSError),
            socket.create_connection((self.plan.addresses[0], 22), 0.3) as line,
        ):
            return line.recv(4) == b"SSH-"
        return False

    def cut(self) -> None:
        """Unplug it: nothing goes in or out, and nobody is told."""
        ip("link", "set", self._plug, "down")

    def mend(self) -> None:
        """Plug it in."""
        ip("link", "set", self._plug, "up")
        self._inside("link", "set", "eth0", "up")
        # All addresses there are, are on this switch.
        self._inside("route", "replace", "default", "dev", "eth0", "src", self.plan.addresses[0])

    def kill(self) -> None:
        """As by the power switch."""
        first = self.first
        if first is not None:
            os.kill(first, 9)
        self._process.kill()
        self._process.wait()
        # The kernel takes the other end away a little after the last process; not here.
        subprocess.run(["ip", "link", "del", self._plug], stderr=subprocess.DEVNULL)

    @property
    def _pid(self) -> str:
        return str(self._process.pid)

    def _wait_for_network(self) -> None:
        ours, deadline = os.readlink("/proc/self/ns/net"), time.monotonic() + 10
        while True:
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{self._pid}/ns/net") != ours:
                    return
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.plan.name} has no network of its own")
            time.sleep(0.02)

    def _inside(self, *words: str) -> None:
        run = ["nsenter", "-t", self._pid, "-n", "ip", *words]
        subprocess.run(run, check=True)


#: The switch; addresses at which services of the network listen are its own.
BRIDGE = "switch"


def make_switch(addresses: Sequence[str]) -> None:
    """The switch, in a network namespace that has nothing yet."""
    ip("link", "set", "lo", "up")
    # An address of its own: else it is that of some plug, and changes when that one is pulled.
    ip("link", "add", BRIDGE, "address", "02:00:00:00:00:01", "type", "bridge")
    for address in addresses:
        ip("addr", "add", f"{address}/32", "dev", BRIDGE)
    ip("link", "set", BRIDGE, "up")
    ip("route", "add", "default", "dev", BRIDGE, "src", addresses[0])


def ip(*words: str) -> None:
    """Call iproute2."""
    subprocess.run(["ip", *words], check=True)


def _json(plan: Plan) -> str:
    return json.dumps(asdict(plan))
