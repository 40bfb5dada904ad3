from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vesselflow.cli.main import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shipped file of AWS, filled in, with a token at home, in the repository's folder."""
    text = (ROOT / "clusters" / "aws.yaml").read_text(encoding="utf-8")
    text = text.replace("s3://CHANGE-ME", "s3://bucket").replace("sg-CHANGE-ME", "sg-01234567")
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("secret")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(ROOT)
    return path


def check(*words: str) -> int:
    return main(["cluster", "check", *words])


def test_a_file_without_fault(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(str(good)) == 0
    assert capsys.readouterr().out == f"{good}: nothing to say against it\n"


def test_warnings_alone_are_no_failure(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good.write_text(good.read_text().replace("HttpTokens: required", "HttpTokens: optional"))
    assert check(str(good)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"warning: {good}:")
    assert "IMDSv1" in lines[0]
    assert lines[1:] == [f"{good}: 0 errors, 1 warning"]


def test_errors_are_exit_code_2_and_all_told(
    good: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = good.read_text().replace("MarketType: spot", "MarketType: spto")
    good.write_text(text.replace("HttpTokens: required", "HttpTokens: optional"))
    assert check(str(good)) == 2
    lines = capsys.readouterr().out.splitlines()
    assert "did you mean 'spot'?" in lines[0]
    assert lines[0].startswith("error: ")
    assert any(line.startswith("warning: ") for line in lines)
    assert lines[-1].endswith("warnings")


def test_for_machines(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good.write_text(good.read_text().replace("HttpTokens: required", "HttpTokens: optional"))
    assert check(str(good), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["file"], told["errors"], told["warnings"]) == (str(good), 0, 1)
    (row,) = told["findings"]
    assert (row["severity"], row["rule"]) == ("warning", "imds")
    assert row["key"] == "available_node_types.head.node_config.MetadataOptions"
    lines = good.read_text().splitlines()
    assert "HttpTokens: optional" in lines[row["line"] - 1]
    assert set(row) == {
        "severity", "rule", "file", "line", "key", "also", "what", "allowed", "hint",
    }  # fmt: skip


def test_with_a_space(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space = str(ROOT / "search_spaces" / "loss_beta.yaml")
    assert check(str(good), "--space", space) == 0
    assert check(str(good), "--space", space, "--set", "resources.threads=17") == 2
    assert "no slot of loss_beta.yaml fits" in capsys.readouterr().out
    assert check(str(good), "--space", space, "--set", "resources.thread=17") == 2
    assert "did you mean" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["clusters/aws.yml"], "did you mean 'aws.yaml'?"),
        (["clusters"], "a directory, not a cluster file"),
        (["search_spaces/loss_beta.yaml"], "names no provider"),
        (["clusters/aws.yaml", "--space", "no.yaml"], "no.yaml: no such file"),
    ],
)
def test_what_cannot_be_checked_is_a_line(
    words: list[str], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert check(*words) == 2
    out, err = capsys.readouterr()
    assert told in out + err
    assert "Traceback" not in out + err


def test_an_action_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["cluster"])
    assert end.value.code == 2
    assert "ACTION" in capsys.readouterr().err


def test_it_imports_neither_torch_nor_ray_nor_a_clouds_client(good: Path) -> None:
    heavy = ("torch", "ray", "boto3", "botocore", "googleapiclient", "kornia", "optuna", "h5py")
    words = ["cluster", "check", str(good), "--space", "search_spaces/loss_beta.yaml"]
    code = (
        f"import sys\nfrom vesselflow.cli.main import main\ncode = main({words!r})\n"
        f"print('loaded:', *[name for name in {heavy!r} if name in sys.modules])\nsys.exit(code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "loaded:"
