"""`vesselflow data shard | index | join`: what they say, and what they answer to mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vesselflow.cli.main import main
from vesselflow.stores.store import Store


def vesselflow(*words: str | Path) -> int:
    return main(["data", *map(str, words)])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "v.h5"
    words = ("--kind", "vasculature", "--sources", "5", "--depth", "16", "--size", "32")
    assert vesselflow("synth", path, *words) == 0
    return path


def test_shard_verify_inspect_index_and_join(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = tmp_path / "v.shards.json"
    with Store.open(made) as store:
        digest, size = store.digest, store.nbytes
    capsys.readouterr()
    assert vesselflow("shard", made, index, "--sources-per-file", "2") == 0
    assert capsys.readouterr().out == f"{index}: 5 sources in 3 files, digest {digest}\n"
    assert vesselflow("verify", index) == 0
    assert capsys.readouterr().out == f"{index}: sound, 5 sources, digest {digest}\n"
    assert vesselflow("inspect", index, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["digest"], told["files"], len(told["sources"])) == (digest, 3, 5)
    assert told["bytes"] == sum(path.stat().st_size for path in tmp_path.glob("v-*.h5"))
    assert vesselflow("inspect", index, "--png", tmp_path / "v.png") == 0
    assert "MB in 3 files" in capsys.readouterr().out
    files = sorted(tmp_path.glob("v-*.h5"))
    assert vesselflow("index", tmp_path / "again.json", *files) == 0
    assert vesselflow("join", tmp_path / "again.json", tmp_path / "one.h5") == 0
    out = capsys.readouterr().out
    assert out.endswith(f"{tmp_path / 'one.h5'}: digest {digest}\n")
    assert (tmp_path / "one.h5").read_bytes() == made.read_bytes()
    assert vesselflow("shard", made, tmp_path / "size.json", "--size", f"{size // 2000}kB") == 0
    assert "5 sources in 3 files" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--sources-per-file", "0"], "--sources-per-file: 0 is not allowed; allowed: 1 or more"),
        (["--size", "big"], "--size: 'big' is not allowed; allowed: a size above 0, such as 500MB"),
        (["--size", "0"], "--size: '0' is not allowed"),
        ([], "one of the arguments --sources-per-file --size is required"),
        (["--size", "1k", "--sources-per-file", "1"], "not allowed with argument"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], line: str
) -> None:
    try:
        code = vesselflow("shard", made, tmp_path / "v.shards.json", *words)
    except SystemExit as error:
        code = int(error.code or 0)
    assert code == 2
    assert line in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten_unasked(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = tmp_path / "v.shards.json"
    assert vesselflow("shard", made, index, "--sources-per-file", "2") == 0
    for words in (
        ("shard", made, index, "--size", "1MB"),
        ("index", index, *tmp_path.glob("*.h5")),
        ("join", index, made),
    ):
        capsys.readouterr()
        assert vesselflow(*words) == 2
        assert capsys.readouterr().err.endswith(": exists already; --overwrite replaces it\n")
    assert vesselflow("shard", made, tmp_path / "v.h5", "--size", "1MB") == 2
    assert "allowed: one that ends in .json, such as v.shards.json" in capsys.readouterr().err
    assert vesselflow("shard", made, index, "--size", "1MB", "--overwrite") == 0
    assert len(list(tmp_path.iterdir())) == 2


def test_a_file_that_is_gone_or_another_is_named(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = tmp_path / "v.shards.json"
    assert vesselflow("shard", made, index, "--sources-per-file", "2") == 0
    first, second, third = sorted(tmp_path.glob("v-*.h5"))
    second.write_bytes(first.read_bytes())
    third.unlink()
    capsys.readouterr()
    assert vesselflow("verify", index) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"{index}: {second}: is not the file that {index} names: its content is another; "
        "make it again with 'vesselflow data shard' or 'vesselflow data index'",
        f"{index}: {third}: no such file; {index} names it: they must lie in the same place",
    ]
    assert vesselflow("inspect", index) == 2
    assert capsys.readouterr().err.startswith(f"vesselflow: {second}: is not the file that ")
