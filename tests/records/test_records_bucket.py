"""A bucket on loopback: verbs, paths, marks, records of runs and their index, and every trouble."""

from __future__ import annotations

import errno
import pickle
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from vesselflow.errors import StorageTrouble, UserError
from vesselflow.records import bucket as bucket_module
from vesselflow.records.atomic import (
    Torn,
    create_exclusive,
    read_json_or_none,
    read_sealed,
    storage_trouble,
    write_bytes,
    write_json,
    write_sealed,
    writing,
)
from vesselflow.records.bucket import Bucket, BucketTrouble
from vesselflow.records.cache import fetched_once, local_copy, stores_folder
from vesselflow.records.drivers import Driver
from vesselflow.records.index import Index, stamp_of
from vesselflow.records.known import KnownRuns
from vesselflow.records.leases import Lease
from vesselflow.records.paths import (
    AnyPath,
    BucketPath,
    Looks,
    any_path,
    folders_in,
    names_in,
    remove_tree,
    there,
)
from vesselflow.records.runs import RunRecord, read_index, tidy
from vesselflow.records.status import RunState


@pytest.fixture
def root(bucket: str) -> BucketPath:
    path = any_path(bucket)
    assert isinstance(path, BucketPath)
    return path


def test_an_address_says_bucket_key_and_options() -> None:
    path = any_path("s3://vessels/a/b?endpoint_override=http://127.0.0.1:9&region=eu-west-1")
    assert isinstance(path, BucketPath)
    assert (path.bucket.name, path.key, path.name) == ("vessels", "a/b", "b")
    assert any_path(str(path / "c.d.json")) == path / "c.d.json"
    assert ((path / "c.d.json").stem, (path / "c.d.json").suffix) == ("c.d", ".json")
    assert pickle.loads(pickle.dumps(path)) == path
    assert path.parent.parent.key == ""
    assert path.parent.parent.name == "vessels"
    assert isinstance(any_path("gs://vessels/x"), BucketPath)
    assert any_path("results") == Path("results")
    # Where an address is taken for a path of this machine, a folder "s3:" would be made.
    with pytest.raises(TypeError):
        open(path)  # type: ignore[call-overload] # noqa: SIM115
    for wrong in ("s3://", "s3:///x", "s3://b/x?colour=red"):
        with pytest.raises(UserError, match="s3://BUCKET/PREFIX"):
            Bucket.at(wrong)


def test_objects_are_whole_or_absent(root: BucketPath) -> None:
    path = root / "a" / "b.json"
    assert not there(path)
    assert read_json_or_none(path) is None
    with pytest.raises(FileNotFoundError):
        path.read_bytes()
    write_json(path, {"x": 1})
    assert read_json_or_none(path) == {"x": 1}
    assert path.exists()
    assert path.is_file()
    assert not path.is_dir()
    assert (root / "a").is_dir()
    assert not (root / "a").is_file()
    path.unlink()
    path.unlink(missing_ok=True)
    assert not (root / "a").exists()


def test_a_file_that_is_written_piece_by_piece(root: BucketPath) -> None:
    with writing(root / "large") as file:
        for _ in range(40):
            file.write(bytes(1 << 20))
        assert not there(root / "large")
    assert root.bucket.look("large").size == 40 << 20

    def killed() -> None:
        with writing(root / "large") as file:
            file.write(b"x")
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        killed()
    assert root.bucket.look("large").size == 40 << 20
    assert root.bucket.get_range("large", (40 << 20) - 2, 10) == b"\0\0"


def test_sealed_files_tell_of_damage(root: BucketPath) -> None:
    write_sealed(root / "s", b"one", b"two")
    assert read_sealed(root / "s") == b"onetwo"
    (root / "s").bucket.put("s", (root / "s").read_bytes()[:-1])
    with pytest.raises(Torn):
        read_sealed(root / "s")


def test_one_of_many_creates(root: BucketPath) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda n: create_exclusive(root / "one", f"{n}".encode()), range(8)))
    assert made.count(True) == 1
    assert (root / "one").read_bytes() == f"{made.index(True)}".encode()
    # A request is sent again when its answer was lost, and meets what it made.
    assert create_exclusive(root / "one", f"{made.index(True)}".encode())
    assert not create_exclusive(root / "one", b"other")


