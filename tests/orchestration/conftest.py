"""What the tests of whole sweeps share."""

import fault_cases as cases
import pytest


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """The space, its results, and the tables of a sweep that nothing disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    space = cases.write_space(folder)
    results = folder / "results"
    output = cases.finish(cases.start(space, results))
    assert "runs: 4 done now, 0 before" in output
    return space, results, cases.tables(results)
