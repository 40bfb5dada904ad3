import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "reporting"))
from reporting_examples import write_record, write_sweep

from vesselflow.cli.main import main


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    return write_sweep(
        tmp_path / "results",
        betas=(0.0, 0.5),
        losses=("fuzzy",),
        failed=["loss=fuzzy,beta=0.0"],
        write_records=True,
    )


def test_report_prints_answer_failures_and_paths(sweep, capsys):
    assert main(["report", str(sweep)]) == 0
    captured = capsys.readouterr()
    assert "Chosen on validation: loss=fuzzy, beta=0.5" in captured.out
    assert "1 run failed" in captured.out
    assert "loss is not finite at step 7" in captured.out
    paths = [line for line in captured.out.splitlines() if line.endswith((".png", ".md"))]
    assert str(sweep / "report" / "summary.md") in paths
    assert all(Path(path).is_file() for path in paths)
    assert f"tensorboard --logdir {sweep / 'tensorboard'}" in captured.out
    assert "\x1b" not in captured.out + captured.err


def test_report_as_json_is_all_that_is_printed(sweep, capsys):
    assert main(["report", str(sweep), "--json", "--no-figures"]) == 0
    captured = capsys.readouterr()
    answer = json.loads(captured.out)
    assert captured.err == ""
    assert answer["selected"] == "loss=fuzzy,beta=0.5"
    assert [point["n_runs"] for point in answer["points"]] == [3, 4]
    assert [run["state"] for run in answer["failures"]] == ["failed"]
    assert answer["figures"] == []
    assert answer["tensorboard"] is None
    assert not (sweep / "report" / "figures").exists()


def test_report_of_what_is_no_sweep_is_one_line_and_writes_nothing(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "this folder is no sweep" in captured.err
    assert list(tmp_path.iterdir()) == []


def test_report_of_several_sweeps_lists_them(sweep, capsys):
    write_sweep(sweep.parent, name="other", betas=(0.5,), losses=("fuzzy",), previews=False)
    assert main(["report", str(sweep.parent)]) == 2
    error = capsys.readouterr().err
    assert str(sweep) in error
    assert str(sweep.parent / "other") in error


def test_runs_of_a_sweep(sweep, capsys):
    assert main(["runs", str(sweep)]) == 0
    out = capsys.readouterr().out
    assert "8 runs: 1 failed and 7 finished" in out
    # With one sweep its name is said once.
    assert out.splitlines()[0] == "sweep loss_beta"
    assert " loss=fuzzy,beta=0.5" in out


def test_runs_as_json(sweep, capsys):
    assert main(["runs", str(sweep), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 8
    assert rows[0] == {
        "run_id": "000000000000",
        "points": ["loss_beta/loss=fuzzy,beta=0.0"],
        "fold": 0,
        "seed": 0,
        "state": "failed",
        "epochs": 0,
        "epoch": None,
        "message": "loss is not finite at step 7",
    }


def test_runs_of_a_results_folder_hold_all_sweeps_and_runs_of_none(sweep, capsys):
    results = sweep.parent
    write_sweep(results, name="other", betas=(0.0,), losses=("fuzzy",), previews=False)
    write_record(results, "ffff", "failed", "out of memory")
    assert main(["runs", str(results), "--json"]) == 0
    rows = {row["run_id"]: row for row in json.loads(capsys.readouterr().out)}
    assert len(rows) == 9
    shared = rows["000100000000"]
    assert shared["points"] == ["loss_beta/loss=fuzzy,beta=0.0", "other/loss=fuzzy,beta=0.0"]
    assert shared["state"] == "finished"
    assert rows["ffff"]["message"] == "out of memory"
    assert rows["ffff"]["fold"] is None
    assert main(["runs", str(sweep), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 8


def test_runs_of_an_empty_folder_is_one_line(tmp_path, capsys):
    assert main(["runs", str(tmp_path)]) == 2
    assert "holds no runs" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["runs", "report"])
def test_missing_folder_is_one_line(tmp_path, capsys, command):
    assert main([command, str(tmp_path / "nothing")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("vesselflow: ")
    assert error.count("\n") == 1
    assert str(tmp_path / "nothing") in error


@pytest.mark.parametrize("command", ["runs", "report"])
def test_help_imports_nothing_heavy(command):
    code = (
        "import sys\n"
        "from vesselflow.cli.main import main\n"
        "try:\n"
        f"    main(['{command}', '--help'])\n"
        "except SystemExit:\n"
        "    heavy = {'torch', 'ray', 'pandas', 'matplotlib', 'rich', 'numpy'} & set(sys.modules)\n"
        "    assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_boards_in_a_bucket_name_what_reads_them(tmp_path: Path) -> None:
    from vesselflow.records.paths import any_path
    from vesselflow.reporting.written import boards_command

    assert boards_command(tmp_path) == f"tensorboard --logdir {tmp_path}"
    plain = any_path("s3://vessels/r/tiny/tensorboard")
    assert boards_command(plain) == "tensorboard --logdir s3://vessels/r/tiny/tensorboard"
    other = any_path("s3://vessels/r?endpoint_override=http://127.0.0.1:9")
    assert boards_command(other) == (
        "AWS_ENDPOINT_URL=http://127.0.0.1:9 tensorboard --logdir s3://vessels/r"
    )
