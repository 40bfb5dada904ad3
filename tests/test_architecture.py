"""The import table of the design, held against every import node of the code."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "vesselflow"

#: Rooms from left to right; those of one tier do not import each other.
TIERS = (
    ("errors",),
    ("notices",),
    ("config",),
    ("records",),
    ("stores",),
    ("targets",),
    ("feed", "augment", "models", "losses", "metrics", "optimizers"),
    ("inference",),
    ("tasks",),
    ("runs",),
    ("training",),
    ("evaluation",),
    ("sweeps",),
    ("clusters",),
    ("orchestration",),
    ("reporting",),
    ("bench",),
    ("chaos",),
    ("cli",),
)
ROOMS = tuple(room for tier in TIERS for room in tier)

#: Library -> where it may be imported: a room, or a pattern of files in one.
CONFINED = {
    "ray": ("feed/ray_*.py", "notices/ray_*.py", "orchestration/**", "bench/**", "chaos/**"),
    "optuna": ("orchestration/**", "bench/**"),
    "rich": ("reporting/**", "cli/**"),
}
#: What a registry, the help and the dry run must not load.
HEAVY = ("torch", "ray", "h5py", "kornia", "optuna", "segmentation_models_pytorch")
REGISTRIES = (
    "vesselflow.feed.sampling:SAMPLING",
    "vesselflow.losses:LOSSES",
    "vesselflow.models:MODELS",
    "vesselflow.models.layers:CONVOLUTIONS",
    "vesselflow.models.layers:NORMS",
    "vesselflow.models.layers:ACTIVATIONS",
    "vesselflow.models.layers:EXCITATIONS",
    "vesselflow.models.layers:FUSIONS",
    "vesselflow.models.layers:WINDOW_FUSIONS",
    "vesselflow.models.layers:SKIP_GATES",
    "vesselflow.augment:AUGMENTATIONS",
    "vesselflow.metrics:METRICS",
    "vesselflow.metrics.detection:DETECTION",
    "vesselflow.metrics.thresholds:THRESHOLDS",
    "vesselflow.optimizers:OPTIMIZERS",
    "vesselflow.optimizers.learning_rates:LEARNING_RATES",
    "vesselflow.stores.importers:IMPORTERS",
    "vesselflow.stores.normalisations:NORMALISATIONS",
    "vesselflow.stores.synth:SYNTH_KINDS",
    "vesselflow.tasks:TASKS",
)
#: A lazy target ("vesselflow.losses.dice:Dice") is an import too, only later.
_TARGET = re.compile(r"vesselflow(\.\w+)+(:\w+)?")


def files(package: Path) -> list[Path]:
    return sorted(path for path in package.rglob("*.py") if "__pycache__" not in path.parts)


def room_of(path: Path, package: Path) -> str:
    """The room of a file; "" for the package's own `__init__` and `__main__`."""
    first = path.relative_to(package).parts[0]
    return "" if first.startswith("__") else first.removesuffix(".py")


def imports(path: Path, package: Path, targets: bool = True) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of everything that a file imports, now or later.

    Args:
        path: The file.
        package: What its own name is counted from.
        targets: Whether what it names as lazy targets is an import too.
    """
    inside = (package.name, *path.relative_to(package).with_suffix("").parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            # A file's own name counts as one level, and so does that of an `__init__`.
            base = list(inside[: len(inside) - node.level]) if node.level else []
            base += node.module.split(".") if node.module else []
            for alias in node.names:
                yield node.lineno, ".".join([*base, alias.name])
        elif targets and isinstance(node, ast.Constant) and _TARGET.fullmatch(str(node.value)):
            yield node.lineno, str(node.value).replace(":", ".")


def allowed_rooms(room: str) -> set[str]:
    """The rooms that `room` may import: itself and every tier to its left."""
    if room == "":
        return set(ROOMS)
    place = next(index for index, tier in enumerate(TIERS) if room in tier)
    return {room, *(other for tier in TIERS[:place] for other in tier)}


def violations(package: Path) -> list[str]:
    """Every import against the table, as "file:line: what"."""
    found = []
    for path in files(package):
        room, place = room_of(path, package), path.relative_to(package)
        if room and room not in ROOMS:
            found.append(f"{place}: there is no room '{room}' in the design")
            continue
        for line, name in imports(path, package):
            library, _, rest = name.partition(".")
            if library == package.name:
                target = rest.partition(".")[0]
                if target in ROOMS and target not in allowed_rooms(room):
                    found.append(f"{place}:{line}: {room} imports {target}")
            elif library in CONFINED and not any(
                _matches(place, pattern) for pattern in CONFINED[library]
            ):
                found.append(f"{place}:{line}: {library} is not for {room}")
    return found


def files_of(package: Path) -> dict[str, Path]:
    """Dotted name -> file; a package's name stands for its `__init__`."""
    return {
        ".".join((package.name, *path.relative_to(package).with_suffix("").parts)).removesuffix(
            ".__init__"
        ): path
        for path in files(package)
    }


