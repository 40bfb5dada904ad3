"""The rig as tests use it: machines are started, commands run on them, events waited for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from machines import UNSHARE

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
#: The machine from which a person works, with the repository in this folder.
LAPTOP, REPOSITORY = "laptop", "/root/vesselflow"
#: What of it is needed there, and how it is installed: as `make` does.
COPIED = (
    *("vesselflow", "search_spaces", "clusters"),
    *("pyproject.toml", "constraints.txt", "README.md", "LICENSE"),
)
INSTALL = (
    ".venv/bin/python -m pip install --quiet --disable-pip-version-check -e . -c constraints.txt"
)
#: Where machines see the disk that they share.
DISK = "/mnt/disk"
ANSWER_S = 60.0
Found = TypeVar("Found")


class Rig:
    """A switch, a cloud, and machines; a context manager, at whose end nothing is left.

    Args:
        image: Fields of `machines.Plan` for instances of the cloud.

    Attributes:
        folder: On the outer machine, for logs.
        disk: There, too: what machines see as `DISK`.
        key: Public key of the laptop's user.
        timeline: What happened, in order: (Unix time, text).
    """

    def __init__(self, image: Mapping[str, Any] | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="vf-rig-"))
        self.folder.chmod(0o755)
        self.timeline: list[tuple[float, str]] = []
        self._events: list[dict[str, Any]] = []
        self._replies: list[dict[str, Any]] = []
        self._news = threading.Condition()
        self._commands: list[subprocess.Popen[bytes]] = []
        key = self.folder / "key"
        run = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "rig", "-f", str(key)]
        subprocess.run(run, check=True)
        self._private_key, self.key = key.read_text(), key.with_suffix(".pub").read_text()
        given = json.dumps({"user": "ubuntu", "home": "/home/ubuntu", **(image or {})})
        (self.folder / "machines").mkdir()
        (self.folder / "repository").mkdir()
        self.disk = self.folder / "disk"
        self.disk.mkdir()
        self.disk.chmod(0o777)  # Users of machines write there, whatever their numbers.
        words = [sys.executable, str(HERE / "hypervisor.py"), str(self.folder / "machines"), given]
        with (self.folder / "hypervisor.log").open("wb") as log:
            self._process = subprocess.Popen(
                [*UNSHARE, *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "MOTO_IAM_LOAD_MANAGED_POLICIES": "true"},
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Rig:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for command in self._commands:
            command.kill()
            command.wait()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(30)
        self._process.stdout.close()
        if os.environ.get("VESSELFLOW_RIG_KEEP"):
            self.say(f"kept: {self.folder}")
        else:
            shutil.rmtree(self.folder)

    def say(self, text: str) -> None:
        """A line of the timeline."""
        now = time.time()
        self.timeline.append((now, text))
        print(f"{time.strftime('%H:%M:%S', time.localtime(now))} {text}", flush=True)

    def ask(self, do: str, **more: Any) -> Any:
        """Have the hypervisor do something (`hypervisor.Hypervisor.do_...`)."""
        assert self._process.stdin is not None
        with self._news:
            at = len(self._replies)
            self._process.stdin.write(json.dumps({"do": do, **more}).encode() + b"\n")
            self._process.stdin.flush()
            if not self._news.wait_for(lambda: len(self._replies) > at, ANSWER_S):
                raise TimeoutError(f"the hypervisor did not answer to '{do}'; {self._log()}")
            reply = self._replies[at]
        if "error" in reply:
            raise RuntimeError(reply["error"])
        return reply["reply"]

    def boot(self, name: str, address: str, limit_s: float = 90.0, **plan: Any) -> None:
        """Start a machine of one's own, and wait until it answers."""
        self.ask("boot", name=name, addresses=[address], **plan)
        self.wait_for(f"{name} to boot", lambda: self.event("up", name=name), limit_s)

    def laptop(self, env: Mapping[str, str] | None = None) -> None:
        """Start the person's machine: the repository, an environment, a key."""
        key = {"private_key": self._private_key, "env": dict(env or {})}
        copy = self.folder / "repository"
        for name in COPIED:
            copied = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
            copied(ROOT / name, copy / name)
        shared = {str(copy): REPOSITORY, str(self.disk): DISK}
        self.boot(LAPTOP, "10.77.0.1", shared=shared, **key)
        self.run("ln -s ~/venv .venv && " + INSTALL, 120)
        self.run(".venv/bin/ray get-auth-token --generate >/dev/null", 60)

    def run(self, command: str, limit_s: float, *, on: str = LAPTOP, code: int | None = 0) -> str:
        """Run a command of bash on a machine, as root, at the laptop in the repository.

        Args:
            command: The command.
            limit_s: Seconds that it may take.
            on: The machine.
            code: The exit code that it must have; None for any.

        Returns:
            What it wrote, errors too.
        """
        started = self.start(command, on=on)
        return self.finish(started, limit_s, code=code)

    def start(self, command: str, *, on: str = LAPTOP) -> Command:
        """Start a command of bash on a machine."""
        return Command(self, command, on)

    def finish(self, command: Command, limit_s: float, *, code: int | None = 0) -> str:
        """Wait until it ends; what it wrote."""
        self.wait_for(f"'{command.told}'", lambda: command.code is not None, limit_s)
        if code is not None and command.code != code:
            raise AssertionError(
                f"'{command.text}' ended with {command.code}:\n{command.output()[-6000:]}"
            )
        return command.output()

    def event(self, what: str, since: float = 0.0, **fields: Any) -> dict[str, Any] | None:
        """The first event of this kind with these fields since a Unix time."""
        with self._news:
            for each in self._events:
                same = all(each.get(name) == value for name, value in fields.items())
                if each["event"] == what and each["at"] >= since and same:
                    return each
        return None

    def wait_for(
        self, what: str, look: Callable[[], Found], limit_s: float, every_s: float = 0.5
    ) -> Found:
        """Look until there is something; say what is waited for."""
        began = time.monotonic()
        self.say(f"waiting for {what} (at most {limit_s:g} s)")
        while not (found := look()):
            if broken := self.event("broken"):
                raise AssertionError(f"{broken['why']}; {self._log(broken['name'])}")
            if self._process.poll() is not None:
                raise AssertionError(f"the hypervisor ended; {self._log()}")
            if time.monotonic() - began > limit_s:
                raise TimeoutError(f"waited {limit_s:g} s for {what}")
            time.sleep(every_s)
        self.say(f"  {what}: after {time.monotonic() - began:.1f} s")
        return found

    def pid(self, name: str) -> int:
        """Of a machine's first process, on the outer machine."""
        found = self.ask("pid", name=name)
        assert found is not None, f"{name} does not run"
        return int(found)

    def instances(self, *states: str) -> list[dict[str, Any]]:
        """The cloud's instances in these states; all without any."""
        found = self.ask("instances")
        return [each for each in found if not states or each["state"] in states]

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            what = json.loads(line)
            with self._news:
                (self._events if "event" in what else self._replies).append(what)
                self._news.notify_all()
            if "event" in what:
                more = {k: v for k, v in what.items() if k not in ("event", "at")}
                text = " ".join(f"{name}={value}" for name, value in more.items())
                self.timeline.append((what["at"], f"{what['event']} {text}"))

    def _log(self, name: str = "") -> str:
        file = self.folder / "machines" / f"{name}.log" if name else self.folder / "hypervisor.log"
        return f"{file}:\n{file.read_text()[-3000:]}"


