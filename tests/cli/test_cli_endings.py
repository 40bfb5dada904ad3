"""Every ending of a sweep: what it says, its exit code, what it leaves in the folder."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from bad_input import Answer, command, write_sources

from vesselflow.cli import main as entry
from vesselflow.cli import sweep as sweep_command
from vesselflow.config.loading import load_space
from vesselflow.errors import VesselflowError
from vesselflow.feed.local import LocalData
from vesselflow.runs.registries import REGISTRIES
from vesselflow.sweeps import machine
from vesselflow.sweeps.execution import execute
from vesselflow.sweeps.outcome import (
    ClusterLost,
    Failure,
    Outcome,
    Stopped,
    conclude,
    read_failures,
)
from vesselflow.sweeps.planning import prepare

SPACE = """
stores: {a: a.h5}
data: {train: a, working_size_px: 64}
split: {folds: 3, val_fraction: 0.3}
folds: [0]
model: {name: wnet}
train: {epochs: 1, steps_per_epoch: 1, micro_batch_size: 2}
grid: {loss.beta: [0.25, 0.75]}
"""
SWEEP = ("sweep", "space.yaml", "--no-figures")
FOLDER = Path("results/space")


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of two runs, the first of which is finished."""
    folder = tmp_path_factory.mktemp("half")
    write_sources(folder / "a.h5", 0, 6)
    (folder / "space.yaml").write_text(SPACE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train(load_missing()[:1])
    return folder


@pytest.fixture
def here(half: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(half, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(sweep_command, "leave", leave)
    return tmp_path / "here"


def leave(code: int) -> None:
    raise SystemExit(code)


def load_missing() -> list:
    file = Path("space.yaml")
    return prepare(load_space(file, registries=REGISTRIES)).jobs()


def train(jobs: list) -> None:
    import torch

    torch.set_num_threads(1)
    for job in jobs:
        result = execute(job, Path("results"), LocalData({"a": Path("a.h5")}))
        assert result.state == "finished", result.message


def ended(monkeypatch: pytest.MonkeyPatch, *words: str, outcome: object = None) -> Answer:
    """`vesselflow sweep`, whose runs end as `outcome` says (an Outcome, or what is raised)."""

    def run(console, args, prepared, notify, asked) -> Outcome:
        if isinstance(outcome, BaseException):
            raise outcome
        if callable(outcome):
            return outcome(asked)
        prepared.rescore()
        return conclude(prepared, outcome or Outcome())

    monkeypatch.setattr(sweep_command, "_run", run)
    return command(*SWEEP, *words)


def test_a_run_without_a_result_makes_the_exit_code_1(here, monkeypatch) -> None:
    answer = ended(monkeypatch)
    assert answer.code == 1, answer
    lines = answer.out.splitlines()
    failed = [line for line in lines if line.startswith("failed: ")]
    assert failed == ["failed: beta=0.75 fold 0 seed 0: was not brought to its end (queued)"]
    assert lines[-1] == (
        "runs: 0 done now, 1 before, 1 of 2 without a result (also in "
        f"{FOLDER / 'failures.json'}); the same command tries them again"
    )
    assert [failure.label for failure in read_failures(FOLDER)] == ["beta=0.75 fold 0 seed 0"]


def test_no_result_at_all_is_no_success(here, monkeypatch) -> None:
    shutil.rmtree("results")
    answer = ended(monkeypatch)
    assert answer.code == 1
    assert answer.out.count("failed: ") == len(read_failures(FOLDER)) == 2
    assert "0 done now, 0 before, 2 of 2 without a result" in answer.out


def test_what_the_driver_tells_of_a_failure_is_shown_and_kept(here, monkeypatch) -> None:
    told = Failure("beta=0.75 fold 0 seed 0", "killed its worker 3 times", "slot-1", "x/log.txt")
    stale = Failure("beta=0.25 fold 0 seed 0", "has its result by now")
    answer = ended(monkeypatch, outcome=Outcome(failures=[stale, told]))
    assert answer.code == 1
    assert f"failed: {told.line()}\n" in answer.out
    assert stale.message not in answer.out
    assert read_failures(FOLDER) == [told]


def test_a_failed_run_names_its_log(here, monkeypatch) -> None:
    from vesselflow.records.runs import RunRecord

    record = RunRecord("results", load_missing()[0].run.run_id)
    record.fail(record.begin_attempt(), "ValueError: no luck", "Traceback ...")
    answer = ended(monkeypatch)
    assert (
        f"failed: beta=0.75 fold 0 seed 0: ValueError: no luck; log: {record.folder}" in answer.out
    )
    (failure,) = read_failures(FOLDER)
    assert "no luck" in Path(failure.log).read_text()


def test_the_whole_answer_is_0_and_leaves_no_failures(here, monkeypatch) -> None:
    ended(monkeypatch)
    assert read_failures(FOLDER)
    train(load_missing())
    answer = ended(monkeypatch, outcome=AssertionError("nothing is left to do"))
    assert answer.code == 0, answer
    assert answer.out.splitlines()[-1] == "runs: 0 done now, 2 before"
    assert not (FOLDER / "failures.json").exists()


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_says_so(here, monkeypatch, signum: int, code: int) -> None:
    def stopped(asked) -> Outcome:
        assert "the same command carries on" in asked.take(signum)
        assert asked.stop.is_set()
        assert asked.take(signal.SIGINT) is None
        return Outcome(trained=3, stopped=True)

    answer = ended(monkeypatch, outcome=stopped)
    assert answer.code == code
    assert answer.out.splitlines()[-1] == (
        "stopped: 3 runs brought to the end, the others keep their checkpoints; "
        "the same command carries on"
    )


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Stopped("stopped while Ray was starting"), 130),
        (ClusterLost("Ray's control service ended; what Ray said stands in x.log"), 1),
        (VesselflowError("Ray could not be started (OSError: full)"), 1),
    ],
)
def test_an_end_before_the_end_is_one_line(here, monkeypatch, error, code) -> None:
    answer = ended(monkeypatch, outcome=error)
    assert answer.code == code
    assert answer.err == ""
    (line,) = [line for line in answer.out.splitlines() if str(error) in line]
    assert line == answer.out.splitlines()[-1]
    assert line.endswith("; the same command carries on")