def circles(package: Path) -> list[str]:
    """Files of one room that import each other, now or later, as "config/a.py <-> config/b.py".

    That a registry names its parts ties nothing: it knows them by a text, in order not to know
    their files.
    """
    named = files_of(package)
    leads: dict[str, set[str]] = {}
    for module, path in named.items():
        leads[module] = set()
        for _, name in imports(path, package, targets=False):
            target = name
            while target and target not in named:
                target = target.rpartition(".")[0]
            same_room = target and room_of(named[target], package) == room_of(path, package)
            if same_room and target != module:
                leads[module].add(target)

    def reached(start: str) -> set[str]:
        found: set[str] = set()
        todo = [start]
        while todo:
            fresh = leads[todo.pop()] - found
            found |= fresh
            todo += fresh
        return found

    after = {module: reached(module) for module in named}
    pairs = [
        (one, other)
        for one in named
        for other in named
        if one < other and other in after[one] and one in after[other]
    ]
    return [
        f"{named[one].relative_to(package)} <-> {named[other].relative_to(package)}"
        for one, other in pairs
    ]


def _matches(place: Path, pattern: str) -> bool:
    return place.match(pattern) if "**" not in pattern else place.parts[0] == pattern.split("/")[0]


def test_imports_run_one_way() -> None:
    assert violations(PACKAGE) == []


def test_no_file_of_a_room_imports_itself_by_way_of_another() -> None:
    assert circles(PACKAGE) == []


def test_every_room_of_the_design_is_there_and_says_what_it_is_for() -> None:
    for room in ROOMS:
        path = PACKAGE / room / "__init__.py" if room != "errors" else PACKAGE / "errors.py"
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path


def test_every_module_says_what_it_is_for() -> None:
    bare = [
        str(path.relative_to(ROOT))
        for path in files(PACKAGE)
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert bare == []


# The test of the test: planted violations, each of which has to be found.


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    package = tmp_path / "vesselflow"
    for room in ROOMS[1:]:
        (package / room).mkdir(parents=True)
        (package / room / "__init__.py").write_text(f'"""{room}."""\n')
    (package / "errors.py").write_text('"""Errors."""\n')
    (package / "__init__.py").write_text('"""All."""\n__version__ = "1"\n')
    (package / "__main__.py").write_text("from vesselflow.cli import main\n")
    return package


@pytest.mark.parametrize(
    ("file", "code", "complaint"),
    [
        ("config/a.py", "from vesselflow.cli.main import main", "config imports cli"),
        ("config/a.py", "import vesselflow.records.runs", "config imports records"),
        ("errors.py", "from vesselflow import config", "errors imports config"),
        ("errors.py", "from . import config", "errors imports config"),
        ("errors.py", "from .config.registry import Part", "errors imports config"),
        ("losses/a.py", "from vesselflow.metrics import METRICS", "losses imports metrics"),
        ("losses/a.py", "from ..models import unet", "losses imports models"),
        ("targets/a.py", "from vesselflow.augment import draws", "targets imports augment"),
        ("losses/__init__.py", "from ..models import unet", "losses imports models"),
        ("stores/importers/a.py", "from ...feed import view", "stores imports feed"),
        ("stores/importers/__init__.py", "from ...feed import view", "stores imports feed"),
        (
            "training/a.py",
            "from vesselflow.evaluation import scoring",
            "training imports evaluation",
        ),
        (
            "feed/a.py",
            "def f():\n    from vesselflow.training import loop",
            "feed imports training",
        ),
        (
            "feed/a.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import vesselflow.training",
            "feed imports training",
        ),
        ("models/a.py", "REG.add('x', target='vesselflow.losses.x:X')", "models imports losses"),
        ("losses/a.py", "import_module('vesselflow.cli')", "losses imports cli"),
        ("training/a.py", "import ray", "ray is not for training"),
        ("notices/a.py", "import ray", "ray is not for notices"),
        ("notices/a.py", "from vesselflow.config import x", "notices imports config"),
        ("feed/batches.py", "import ray.data", "ray is not for feed"),
        ("feed/batches.py", "def f():\n    from ray.data import Dataset", "ray is not for feed"),
        ("evaluation/ray_scoring.py", "import ray", "ray is not for evaluation"),
        ("reporting/a.py", "import optuna", "optuna is not for reporting"),
        ("orchestration/a.py", "from rich.console import Console", "rich is not for orchestration"),
        ("utils/a.py", "", "there is no room 'utils'"),
        ("helpers.py", "", "there is no room 'helpers'"),
    ],
)
def test_a_planted_violation_is_found(planted: Path, file: str, code: str, complaint: str) -> None:
    assert violations(planted) == []
    path = planted / file
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(code + "\n")
    found = violations(planted)
    assert len(found) == 1, found
    assert complaint in found[0]
    assert found[0].startswith(file)


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("feed/ray_stream.py", "import ray.data"),
        ("orchestration/slots.py", "import ray\nimport optuna"),
        ("bench/overhead.py", "import ray, optuna"),
        ("cli/sweep.py", "from vesselflow import __version__\nfrom rich.table import Table"),
        ("losses/a.py", "from vesselflow.errors import UserError\nfrom . import schedules"),
        ("training/a.py", "from vesselflow.metrics import METRICS\nfrom ..losses import LOSSES"),
        ("inference/a.py", "from vesselflow.metrics import histogram"),
        ("config/a.py", "'see vesselflow.cli for more'\nimport array\nfrom vesselflowers import x"),
    ],
)
def test_what_is_allowed_is_not_found(planted: Path, file: str, code: str) -> None:
    (planted / file).write_text(code + "\n")
    assert violations(planted) == []


