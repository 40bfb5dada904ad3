"""The entry point: help, exit codes, one line per error."""

from __future__ import annotations

import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

from vesselflow import __version__
from vesselflow.cli import main as entry
from vesselflow.errors import UserError, UserErrors


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch):
    """Put a command called `probe` in, whose `run` is what the test gives."""

    def install(run) -> None:
        module = types.ModuleType("vesselflow_probe")
        module.add_arguments = lambda parser: parser.add_argument("word", nargs="?")
        module.run = run
        monkeypatch.setitem(sys.modules, "vesselflow_probe", module)
        monkeypatch.setitem(entry.COMMANDS, "probe", ("vesselflow_probe", "a probe"))

    return install


def test_the_help_lists_every_command_and_the_exit_codes(capsys) -> None:
    with pytest.raises(SystemExit) as done:
        entry.main(["--help"])
    assert done.value.code == 0
    shown = capsys.readouterr().out
    for name, (_, text) in entry.COMMANDS.items():
        assert re.search(rf"^ +{name} +{re.escape(text[:30])}", shown, re.MULTILINE), name
    assert entry.EXIT_CODES in shown


@pytest.mark.parametrize("name", sorted(entry.COMMANDS))
def test_every_command_has_its_help(name: str, capsys) -> None:
    with pytest.raises(SystemExit) as done:
        entry.main([name, "--help"])
    assert done.value.code == 0
    assert f"vesselflow {name}" in capsys.readouterr().out


def test_the_version_is_shown(capsys) -> None:
    with pytest.raises(SystemExit) as done:
        entry.main(["--version"])
    assert done.value.code == 0
    assert capsys.readouterr().out == f"vesselflow {__version__}\n"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [([], "COMMAND"), (["swep"], "invalid choice: 'swep'"), (["sweep"], "space")],
)
def test_a_command_line_that_is_wrong_ends_with_2(words, complaint, capsys) -> None:
    with pytest.raises(SystemExit) as done:
        entry.main(words)
    assert done.value.code == 2
    shown = capsys.readouterr().err
    assert complaint in shown
    assert "Traceback" not in shown


def test_what_a_command_returns_is_the_exit_code(command) -> None:
    command(lambda args: 1)
    assert entry.main(["probe"]) == 1
    command(lambda args: None)
    assert entry.main(["probe", "word"]) == 0


def test_a_user_error_is_one_line_on_stderr_and_2(command, capsys) -> None:
    def run(args) -> int:
        raise UserError("there is no\nsuch file", where="a.yaml", hint="check the name")

    command(run)
    assert entry.main(["probe"]) == 2
    shown = capsys.readouterr()
    assert shown.err == "vesselflow: a.yaml: there is no such file; check the name\n"
    assert shown.out == ""


def test_several_user_errors_are_a_line_each(command, capsys) -> None:
    def run(args) -> int:
        raise UserErrors([UserError("one", where="a.yaml"), UserError("two", hint="do")])

    command(run)
    assert entry.main(["probe"]) == 2
    assert capsys.readouterr().err == "vesselflow: a.yaml: one\nvesselflow: two; do\n"


def test_a_fault_of_ours_is_not_hidden(command) -> None:
    def run(args) -> int:
        raise ZeroDivisionError

    command(run)
    with pytest.raises(ZeroDivisionError):
        entry.main(["probe"])


def test_ctrl_c_says_how_to_go_on(command, capsys) -> None:
    def run(args) -> int:
        raise KeyboardInterrupt

    command(run)
    assert entry.main(["probe"]) == 130
    assert capsys.readouterr().err == "vesselflow: stopped; the same command carries on\n"


def test_a_reader_that_went_away_is_no_error() -> None:
    # Enough text that the pipe is full when its reader closes it.
    code = (
        "import sys, types\nfrom vesselflow.cli import main as entry\n"
        "def run(args):\n    for _ in range(20000): print('x' * 50)\n    return 0\n"
        "probe = types.ModuleType('probe'); probe.run = run\n"
        "probe.add_arguments = lambda parser: None\n"
        "sys.modules['probe'] = probe; entry.COMMANDS['probe'] = ('probe', '')\n"
        "sys.exit(entry.main(['probe']))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.readline()
        child.stdout.close()
        shown = child.stderr.read()
    assert child.returncode == 0
    assert shown == ""


def test_the_package_and_the_script_are_the_same_command() -> None:
    script = Path(sys.executable).with_name("vesselflow")
    for call in ([sys.executable, "-m", "vesselflow"], [str(script)]):
        done = subprocess.run([*call, "--version"], capture_output=True, text=True, check=True)
        assert done.stdout == f"vesselflow {__version__}\n"


def test_the_help_imports_next_to_nothing() -> None:
    # 0.03 s on an idle machine, where numpy and pydantic alone would take 0.2 s.
    code = (
        "import sys\nfrom vesselflow.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'ray', 'numpy', 'pydantic', 'rich', 'yaml'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage: vesselflow" in done.stdout
