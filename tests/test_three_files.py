"""A new part is three files: its own, a line in its room, a line of golden values in the tests.

The package is copied, three parts are written into the copy as a stranger would write them, and
everything that lists parts has to know them: the config, the reference of keys, the docs' table and
the contract kits, which demand golden values.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: Kind -> the part's own file, what it holds, its room's file, the line there.
PARTS = {
    "loss": (
        "losses/extra.py",
        '''
"""The soft Jaccard loss, times a number."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vesselflow.config.registry import Arguments
from vesselflow.config.scalars import Positive
from vesselflow.losses.loss import Loss
from vesselflow.losses.masked import pixels

if TYPE_CHECKING:
    from torch import Tensor


class ExtraArguments(Arguments):
    """Arguments of `extra`.

    Attributes:
        gain: Factor.
    """

    gain: Positive = 1.0


def extra_loss(logits: Tensor, target: Tensor, fov: Tensor | None = None, *, gain: float) -> Tensor:
    """Gain times the soft Jaccard loss."""
    import torch

    px = pixels(logits, target, fov)
    hit, false_alarm, missed = px.counts(torch.sigmoid(px.logits))
    wrong = false_alarm + missed
    return gain * px.mean_over_images(wrong / (hit + wrong + 1.0))


class Extra(Loss):
    """`extra_loss` with its arguments."""

    name = "extra"
    function = staticmethod(extra_loss)
''',
        "losses/__init__.py",
        """
from vesselflow.losses.extra import ExtraArguments
LOSSES.add("extra", target="vesselflow.losses.extra:Extra", arguments=ExtraArguments)
""",
    ),
    "augment": (
        "augment/extra.py",
        '''
"""Negative images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vesselflow.augment.arguments import Probability
from vesselflow.augment.draws import Draws, choose
from vesselflow.augment.inside import write_inside
from vesselflow.config.registry import Arguments

if TYPE_CHECKING:
    from torch import Tensor


class ExtraArguments(Arguments):
    """Arguments of `extra`.

    Attributes:
        p: Probability, for each sample by itself.
    """

    p: Probability = 0.5


class Extra:
    """1 minus the image."""

    def __init__(self, *, p: float) -> None:
        self.p = p

    def apply(self, image: Tensor, target: Tensor, fov: Tensor, draws: Draws) -> None:
        """See `vesselflow.augment.draws.Part`."""
        for index in choose(draws, self.p, 0)[0]:
            write_inside(image, index, fov, 1.0 - image[index])
''',
        "augment/__init__.py",
        """
from vesselflow.augment.extra import ExtraArguments
AUGMENTATIONS.add("extra", target="vesselflow.augment.extra:Extra", arguments=ExtraArguments)
""",
    ),
    "activation": (
        "models/layers/extra.py",
        '''
"""The hard kind of silu."""

from torch import nn


def extra() -> nn.Module:
    """x times a piecewise linear sigmoid."""
    return nn.Hardswish()
''',
        "models/layers/__init__.py",
        'ACTIVATIONS.add("extra", target=f"{_HERE}.extra:extra")\n',
    ),
}
SPACE = """
stores: {a: "synth:fundus?sources=4"}
loss: {name: extra}
augment: {extra: {}}
model: {name: wnet, activation: extra}
"""
KITS = {"loss": "losses", "augment": "augment", "activation": "layers"}


class Copy:
    """The package and its contract kits in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "vesselflow", folder / "vesselflow", ignore=ignore)
        shutil.copytree(ROOT / "tests" / "contracts", folder / "tests/contracts", ignore=ignore)
        shutil.copy(ROOT / "tests" / "conftest.py", folder / "tests")
        shutil.copy(ROOT / "pyproject.toml", folder)
        shutil.copytree(ROOT / "search_spaces", folder / "search_spaces")
        self.touched: dict[str, set[str]] = {}
        self.passed = False

    def add(self, kind: str) -> None:
        """The first two of a part's three files."""
        own, text, room, line = PARTS[kind]
        (self.folder / "vesselflow" / own).write_text(text.lstrip())
        with (self.folder / "vesselflow" / room).open("a") as file:
            file.write(line)
        self.touched[kind] = {own, room}

    def golden(self, kind: str, line: str) -> None:
        """The third: values that the part has on the fixed example."""
        path = self.folder / "tests/contracts/golden.yaml"
        path.write_text(path.read_text().replace(f"\n{kind}:\n", f"\n{kind}:\n{line}\n", 1))
        self.touched[kind].add("golden.yaml")

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def kit(self, *arguments: str) -> str:
        plain = ("-p", "no:cacheprovider", "-p", "no:xdist", "--tb=short")
        answer = self.python("-m", "pytest", *plain, *arguments)
        self.passed = answer.returncode == 0
        return answer.stdout


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    made = Copy(tmp_path_factory.mktemp("copy"))
    for kind in PARTS:
        made.add(kind)
    return made


def test_the_config_knows_new_parts(copy: Copy) -> None:
    (copy.folder / "space.yaml").write_text(SPACE)
    answer = copy.python("-m", "vesselflow", "sweep", "space.yaml", "--dry-run")
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_help_and_table_list_new_parts(copy: Copy) -> None:
    table = copy.folder / "search_spaces" / "README.md"
    assert copy.python("-m", "vesselflow", "keys", "--into", str(table)).returncode == 0
    lines = table.read_text().splitlines()
    assert any(line.startswith("| `gain` |") for line in lines)
    for name in ("loss.extra", "augment.extra", "model.wnet.activation"):
        answer = copy.python("-m", "vesselflow", "keys", name)
        assert answer.returncode == 0, answer.stdout + answer.stderr
        assert "extra" in answer.stdout


def test_contract_kits_pick_new_parts_up_and_ask_for_golden_values(copy: Copy) -> None:
    missing = copy.kit("tests/contracts/test_contract_golden.py", "-vv", "-k", "every_registry")
    for kind in PARTS:
        assert f"{kind} extra 1" in missing
    # Hardswish is x min(max(x + 3, 0), 6) / 6, at -3, -0.5, 0 and 2; the others are what they copy.
    copy.golden("activation", "  extra: {1: [0.0, -0.2083333333, 0.0, 1.6666666667]}")
    copy.golden("loss", "  extra: {1: [0.6451193596]}")
    copy.golden("augment", "  extra: {1: [-0.01881836986, -0.04779483419, -0.06819876761]}")
    assert {len(files) for files in copy.touched.values()} == {3}
    kits = [f"tests/contracts/test_contract_{kit}.py" for kit in ("golden", *KITS.values())]
    done = copy.kit(*kits, "-v", "-k", "(extra or every_registry) and not volumes")
    assert copy.passed, done
    for kit in KITS.values():
        own = [line for line in done.splitlines() if f"test_contract_{kit}.py" in line]
        assert [line for line in own if "extra" in line], kit
    for kind in PARTS:
        assert f"test_golden_values[{kind}-extra-1] PASSED" in done
