"""Who may import whom (docs/architecture.md): read from the imports with ``ast``, those inside functions too."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from centernet.fields import FIELDS
from centernet.losses import LOSSES
from centernet.tasks import task_names
from tests.places import ROOT

FLOORS: dict[str, set[str]] = {
    "ops": set(),
    "errors": set(),
    "architectures": set(),
    "machine": set(),
    "structures": {"errors"},
    "joints": {"errors"},
    "modes": {"errors", "ops"},
    "fields": {"joints", "ops", "structures"},
    "losses": {"ops", "structures"},
    "models": {"architectures", "errors", "joints", "ops", "structures"},
    "data": {"errors", "fields", "joints", "machine", "ops", "structures"},
    "metrics": {"errors", "machine", "ops", "structures"},
    "tasks": {"errors", "fields", "joints", "losses", "metrics", "ops", "structures"},
}
# Above them; of the data they see how an image file becomes the network's input, and nothing of data sets.
THIRD_FLOOR = (
    *(
        "module",
        "inference",
        "detector",
        "checkpoint",
        "callbacks",
        "plugins",
        "export",
        "epoch",
        "resume",
        "visualize",
        "report",
        "results",
        "tracking",
        "schedule",
        "teacher",
    ),
)
for room in THIRD_FLOOR:
    FLOORS[room] = {
        *(
            "tasks",
            "metrics.rows",
            "metrics.analysis",
            "metrics.matching",
            "models",
            "losses",
            "fields",
            "joints",
            "ops",
            "structures",
            "errors",
        ),
        *("data.transforms", "data.images", "data.outputs", "modes"),
        *THIRD_FLOOR,
    }
TOP_FLOOR = (
    *("app", "build", "choices", "cli", "command", "composition", "console", "continued", "data_schema", "deferred"),
    *("benchmark", "checks", "folders", "kinds", "ladder", "runs", "schema", "sizing", "sweep", "training"),
)

# Libraries that have one home (a room or a file of it); all others may not import them.
HOMES: dict[str, set[str]] = {
    "wandb": {"callbacks"},
    "albumentations": {"data.warps", "data.transforms"},
    "timm": {"models", "benchmark.peers"},  # peers are measured as their library has them
    "pycocotools": {"data", "metrics"},
    "faster_coco_eval": {"data", "metrics", "app"},  # app quietens its logger
    "pytorch_lightning": {"module", "callbacks", "plugins", "data.datamodule", "app", "build", "console", "training"},
    "hydra": {"app", "build", "cli", "composition", "console", "sweep"},
    "omegaconf": {"app", "build", "composition", "console", "sizing", "sweep", "training"},
    "pydantic": {"data_schema", "kinds", "schema"},
    "matplotlib": {"visualize", "report", "benchmark.plot"},
    **{name: {"export"} for name in ("onnx", "onnxscript", "onnxruntime", "openvino", "nncf")},
}
GROUND_FLOOR = ("architectures", "errors", "fields", "joints", "ops", "structures")
# Who may name a task, or a field that only some tasks have; everybody else handles them without knowing which.
KNOW_TASKS = {"tasks", "models.originals"}
KNOW_FIELDS = {"tasks", "models.originals", "metrics", "fields", "joints"} | {
    f"data.{reader}"
    for reader in (
        *("annotated", "auto", "builtin", "coco", "coco_format", "createml", "extremes", "kitti", "kitti_format"),
        *("outputs", "readers", "voc", "voc_format", "yolo", "yolo_format"),
    )
}
# The named modules are what a Python user calls a task; KITTI's evaluation is about nothing else.
NAMED_BY_CALLERS = {"module": {"ctdet", "ctdet_iou", "ctdet_dense", "multi_pose", "exdet", "ddd"}}
KITTI_SCRIPTS = {"evaluate_kitti", "benchmark.kitti"}
EVERYWHERE = {"boxes", "labels", "crowd", "area", "valid", "scores"}  # fields that all data and all tasks have
DRAWERS = {"util", "utils", "common", "helper", "helpers", "misc"}


def module_name(path: Path, root: Path) -> str:
    """``ops.affine`` for ``centernet/ops/affine.py``; the package itself is the empty name."""
    parts = list(path.relative_to(root / "centernet").with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(source: str, package: str) -> Iterator[str]:
    """Full names of everything that is imported anywhere in a source file of this package."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            # `from centernet import build` and `from centernet.data import transforms` name modules, not values.
            yield from (f"{base}.{alias.name}" for alias in node.names)


def lies_in(name: str, places: set[str]) -> bool:
    """Whether a module or a name in it lies in one of these rooms."""
    return any(name == place or name.startswith(f"{place}.") for place in places)


