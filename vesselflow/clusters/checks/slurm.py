"""A script for Slurm: does the end of its time come as a notice, and does it come again."""

from __future__ import annotations

import re
from collections.abc import Iterator

from vesselflow.clusters.checks.parts import script_text
from vesselflow.clusters.checks.starting import HEALTH
from vesselflow.clusters.findings import Finding, error, warning
from vesselflow.clusters.slurm_script import whole
from vesselflow.clusters.surroundings import Checked

#: What the runs need for their checkpoints, a step under way and a slow disk included.
LEAST_NOTICE_S = 120
_SIGNAL = re.compile(r"(?P<where>[BR]*:)?(?P<name>\w+)(?:@(?P<seconds>\d+))?")


def check_notice(checked: Checked) -> Iterator[Finding]:
    """The time limit must be heard by the script."""
    options, script = checked.document.mapping("sbatch"), str(checked.document.at("script"))
    place = ("sbatch", "signal")
    allowed = "#SBATCH --signal=B:USR1@300"
    found = _SIGNAL.fullmatch(str(options.get("signal", "")))
    if found is None:
        yield error(
            "notice",
            place,
            "the time limit comes without a word: the work since the last checkpoint is done "
            "twice, and the job does not come again",
            allowed=allowed,
        )
        return
    if "B" not in (found["where"] or ""):
        yield error("notice", place, "the signal goes past the script itself", allowed=allowed)
    name = found["name"].removeprefix("SIG")
    if not re.search(rf"^\s*trap\b.*\b(?:SIG)?{name}\b", script, re.MULTILINE):
        yield error("notice", place, f"no trap of the script hears {name}", allowed=allowed)
    if int(found["seconds"] or 60) < LEAST_NOTICE_S:
        yield warning(
            "notice",
            place,
            f"{found['seconds'] or 60} s: runs may not get to write their checkpoints",
            allowed=f"{LEAST_NOTICE_S} s or more",
        )


def check_options(checked: Checked) -> Iterator[Finding]:
    """What the job asks for."""
    options = checked.document.mapping("sbatch")
    wanted = (
        ("requeue", "a job whose machine fails does not come again", "#SBATCH --requeue"),
        ("no-kill", "one machine that fails ends the whole job", "#SBATCH --no-kill"),
        (
            "time",
            "no time limit is named: that of the queue may be a few minutes",
            "--time=04:00:00",
        ),
    )
    for name, what, allowed in wanted:
        if name not in options:
            yield warning("slurm", ("sbatch", name), what, allowed=allowed)
    if options.get("open-mode") != "append":
        yield warning(
            "slurm",
            ("sbatch", "open-mode"),
            "each start overwrites the output of the one before",
            allowed="#SBATCH --open-mode=append",
        )
    tasks = whole(options, "ntasks-per-node", 1)
    if tasks != 1:
        yield error(
            "slurm",
            ("sbatch", "ntasks-per-node"),
            f"{tasks} Rays on one node take each other's CPUs",
            allowed="#SBATCH --ntasks-per-node=1",
        )
    if "cpus-per-task" not in options:
        yield error(
            "slurm",
            ("sbatch", "cpus-per-task"),
            "no CPUs are asked for: Slurm gives one",
            allowed="#SBATCH --cpus-per-task=8, for instance",
        )


def check_script(checked: Checked) -> Iterator[Finding]:
    """What the script does."""
    text = script_text(checked)
    if "vesselflow.notices" not in text:
        yield warning(
            "watcher",
            (),
            "no watcher is started: a machine that is to go is not drained",
            allowed="python -m vesselflow.notices watch --cloud none",
        )
    if "get-auth-token" not in text or "RAY_AUTH_MODE=disabled" in text:
        yield error(
            "token",
            (),
            "no token is made: whoever else is on these machines runs code as you",
            allowed="ray get-auth-token --generate",
        )
    missing = [one for one in HEALTH if f"{one}=" not in text]
    if missing:
        yield warning(
            "environment",
            (),
            f"Ray starts without {', '.join(missing)}: a machine that vanishes is missed after a "
            "minute, calls to it after seven",
            allowed=". clusters/env.sh",
        )
    if not re.search(r"scontrol requeue|\bsbatch ", text):
        yield error(
            "again",
            (),
            "the script does not put itself into the queue again",
            allowed="as clusters/slurm.sh does",
        )
