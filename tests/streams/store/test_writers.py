"""Several writers fill one store: nothing twice, nothing lost, whoever is killed or slow."""

import subprocess
import sys
import threading

import pytest
import torch

import jackfield as jf
from jackfield.core.errors import ArtifactError, BusyError
from jackfield.streams import Batch, Store, StoreWriter, Stream
from jackfield.testing import tiny_llama

ROWS = 300


class Part(Stream):
    """Every `world`-th document of a known corpus."""

    sites = ("x",)

    def __init__(self, rank, world, seed=0):
        self.rank, self.world, self.seed = rank, world, seed
        self.documents = torch.arange(ROWS // 3)[rank::world]

    @property
    def rows(self):
        return 3 * len(self.documents)

    @property
    def provenance(self):
        return {"corpus": {"seed": self.seed}, "part": [self.rank, self.world]}

    def batches(self, start=0):
        documents = self.documents.repeat_interleave(3)
        positions = torch.arange(3).repeat(len(self.documents))
        for first in range(start, self.rows, 20):
            rows = slice(first, first + 20)
            known = documents[rows], positions[rows]
            yield Batch({"x": values(*known)}, None, *known)


def values(documents, positions):
    return torch.stack([documents * 10.0, positions + 0.5], dim=1)


def assert_whole(store):
    batch = store.stream().collect()
    assert torch.equal(batch["x"], values(batch.documents, batch.positions))
    keys = batch.documents * 3 + batch.positions
    assert torch.equal(keys.sort().values, torch.arange(ROWS))
    assert store.verify() == []
    assert store.finished


def test_writers_side_by_side(tmp_path):
    def write(rank):
        Part(rank, 3).write(tmp_path / "acts", commit_rows=25)

    threads = [threading.Thread(target=write, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store = Store(tmp_path / "acts")
    assert_whole(store)
    assert "part" not in str(store.provenance)


def test_one_after_another_with_one_killed(tmp_path, monkeypatch):
    path = tmp_path / "acts"
    Part(1, 2).write(path, commit_rows=40)
    store = Store(path)
    assert (store.rows, store.finished) == (150, False)
    assert "not finished" in repr(store)
    with StoreWriter(path, Part(0, 2), commit_rows=40) as writer:
        for batch in Part(0, 2).take(100):
            writer.update(batch)
    ids = Store(path).stream().collect().documents
    Part(0, 2).write(path, commit_rows=30, resume=True)
    assert_whole(Store(path))
    assert torch.equal(Store(path).stream().collect().documents[: len(ids)], ids)  # numbers stay


def test_a_writer_whose_rows_are_there_must_say_resume(tmp_path):
    Part(0, 2).write(tmp_path / "acts")
    with pytest.raises(ArtifactError, match=r"150 rows.*resume=True"):
        Part(0, 2).write(tmp_path / "acts")


@pytest.mark.parametrize(
    ("other", "what"),
    [(Part(1, 3), "writers"), (Part(1, 2, seed=1), "provenance")],
    ids=["world", "corpus"],
)
def test_a_part_of_something_else(other, what, tmp_path):
    Part(0, 2).write(tmp_path / "acts")
    with pytest.raises(ArtifactError, match=f"acts, {what}"):
        other.write(tmp_path / "acts")


def test_two_writers_of_one_name(tmp_path):
    with (
        StoreWriter(tmp_path / "acts", Part(1, 2)),
        pytest.raises(BusyError, match="nobody writes as r0001"),
    ):
        Part(1, 2).write(tmp_path / "acts")


def test_two_writers_of_one_name_on_an_object_store():
    """There is no lock; they meet at the commit."""
    place = "memory://two/acts"

    def both():
        with (
            StoreWriter(place, Part(0, 2), commit_rows=20) as first,
            StoreWriter(place, Part(0, 2), commit_rows=20) as second,
        ):
            for batch in Part(0, 2).take(100):
                first.update(batch)
                second.update(batch)
            first.finish()
            second.finish()

    with pytest.raises(BusyError, match="one writer of the name r0000, got a second one"):
        both()
    batch = Store(place).stream().collect()
    assert torch.equal(batch["x"], values(batch.documents, batch.positions))


SCRIPT = """
import os, sys
import jackfield as jf
rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
model = jf.load(sys.argv[1])
corpus = jf.corpus(sys.argv[2], split="line").part(rank, world)
model.stream(corpus, ["layers.*.resid_post"]).write(sys.argv[3], resume=True)
"""


@pytest.mark.slow
def test_processes_of_torchrun_write_one_store(tmp_path):
    words = "the cat saw a small dog near an old harbour and slept".split()
    texts = [" ".join(words[: 3 + i % 9]) for i in range(50)]
    model = tiny_llama(texts=[" ".join(words)])
    model.module.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    (tmp_path / "script.py").write_text(SCRIPT)
    run = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port"]
    places = [tmp_path / "script.py", tmp_path / "model", tmp_path / "texts.txt", tmp_path / "acts"]
    subprocess.run([*run, "29517", *map(str, places)], check=True, timeout=120)
    store = Store(tmp_path / "acts")
    assert store.finished
    loaded = jf.load(tmp_path / "model")
    stream = loaded.stream(jf.corpus(tmp_path / "texts.txt", split="line"), store.sites)
    found, right = keyed(store.stream().collect()), keyed(stream.collect())
    assert torch.equal(found.documents, right.documents)
    assert torch.equal(found.positions, right.positions)
    for site in right.sites:
        torch.testing.assert_close(found[site], right[site], atol=1e-5, rtol=1e-5)


def keyed(batch):
    return batch.rows((batch.documents * 1000 + batch.positions).argsort())