def faults(module: str, source: str, is_package: bool = False) -> list[str]:
    """What is wrong with the imports of one module of the package."""
    room = module.split(".")[0]
    own = f"centernet.{module}".rstrip(".")
    found = []
    for name in imports_of(source, own if is_package else own.rpartition(".")[0]):
        library, _, inner = name.partition(".")
        if library in ("scripts", "tests"):
            found.append(f"{module} imports {name}: the package may not")
        if library in HOMES and not lies_in(module, HOMES[library]):
            found.append(f"{module} imports {name}: the home of {library} is {', '.join(HOMES[library])}")
        if "wandb" in name.lower() and not lies_in(module, HOMES["wandb"]):
            found.append(f"{module} imports {name}: the home of wandb is callbacks")
        if room in GROUND_FLOOR and library not in ("torch", "numpy", "centernet", *sys.stdlib_module_names):
            found.append(f"{module} imports {name}: the ground floor has torch and numpy only")
        if library != "centernet" or room in TOP_FLOOR or not module or inner == "__version__":
            continue
        if room not in FLOORS:
            found.append(f"{module} is a room without a floor; give it one in this test and in docs/architecture.md")
        elif not lies_in(inner, FLOORS[room] | {room}):
            found.append(f"{module} imports {name}: its floor may not")
    return found


SOURCES = sorted((ROOT / "centernet").rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_from_its_own_room_and_from_the_floors_below(path):
    assert not faults(module_name(path, ROOT), path.read_text(), path.name == "__init__.py")


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("tasks.ctdet", "from centernet.data.coco import CocoDataset"),
        ("tasks.ctdet", "import pytorch_lightning as pl"),
        ("models.head", "from centernet.losses import focal"),
        ("models.head", "def late():\n    from centernet.tasks import build_task"),
        ("models.head", "from ..tasks import build_task"),
        ("data.coco", "from centernet import models"),
        ("data.coco", "import albumentations as A"),
        ("metrics.coco", "from centernet.data import coco"),
        ("metrics.coco", "from centernet.losses import focal"),
        ("ops.boxes", "import cv2"),
        ("ops.boxes", "from centernet.structures import Head"),
        ("module", "from centernet.data.datamodule import CenterNetDataModule"),
        ("module", "from omegaconf import OmegaConf"),
        ("module", "from pytorch_lightning.loggers import WandbLogger"),
        ("inference", "import timm"),
        ("inference", "from centernet.build import from_checkpoint"),
        ("app", "import wandb"),
        ("app", "from scripts.demo import main"),
        ("build", "import tests.tiny"),
        ("attic", "from centernet.ops import boxes"),
    ],
)
def test_the_check_finds_what_is_forbidden(module, source):
    assert faults(module, source)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("tasks.ctdet", "from centernet.metrics.coco import CocoAP\nfrom centernet.tasks.base import Task"),
        (
            "inference",
            "from centernet.data.transforms import eval_pipeline\nfrom centernet.data.images import read_image",
        ),
        ("models.necks.deconv", "from centernet.models.layers import Deformable"),
        ("build", "from hydra.utils import instantiate\nimport pytorch_lightning as pl"),
    ],
)
def test_the_check_lets_through_what_is_allowed(module, source):
    assert not faults(module, source)


def names_in(source: str) -> set[str]:
    """Every string in a source, docstrings left out."""
    tree = ast.parse(source)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
    }


def named_tasks(module: str, source: str) -> set[str]:
    """Names of tasks in a module that may not know any."""
    found = set(task_names()) & names_in(source)
    return set() if lies_in(module, KNOW_TASKS) else found - NAMED_BY_CALLERS.get(module, set())


def named_fields(module: str, source: str) -> set[str]:
    """Names of fields that only some tasks have, in a module that handles fields without knowing which."""
    if lies_in(module, KNOW_FIELDS) or module in KITTI_SCRIPTS:
        return set()
    # One loss is called as a field is; the heatmaps of all tasks have it.
    return (set(FIELDS) - EVERYWHERE - set(LOSSES)) & names_in(source)


EVERYTHING = [(module_name(path, ROOT), path) for path in SOURCES]
EVERYTHING += [(path.stem, path) for path in sorted((ROOT / "scripts").glob("*.py"))]


@pytest.mark.parametrize(("module", "path"), EVERYTHING, ids=[module or "centernet" for module, _ in EVERYTHING])
def test_only_their_own_rooms_name_tasks_and_what_only_they_know(module, path):
    assert not named_tasks(module, path.read_text())
    assert not named_fields(module, path.read_text())


def test_the_check_of_names_finds_what_is_forbidden():
    assert named_tasks("app", 'if task.name == "ddd_dle":\n    pass') == {"ddd_dle"}
    assert named_tasks("module", 'TASK = "ddd_dle"') == {"ddd_dle"}
    assert not named_tasks("module", 'TASK = "ctdet"')
    assert named_fields("visualize", 'rows["location"]') == {"location"}
    assert named_fields("data.combine", 'def f():\n    """About joints."""\n    return rows["joints"]') == {"joints"}
    assert not named_fields("data.kitti", 'rows["location"]')
    assert not named_fields("app", 'rows["boxes"]')


def test_no_module_is_a_drawer_for_everything():
    folders = [ROOT / name for name in ("centernet", "scripts", "tests")]
    names = [path for folder in folders for path in folder.rglob("*") if path.suffix == ".py" or path.is_dir()]
    assert not [path for path in names if path.stem in DRAWERS]


def test_every_file_of_the_package_says_what_it_is():
    for path in SOURCES:
        if path.read_text().strip():
            assert ast.get_docstring(ast.parse(path.read_text())), f"{path} has no docstring"


def test_the_commands_are_shims():
    for name in ("train.py", "eval.py"):
        tree = ast.parse((ROOT / name).read_text())
        imported = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
        assert [node.module for node in imported] == ["centernet.app"]
        assert len(tree.body) <= 3
