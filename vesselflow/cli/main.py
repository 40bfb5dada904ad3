"""The `vesselflow` command: parses, calls one thin module per command, errors become one line."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from vesselflow import __version__
from vesselflow.cli.leaving import leave
from vesselflow.errors import UserError, VesselflowError

#: name -> (module, one line of help). A module is imported only when its command is called.
COMMANDS = {
    "sweep": ("vesselflow.cli.sweep", "run every training of a search space that is not done yet"),
    "plan": ("vesselflow.cli.plan_command", "how long a sweep will take, and what it will cost"),
    "smoke": ("vesselflow.cli.smoke", "try whether a point can learn four samples by heart"),
    "data": ("vesselflow.cli.data", "import, inspect, verify and synthesise HDF5 stores"),
    "keys": ("vesselflow.cli.keys", "every key that a search space may hold, with its default"),
    "model": ("vesselflow.cli.model", "what the networks of a space cost, and what they see"),
    "runs": ("vesselflow.cli.runs", "list the runs of a results folder"),
    "report": ("vesselflow.cli.report", "tables and figures of a sweep"),
    "gc": ("vesselflow.cli.gc", "remove what no answer in a results folder needs"),
    "cluster": ("vesselflow.cli.cluster", "check a cluster file before it costs anything"),
    "submit": ("vesselflow.cli.submit", "run a sweep on a cluster, from a laptop"),
    "chaos": ("vesselflow.cli.chaos", "disturb a sweep on purpose: its tables must not change"),
    "bench": ("vesselflow.cli.bench", "measure vesselflow against its peers, side by side"),
}

#: Commands that hand on what follows "--", as `args.rest`.
_HANDS_ON = ("submit",)

EXIT_CODES = """exit codes:
  0    done
  1    the sweep ended without its whole answer (or: the check found a fault)
  2    something given is wrong: a line for each says what, where, what is allowed, what to do
  130  stopped by Ctrl-C; the same command carries on
  143  stopped by SIGTERM; the same command carries on"""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, taken like Ctrl-C."""


class _Parser(argparse.ArgumentParser):
    """A parser whose complaint is one line; the usage is a screenful that hides it."""

    def error(self, message: str) -> NoReturn:
        message = message.removeprefix("argument ")
        self.exit(2, f"vesselflow: {message}; see '{self.prog} --help'\n")


def build_parser(command: str | None) -> argparse.ArgumentParser:
    """The parser; only the module of `command` is imported for its arguments."""
    parser = _Parser(
        prog="vesselflow",
        description="Ablation sweeps for vessel segmentation: one YAML file, one command.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"vesselflow {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module, text) in COMMANDS.items():
        sub = commands.add_parser(
            name,
            help=text,
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name == command:
            loaded = importlib.import_module(module)
            loaded.add_arguments(sub)
            sub.set_defaults(run=loaded.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    command = next((word for word in words if not word.startswith("-")), None)
    try:
        with _interruptible():
            words, rest = _cut(words) if command in _HANDS_ON else (words, [])
            parser = build_parser(command)
            args, unknown = parser.parse_known_args(words, argparse.Namespace(rest=rest))
            if unknown:
                # The page that lists what the command knows.
                parser.prog = f"vesselflow {command}"
                parser.error(f"unrecognized arguments: {' '.join(unknown)}")
            return int(args.run(args) or 0)
    except UserError as error:
        for line in error.lines():
            print(f"vesselflow: {line}", file=sys.stderr)
        return 2
    except VesselflowError as error:
        print(f"vesselflow: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        told = _told(error)
        if told is None:
            raise
        print(f"vesselflow: {told}", file=sys.stderr)
        return 2
    except Terminated:
        print("vesselflow: stopped by SIGTERM; the same command carries on", file=sys.stderr)
        return 143
    except KeyboardInterrupt:
        print("vesselflow: stopped; the same command carries on", file=sys.stderr)
        return 130


def _cut(words: list[str]) -> tuple[list[str], list[str]]:
    """What comes before "--" and what comes after it; argparse would see a second positional."""
    at = words.index("--") if "--" in words else len(words)
    return words[:at], words[at + 1 :]


def command() -> NoReturn:
    """What a shell calls: `main`, and the end of the process."""
    try:
        code = main()
    except SystemExit as end:  # argparse: help, version, what it cannot read.
        code = end.code if isinstance(end.code, int) else 0
    leave(code)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C and SIGTERM (of a batch system, say) raise, so that blocks are left cleanly.

    Each raises a class of its own: of a KeyboardInterrupt that passed through an `exec`, as in many
    an import, Python remembers that it was not handled, and ends by the signal in spite of us.
    """

    def handle(signum: int, frame: object) -> None:
        raise Terminated if signum == signal.SIGTERM else Interrupted

    usual: dict[int, Any] = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
    }
    # Signals that are ignored (nohup) stay so, and only the main thread may say what they do.
    ours = threading.current_thread() is threading.main_thread()
    taken = [number for number in usual if ours and signal.getsignal(number) == usual[number]]
    for number in taken:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, usual[number])


def _told(error: OSError) -> UserError | None:
    """The one line for what a user can mend (permission, space, a file in the way), or None."""
    from vesselflow.records.atomic import explained
    from vesselflow.records.paths import any_path

    if not isinstance(error.filename, str):
        return None
    path = any_path(error.filename)
    if isinstance(error, FileExistsError):
        return UserError(
            "a file stands where a folder is needed",
            where=str(path),
            hint="remove it, or choose another folder",
        )
    try:
        with explained(path):
            raise error
    except UserError as told:
        return told
    except OSError:
        return None


if __name__ == "__main__":
    command()