def test_folders_are_what_keys_share(root: BucketPath) -> None:
    for name in ("r/b/1", "r/b/2", "r/a/x/1", "r/c", "rest"):
        write_bytes(root / name, b"")
    assert sorted(names_in(root / "r")) == ["a", "b", "c"]
    assert sorted(folders_in(root / "r")) == ["a", "b"]
    assert names_in(root / "no") == []
    assert sorted(path.key for path in (root / "r").rglob("1")) == ["r/a/x/1", "r/b/1"]
    assert [path.name for path in (root / "r" / "b").glob("2*")] == ["2"]
    remove_tree(root / "r")
    assert names_in(root) == ["rest"]


def test_a_tree_of_more_than_a_thousand_objects(root: BucketPath) -> None:
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda n: write_bytes(root / f"t/{n % 7}/{n}", b""), range(1100)))
    assert sum(1 for _ in root.bucket.below("t")) == 1100
    assert len(Looks(root / "t").names("3")) == len(range(3, 1100, 7))
    remove_tree(root / "t")
    assert names_in(root) == []


def test_marks_tell_contents_apart(anywhere: AnyPath) -> None:
    folder = anywhere / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "r1").mkdir(parents=True, exist_ok=True)
    write_bytes(folder / "r1" / "a", b"one")
    looks = Looks(folder)
    first = looks.mark("r1/a")
    assert first is not None
    assert looks.mark("r1/b") is None
    assert looks.mark("r2") is None
    assert looks.names("r1") == ["a"]
    assert looks.names("r2") == []
    before = looks.mark("r1")
    write_bytes(folder / "r1" / "a", b"two")
    write_bytes(folder / "r1" / "b", b"")
    looks.refresh()
    assert looks.mark("r1/a") != first
    assert looks.mark("r1") not in (None, before)


def _train(results: AnyPath, name: str, steps: range) -> RunRecord:
    record = RunRecord(results, name)
    record.create("loss: {name: bce}\n", {"fold": 0})
    attempt = record.begin_attempt()
    for step in steps:
        attempt.write_rows(step, [{"epoch": step, "step": step, "loss": 1.0 / step}])
        attempt.checkpoints.save(step, f"{step}".encode())
    attempt.log("one")
    attempt.log_once("two")
    attempt.log_once("two")
    attempt.write_cost({"wall_s": 1.5})
    return record


def test_a_run_from_its_beginning_to_its_end(anywhere: AnyPath) -> None:
    record = _train(anywhere, "r1", range(1, 4))
    assert record.status().state is RunState.RUNNING
    assert names_in(record.attempt_folder(1) / "checkpoints") != []
    again = record.begin_attempt()
    assert again.number == 2
    assert again.resume_point() == (3, b"3")
    again.write_rows(4, [{"epoch": 4, "step": 4, "loss": 0.25}])
    again.checkpoints.save(4, b"4")
    record.keep_weights(4, b"weights")
    assert record.finish(again, {"steps": 4})
    assert [row["step"] for row in record.rows()] == [1, 2, 3, 4]
    assert record.read_weights(4) == b"weights"
    assert [cost["wall_s"] for cost in record.costs()] == [1.5]
    text = (record.attempt_folder(1) / "log.txt").read_text()
    assert [line.split(" ", 1)[1] for line in text.splitlines()] == ["one", "two"]
    assert read_index(anywhere) == [("r1", record.status())]
    record.tidy()
    assert names_in(record.attempt_folder(2) / "checkpoints") == []
    # Another attempt that comes too late is not the accepted one.
    late = record.begin_attempt()
    assert not record.finish(late, {"steps": 4})
    record.reset()
    assert record.status().state is RunState.QUEUED
    assert not record.folder.exists()


def test_a_torn_checkpoint_falls_back(anywhere: AnyPath) -> None:
    record = _train(anywhere, "r1", range(1, 4))
    newest = record.attempt_folder(1) / "checkpoints" / "0000000003.ckpt"
    write_bytes(newest, newest.read_bytes()[:-1])
    assert record.begin_attempt().resume_point() == (2, b"2")


def test_many_runs_are_tidied_at_once(anywhere: AnyPath) -> None:
    for name in ("r1", "r2", "r3"):
        record = _train(anywhere, name, range(1, 3))
        if name != "r3":
            attempt = record.begin_attempt()
            record.finish(attempt, {"steps": 2})
    tidy(anywhere, {"r1"})
    kept = {
        name: RunRecord(anywhere, name).attempt_folder(1) / "checkpoints"
        for name in ("r1", "r2", "r3")
    }
    assert {name: bool(names_in(folder)) for name, folder in kept.items()} == {
        "r1": False,
        "r2": True,
        "r3": True,
    }