class Command:
    """A command on a machine.

    Attributes:
        text: The command.
    """

    def __init__(self, rig: Rig, text: str, on: str) -> None:
        self.text = text
        self.told = f"{on}: {' '.join(text.split())[:100]}"
        where = f"cd {REPOSITORY} 2>/dev/null || cd\n" if on == LAPTOP else "cd\n"
        words = ["nsenter", "-t", str(rig.pid(on)), "-m", "-u", "-i", "-n", "-p"]
        words += [
            "env",
            "-i",
            "HOME=/root",
            "USER=root",
            "TERM=dumb",
            "LANG=C.UTF-8",
            "COLUMNS=120",
        ]
        words += ["PATH=/root/venv/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"]
        handle, name = tempfile.mkstemp(dir=rig.folder, prefix=f"{on}-", suffix=".log")
        self._file = Path(name)
        self._process = subprocess.Popen(
            [*words, "bash", "-c", f". /etc/profile.d/rig.sh\n{where}{text}"],
            stdin=subprocess.DEVNULL,
            stdout=handle,
            stderr=handle,
        )
        os.close(handle)
        rig._commands.append(self._process)

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.poll()

    def output(self) -> str:
        """What it has written by now."""
        return self._file.read_text(errors="replace")


def replaced(file: Path, changes: Mapping[str, str]) -> None:
    """Change a copy of a shipped file; what is to be changed must be there."""
    text = file.read_text()
    for old, new in changes.items():
        assert old in text, f"{file} has no '{old}' any more"
        text = text.replace(old, new)
    file.write_text(text)
