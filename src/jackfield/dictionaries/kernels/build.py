"""Compiles `sparse.cpp`, once for each level of the CPU: by the build hook, or by hand.

    python src/jackfield/dictionaries/kernels/build.py

`hatch_build.py` loads this file before there is a Jackfield to import, so it uses only the standard
library. A library's name has the hash of what it was made from in it: one of another source, or of
other flags, is not found.
"""

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("sparse.cpp")
FLAGS = ["-std=c++17", "-O3", "-ffp-contract=fast", "-fPIC", "-shared", "-fvisibility=hidden"]
FLAGS += ["-Wno-psabi"]  # GCC's remark that vectors are passed otherwise by another level's code
# Apple's clang has no OpenMP: there the kernels run on one thread.
OPENMP: list[list[str]] = [["-fopenmp"], []]
LEVELS: dict[str, list[str]] = {"plain": []}  # every CPU of this architecture
if platform.machine() in ("x86_64", "AMD64"):
    LEVELS = {"v3": ["-march=x86-64-v3"], "plain": []}  # AVX2 and FMA: 2013 and later
SUFFIX = ".kernel"  # not .so, which would be taken for a module of Python
LONGEST = 300.0  # seconds that a compiler may take


def library(level: str, folder: Path = SOURCE.parent) -> Path:
    """Where the library of a level lies, if it has been built from the source as it is now."""
    made_from = SOURCE.read_bytes() + " ".join(FLAGS + LEVELS[level]).encode()
    return folder / f"sparse-{level}-{hashlib.sha256(made_from).hexdigest()[:12]}{SUFFIX}"


def compiler() -> list[str] | None:
    """The command in CXX, else the first C++ compiler on the path."""
    if os.name == "nt":
        return None
    chosen = shlex.split(os.environ.get("CXX", ""))
    names = [chosen[0]] if chosen else ["c++", "g++", "clang++"]
    found = next((path for path in map(shutil.which, names) if path), None)
    return [found, *chosen[1:]] if found else None


def build(folder: Path = SOURCE.parent) -> list[Path]:
    """Compiles what can be compiled here, and removes what older sources left; no failure."""
    command = compiler()
    wanted = [library(level, folder) for level in LEVELS]
    for old in set(folder.glob(f"sparse-*{SUFFIX}")) - set(wanted):
        old.unlink()
    if command is None:
        return []
    return [made for level, made in zip(LEVELS, wanted, strict=True) if _made(command, level, made)]


def _made(compiler: list[str], level: str, target: Path) -> bool:
    """Whether the compiler made it; under another name first, so that it is whole or not there."""
    part = target.with_suffix(f".{os.getpid()}")
    for openmp in OPENMP:
        command = [*compiler, *FLAGS, *LEVELS[level], *openmp, str(SOURCE), "-o", str(part)]
        try:
            ran = subprocess.run(command, capture_output=True, check=False, timeout=LONGEST)
        except (OSError, subprocess.TimeoutExpired):
            return False
        if ran.returncode == 0:
            part.replace(target)
            return True
    part.unlink(missing_ok=True)
    return False


if __name__ == "__main__":
    sys.exit(None if build() else "No library was built: no C++ compiler, or it failed.")
