"""House rules, by the source text."""

import ast
import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

import segue.learners as pages
from segue.types import Learner, Wrapper

ROOT = Path(__file__).parents[1] / "segue"
FILES = sorted(p.relative_to(ROOT) for p in ROOT.rglob("*.py"))
LEARNERS = sorted(p.relative_to(ROOT) for p in (ROOT / "learners").glob("*.py") if p.name != "__init__.py")
CLASSES = [c for c in vars(pages).values() if isinstance(c, type) and issubclass(c, Learner)]

LAYERS = [  # a room imports from those before it and from its own line
    {"errors", "files"},
    {"types"},
    {"nets", "losses", "optim", "store"},
    {"dynamics", "transformer"},
    {"learners", "replays", "bonuses", "transitions"},
    {"evaluate", "phases"},
    {"presets", "recipes", "overrides"},
    {"runs"},
    {"api", "show"},
    {"data_cli"},
    {"cli"},
    {"__main__"},
]
RANK = {room: i for i, layer in enumerate(LAYERS) for room in layer}
TASKS_FROM = RANK["runs"]  # from here on tasks may be imported


def tree_of(path):
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


def room_of(path):
    return path.parts[0].removesuffix(".py")


def imports(path):
    """Rooms of segue that a file imports, wherever in it."""
    rooms = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom) and not node.level:
            module = (node.module or "").split(".")
            if module[0] == "segue":
                rooms |= {module[1]} if len(module) > 1 else {a.name for a in node.names}
        elif isinstance(node, ast.Import):
            rooms |= {a.name.split(".")[1] for a in node.names if a.name.startswith("segue.")}
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: relative import"
    return rooms & ({p.stem for p in ROOT.iterdir()} - {"__init__"})


def test_every_room_has_its_place():
    assert {room_of(p) for p in FILES} == {*RANK, "tasks", "__init__"}


@pytest.mark.parametrize("path", [p for p in FILES if room_of(p) != "__init__"], ids=str)
def test_imports_point_one_way(path):
    room = room_of(path)
    for other in imports(path):
        if room == "tasks":
            assert other in {"tasks", "types", "errors", "files"}
        elif other == "tasks":
            assert RANK[room] >= TASKS_FROM, f"{path} imports tasks"
        else:
            assert RANK[other] <= RANK[room], f"{path} imports {other}"


def test_pages_do_not_import_one_another():
    for path in LEARNERS:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ImportFrom):
                assert not (node.module or "").startswith("segue.learners"), path


# ------------------------------------------------------------------------------------------------------------- unsafe

UNSAFE_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__"}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_nothing_that_runs_data(path):
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            assert not UNSAFE_MODULES & {a.name.split(".")[0] for a in node.names}
        if isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] not in UNSAFE_MODULES
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name):
                assert node.func.id not in UNSAFE_CALLS, f"{path}:{node.lineno}"
            if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
                name = f"{node.func.value.id}.{node.func.attr}"
                assert name not in {"yaml.load", "torch.load"}, f"{path}:{node.lineno}"
            for keyword in node.keywords:
                if keyword.arg == "allow_pickle":
                    assert isinstance(keyword.value, ast.Constant), f"{path}:{node.lineno}"
                    assert keyword.value.value is False, f"{path}:{node.lineno}"


# --------------------------------------------------------------------------------------------------------- task names

TASKS = "hopper|halfcheetah|walker2d|pendulum|antmaze|maze2d|kitchen|adroit|point[-_]?wall|locomotion|minari|d4rl"
NAMES = re.compile(rf"(?<![a-z])({TASKS})(?![a-z])", re.I)  # a word, or a word of a name: hopper_scale
CAPITALS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")  # where a word of a name begins: HopperScale


