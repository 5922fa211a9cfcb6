import json
import os
import subprocess
import sys

import pytest
import torch

from jackfield.core.errors import ArtifactError, InputError, SiteError
from jackfield.streams import Moments, Store, Stream
from jackfield.streams.store import layout

SITE, OTHER = "layers.5.z[head=3]", "features.17.conv.1:out"
ROWS = 1000


@pytest.fixture(scope="module")
def arrays():
    generator = torch.Generator().manual_seed(0)
    return {
        SITE: torch.randn(ROWS, 4, 3, generator=generator),
        OTHER: torch.randint(0, 9, (ROWS,), generator=generator),
    }


@pytest.fixture(scope="module")
def stream(arrays):
    number = torch.arange(ROWS)
    return Stream.from_tensor(
        arrays, batch=170, tokens=number + 7, documents=number // 9, positions=number % 9
    )


@pytest.fixture
def store(stream, tmp_path):
    return stream.write(tmp_path / "acts", commit_rows=300)


def shard(store, site="layers.5.z%5Bhead%3D3%5D", number=1):
    (found,) = (store.path / "shards" / site).glob(f"r0000-{number:06d}-*.safetensors")
    return found


def test_what_was_written_is_read(store, stream, arrays):
    assert (store.rows, store.commits, store.sites) == (ROWS, 4, (SITE, OTHER))
    assert store.provenance == stream.provenance
    whole, truth = store.stream(batch=77).collect(), stream.collect()
    assert torch.equal(whole[SITE], arrays[SITE])
    assert torch.equal(whole[OTHER], arrays[OTHER])
    for part in ("tokens", "documents", "positions"):
        assert torch.equal(getattr(whole, part), getattr(truth, part))


def test_a_store_without_tokens(tmp_path):
    store = Stream.from_tensor(torch.ones(5, 2)).write(tmp_path / "acts")
    assert store.stream().collect().tokens is None


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", torch.bfloat16], ids=str)
def test_dtypes_are_kept_or_cast(dtype, stream, arrays, tmp_path):
    store = stream.write(tmp_path / "acts", dtype=dtype)
    wanted = dtype if isinstance(dtype, torch.dtype) else getattr(torch, dtype)
    assert store.info(SITE).dtype == wanted
    assert torch.equal(store[SITE][:], arrays[SITE].to(wanted))
    assert torch.equal(store[OTHER][:], arrays[OTHER])  # integers stay


def test_rows_by_id_in_any_order(store, arrays):
    ids = torch.randint(0, ROWS, (500,), generator=torch.Generator().manual_seed(1))
    assert torch.equal(store[SITE][ids], arrays[SITE][ids])  # with repeats, over commits, threads
    assert torch.equal(store.gather(ids).tokens, ids + 7)
    assert torch.equal(store[SITE][[5, 999, 0]], arrays[SITE][[5, 999, 0]])
    assert torch.equal(store[SITE][299:301], arrays[SITE][299:301])
    assert torch.equal(store[SITE][-1], arrays[SITE][-1])
    assert store[SITE][[]].shape == (0, 4, 3)
    assert store[SITE].shape == (ROWS, 4, 3)
    assert len(store[OTHER]) == ROWS


def test_rows_that_are_not_there(store):
    for id_ in (ROWS, -ROWS - 1):
        with pytest.raises(InputError, match="row ids from 0 to 999"):
            store[SITE][id_]
    with pytest.raises(SiteError, match="Did you mean layers"):
        store["layers.5.z"]
    with pytest.raises(SiteError, match="nowhere"):
        store.stream("nowhere")


def test_shuffled_streams_give_every_row_once(store, arrays):
    def order(seed):
        found = store.stream(SITE, batch=64, shuffle=True, seed=seed)
        batches = list(found)
        assert [len(batch) for batch in batches] == [64] * 15 + [40]
        ids = torch.cat([batch.tokens for batch in batches]) - 7
        assert torch.equal(torch.cat([batch[SITE] for batch in batches]), arrays[SITE][ids])
        return ids.tolist()

    assert sorted(order(0)) == list(range(ROWS))
    assert order(0) == order(0)
    assert order(0) != order(1)
    assert store.stream(shuffle=True).provenance != store.stream().provenance


def test_a_stream_of_a_store_is_a_stream(store, arrays, tmp_path):
    moments = store.stream(SITE, batch=90).into(Moments(SITE))
    torch.testing.assert_close(moments.mean, arrays[SITE].double().mean(0), rtol=1e-9, atol=1e-12)
    copy = store.stream(SITE).write(tmp_path / "copy")
    assert torch.equal(copy[SITE][:], arrays[SITE])


