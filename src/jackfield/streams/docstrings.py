"""Docstrings: the corpus "docs", English prose that is on every machine with Python.

Walks the standard library and the installed packages as files (nothing is imported), takes the
docstrings of modules, classes and functions, drops the examples at the prompt, and keeps what is
long enough and reads as English. Packages take turns, so that the first documents are already
varied. The order is the same as long as the installed packages are.
"""

from __future__ import annotations

import ast
import hashlib
import re
import sysconfig
import warnings
from collections import deque
from collections.abc import Iterator
from pathlib import Path

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

_SHORTEST = 200  # characters
_LARGEST = 2_000_000  # bytes; longer sources are generated tables
_COMMON = frozenset(["the", "of", "a", "is", "to", "and", "in", "for", "be", "that", "this", "if"])
_COMMON_SHARE = 0.2  # of the words; English prose has about 0.25, lists of parameters below 0.15
_LEFT_OUT = frozenset(
    ["test", "tests", "testing", "idlelib", "lib2to3", "_vendor", "node_modules", "__pycache__"]
)


def docstrings() -> Iterator[str]:
    """Gives the docstrings: packages in turn, one text each time, none twice."""
    seen: set[bytes] = set()
    turns = deque(_of_package(paths) for paths in docstring_files().values())
    while turns:
        package = turns.popleft()
        for text in package:
            digest = hashlib.blake2b(text.encode(), digest_size=12).digest()
            if digest not in seen:
                seen.add(digest)
                turns.append(package)
                yield text
                break


def docstring_files() -> dict[str, list[Path]]:
    """The source files of each installed package, both in a fixed order that mixes them."""
    packages: dict[str, list[Path]] = {}
    for root in dict.fromkeys(
        sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")
    ):
        for entry in sorted(Path(root).iterdir()):
            if entry.is_dir() and entry.name.isidentifier() and entry.name not in _LEFT_OUT:
                packages[entry.name] = _sources(entry)
            elif entry.suffix == ".py":  # the modules that are one file share a turn
                packages.setdefault(f"modules of {Path(root).name}", []).append(entry)
    return {name: packages[name] for name in sorted(packages, key=_hash) if packages[name]}


def _sources(package: Path) -> list[Path]:
    """Its source files, mixed by a hash of their place in the package (not on the machine)."""
    place = {path: path.relative_to(package) for path in package.rglob("*.py")}
    kept = [path for path in place if _LEFT_OUT.isdisjoint(place[path].parts)]
    return sorted(kept, key=lambda path: _hash(place[path].as_posix()))


def _of_package(paths: list[Path]) -> Iterator[str]:
    for path in paths:
        for text in _of_file(path):
            prose = _without_examples(text)
            if _is_prose(prose):
                yield prose


def _of_file(path: Path) -> list[str]:
    """A list, so that no syntax tree is alive while other packages have their turns."""
    try:
        source = path.read_bytes()
        if len(source) > _LARGEST or b'"""' not in source:
            return []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other people's invalid escapes
            tree = ast.parse(source)
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    texts = (ast.get_docstring(node) for node in _documented(tree))
    return [text for text in texts if text and len(text) >= _SHORTEST]


def _documented(node: Documented) -> Iterator[Documented]:
    """A module, its classes and functions, and theirs (expressions are not looked into)."""
    yield node
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _documented(child)


def _without_examples(text: str) -> str:
    """Drops the paragraphs that show the interactive prompt."""
    if ">>>" not in text:
        return text
    return "\n\n".join(part for part in re.split(r"\n\s*\n", text) if ">>>" not in part)


def _is_prose(text: str) -> bool:
    if len(text) < _SHORTEST:
        return False
    words = re.findall(r"[a-z]+", text.lower())
    return sum(word in _COMMON for word in words) >= _COMMON_SHARE * max(len(words), 1)


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()
