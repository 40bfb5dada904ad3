"""What a machine is, by its environment and by a metadata service on loopback."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import pytest

from vesselflow.sweeps import cost_machine
from vesselflow.sweeps.cost_machine import MachineKind, Seat, machine_kind, share_of

NOWHERE = Path("/nonexistent")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("aws:m5.2xlarge:spot", MachineKind("aws:m5.2xlarge", "spot")),
        (" gcp:n2-standard-4:on-demand\n", MachineKind("gcp:n2-standard-4", "on-demand")),
        ("rack-7:own", MachineKind("rack-7", "own")),
        ("aws:m5.large", MachineKind("aws:m5.large", "own")),
        ("spot", MachineKind("spot", "own")),
        ("", MachineKind("local", "own")),
        ("::", MachineKind("::", "own")),
    ],
)
def test_the_environment_says_it(text: str, kind: MachineKind) -> None:
    assert machine_kind({"VESSELFLOW_MACHINE": text}, dmi=NOWHERE) == kind


def test_a_machine_of_no_cloud_asks_nobody() -> None:
    def ask(*_: object) -> str:
        raise AssertionError("somebody was asked")

    assert machine_kind({}, dmi=NOWHERE, ask=ask) == MachineKind("local", "own")


class Metadata(http.server.BaseHTTPRequestHandler):
    """AWS's service with tokens, and Google's, as far as they are asked here."""

    answers: ClassVar[dict[str, str]] = {}

    def do_PUT(self) -> None:
        self._answer("token" if "api/token" in self.path else None)

    def do_GET(self) -> None:
        aws = self.path.startswith("/latest") and self.headers["X-aws-ec2-metadata-token"]
        gcp = self.path.startswith("/compute") and self.headers["Metadata-Flavor"] == "Google"
        known = aws == "token" or gcp
        self._answer(self.answers.get(self.path.rpartition("/")[2]) if known else None)

    def _answer(self, text: str | None) -> None:
        self.send_response(404 if text is None else 200)
        self.end_headers()
        self.wfile.write((text or "").encode())

    def log_message(self, *_: object) -> None: ...


@contextmanager
def serving(**answers: str) -> Iterator[str]:
    handler = type("Handler", (Metadata,), {"answers": answers})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join(5)


@pytest.mark.parametrize(("life", "market"), [("spot", "spot"), ("on-demand", "on-demand")])
def test_aws_is_asked_with_a_token(life: str, market: str) -> None:
    with serving(**{"instance-type": "m5.large", "instance-life-cycle": life}) as place:
        environ = {"AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://{place}/"}
        assert machine_kind(environ, dmi=NOWHERE) == MachineKind("aws:m5.large", market)


@pytest.mark.parametrize(("word", "market"), [("TRUE", "spot"), ("FALSE", "on-demand")])
def test_google_is_asked_in_its_way(word: str, market: str) -> None:
    kind = "projects/7/machineTypes/n2-standard-4"
    with serving(**{"machine-type": kind, "preemptible": word}) as place:
        found = machine_kind({"GCE_METADATA_HOST": place}, dmi=NOWHERE)
        assert found == MachineKind("gcp:n2-standard-4", market)


def test_the_machine_itself_says_whose_it_is(tmp_path, monkeypatch) -> None:
    (tmp_path / "sys_vendor").write_text("Amazon EC2\n")
    asked = []

    def ask(method: str, url: str, headers: object) -> str:
        asked.append(url)
        return {"instance-type": "c5.large", "instance-life-cycle": "spot"}.get(
            url.rpartition("/")[2], "token"
        )

    assert machine_kind({}, dmi=tmp_path, ask=ask) == MachineKind("aws:c5.large", "spot")
    assert all(url.startswith("http://169.254.169.254/latest/") for url in asked)


@pytest.mark.parametrize(
    "answers",
    [
        {},
        {"instance-type": "<html>proxy</html>", "instance-life-cycle": "spot"},
        {"instance-type": "", "instance-life-cycle": "spot"},
        {"instance-type": "x" * 5000, "instance-life-cycle": "spot"},
    ],
)
def test_rubbish_is_no_machine(answers: dict[str, str]) -> None:
    with serving(**answers) as place:
        environ = {"AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://{place}"}
        assert machine_kind(environ, dmi=NOWHERE) == MachineKind("local", "own")


def test_who_does_not_answer_is_not_waited_for(monkeypatch) -> None:
    monkeypatch.setattr(cost_machine, "ANSWER_S", 0.05)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metadata) as silent:
        environ = {
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://127.0.0.1:{silent.server_address[1]}"
        }
        assert machine_kind(environ, dmi=NOWHERE) == MachineKind("local", "own")


@pytest.mark.parametrize(
    ("workers", "threads", "gpu", "cpus", "gpus", "share"),
    [
        (1, 2, 0.0, 8, 0, 0.25),
        (2, 4, 0.0, 8, 0, 1.0),
        (4, 4, 0.0, 8, 0, 2.0),
        (1, 1, 0.5, 8, 1, 0.5),
        (1, 4, 0.25, 8, 4, 0.5),
        (1, 1, 0.0, 0, 0, 1.0),
    ],
)
def test_a_share_is_of_cpus_or_of_gpus(
    workers: int, threads: int, gpu: float, cpus: int, gpus: int, share: float
) -> None:
    assert share_of(workers, threads, gpu, machine_cpus=cpus, machine_gpus=gpus) == share


def test_a_seat_stands_with_the_cost_as_plain_values() -> None:
    seat = Seat(MachineKind("aws:m5.large", "spot"), 0.5)
    assert seat.plain() == {"machine": "aws:m5.large", "market": "spot", "share": 0.5}
    assert str(seat.machine) == "aws:m5.large:spot"
    assert str(MachineKind("local", "own")) == "local"
