"""Small sweeps, prepared from their YAML and executed in this process."""

from __future__ import annotations

from pathlib import Path

from vesselflow.config.loading import load_space
from vesselflow.feed.local import LocalData
from vesselflow.runs.registries import REGISTRIES
from vesselflow.sweeps.context import Reports
from vesselflow.sweeps.execution import execute
from vesselflow.sweeps.planning import Prepared, prepare


def prepared(results: Path, text: str, name: str = "space") -> Prepared:
    """A sweep whose file stands beside its results."""
    file = results.parent / f"{name}.yaml"
    file.write_text(text)
    return prepare(load_space(file, registries=REGISTRIES), results)


def done(sweep: Prepared) -> None:
    """Do all its runs."""
    data = LocalData({name: facts.path for name, facts in sweep.stores.items()})
    for job in sweep.jobs():
        result = execute(job, sweep.results, data, reports=Reports())
        assert (result.state, result.message) == ("finished", "")
    sweep.rescore()