def texts(tree):
    """String constants that are not docstrings, and names: of variables, attributes, arguments, functions, imports."""
    prose = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            prose.add(id(node.body[0].value))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.lineno, node.value
        for part in ("id", "attr", "arg", "name", "asname", "module", "rest"):
            if isinstance(name := getattr(node, part, None), str):
                yield getattr(node, "lineno", 0), CAPITALS.sub("_", name)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("hopper_scale = 1", True),
        ("x.hopper_scale", True),
        ("def f(hopper): pass", True),
        ("f(HopperScale=1)", True),
        ("def point_wall(): pass", True),
        ("from a.locomotion import b", True),
        ("import a as antmaze", True),
        ("x = 'hopper-medium'", True),
        ('"""Hopper."""', False),
        ("grasshopper = 1", False),
        ("x = 'adroitly'", False),
    ],
)
def test_task_names_are_seen(source, found):
    assert any(NAMES.search(text) for _, text in texts(ast.parse(source))) is found


CODE = [p for p in FILES if room_of(p) not in ("tasks", "presets", "cli", "data_cli", "__main__")]  # examples


@pytest.mark.parametrize("path", CODE, ids=str)
def test_no_task_names(path):
    found = [f"{path}:{line}: {text!r}" for line, text in texts(tree_of(path)) if NAMES.search(text)]
    assert not found


@pytest.mark.parametrize("path", [p for p in FILES if room_of(p) in ("cli", "data_cli")], ids=str)
def test_the_command_line_does_not_branch_on_task_names(path):
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Compare | ast.Match | ast.Subscript | ast.Dict):
            found = [c.value for c in ast.walk(node) if isinstance(c, ast.Constant) and NAMES.search(str(c.value))]
            assert not found, f"{path}:{node.lineno}: {found}"


# -------------------------------------------------------------------------------------------------------------- pages


def test_there_are_pages():
    assert {c.__name__ for c in CLASSES} >= {"BC", "IQL", "SAC", "TD3", "PEX", "Hold", "DT", "ODT", "Standardise"}


@pytest.mark.parametrize("path", LEARNERS, ids=str)
def test_a_page_fits_and_names_its_departures(path):
    text = (ROOT / path).read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 130
    assert re.search(r"^Departures: \S", ast.get_docstring(ast.parse(text)), re.M)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)
def test_no_learner_is_subclassed(cls):
    """By the text: a page's class names `Learner` or `Wrapper` as its only base, and no class names a page's class."""
    wraps = "base" in {f.name for f in dataclasses.fields(cls)}
    assert cls.__bases__ == ((Wrapper,) if wraps else (Learner,))
    finals = {c.__name__ for c in CLASSES}
    for path in FILES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ClassDef):
                bases = {b.id if isinstance(b, ast.Name) else getattr(b, "attr", "") for b in node.bases}
                assert not bases & finals, f"{path}: {node.name}"


@pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)
def test_every_field_is_read(cls):
    """Fields of the protocol itself (`discount`) are read by the loop; all others in the page."""
    assert dataclasses.is_dataclass(cls)
    assert cls.__dataclass_params__.frozen
    page = Path(sys.modules[cls.__module__].__file__).relative_to(ROOT)
    read = {
        node.attr
        for node in ast.walk(tree_of(page))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    }
    shared = set(Learner.__annotations__) - {"imitates"}
    assert {f.name for f in dataclasses.fields(cls)} - read - shared == set()
    for name in shared:
        assert f"learner.{name}" in (ROOT / "phases.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", [p for p in FILES if p.parent.name == "presets" and p.name != "__init__.py"], ids=str)
def test_a_preset_is_read_by_a_recipe(path):
    assert f'preset("{path.stem}", task)' in (ROOT / "recipes.py").read_text(encoding="utf-8")


# -------------------------------------------------------------------------------------------------------------- import


@pytest.mark.parametrize("module", ["segue", "segue.tasks"])
def test_import_loads_no_jax(module):
    code = f"import sys, {module}; sys.exit(bool({{'jax', 'jaxlib', 'torch', 'mujoco'}} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT.parent, timeout=120).returncode == 0
