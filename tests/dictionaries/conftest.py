"""What several tests of this room need: the kernels, compiled from the source as it is now."""

import ctypes

import pytest

from jackfield.dictionaries.kernels import build, cpu


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """The library of each level that this CPU runs; skips where there is no compiler."""
    folder = tmp_path_factory.mktemp("kernels")
    if build.compiler() is None:
        pytest.skip("no C++ compiler")
    assert len(build.build(folder)) == len(build.LEVELS), "sparse.cpp does not compile"
    return {
        level: ctypes.CDLL(str(build.library(level, folder)))
        for level in build.LEVELS
        if level != "v3" or cpu.runs_v3()
    }
