import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "foveal"

FLOORS = (
    {"errors", "geometry", "case", "in_threads", "unfinished"},
    {"crf"},
    {
        "augmentation",
        "config",
        "demo_data",
        "io",
        "losses",
        "metrics",
        "networks",
        "postprocessing",
        "sampling",
        "store",
        "uncertainty",
    },
    {"methods", "planning", "settings_files"},
    {"preprocessing"},
    {"inference"},
    {"engine", "ensembles"},
    {"launch", "reports"},
    {"plugins"},
    {"building"},
    {"commands"},
    {"cli"},
    {"__main__"},
)
"""Rooms from the ground up; imports point down, and never across a floor."""

NEIGHBOURS_ALLOWED = {("geometry", "errors"), ("case", "geometry")}
"""The ground floor's own order."""

SETTINGS_READERS = {"building", "cli", "commands", "planning", "plugins"}
"""Rooms that may see settings; all others take plain values."""

UNNAMED_ROOMS = {"common", "core", "helpers", "misc", "utils"}

HEAVY = {
    "PIL",
    "SimpleITK",
    "blosc2",
    "cc3d",
    "matplotlib",
    "nibabel",
    "numpy",
    "pydantic",
    "scipy",
    "tifffile",
    "torch",
}

FILES = sorted(SOURCE.rglob("*.py"))


def room_of(path):
    """First part of a file's place in the package; "foveal" for the package itself."""
    first = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    return "foveal" if first == "__init__" else first


def floor_of(room):
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def imports_of(path):
    """Modules that a file imports, at its top or in a function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            if node.module == "foveal":
                yield from (f"foveal.{alias.name}" for alias in node.names)
            else:
                yield node.module


def imported_rooms(path):
    for module in imports_of(path):
        parts = module.split(".")
        # `from foveal import __version__` asks nothing of any room.
        if parts[0] == "foveal" and len(parts) > 1 and parts[1] != "__version__":
            yield parts[1]


def test_every_room_has_a_floor():
    rooms = {room_of(path) for path in FILES} - {"foveal"}
    assert rooms <= set().union(*FLOORS)


def test_imports_point_down():
    wrong = []
    for path in FILES:
        room = room_of(path)
        if room == "foveal":
            continue
        for imported in set(imported_rooms(path)) - {room}:
            allowed = (room, imported) in NEIGHBOURS_ALLOWED
            if floor_of(imported) >= floor_of(room) and not allowed:
                wrong.append(f"{path.relative_to(SOURCE)} imports foveal.{imported}")
    assert wrong == []


def test_the_package_itself_imports_no_room_until_a_name_is_used():
    assert list(imported_rooms(SOURCE / "__init__.py")) == []


def test_settings_are_read_by_few_and_checked_by_pydantic_in_their_own_files():
    of_settings = {"config", "settings_files"}
    readers = {
        room_of(path)
        for path in FILES
        if of_settings & set(imported_rooms(path)) and room_of(path) not in of_settings
    }
    assert readers <= SETTINGS_READERS
    users = {
        path.relative_to(SOURCE).as_posix()
        for path in FILES
        if any(module.split(".")[0] == "pydantic" for module in imports_of(path))
    }
    assert {user.split("/")[0] for user in users} == {"config", "settings_files.py"}


def test_every_room_says_in_one_sentence_what_belongs_in_it():
    for path in SOURCE.rglob("__init__.py"):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        assert docstring, f"{path} has no docstring"
        first = docstring.split("\n\n")[0]
        assert first.endswith("."), path
        assert ". " not in first, path
        assert "TODO" not in docstring, path


def test_no_room_or_file_is_called_after_nothing():
    names = {part for path in FILES for part in path.relative_to(SOURCE).parts}
    assert not {name.removesuffix(".py") for name in names} & UNNAMED_ROOMS


def words_of(tree):
    """Names and text in code; docstrings are prose and left out."""
    prose = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Constant) and id(node) not in prose:
            yield str(node.value)


def test_the_engine_knows_no_method_by_name():
    methods = {path.stem for path in (SOURCE / "methods").glob("*.py")}
    methods -= {"__init__", "interface"}
    assert "supervised" in methods
    for path in (SOURCE / "engine").glob("*.py"):
        from_methods = {
            module for module in imports_of(path) if module.startswith("foveal.methods")
        }
        assert from_methods <= {"foveal.methods.interface"}, path
        words = {word.lower() for word in words_of(ast.parse(path.read_text("utf-8")))}
        assert not words & methods, path


@pytest.mark.parametrize("module", ["foveal", "foveal.cli.main"])
def test_importing_is_light(module):
    code = (
        f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    loaded = set(answer.stdout.split())
    assert "foveal" in loaded
    assert not loaded & HEAVY


def test_public_names_exist_where_the_package_says():
    import foveal

    for name in set(foveal.__all__):
        assert getattr(foveal, name) is not None
