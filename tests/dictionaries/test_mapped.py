"""Mapped tensors: files that safetensors reads, and that are refused when they are not whole."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from jackfield.core.errors import ArtifactError
from jackfield.dictionaries.mapped import create, mapped, store


def test_what_is_written_in_place_is_what_safetensors_reads(tmp_path):
    path = tmp_path / "x.safetensors"
    arrays = create(path, {"a": (np.int64, (3,)), "b": (np.float32, (2, 2)), "c": (np.uint8, (5,))})
    arrays["a"][1] = 7
    arrays["b"][1] = [0.5, -2.0]
    arrays["c"][:] = 255
    for array in arrays.values():
        array.flush()
    found = load_file(path)
    assert found["a"].tolist() == [0, 7, 0]
    assert found["b"].tolist() == [[0, 0], [0.5, -2.0]]
    assert found["c"].tolist() == [255] * 5


def test_what_safetensors_writes_is_mapped(tmp_path):
    tensors = {"x": torch.randn(4, 3), "ids": torch.arange(5), "none": torch.zeros(0, 2)}
    save_file(tensors, tmp_path / "x.safetensors", metadata={"of": "others"})
    found = mapped(tmp_path / "x.safetensors")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor)


def test_changes_in_memory_do_not_reach_the_file(tmp_path):
    path = tmp_path / "x.safetensors"
    store(path, {"x": torch.ones(3)})
    mapped(path)["x"][0] = 9
    assert mapped(path)["x"].tolist() == [1, 1, 1]


def test_a_part_of_a_file_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    store(path, {"x": torch.ones(3000)})
    whole = path.read_bytes()
    for size in (0, 5, 40, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ArtifactError, match="a file of a feature index"):
            mapped(path)
    with pytest.raises(ArtifactError, match="a file of a feature index"):
        mapped(tmp_path / "nothing")
