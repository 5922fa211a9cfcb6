"""Files as other programs leave them, whole and broken."""

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from jackfield.core.errors import InputError, SiteError
from jackfield.streams.adapters import open_dataset

X = np.arange(12, dtype=np.float32).reshape(4, 3)


def test_one_npy_file(tmp_path):
    np.save(tmp_path / "layers.3.resid_post.npy", X)
    stream = open_dataset(tmp_path / "layers.3.resid_post.npy", batch=3)
    assert stream.sites == ("layers.3.resid_post",)
    batch = stream.collect()
    assert batch["layers.3.resid_post"].tolist() == X.tolist()
    assert batch.tokens is None
    assert batch.documents.tolist() == [0, 1, 2, 3]  # each row its own


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed], ids=["plain", "compressed"])
def test_npz(save, tmp_path):
    save(tmp_path / "acts.npz", x=X, tokens=np.arange(4), label=np.array([1.0, 0, 0, 1]))
    stream = open_dataset(tmp_path / "acts.npz", batch=2)
    assert stream.collect().columns["label"].tolist() == [1, 0, 0, 1]
    for start in range(5):
        rows = [row for batch in stream.batches(start) for row in batch["x"].tolist()]
        assert rows == X[start:].tolist()
    one, other = stream.batches(), stream.batches(2)  # two passes at once
    assert next(one)["x"].tolist() == X[:2].tolist()
    assert next(other)["x"].tolist() == X[2:].tolist()
    assert next(one)["x"].tolist() == X[2:].tolist()


def test_other_byte_orders_are_turned(tmp_path):
    np.save(tmp_path / "x.npy", X.astype(">f8"))
    assert open_dataset(tmp_path / "x.npy").collect()["x"].tolist() == X.tolist()


def test_safetensors_cut_by_rows_and_by_arrays(tmp_path):
    x, y = torch.randn(5, 2).bfloat16(), torch.randn(5, 3)
    save_file({"x": x[:3].contiguous()}, tmp_path / "a.safetensors")
    save_file({"x": x[3:].contiguous(), "y": y}, tmp_path / "b.safetensors")
    batches = list(open_dataset(tmp_path, batch=2))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert torch.equal(torch.cat([batch["x"] for batch in batches]), x)
    assert torch.equal(torch.cat([batch["y"] for batch in batches]), y)


def test_parquet_of_several_files_and_row_groups(tmp_path):
    rows = np.arange(30.0).reshape(10, 3)
    for name, part in {"a": rows[:6], "b": rows[6:]}.items():
        table = pa.table(
            {"x": part.tolist(), "token_id": list(range(len(part))), "word": ["w"] * len(part)}
        )
        pq.write_table(table, tmp_path / f"{name}.parquet", row_group_size=4)
    stream = open_dataset(tmp_path, batch=3)
    assert stream.sites == ("x",)  # words are no numbers
    for start in range(11):
        found = [row for batch in stream.batches(start) for row in batch["x"].tolist()]
        assert found == rows[start:].tolist()


def test_an_hf_dataset_with_lists_and_words():
    made = datasets.Dataset.from_dict(
        {"x": X.tolist(), "text": list("abcd"), "document": [3, 3, 5, 5]}
    )
    batch = open_dataset(made).collect()
    assert batch["x"].tolist() == X.tolist()
    assert batch.documents.tolist() == [3, 3, 5, 5]
    filtered = open_dataset(made.filter(lambda row: row["text"] > "b"))
    assert filtered.collect()["x"].tolist() == X[2:].tolist()


def test_different_numbers_of_rows(tmp_path):
    np.savez(tmp_path / "acts.npz", x=X, y=X[:3], mean=X.mean(0))
    with pytest.raises(
        InputError, match=r'number of rows in every array.*"x": 4, "y": 3, "mean": 3'
    ):
        open_dataset(tmp_path / "acts.npz")
    assert open_dataset(tmp_path / "acts.npz", sites=["x"], columns=[]).rows == 4


def test_arrays_that_are_not_there(tmp_path):
    np.savez(tmp_path / "acts.npz", resid_post=X, tokens=np.arange(4))
    with pytest.raises(SiteError, match=r"one of resid_post, tokens.*Did you mean resid_post"):
        open_dataset(tmp_path / "acts.npz", sites=["resid_pos"])
    with pytest.raises(SiteError, match="'weight'"):
        open_dataset(tmp_path / "acts.npz", columns=["weight"])
    with pytest.raises(InputError, match=r"a number a row, got rows of shape \[3\]"):
        open_dataset(tmp_path / "acts.npz", columns=["resid_post"])
    with pytest.raises(InputError, match="another name for each site"):
        open_dataset(tmp_path / "acts.npz", sites={"resid_post": "x", "tokens": "x"})


def test_labels_are_whole_numbers(tmp_path):
    np.savez(tmp_path / "acts.npz", x=X, position=np.linspace(0, 1, 4))
    with pytest.raises(InputError, match="position: expected whole numbers, got float64"):
        open_dataset(tmp_path / "acts.npz")


