import json
import os

import pytest
import torch

from jackfield.core import artifacts
from jackfield.core.artifacts import atomic_write, read_artifact, save_artifact
from jackfield.core.errors import ArtifactError


def save(path, value=1.0):
    tensors = {"w": torch.full((2, 3), value), "b": torch.arange(3)}
    return save_artifact(path, kind="a:B", config={"k": value}, tensors=tensors, extra={"n": [1]})


def everything_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_what_is_read_is_what_was_saved(tmp_path):
    path = save(tmp_path / "deep" / "thing")
    read = read_artifact(path)
    assert (read.kind, read.config, read.extra) == ("a:B", {"k": 1.0}, {"n": [1]})
    assert torch.equal(read.tensors["w"], torch.ones(2, 3))
    assert torch.equal(read.tensors["b"], torch.arange(3))


def test_views_and_parameters_are_saved_as_their_values(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {"t": base.T, "p": torch.nn.Parameter(base[1]), "same": base, "again": base}
    save_artifact(tmp_path / "x", kind="a:B", config={}, tensors=tensors)
    read = read_artifact(tmp_path / "x").tensors
    assert torch.equal(read["t"], base.T)
    assert torch.equal(read["p"], base[1])
    assert torch.equal(read["same"], base)
    assert torch.equal(read["again"], base)


def test_saving_again_replaces_and_leaves_nothing_beside(tmp_path):
    save(tmp_path / "x")
    save(tmp_path / "x", 2.0)
    assert read_artifact(tmp_path / "x").config == {"k": 2.0}
    assert everything_in(tmp_path) == ["x", "x/jackfield.json", "x/tensors.safetensors"]


def test_others_may_read_what_they_may_read_of_any_new_file(tmp_path):
    save(tmp_path / "x")
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "file").touch()
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "plain").stat().st_mode
    for name in ("jackfield.json", "tensors.safetensors"):
        assert (tmp_path / "x" / name).stat().st_mode == (tmp_path / "plain/file").stat().st_mode


class Crash(BaseException):
    """Stands for a power cut or Ctrl-C."""


@pytest.mark.parametrize("step", range(4))
def test_a_crash_while_writing_leaves_the_old_one_whole(tmp_path, monkeypatch, step):
    save(tmp_path / "x")
    real, calls = os.replace, []

    def crashes(source, target):
        calls.append(target)
        if len(calls) == step + 1:
            raise Crash
        real(source, target)

    monkeypatch.setattr(artifacts.os, "replace", crashes)
    with pytest.raises(Crash):
        save(tmp_path / "x", 2.0)
    monkeypatch.undo()
    assert read_artifact(tmp_path / "x").config == {"k": 1.0}
    assert torch.equal(read_artifact(tmp_path / "x").tensors["w"], torch.ones(2, 3))
    assert everything_in(tmp_path) == ["x", "x/jackfield.json", "x/tensors.safetensors"]


def test_a_crash_while_writing_a_new_one_leaves_nothing(tmp_path, monkeypatch):
    def crashes(*_):
        raise Crash

    monkeypatch.setattr(artifacts.os, "fsync", crashes)
    with pytest.raises(Crash):
        save(tmp_path / "x")
    assert everything_in(tmp_path) == []


def test_a_folder_with_other_things_is_never_touched(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("keep")
    with pytest.raises(ArtifactError, match="a folder with other things"):
        save(tmp_path / "notes")
    (tmp_path / "file").write_text("keep")
    with pytest.raises(ArtifactError, match="got a file"):
        save(tmp_path / "file")
    assert everything_in(tmp_path) == ["file", "notes", "notes/mine.txt"]


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="a folder that Jackfield saved, got FileNotFound"):
        read_artifact(tmp_path / "none")


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "jackfield.json").write_text("{"),
        lambda folder: (folder / "jackfield.json").write_text("[]"),
        lambda folder: (folder / "jackfield.json").write_text("{}"),
        lambda folder: (folder / "jackfield.json").write_bytes(b"\xff\xfe\x00"),
        lambda folder: (folder / "jackfield.json").write_text('{"format": "new"}'),
        lambda folder: (folder / "tensors.safetensors").unlink(),
        lambda folder: (folder / "tensors.safetensors").write_bytes(b""),
        lambda folder: os.truncate(folder / "tensors.safetensors", 60),
    ],
    ids=["cut", "list", "empty", "bytes", "format", "no tensors", "no bytes", "truncated"],
)
def test_a_damaged_folder_is_refused(tmp_path, damage):
    damage(save(tmp_path / "x"))
    with pytest.raises(ArtifactError, match="a folder that Jackfield saved"):
        read_artifact(tmp_path / "x")


def test_a_newer_format_asks_for_an_update_whatever_it_holds(tmp_path):
    header = save(tmp_path / "x") / "jackfield.json"
    header.write_text(json.dumps({"format": artifacts.FORMAT + 1, "things": "new"}))
    with pytest.raises(ArtifactError, match="format 1 or older, got format 2"):
        read_artifact(tmp_path / "x")


def test_atomic_write_keeps_the_old_bytes_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    atomic_write(path, b"old")
    atomic_write(path, b"new")
    assert path.read_bytes() == b"new"

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(artifacts.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        atomic_write(path, b"newer")
    assert path.read_bytes() == b"new"
    assert everything_in(tmp_path) == ["x.json"]