@pytest.mark.parametrize(
    ("codes", "knots"),
    [
        ({"a": "from vesselflow.config.b import x"}, 0),
        ({"a": "from vesselflow.config import b", "b": "def f():\n    from .a import y"}, 1),
        ({"a": "from .b import x", "b": "import vesselflow.config.c", "c": "from . import a"}, 3),
        ({"__init__": "from .a import x", "a": "from . import REGISTRY"}, 1),
        ({"__init__": "ADD(target='vesselflow.config.a:A')", "a": "from . import REGISTRY"}, 0),
        ({"a": "from vesselflow.config.b import x", "b": "'vesselflow is no import'"}, 0),
    ],
)
def test_a_planted_circle_is_found(planted: Path, codes: dict[str, str], knots: int) -> None:
    for name in "abc":
        (planted / "config" / f"{name}.py").write_text('"""Empty."""\n')
    assert circles(planted) == []
    for name, code in codes.items():
        (planted / "config" / f"{name}.py").write_text(code + "\n")
    assert len(circles(planted)) == knots


# What has to be light.


def _loaded(code: str) -> list[str]:
    """Which heavy libraries are loaded after a piece of code ran in a fresh interpreter."""
    watch = f"import sys\n{code}\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", watch], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return done.stdout.splitlines()[-1].split()


def test_the_probe_sees_what_is_loaded() -> None:
    assert _loaded("import h5py") == ["h5py"]


def test_the_help_loads_nothing_heavy() -> None:
    code = (
        "import contextlib\nfrom vesselflow.cli.main import main\n"
        "with contextlib.suppress(SystemExit):\n    main(['--help'])\n"
    )
    assert _loaded(code) == []


@pytest.mark.parametrize("registry", REGISTRIES)
def test_a_registry_loads_nothing_heavy(registry: str) -> None:
    module, _, name = registry.partition(":")
    assert _loaded(f"from {module} import {name}\nassert {name}.names()") == []


def test_the_watcher_loads_the_standard_library_alone() -> None:
    code = """
import sys, vesselflow.notices.command, vesselflow.notices.draining
ours = {name.split(".")[1] for name in sys.modules if name.startswith("vesselflow.")}
tops = {name.partition(".")[0] for name in sys.modules}
# What an installation puts into every process that starts.
usual = ("__editable", "_distutils", "sitecustomize", "__main__", "vesselflow")
print(ours, sorted(n for n in tops - sys.stdlib_module_names if not n.startswith(usual)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout in ("{'errors', 'notices'} []\n", "{'notices', 'errors'} []\n"), done


def test_records_and_config_load_nothing_heavy() -> None:
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for room in ("config", "records")
        for path in files(PACKAGE / room)
        if path.stem != "__init__"
    ]
    assert _loaded("\n".join(f"import {name}" for name in names)) == []
