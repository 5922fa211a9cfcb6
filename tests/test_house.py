"""The rules of the house that a linter does not know: light imports, docstrings, size, leaves."""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "jackfield"
FILES = sorted(SOURCE.rglob("*.py"))
ROOMS = sorted(path.parent for path in SOURCE.glob("*/__init__.py"))

# Installed with Jackfield or its extras, and imported only by what uses them.
HEAVY = {
    "accelerate",
    "datasets",
    "duckdb",
    "fsspec",
    "ray",
    "gguf",
    "matplotlib",
    "pandas",
    "pyarrow",
    "rich",
    "scipy",
    "sklearn",
    "transformers",
}
LONGEST_FUNCTION = 60  # lines of a body, its docstring not counted


def name_of(path: Path) -> str:
    """A file's path in the source, as a test's id and in messages."""
    return path.relative_to(SOURCE).as_posix()


def module_names() -> list[str]:
    import jackfield

    return [name for _, name, _ in pkgutil.walk_packages(jackfield.__path__, "jackfield.")]


def public_objects() -> Iterator[tuple[str, object]]:
    """Every public function, class and method, with its name, where it is defined."""
    for module_name in module_names():
        module = importlib.import_module(module_name)
        for name, value in vars(module).items():
            defined_here = getattr(value, "__module__", None) == module_name
            if name.startswith("_") or not defined_here:
                continue
            if inspect.isclass(value) or inspect.isfunction(value):
                yield f"{module_name}.{name}", value
            if inspect.isclass(value):
                yield from public_methods(f"{module_name}.{name}", value)


def public_methods(name: str, owner: type) -> Iterator[tuple[str, object]]:
    for method, value in vars(owner).items():
        a_field = inspect.isfunction(value) and value.__name__ != method  # with a default to call
        if not method.startswith("_") and is_method(value) and not a_field:
            yield f"{name}.{method}", getattr(owner, method)


def is_method(value: object) -> bool:
    return inspect.isfunction(value) or isinstance(value, property | classmethod | staticmethod)


def imported_by(*statements: str) -> set[str]:
    """The top-level packages in memory after the statements have run in a fresh interpreter."""
    code = "; ".join((*statements, "import sys", "print(*{m.split('.')[0] for m in sys.modules})"))
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return set(ran.stdout.split())


def test_rooms_keep_their_order():
    command = [Path(sys.executable).with_name("lint-imports"), "--no-logo", "--no-cache"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_import_jackfield_is_light():
    assert not imported_by("import jackfield") & (HEAVY | {"torch", "numpy", "cyclopts"})


@pytest.mark.parametrize("room", ["core", "catalogue", "cli"])
def test_room_imports_without_torch(room):
    names = [name for name in module_names() if name.startswith(f"jackfield.{room}")]
    assert not imported_by(*(f"import {name}" for name in names)) & {"torch", "transformers"}


def test_no_room_imports_what_only_some_of_it_uses():
    names = [name for name in module_names() if not name.startswith("jackfield.cli")]
    assert not imported_by(*(f"import {name}" for name in names)) & HEAVY


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_room_opens_with_its_docstring(room):
    text = ast.get_docstring(ast.parse((room / "__init__.py").read_text())) or ""
    missing = [part for part in ("Lives here:", "May use:", "Look first:") if part not in text]
    assert not missing, f"{room.name}/__init__.py: {missing}"


def test_public_objects_have_docstrings():
    bare = [name for name, value in public_objects() if not inspect.getdoc(value)]
    assert not bare, "\n".join(bare)


def test_no_function_is_long():
    found = [
        f"{name_of(path)}:{node.lineno} {node.name} has {lines} lines"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := body_lines(node)) > LONGEST_FUNCTION
    ]
    assert not found, "\n".join(found)


def body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
    return (node.end_lineno or first.lineno) - first.lineno + 1


def test_classes_are_abstract_or_final():
    """A method of ours that overrides another of ours implements an abstract one."""
    found = [
        f"{name} overrides {base.__qualname__}.{method}"
        for name, owner in public_objects()
        if inspect.isclass(owner)
        for base in owner.__mro__[1:]
        if base.__module__.startswith("jackfield.")
        for method in vars(owner).keys() & vars(base).keys()
        if is_method(vars(base)[method]) and not method.startswith("__")
        if not getattr(vars(base)[method], "__isabstractmethod__", False)
    ]
    assert not found, "\n".join(found)


def test_shapes_are_checked_while_testing():
    """jaxtyping's annotations are live here (see addopts in pyproject.toml), and free elsewhere."""
    import torch
    from jaxtyping import TypeCheckError

    from jackfield.edits import Context, Scale

    with pytest.raises(TypeCheckError):
        Scale(2.0, at="x").apply(torch.ones(3, dtype=torch.int64), Context("x"))