def test_finished_runs_come_from_the_index(
    root: BucketPath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("r1", "r2"):
        record = _train(root, name, range(1, 3))
        record.finish(record.begin_attempt(), {"steps": 2})
    first = KnownRuns(root)
    rows = {name: first.get(name).rows() for name in ("r1", "r2")}
    assert len(rows["r1"]) == 2
    first.index.flush()
    asked: list[str] = []
    for verb in ("get", "get_into"):
        real = getattr(Bucket, verb)

        def asking(self: Bucket, key: str, *rest: object, real: Any = real) -> object:
            asked.append(key)
            return real(self, key, *rest)

        monkeypatch.setattr(Bucket, verb, asking)
    again = KnownRuns(root)
    assert {name: again.get(name).rows() for name in rows} == rows
    assert again.get("r1").status.state is RunState.FINISHED
    assert asked == []
    # Another machine fetches the segment, once.
    monkeypatch.setenv("VESSELFLOW_CACHE", str(tmp_path))
    for _ in range(2):
        assert KnownRuns(root).get("r2").rows() == rows["r2"]
        assert len(asked) == 1
    RunRecord(root, "r1").reset()
    again.refresh()
    assert again.get("r1").status.state is RunState.QUEUED


def test_many_runs_are_read_at_once(root: BucketPath, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("r1", "r2", "r3"):
        record = _train(root, name, range(1, 3))
        if name != "r3":
            record.finish(record.begin_attempt(), {"steps": 2})
    (root / "runs" / "r2" / "attempts" / "2" / "curve.json").unlink()
    runs = KnownRuns(root)
    runs.fetch(["r1", "r2", "r3", "r4"])

    def read(self: Bucket, key: str) -> bytes:
        raise AssertionError(f"{key} is read in turn")

    with monkeypatch.context() as patch:
        patch.setattr(Bucket, "get", read)
        assert runs.get("r1").status.state is RunState.FINISHED
        assert len(runs.get("r1").rows()) == 2
    # What the index cannot hold is read when it is asked for.
    assert runs.get("r2").status.state is RunState.FINISHED
    assert runs.get("r3").status.state is RunState.RUNNING
    assert runs.get("r4").status.state is RunState.QUEUED


def test_an_index_in_a_bucket_is_joined(root: BucketPath) -> None:
    write_bytes(root / "file", b"x")
    mark = Looks(root).mark("file")
    stamp = stamp_of([mark])
    for number in range(10):
        with Index(root, "test", 1) as index:
            assert index.put(f"n{number}", stamp, f"{number}".encode())
    assert len(names_in(root / "index")) < 10
    again = Index(root, "test", 1)
    assert [again.get(f"n{n}", stamp) for n in range(10)] == [f"{n}".encode() for n in range(10)]


def test_a_copy_is_of_the_content_that_is_there_now(root: BucketPath) -> None:
    write_bytes(root / "store.h5", b"one")
    first = local_copy(root / "store.h5")
    assert first.read_bytes() == b"one"
    assert local_copy(root / "store.h5") == first
    write_bytes(root / "store.h5", b"two")
    assert local_copy(root / "store.h5").read_bytes() == b"two"
    with pytest.raises(FileNotFoundError):
        local_copy(root / "none.h5")


def test_what_many_want_at_once_is_fetched_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VESSELFLOW_CACHE", str(tmp_path))
    asked: list[int] = []
    others = threading.Event()

    def fill(file: BinaryIO) -> None:
        asked.append(1)
        others.wait(0.2)  # time enough for the others to come; too little makes no test fail
        file.write(b"content")

    def refuse(path: Path) -> None:
        raise OSError("another one")

    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(fetched_once, "a.h5", fill, lambda path: None) for _ in range(4)]
        assert {job.result(timeout=60).read_bytes() for job in jobs} == {b"content"}
    assert len(asked) == 1
    # What is refused is not kept, and is asked for again.
    for _ in range(2):
        with pytest.raises(OSError, match="another one"):
            fetched_once("b.h5", fill, refuse)
    assert len(asked) == 3
    assert [p.name for p in stores_folder().iterdir() if p.suffix != ".lock"] == ["a.h5"]


# -- trouble -----------------------------------------------------------------------------------


class _Answers(BaseHTTPRequestHandler):
    """Says what the server is told to say."""

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.rfile.read(length)
        code, body = self.server.answer  # type: ignore[attr-defined]
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _answer

    def log_message(self, *words: object) -> None:
        """Say nothing."""


@pytest.fixture
def rude(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    """A server that answers each request with ``.answer``."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setattr(bucket_module, "RETRIES", 1)
    monkeypatch.setattr(bucket_module, "RETRY_S", 2)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def _error(code: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>{code} it is</Message></Error>".encode()


@pytest.mark.parametrize(
    ("status", "body", "number", "words"),
    [
        (403, _error("AccessDenied"), errno.EACCES, "refuses access"),
        (403, _error("InvalidAccessKeyId"), errno.EACCES, "InvalidAccessKeyId"),
        (401, b"", errno.EACCES, "refuses access"),
        (400, _error("ExpiredToken"), errno.EACCES, "ExpiredToken"),
        (404, _error("NoSuchBucket"), errno.ENODEV, "no bucket called 'vessels'"),
        (500, b"", errno.EHOSTUNREACH, "does not answer"),
        (503, _error("SlowDown"), errno.EHOSTUNREACH, "SlowDown"),
        (200, b"rubbish", errno.EHOSTUNREACH, "does not answer"),
    ],
)
def test_every_trouble_is_one_that_a_writer_waits_for(
    rude: ThreadingHTTPServer, status: int, body: bytes, number: int, words: str
) -> None:
    rude.answer = (status, body)  # type: ignore[attr-defined]
    path = any_path(f"s3://vessels/x?endpoint_override=http://127.0.0.1:{rude.server_port}")
    assert isinstance(path, BucketPath)
    verbs = [lambda: list(path.iterdir())]
    if status != 200:
        verbs += [lambda: path.bucket.check()]
        verbs += [lambda: path.read_bytes(), lambda: path.bucket.put("x", b"")]
        verbs += [lambda: path.bucket.create("x", b"y")]
    for verb in verbs:
        with pytest.raises(BucketTrouble) as caught:
            verb()
        assert caught.value.errno == number
        trouble = storage_trouble(caught.value)
        assert isinstance(trouble, StorageTrouble)
        assert words in str(trouble)
        assert "s3://vessels" in str(trouble)
        assert len(str(trouble)) < 400
        again = pickle.loads(pickle.dumps(caught.value))
        assert (again.errno, again.what, again.hint) == (number, *_told(caught.value))
    with pytest.raises(StorageTrouble, match="s3://vessels/x"):
        write_bytes(path, b"")
    # What is there is never taken for what is not.
    if status != 200:
        with pytest.raises(BucketTrouble):
            read_json_or_none(path)


def _told(trouble: BucketTrouble) -> tuple[str, str]:
    return trouble.what, trouble.hint


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setattr(bucket_module, "RETRIES", 1)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        path = any_path(f"s3://vessels/x?endpoint_override=http://127.0.0.1:{port}")
        with pytest.raises(BucketTrouble, match="does not answer"):
            path.read_bytes()


def test_a_run_asks_a_bucket_little(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each request costs milliseconds: what a process wrote itself is not read again."""
    asked: list[str] = []
    told = Bucket._told

    def counted(self: Bucket, key: str, *, writes: bool = False) -> Any:
        asked.append(key)
        return told(self, key, writes=writes)

    def requests() -> int:
        number = len(asked)
        asked.clear()
        return number

    results = any_path(bucket) / "results"
    record, driver = RunRecord(results, "r"), Driver.begin(results, {"pid": 1})
    monkeypatch.setattr(Bucket, "_told", counted)
    lease = Lease.claim(record.folder, driver)
    assert lease is not None
    assert requests() == 3  # listed, created, listed
    record.create("model: {}\n", {})
    attempt = record.begin_attempt()
    assert requests() == 2 + 7
    for epoch in (1, 2, 3):
        attempt.write_rows(epoch, [{"step": epoch, "epoch": epoch, "loss": 0.5}])
        attempt.checkpoints.save(epoch, b"state")
    # Rows, two questions whether it still speaks for the run, its note; a checkpoint. Then the
    # list of checkpoints before the first and the removal of the oldest.
    assert requests() == 3 * (4 + 1) + 1 + 1
    assert record.finish(attempt, {"steps": 3})
    assert requests() == 5
    assert [row["epoch"] for row in record.rows()] == [1, 2, 3]
    asked.clear()
    record.tidy()
    assert requests() == 3
    assert lease.release()
    assert requests() == 2
    assert Lease.holder(record.folder, driver.others) is None
    driver.end()