def test_a_reader_that_went_away_ends_a_sweep_with_1(here, monkeypatch) -> None:
    monkeypatch.setattr(sweep_command, "_quiet_stdout", lambda: None)
    answer = ended(monkeypatch, outcome=BrokenPipeError())
    assert answer.code == 1
    assert answer.err == (
        "vesselflow: stopped: nobody reads the output any more; the same command carries on\n"
    )


def test_a_console_tells_of_a_reader_that_went_away() -> None:
    from vesselflow.cli.output import Output

    class Gone:
        encoding = "utf-8"

        def write(self, text: str) -> int:
            raise BrokenPipeError

        def flush(self) -> None:
            pass

    console = Output(file=Gone())
    with pytest.raises(BrokenPipeError):
        console.print("x")
    console.print("nobody listens, nothing is raised any more")


# -- a machine without what a finished sweep asked for -------------------------------------------


def test_a_finished_sweep_answers_on_a_machine_without_gpu(here, monkeypatch) -> None:
    monkeypatch.setattr(machine, "gpus_here", lambda: 0)
    words = ("--set", "resources.gpu=1")
    refused = "1 GPU per worker is asked for, with 0 GPUs on this machine"
    for more in ((), ("--dry-run",)):
        answer = ended(monkeypatch, *words, *more, outcome=AssertionError("it is refused"))
        assert (answer.code, answer.out) == (2, "")
        assert refused in answer.err
    train(load_missing())
    answer = ended(monkeypatch, *words, outcome=AssertionError("nothing is left to do"))
    assert answer.code == 0, answer
    answer = command(*SWEEP, *words, "--dry-run")
    assert answer.code == 0
    assert "slots:  none are needed\n" in answer.out
    answer = ended(monkeypatch, *words, "--fresh", outcome=AssertionError("it is refused"))
    assert answer.code == 2
    assert refused in answer.err


# -- signals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [(signal.SIGTERM, 143, "stopped by SIGTERM"), (signal.SIGINT, 130, "stopped")],
)
def test_a_signal_is_one_line(tmp_path: Path, number: int, code: int, said: str) -> None:
    # Raised through an exec, as in the midst of an import: Python would end by the signal.
    (tmp_path / "probe.py").write_text(
        "import os, signal, sys\nfrom vesselflow.cli import main as entry\n"
        "def add_arguments(parser): pass\n"
        "def run(args):\n"
        f"    try: exec('os.kill(os.getpid(), {int(number)})\\nwhile True: pass', globals())\n"
        "    finally: print('left cleanly')\n"
        "if __name__ == '__main__':\n"
        "    entry.COMMANDS['probe'] = ('probe', '')\n"
        # Whoever started the tests in the background may have had it ignored.
        "    signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)\n"
        "    code = entry.main(['probe'])\n"
        "    assert before == (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))\n"
        "    sys.exit(code)\n"
    )
    # As with `python -m vesselflow`: a script would not end by the signal.
    call = [sys.executable, "-m", "probe"]
    path = f"{tmp_path}{os.pathsep}{Path(entry.__file__).parents[2]}"
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(call, capture_output=True, text=True, env=environment, timeout=120)
    assert Answer(done.returncode, done.stdout, done.stderr) == Answer(
        code, "left cleanly\n", f"vesselflow: {said}; the same command carries on\n"
    )


def test_a_signal_that_is_ignored_stays_so() -> None:
    script = (
        "import os, signal\nfrom vesselflow.cli.main import _interruptible\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "with _interruptible(): os.kill(os.getpid(), signal.SIGINT)\n"
        "print('goes on')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "goes on\n")


def test_ctrl_c_while_libraries_load_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, blocked = sweep_command.Asked(), threading.Event()
    monkeypatch.setattr(sweep_command.importlib, "import_module", lambda name: blocked.wait())
    monkeypatch.setattr(os, "environ", os.environ.copy())
    asked.take(signal.SIGINT)
    with pytest.raises(Stopped, match="while torch and ray were loaded"):
        sweep_command._load_driver(asked)
    blocked.set()


def test_a_library_that_is_missing_is_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError("no torch here")

    monkeypatch.setattr(sweep_command.importlib, "import_module", missing)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    with pytest.raises(ImportError, match="no torch here"):
        sweep_command._load_driver(sweep_command.Asked())


# -- into a pipe ---------------------------------------------------------------------------------


def test_nothing_but_text_goes_into_a_pipe(here) -> None:
    train(load_missing())
    code = (
        "import sys\nfrom vesselflow.cli.main import main\n"
        "sys.exit(max(main(line.split()) for line in sys.argv[1:]))"
    )
    lines = (
        " ".join(SWEEP),
        " ".join((*SWEEP, "--dry-run")),
        "report results/space --no-figures",
        "runs results",
        "data verify a.h5",
        "data inspect a.h5",
        "data synth s.h5 --sources 2 --size 64",
    )
    done = subprocess.run([sys.executable, "-c", code, *lines], capture_output=True)
    assert done.returncode == 0, done
    assert done.stderr == b""
    assert {char for char in done.stdout.decode() if ord(char) < 32} == {"\n"}
