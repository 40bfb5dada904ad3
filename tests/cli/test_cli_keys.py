"""The reference of keys: complete, quick, and made from the models."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from bad_input import Answer, command

from vesselflow.cli.keys import BEGIN, END
from vesselflow.config.experiment import SECTIONS
from vesselflow.config.keys import Chapter, describe_keys, key_tree, reference
from vesselflow.config.registry import Registry
from vesselflow.config.space import Space
from vesselflow.runs.registries import REGISTRIES

CHAPTERS = {chapter.name: chapter for chapter in reference(REGISTRIES)}


def keys(*words: str | Path) -> Answer:
    return command("keys", *words)


def row(chapter: str, key: str) -> tuple[str, str, str]:
    (found,) = [entry for entry in CHAPTERS[chapter].keys if entry.key == key]
    return found.type, found.default, found.text


def test_every_section_and_part_has_its_chapter_with_every_key() -> None:
    for section, model in SECTIONS.items():
        assert [doc.key for doc in CHAPTERS[section].keys] == list(model.model_fields)
    for section in ("augment", "model", "loss"):
        for part in REGISTRIES[section]:
            fields = part.arguments.model_fields.items()
            names = [field.alias or name for name, field in fields]
            assert [doc.key for doc in CHAPTERS[f"{section}.{part.name}"].keys] == names
    for part in (*REGISTRIES["importer"], *REGISTRIES["synth"]):
        assert len(CHAPTERS[f"stores.{part.name}"].keys) == len(part.arguments.model_fields)
    tree = key_tree(REGISTRIES, Space)
    top = {doc.key for doc in CHAPTERS["space"].keys}
    assert top == (set(tree) - {"base"}) | {"extends", "profiles"}


def test_everything_is_described() -> None:
    bare = [doc.key for doc in describe_keys(REGISTRIES) if not (doc.text and doc.type)]
    assert bare == []
    assert [chapter.name for chapter in CHAPTERS.values() if not chapter.text] == []
    assert len(CHAPTERS) == len(reference(REGISTRIES))


def test_what_is_said_of_keys_that_say_it_in_different_places() -> None:
    assert row("train", "epochs") == ("a whole number, 1 or more", "10", "Number of epochs")
    # From a docstring's attributes, and a range that knows its words.
    assert row("loss.combined", "beta") == (
        "a number in [0, 1], or a schedule",
        "0.5",
        "Share of `dice`: 0 is `bce` exactly, 1 is `dice` exactly",
    )
    # Inherited from a base that is nobody's arguments.
    assert row("model.linknet", "depth")[:2] == ("a whole number, 3 to 5", "5")
    assert row("model.segformer", "encoder")[1] == "mit_b0"
    assert row("augment.affine", "scale")[:2] == (
        "a list of 2 (a number above 0, or a schedule)",
        "[0.9, 1.1]",
    )
    # Defaults that depend on other keys.
    assert row("loss.schedule", "end")[1] == "1; 0.1 for warmup"
    assert row("space", "name")[1] == "stem of the file"
    assert row("grid.settings", "label")[1] == "made of what is set"
    assert CHAPTERS["loss.fuzzy"].text == (
        "Fuzzy Tversky loss: 1 - (TP + s) / (TP + (1 - beta) FP + beta FN + s)"
    )
    assert CHAPTERS["augment.vflip"].text == "Mirror up and down"


def test_the_overview_and_a_section_and_a_part_and_a_key() -> None:
    overview = keys().out
    assert "split.folds" not in overview.splitlines()[-1]
    for section in (*SECTIONS, "augment", "model", "loss", "stores", "grid", "resources"):
        assert f"\n  {section} " in overview
        assert section in overview.splitlines()[-1]
    losses = keys("loss").out
    assert "loss.fuzzy  Fuzzy Tversky" in losses
    assert "label_smoothing" in losses
    part = keys("loss.focal").out
    assert "gamma" in part
    assert "label_smoothing" not in part
    key = keys("loss.beta").out
    assert "loss.combined" in key
    assert "loss.mse" not in key
    assert "smooth" not in key
    assert "Number of folds, by group" in keys("split.folds").out
    assert "Seeds of every point and fold" in keys("seeds").out
    assert "regular expression" in keys("stores.folder").out.lower()


@pytest.mark.parametrize(
    ("name", "start", "end"),
    [
        ("optimiser", "allowed: space, stores, task, data, ", "; did you mean 'optimizer'?"),
        ("loss.bta", "allowed: loss.bce, loss.dice, ", "; did you mean 'loss.beta'?"),
        (
            "model.fnp",
            "allowed: model.wnet, model.unet3d, model.unet25d, model.encoded25d, ",
            "; did you mean 'model.fpn'?",
        ),
    ],
)
def test_a_name_that_is_unknown(name: str, start: str, end: str) -> None:
    answer = keys(name)
    assert (answer.code, answer.out) == (2, "")
    said = f"vesselflow: no section, part or key is called '{name}'; "
    assert answer.err.startswith(said + start)
    assert answer.err.endswith(f"{end}\n")


def test_the_markdown_has_a_table_for_every_chapter() -> None:
    text = keys("--markdown").out
    for name in CHAPTERS:
        assert f"`{name}`" in text
    assert "| `beta` | a number in [0, 1], or a schedule | `0.5` | " in text
    assert "mean of a \\|t - p\\|^gamma" in text  # a bare | would end the cell
    widths = {line.replace("\\|", "").count("|") for line in text.splitlines() if line[:1] == "|"}
    assert widths == {5}
    assert keys("train", "--markdown").out.startswith("### `train`\n")


def test_the_reference_is_written_between_the_markers(tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    file.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    for _ in range(2):
        assert keys("--into", file).code == 0
        text = file.read_text()
        assert text == f"before\n{BEGIN}\n\n{keys('--markdown').out}\n{END}\nafter\n"
    file.write_text("no markers\n")
    answer = keys("--into", file)
    assert answer.code == 2
    assert answer.err.startswith(f"vesselflow: {file}: the markers are missing; allowed: ")
    assert file.read_text() == "no markers\n"
    assert keys("--into", tmp_path / "none.md").err == (
        f"vesselflow: {tmp_path}/none.md: cannot be read: No such file or directory\n"
    )


def test_equal_tables_are_printed_once() -> None:
    text = keys("augment", "--markdown").out
    alike = ("hflip", "vflip", "zflip", "channel_shuffle")
    assert f"### {', '.join(f'`augment.{name}`' for name in alike)}\n" in text
    assert (
        text.count("Probability, for each sample by itself")
        == len(REGISTRIES["augment"].names()) - 4
    )


def test_it_is_light() -> None:
    code = (
        "import sys\nfrom vesselflow.cli.main import main\nmain(['keys'])\n"
        "print([m for m in ('torch', 'ray', 'h5py', 'numpy', 'kornia') if m in sys.modules])\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "[]"


def test_a_part_without_a_docstring_or_a_module_is_no_error() -> None:
    registry = Registry("loss")
    registry.add("odd", target="nowhere.to:be")
    (chapter,) = [c for c in reference({"loss": registry}) if c.name == "loss.odd"]
    assert chapter == Chapter("loss.odd", "", (), "loss[odd].")
