"""What makes the rig's machines: those that it is told to, and one for each instance of the cloud.

Runs in a network namespace of its own, which is the machines' switch. Takes one JSON object a line
(``{"do": ..., ...}``, see `Hypervisor.do_...`), says one a line: ``{"reply": ...}`` to each, and
``{"event": ..., "at": Unix time, ...}``. Ends, and all machines with it, when nobody speaks to it
any more.
"""

from __future__ import annotations

import json
import select
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from cloud import ENDPOINT, METADATA, SERVICE, Cloud
from machines import Machine, Plan, make_switch

#: Seconds between two looks at the instances.
EVERY_S = 0.3
#: States in which an instance has no machine any more.
GONE = ("terminated", "shutting-down", "stopped", "stopping")


class Hypervisor:
    """See the module.

    Args:
        folder: For machines and their logs.
        image: Fields of `machines.Plan` that instances of the cloud have.
    """

    def __init__(self, folder: Path, image: dict[str, Any]) -> None:
        self._folder, self._image = folder, image
        self._lock = threading.Lock()
        self._machines: dict[str, Machine] = {}
        self._booting: dict[str, str] = {}
        self._known: set[str] = set()
        make_switch([SERVICE, METADATA])
        self._cloud = Cloud(self.say)

    def say(self, event: str, **more: Any) -> None:
        """Tell of something."""
        self._write({"event": event, "at": time.time(), **more})

    def run(self) -> None:
        """Work until the other side has gone."""
        pending = b""
        while True:
            ready, _, _ = select.select([0], [], [], EVERY_S)
            if ready:
                piece = sys.stdin.buffer.raw.read(65536)  # type: ignore[attr-defined]
                if not piece:
                    break
                *lines, pending = (pending + piece).split(b"\n")
                for line in lines:
                    self._take(json.loads(line))
            self._turn()
        for machine in self._machines.values():
            machine.kill()

    def do_boot(self, **plan: Any) -> None:
        """Start a machine; the event `up` follows."""
        self._boot(Plan(folder=str(self._folder / plan["name"]), **plan), plan["name"])

    def do_kill(self, name: str) -> None:
        """Switch it off."""
        self._machines.pop(name).kill()

    def do_cut(self, name: str) -> None:
        """Unplug it."""
        self._machines[name].cut()

    def do_mend(self, name: str) -> None:
        """Plug it in again."""
        self._machines[name].mend()

    def do_pid(self, name: str) -> int | None:
        """Of a machine's first process."""
        return self._machines[name].first

    def do_notice(self, name: str, seconds: float) -> None:
        """Tell an instance that it goes in so many seconds, after which it does."""
        self._cloud.give_notice(self._machines[name].plan.env["RIG_INSTANCE"], seconds)

    def do_end(self, name: str) -> None:
        """Terminate an instance without a word."""
        self._cloud.end(self._machines[name].plan.env["RIG_INSTANCE"])

    def do_short(self, what: list[list[str]]) -> None:
        """What cannot be had from now on: [[instance type or "*", market], ...]."""
        self._cloud.short = {(kind, market) for kind, market in what}

    def do_instances(self) -> list[dict[str, Any]]:
        """All that are or were."""
        return [
            {
                "instance": each.id,
                "name": _name(each.id),
                "state": each.state,
                "kind": each.instance_type,
                "market": each.lifecycle or "on-demand",
                "tags": {tag["key"]: tag["value"] for tag in each.get_tags()},
            }
            for each in self._cloud.instances()
        ]

    def _take(self, asked: dict[str, Any]) -> None:
        do = getattr(self, f"do_{asked.pop('do')}")
        try:
            self._write({"reply": do(**asked)})
        except Exception:
            self._write({"reply": None, "error": traceback.format_exc()})

    def _turn(self) -> None:
        self._cloud.take_back()
        for each in self._cloud.instances():
            name = _name(each.id)
            if each.state == "running" and each.id not in self._known:
                self._known.add(each.id)
                keys = [self._cloud.public_key(each.key_name)]
                addresses = [each.private_ip, *([each.public_ip] if each.public_ip else [])]
                env = {**self._image["env"], "RIG_INSTANCE": each.id}
                plan = {**self._image, "name": name, "addresses": addresses, "env": env}
                plan |= {"keys": keys, "folder": str(self._folder / name)}
                self._boot(Plan(**plan), name)
            elif each.state in GONE and name in self._machines:
                self._machines.pop(name).kill()
                self._booting.pop(name, None)
                self.say("down", name=name)
        for name in list(self._booting):
            try:
                if self._machines[name].answers():
                    del self._booting[name]
                    self.say("up", name=name)
            except RuntimeError as error:
                del self._booting[name]
                self.say("broken", name=name, why=str(error))

    def _boot(self, plan: Plan, name: str) -> None:
        self._machines[name] = Machine(plan, self._folder / f"{name}.log")
        self._booting[name] = name

    def _write(self, what: dict[str, Any]) -> None:
        with self._lock:
            print(json.dumps(what), flush=True)


def _name(instance: str) -> str:
    """Of the machine that an instance is; names of interfaces are short."""
    return f"i-{instance[-8:]}"


if __name__ == "__main__":
    # What a machine of AWS knows by its names, and by who made it.
    env = {"AWS_ENDPOINT_URL": ENDPOINT, "AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://{METADATA}"}
    Hypervisor(Path(sys.argv[1]), {"env": env, **json.loads(sys.argv[2])}).run()
