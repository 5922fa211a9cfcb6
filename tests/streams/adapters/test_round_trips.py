import json

import numpy as np
import pytest
import torch

from jackfield.core.errors import ArtifactError, ConfigError, InputError, SiteError
from jackfield.streams import Moments, Store, Stream
from jackfield.streams.adapters import export, open_dataset

FORMATS = ["datasets", "safetensors", "numpy", "parquet"]
RESID, HEADS = "layers.3.resid_post", "layers.5.z[head=3]"


def same(rows, others):
    """Equal to the bit, NaN too."""
    rows, others = rows.contiguous(), others.contiguous()
    return rows.dtype == others.dtype and torch.equal(
        rows.view(torch.uint8), others.view(torch.uint8)
    )


@pytest.mark.parametrize("format", FORMATS)
def test_every_bit_comes_back(format, store, truth, tmp_path):
    stream = open_dataset(export(store, tmp_path / "out", format))
    there, here = stream.collect(), truth.collect()
    assert stream.rows == len(here)
    assert sorted(stream.sites) == sorted(truth.sites)
    for site in (RESID, "choice"):
        assert same(there[site].reshape(60, -1), here[site].reshape(60, -1)), site
    assert there[HEADS].shape == (60, 2, 3)
    kept = here[HEADS] if format == "safetensors" else here[HEADS].float()  # only it has bfloat16
    assert same(there[HEADS], kept)
    for part in ("tokens", "documents", "positions"):
        assert torch.equal(getattr(there, part), getattr(here, part))
    assert there.columns.keys() == here.columns.keys()
    for name, column in here.columns.items():
        assert torch.equal(there.columns[name], column)


@pytest.mark.parametrize("format", FORMATS)
def test_a_pass_begins_at_any_row(format, truth, tmp_path):
    stream = open_dataset(export(truth, tmp_path / "out", format), batch=13)
    whole = truth.collect()
    for start in (0, 1, 12, 13, 14, 47, 59, 60):
        found = list(stream.batches(start))
        assert all(len(batch) <= 13 for batch in found)
        tokens = torch.cat([torch.zeros(0, dtype=torch.int64), *(batch.tokens for batch in found)])
        assert torch.equal(tokens, whole.tokens[start:])
        assert all(same(b["choice"], whole["choice"][b.tokens - 7]) for b in found)


@pytest.mark.parametrize("format", FORMATS)
def test_what_was_opened_is_a_stream_like_any_other(format, store, truth, tmp_path):
    stream = open_dataset(export(store, tmp_path / "out", format)).select("choice", HEADS)
    again = stream.write(tmp_path / "again")
    assert torch.equal(again["choice"][:], store["choice"][:])
    mean = stream.into(Moments(HEADS, covariance=False)).mean
    torch.testing.assert_close(mean, truth.collect()[HEADS].double().mean(0))
    assert stream.provenance["of"]["of"]["store"] == store.provenance
    assert json.loads(json.dumps(stream.provenance)) == stream.provenance


@pytest.mark.parametrize("format", FORMATS)
def test_other_rows_have_another_provenance(format, tmp_path):
    first, other, twin = (
        open_dataset(export(Stream.from_tensor(x), tmp_path / name, format)).provenance
        for name, x in {
            "a": torch.zeros(4, 2),
            "b": torch.ones(4, 2),
            "c": torch.zeros(4, 2),
        }.items()
    )
    assert first == twin
    assert {**first, "of": None} != {**other, "of": None}


def test_sites_can_be_chosen_and_named(store, tmp_path):
    folder = export(store, tmp_path / "out", "numpy", sites={RESID: "blocks.3.hook_resid_post"})
    assert open_dataset(folder).sites == ("blocks.3.hook_resid_post",)
    stream = open_dataset(folder, sites={"blocks.3.hook_resid_post": RESID}, columns=["late"])
    assert same(stream.collect()[RESID], store[RESID][:])
    assert list(stream.collect().columns) == ["late"]
    with pytest.raises(SiteError, match=r"Did you mean layers\.3\.resid_post"):
        export(store, tmp_path / "none", "numpy", sites=["layers.3.resid_pos"])
    with pytest.raises(InputError, match="each with its own name"):
        export(store, tmp_path / "none", "numpy", sites={RESID: "x", HEADS: "x"})
    with pytest.raises(InputError, match=r"names other than the labels'.*got position"):
        export(store, tmp_path / "none", "numpy", sites={RESID: "position"})