def test_objects_are_never_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    np.save(tmp_path / "x.npy", np.array([Trap()] * 4, dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="Python objects, which are not unpickled"):
        open_dataset(tmp_path / "x.npy")
    with pytest.raises(InputError, match="Python objects, which are not unpickled"):
        open_dataset(tmp_path / "x.npy", sites=["x"])
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.array(["a", "b"]), "dtype <U1"),
        (np.float32(3.0), "a single number"),
        (np.asfortranarray(X), "Fortran order; save np.ascontiguousarray"),
    ],
    ids=["words", "scalar", "fortran"],
)
def test_arrays_that_are_no_rows_of_numbers(array, said, tmp_path):
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(InputError, match=said):
        open_dataset(tmp_path / "x.npy")


def test_a_plain_column_becomes_a_site_when_it_is_named(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(4.0))
    with pytest.raises(InputError, match=r"sites=\['x'\]"):
        open_dataset(tmp_path / "x.npy")
    assert open_dataset(tmp_path / "x.npy", sites=["x"]).collect()["x"].tolist() == [0, 1, 2, 3]


def test_rows_of_different_lengths(tmp_path):
    pq.write_table(pa.table({"x": [[1.0, 2.0], [1.0], [1.0, 2.0, 3.0]]}), tmp_path / "x.parquet")
    with pytest.raises(InputError, match="lists of 2 values in every row, got one of 1"):
        open_dataset(tmp_path / "x.parquet").collect()
    with pytest.raises(InputError, match="lists of 2 values"):
        open_dataset(datasets.Dataset.from_dict({"x": [[1.0, 2.0], [1.0]]})).collect()


@pytest.mark.parametrize("x", [[[1.0, 2.0], None], [[1.0, 2.0], [None, 1.0]]], ids=["row", "value"])
def test_missing_values(x, tmp_path):
    pq.write_table(pa.table({"x": x}), tmp_path / "x.parquet")
    with pytest.raises(InputError, match="a value in every row, got 1 missing"):
        open_dataset(tmp_path / "x.parquet").collect()


def test_files_that_do_not_fit_together(tmp_path):
    save_file({"x": torch.ones(2, 3)}, tmp_path / "a.safetensors")
    save_file({"x": torch.ones(2, 4)}, tmp_path / "b.safetensors")
    with pytest.raises(InputError, match="as in the files before"):
        open_dataset(tmp_path)
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(InputError, match="got files of several kinds"):
        open_dataset(tmp_path)


def test_damaged_files(tmp_path):
    np.save(tmp_path / "x.npy", X)
    data = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "x.npy").write_bytes(data[:-5])
    with pytest.raises(InputError, match=r"x\.npy, x: expected 4 rows, got a file that ends"):
        open_dataset(tmp_path / "x.npy").collect()
    for name in ("x.npy", "x.npz", "x.safetensors", "x.parquet"):
        (tmp_path / name).write_bytes(b"nothing of the kind")
        with pytest.raises(InputError, match=f"x\\{name[1:]}"):
            open_dataset(tmp_path / name)
    np.savez(tmp_path / "y.npz", x=X)
    data = bytearray((tmp_path / "y.npz").read_bytes())
    data[data.index(X.tobytes()) + 5] ^= 1
    (tmp_path / "y.npz").write_bytes(data)
    with pytest.raises(InputError, match="CRC"):
        open_dataset(tmp_path / "y.npz").collect()


def test_a_saved_dataset_that_is_damaged_or_split(tmp_path):
    made = datasets.Dataset.from_dict({"x": X.tolist()})
    datasets.DatasetDict({"train": made, "test": made}).save_to_disk(str(tmp_path / "splits"))
    with pytest.raises(InputError, match=r"got the splits test, train.*dataset\['test'\]"):
        open_dataset(tmp_path / "splits")
    with pytest.raises(InputError, match="IterableDataset"):
        open_dataset(made.to_iterable_dataset())
    made.save_to_disk(str(tmp_path / "saved"))
    (part,) = (tmp_path / "saved").glob("*.arrow")
    part.unlink()
    with pytest.raises(InputError, match="save_to_disk"):
        open_dataset(tmp_path / "saved")


def test_an_export_that_lost_a_file(tmp_path, truth, monkeypatch):
    from jackfield.streams.adapters import export, safetensors_files

    monkeypatch.setattr(safetensors_files, "_FILE_BYTES", 3000)
    folder = export(truth, tmp_path / "out", "safetensors")
    (folder / "rows-00001.safetensors").unlink()
    with pytest.raises(InputError, match="60 rows, as its description says"):
        open_dataset(folder)
    (folder / "_activations.json").write_text("{}")
    with pytest.raises(InputError, match=r"activations\.json"):
        open_dataset(folder)


def test_nothing_to_open(tmp_path):
    with pytest.raises(InputError, match="got none of these"):
        open_dataset(tmp_path)
    with pytest.raises(InputError, match="got none of these"):
        open_dataset(tmp_path / "nowhere.npy")
    with pytest.raises(InputError, match=r"a path, or a datasets\.Dataset, got int"):
        open_dataset(3)
