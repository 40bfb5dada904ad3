"""`vesselflow submit SPACE --cluster FILE`: a sweep on a cluster, from a laptop."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from vesselflow.cli.spaces import add_space_options, read_space

if TYPE_CHECKING:
    from rich.console import Console

    from vesselflow.orchestration.jobs import Jobs
    from vesselflow.records.paths import AnyPath

_EPILOG = """The cluster must be up (ray up FILE). The space goes there with the files that it
names, and stores of this machine go into the bucket of the results. From then on the sweep needs
this machine no more: Ctrl-C ends the following, not the sweep. At its end the summary is written
here too.

  vesselflow submit search_spaces/loss_beta.yaml --cluster clusters/aws.yaml
  vesselflow submit search_spaces/loss_beta.yaml --cluster clusters/aws.yaml --detach
  vesselflow submit --cluster clusters/aws.yaml --follow JOB
  vesselflow submit --cluster clusters/aws.yaml --stop JOB

What follows -- goes to `vesselflow sweep` there: -- --budget 40"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.epilog = _EPILOG
    parser.add_argument("space", metavar="SPACE", nargs="?", help="the search space")
    parser.add_argument("--cluster", metavar="FILE", required=True, help="file of `ray up`")
    add_space_options(parser, whose="the space's", set_help="override a key")
    parser.add_argument(
        "--results", metavar="DIR", help="default: metadata.vesselflow.storage of the cluster file"
    )
    parser.add_argument("--detach", action="store_true", help="do not follow the sweep")
    parser.add_argument("--follow", metavar="JOB", help="follow a sweep that was handed in before")
    parser.add_argument("--stop", metavar="JOB", help="stop a sweep; it can be carried on")
    parser.add_argument(
        "--dashboard", metavar="URL", help="of the cluster, where there is a tunnel already"
    )


def run(args: argparse.Namespace) -> int:
    """Hand in, follow or stop; the exit code is the sweep's, where it was followed to its end."""
    from vesselflow.cli.output import Output
    from vesselflow.errors import UserError

    console = Output(highlight=False)
    if sum(map(bool, (args.space, args.follow, args.stop))) != 1:
        raise UserError(
            "one of them is needed", where="submit", allowed="SPACE, --follow JOB or --stop JOB"
        )
    if not args.space:
        with _jobs(args) as jobs:
            if args.follow:
                return _follow(console, jobs, args.follow, args)
            jobs.stop(args.stop)
            console.print(f"{args.stop} stops: its runs write checkpoints", markup=False)
            return 0
    return _submit(console, args)


def _submit(console: Console, args: argparse.Namespace) -> int:
    from vesselflow.sweeps.folder import sweep_folder
    from vesselflow.sweeps.parcel import pack

    def notify(text: str) -> None:
        console.print(text, style="dim", markup=False, soft_wrap=True)

    space = read_space(args.space, args)
    results = _results(args)
    with tempfile.TemporaryDirectory(prefix="vesselflow-parcel-") as name:
        parcel = pack(space, results, Path(name), notify)
        words = [parcel.space, "--results", str(results)]
        if args.profile:
            words += ["--profile", args.profile]
        for override in (*args.overrides, *parcel.overrides):
            words += ["--set", override]
        job = f"{space.name}-{time.strftime('%Y%m%d-%H%M%S')}"
        with _jobs(args, notify) as jobs:
            jobs.submit(job, parcel.folder, [*words, *args.rest])
            console.print(f"handed in as {job}; results: {results}", markup=False, soft_wrap=True)
            again = f"vesselflow submit --cluster {args.cluster}"
            if args.detach:
                console.print(f"follow it: {again} --follow {job}", markup=False, soft_wrap=True)
                console.print(f"stop it:   {again} --stop {job}", markup=False, soft_wrap=True)
                return 0
            code = _follow(console, jobs, job, args)
    summary = sweep_folder(space, args.profile, results) / "report" / "summary.md"
    with contextlib.suppress(OSError):
        here = Path(f"{summary.parent.parent.name}-summary.md")
        here.write_bytes(summary.read_bytes())
        console.print(f"summary: {here}", markup=False, soft_wrap=True)
    return code


def _follow(console: Console, jobs: Jobs, job: str, args: argparse.Namespace) -> int:
    try:
        state = jobs.follow(job, lambda text: console.out(text, end="", highlight=False))
    except KeyboardInterrupt:
        console.print(
            f"\nno longer followed, the sweep goes on: vesselflow submit --cluster {args.cluster} "
            f"--follow {job}",
            markup=False,
            soft_wrap=True,
        )
        return 0
    code = 0 if state == "SUCCEEDED" else (jobs.exit_code(job) or 1)
    if code:
        told = f"{job} ended as {state.lower()} (exit code {code}); the same command carries on"
        console.print(told, style="red", markup=False, soft_wrap=True)
    return code


def _results(args: argparse.Namespace) -> AnyPath:
    from vesselflow.cli.plan import check_results
    from vesselflow.clusters.files import read_cluster
    from vesselflow.errors import UserError

    if args.results:
        return check_results(args.results)
    storage = read_cluster(args.cluster).settings.storage
    if not storage or "CHANGE-ME" in storage:
        raise UserError(
            "it does not say where the results go",
            where=f"{args.cluster}: metadata.vesselflow.storage",
            allowed="s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, or a folder that all machines see",
        )
    return check_results(storage)


@contextlib.contextmanager
def _jobs(
    args: argparse.Namespace, notify: Callable[[str], None] = lambda text: None
) -> Iterator[Jobs]:
    from vesselflow.orchestration.environment import settle_environment, settle_token

    settle_environment()
    settle_token()
    from vesselflow.orchestration.jobs import Jobs, tunnel

    if args.dashboard:
        yield Jobs(args.dashboard)
        return
    notify("opening a tunnel to the cluster")
    with tunnel(Path(args.cluster)) as address:
        yield Jobs(address)