def test_shards_are_plain_safetensors(store, arrays):
    from safetensors.torch import load_file

    assert torch.equal(load_file(shard(store))["activations"], arrays[SITE][300:600])


def test_it_prints_a_table(store):
    text = repr(store)
    assert "1,000 rows" in text
    assert "4 commits" in text
    assert any(SITE in line and "[4, 3]" in line and "float32" in line for line in text.split("\n"))


def test_a_sound_store_verifies(store):
    assert store.verify() == []


def cut(path):
    path.write_bytes(path.read_bytes()[:-30])


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [(cut, "bytes, not"), (flip, "the checksum differs"), (lambda p: p.unlink(), "missing")],
    ids=["truncated", "flipped", "missing"],
)
def test_a_damaged_file_is_named_and_others_stay_readable(damage, problem, store, arrays):
    store[SITE][:]  # what was read before the damage must not hide it
    damage(shard(store))
    (found,) = Store(store.path).verify()
    assert found.startswith("shards/layers.5.z%5Bhead%3D3%5D/r0000-000001-")
    assert problem in found
    assert torch.equal(store[SITE][:300], arrays[SITE][:300])
    assert torch.equal(store[OTHER][:], arrays[OTHER])
    for reader in (store, Store(store.path)):
        with pytest.raises(ArtifactError, match=r"r0000-000001-.*\.safetensors.*verify"):
            reader[SITE][299:600]


def test_a_shard_with_another_tensor_inside_is_refused(store):
    shard(store).write_bytes(shard(store, number=3).read_bytes())
    with pytest.raises(ArtifactError, match=r"holds F32 \[100, 4, 3\], not \[300, 4, 3\]"):
        store[SITE][300]


def test_an_edited_manifest_is_refused(store):
    path = store.path / "manifest" / "000002.json"
    path.write_text(path.read_text().replace('"rows": 300', '"rows": 200'))
    with pytest.raises(ArtifactError, match=r"000002\.json.*damaged or edited"):
        Store(store.path)


def test_a_manifest_missing_in_the_middle_is_refused(store):
    (store.path / "manifest" / "000001.json").unlink()
    with pytest.raises(ArtifactError, match=r"000001\.json.*no file"):
        Store(store.path)


def test_a_newer_format_is_refused(store, stream):
    path = store.path / "meta.json"
    meta = json.loads(path.read_text())
    path.write_text(json.dumps({**meta, "version": 3}))
    for act in (lambda: Store(store.path), lambda: stream.write(store.path, resume=True)):
        with pytest.raises(ArtifactError, match=r"format 2, got format 3.*Update"):
            act()


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"format": "other", "version": 2}', '{"format": "jackfield-store"}'],
    ids=["broken", "list", "foreign", "incomplete"],
)
def test_what_is_not_a_store(text, tmp_path):
    (tmp_path / "meta.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"a folder written by stream\.write"):
        Store(tmp_path)


def test_an_edited_meta_is_refused(store):
    path = store.path / "meta.json"
    path.write_text(path.read_text().replace('"float32"', '"float16"'))
    with pytest.raises(ArtifactError, match="damaged or edited"):
        Store(store.path)


def test_a_dtype_in_meta_is_never_more_than_a_dtype():
    with pytest.raises(TypeError, match="'load' is not a dtype"):
        layout._dtype("load")


def test_no_folder(tmp_path):
    with pytest.raises(ArtifactError, match="FileNotFoundError"):
        Store(tmp_path / "nowhere")


FORKED = """
import os, sys, torch
from jackfield.streams import Store
torch.set_num_threads(1)  # its own threads do not live through a fork
store = Store(sys.argv[1])
ids = torch.arange(0, 50_000, 50)
for _ in range(50):  # until every reading thread is there
    here = store["x"][ids]
child = os.fork()
if not child:
    os._exit(0 if torch.equal(store["x"][ids], here) else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_process_reads_too(tmp_path):
    """Rows so far apart that threads read them, in a process that has read before and its child."""
    store = Stream.from_tensor(torch.arange(6_400_000.0).reshape(-1, 128)).write(tmp_path / "acts")
    command = [sys.executable, "-c", FORKED, str(store.path)]
    assert subprocess.run(command, timeout=60, check=False).returncode == 0