def test_dtypes_are_cast_where_they_fit(store, tmp_path):
    half = open_dataset(export(store, tmp_path / "half", "numpy", dtype="float16")).collect()
    assert same(half[RESID], store[RESID][:].half())
    assert half["choice"].dtype == torch.int64
    brain = open_dataset(export(store, tmp_path / "brain", "safetensors", dtype="bfloat16"))
    assert same(brain.collect()[RESID], store[RESID][:].bfloat16())
    with pytest.raises(ConfigError, match="one of float32, float16, got 'bfloat16'"):
        export(store, tmp_path / "none", "parquet", dtype="bfloat16")
    huge = Stream.from_tensor(torch.tensor([[1e6]]))
    with pytest.raises(InputError, match="float16 can hold"):
        export(huge, tmp_path / "none", "datasets", dtype="float16")
    assert not (tmp_path / "none").exists()


def test_codecs_are_undone(truth, tmp_path):
    store = truth.select(HEADS).write(tmp_path / "acts", dtype="int8")
    there = open_dataset(export(store, tmp_path / "out", "parquet")).collect()[HEADS]
    assert same(there, store[HEADS][:].float())


@pytest.mark.parametrize("format", ["datasets", "safetensors"])
def test_large_exports_are_several_files(format, truth, tmp_path, monkeypatch):
    from jackfield.streams.adapters import hf_datasets, safetensors_files

    monkeypatch.setattr(hf_datasets, "_FILE_BYTES", 3000)
    monkeypatch.setattr(safetensors_files, "_FILE_BYTES", 3000)
    folder = export(truth, tmp_path / "out", format)
    parts = [*folder.glob("*.arrow"), *folder.glob("*.safetensors")]
    assert len(parts) > 1
    assert torch.equal(open_dataset(folder, batch=7).collect().tokens, truth.collect().tokens)


def test_other_programs_read_what_is_written(store, tmp_path):
    import datasets
    import pyarrow.parquet as pq
    from safetensors.torch import load_file

    truth = store[RESID][:].numpy()
    array = np.load(export(store, tmp_path / "npy", "numpy") / f"{RESID}.npy", mmap_mode="r")
    np.testing.assert_array_equal(array, truth)
    rows = load_file(export(store, tmp_path / "st", "safetensors") / "rows-00000.safetensors")
    np.testing.assert_array_equal(rows[RESID].numpy(), truth)
    table = pq.read_table(export(store, tmp_path / "pq", "parquet"))
    np.testing.assert_array_equal(np.array(table[RESID].to_pylist(), np.float32), truth)
    dataset = datasets.load_from_disk(str(export(store, tmp_path / "hf", "datasets")))
    np.testing.assert_array_equal(dataset.with_format("numpy")[:][RESID], truth)
    assert dataset[3]["token_id"] == 10


def test_an_export_is_there_whole_or_not_at_all(store, tmp_path):
    def broken():
        class Broken(Stream):
            sites, rows, provenance = ("x",), 4, {}

            def batches(self, start=0):
                yield from Stream.from_tensor(torch.ones(2, 2))
                raise RuntimeError("the model is gone")

        return Broken()

    for format in FORMATS:
        with pytest.raises(RuntimeError, match="the model is gone"):
            export(broken(), tmp_path / "out" / format, format)
        assert not list((tmp_path / "out").iterdir())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(ArtifactError, match="expected a new or empty folder"):
        export(store, tmp_path / "full", "numpy")


def test_wrong_options_say_what_is_right(store, tmp_path):
    with pytest.raises(ConfigError, match="Did you mean safetensors"):
        export(store, tmp_path / "out", "safetensor")
    with pytest.raises(InputError, match="these only with format 'saelens'"):
        export(store, tmp_path / "out", "numpy", context=3)
    with pytest.raises(InputError, match=r"Store\("):
        open_dataset(store.path)
    assert Store(store.path).rows == 60
