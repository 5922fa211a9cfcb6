"""The store loses nothing: writers are stopped at every write, and killed at random moments."""

import contextlib
import inspect
import os
import queue
import random
import subprocess
import sys
import time

import pytest
import torch

from jackfield.core.errors import (
    ArtifactError,
    BusyError,
    ConfigError,
    InputError,
    JackfieldWarning,
)
from jackfield.streams import Moments, Store, StoreWriter, Stream
from jackfield.streams.store import committing, writer
from jackfield.streams.store.files import LocalFiles

ROWS = 400


def made(seed=0, rows=ROWS, batch=37):
    """A stream whose rows are known: two sites, tokens."""
    generator = torch.Generator().manual_seed(seed)
    arrays = {"a": torch.randn(rows, 8, generator=generator), "b": torch.arange(float(rows))}
    return Stream.from_tensor(arrays, batch=batch, tokens=torch.arange(rows))


def assert_prefix(store, stream):
    """The rows that are there are the stream's first, bit for bit, and every file is sound."""
    truth = stream.collect()
    assert store.verify() == []
    if store.rows:
        there = store.stream().collect()
        for site in truth.sites:
            assert torch.equal(there[site], truth[site][: store.rows])
        assert torch.equal(there.tokens, truth.tokens[: store.rows])


def test_several_sinks_on_one_pass(tmp_path):
    stream = made()
    with StoreWriter(tmp_path / "acts", stream, commit_rows=100) as sink:
        store, moments = stream.into(sink, Moments("a"))
    assert store.rows == moments.rows == ROWS


@pytest.mark.parametrize("commit_rows", [5, 37, 64, 400, 1000, None])
def test_any_commit_size_gives_the_same_rows(commit_rows, tmp_path):
    stream = made(rows=74)
    store = stream.write(tmp_path / "acts", commit_rows=commit_rows)
    assert store.commits == -(-74 // (commit_rows or 74))
    assert store.rows == 74
    assert_prefix(store, stream)


def test_commits_have_a_size_by_default(tmp_path, monkeypatch):
    monkeypatch.setattr(committing, "GROUP_BYTES", 36 * 50)  # a row has 8 + 1 floats
    assert made().write(tmp_path / "acts").commits == 8


class StoppedError(Exception):
    pass


def stop_at(number, monkeypatch):
    """Makes the write of this number fail as it begins, and every later one."""
    count = 0

    def counted(plain):
        def write(self, *arguments):
            nonlocal count
            count += 1
            if count >= number:
                raise StoppedError
            return plain(self, *arguments)

        return write

    for name in ("write", "create"):
        monkeypatch.setattr(LocalFiles, name, counted(getattr(LocalFiles, name)))


def test_a_stop_at_any_write_loses_nothing_committed(tmp_path, monkeypatch):
    """A commit is 5 writes (two shards, labels twice, manifest) after one of meta.json."""
    stream = made(rows=90)
    for number in range(1, 17):
        path = tmp_path / str(number)
        with monkeypatch.context() as patch:
            stop_at(number, patch)
            with pytest.raises(StoppedError):
                stream.write(path, commit_rows=30)
        if number > 1:
            store = Store(path)
            assert store.rows == 30 * ((number - 2) // 5)
            assert not store.finished
            assert_prefix(store, stream)
        finished = stream.write(path, commit_rows=30, resume=True)
        assert finished.rows == 90
        assert finished.finished
        assert_prefix(finished, stream)
        left = {name for name in finished.gc() if name.startswith("shards/a/")}
        assert len(left) == (0 if number == 1 else (number - 2) % 5 > 0)


CHILD = """
import os, sys
torch.set_num_threads(1)
import jackfield.streams.store.writer, pyarrow.parquet
print("ready", flush=True)
for path in sys.stdin:
    child = os.fork()
    if not child:
        try:
            made().write(path.strip(), commit_rows=40, resume=True)
        finally:
            os._exit(0)
    print(child, flush=True)
    os.waitpid(child, 0)
    print("ended", flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked writers")
def test_kill_at_random_moments_loses_nothing_committed(tmp_path):
    """One process with everything loaded forks the writers, which are killed at any moment."""
    setup = "import torch\nfrom jackfield.streams import Stream\n"
    code = f"{setup}ROWS = {ROWS}\n{inspect.getsource(made)}\n{CHILD}"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    child = subprocess.Popen([sys.executable, "-c", code], text=True, **pipes)
    with child:
        assert child.stdout.readline() == "ready\n"

        def write(path, commits=None, seconds=0.0):
            """Kills the writer so long after its commit of this number, or lets it end."""
            child.stdin.write(f"{path}\n")
            child.stdin.flush()
            pid = int(child.stdout.readline())
            if commits is not None:
                manifest = path / f"manifest/{commits - 1:06d}.json"
                while commits and alive(pid) and not manifest.exists():
                    time.sleep(0.0005)
                time.sleep(seconds)
                with contextlib.suppress(ProcessLookupError):  # it was done before its moment
                    os.kill(pid, 9)
            assert child.stdout.readline() == "ended\n"

        write(tmp_path / "whole")
        assert Store(tmp_path / "whole").rows == ROWS
        draw = random.Random(0)
        rows = [killed(write, tmp_path / str(n), n % 10, draw.random() * 0.01) for n in range(12)]
        child.stdin.close()
    assert any(0 < count < ROWS for count in rows), rows  # some were killed in mid-writing


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def killed(write, path, commits, seconds):
    """Kills a writer, checks what is there, and finishes it; returns the rows that were there."""
    write(path, commits, seconds)
    there = 0
    if (path / "meta.json").exists():
        store = Store(path)
        there = store.rows
        assert there % 40 == 0
        assert_prefix(store, made())
    finished = made().write(path, commit_rows=40, resume=True)
    assert finished.rows == ROWS
    assert_prefix(finished, made())
    assert {p.name for p in path.rglob(".*")} <= {".lock-r0000"}  # nothing half-written is left
    return there


def test_a_reader_sees_whole_commits_while_a_writer_writes(tmp_path):
    stream = made()
    seen = []
    with StoreWriter(tmp_path / "acts", stream, commit_rows=50) as sink:
        for batch in stream:
            sink.update(batch)
            store = Store(tmp_path / "acts")
            assert_prefix(store, stream)
            seen.append(store.rows)
        sink.finish()
    assert seen[0] == 0
    assert set(seen) <= set(range(0, ROWS + 1, 50))


def test_resume_begins_a_store_and_leaves_a_finished_one(tmp_path):
    first = made().write(tmp_path / "acts", resume=True, commit_rows=100)
    again = made().write(tmp_path / "acts", resume=True, commit_rows=30)
    assert again.rows == first.rows == ROWS
    assert again.commits == first.commits


def test_resume_goes_on_with_another_commit_size_and_batches(tmp_path):
    stream = made()
    with StoreWriter(tmp_path / "acts", stream, commit_rows=64) as sink:
        for batch in stream.take(200):
            sink.update(batch)
    assert Store(tmp_path / "acts").rows == 200  # what had come is committed too
    store = made(batch=11).write(tmp_path / "acts", resume=True, commit_rows=100)
    assert store.rows == ROWS
    assert_prefix(store, stream)


@pytest.mark.parametrize(
    ("stream", "dtype", "what"),
    [
        (made(seed=1), None, "provenance"),
        (made(rows=500), None, "provenance"),
        (made().select("a"), None, "provenance"),
        (made(), "bfloat16", "sites"),
    ],
    ids=["content", "rows", "select", "dtype"],
)
def test_resume_with_other_rows_is_refused(stream, dtype, what, tmp_path):
    store = made().write(tmp_path / "acts")
    with pytest.raises(ArtifactError, match=f"acts, {what}: .*do not belong to this store"):
        stream.write(tmp_path / "acts", dtype=dtype, resume=True)
    assert_prefix(Store(store.path), made())
    assert Store(store.path).rows == ROWS


def test_a_store_is_not_written_over(tmp_path):
    made().write(tmp_path / "acts")
    with pytest.raises(ArtifactError, match=r"one that holds a store.*resume=True"):
        made().write(tmp_path / "acts")
    assert Store(tmp_path / "acts").rows == ROWS


def test_a_folder_of_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for resume in (False, True):
        with pytest.raises(ArtifactError, match=r"one that holds thesis\.tex"):
            made().write(tmp_path, resume=resume)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(ArtifactError, match="a folder, got a file"):
        made().write(tmp_path / "thesis.tex")


def test_two_writers_of_one_store(tmp_path):
    stream = made()
    with StoreWriter(tmp_path / "acts", stream), pytest.raises(BusyError, match="another writer"):
        stream.write(tmp_path / "acts", resume=True)
    assert stream.write(tmp_path / "acts", resume=True).rows == ROWS


def test_the_lock_goes_when_a_write_fails(tmp_path):
    broken = Stream.from_tensor(torch.tensor([[1.0], [1e6]]), batch=1)
    with pytest.raises(InputError, match=r"acts, x: .*float16 can hold, got 1e\+06.*bfloat16"):
        broken.write(tmp_path / "acts", dtype="float16", commit_rows=1)
    assert Store(tmp_path / "acts").rows == 1
    with pytest.raises(InputError, match="float16 can hold"):  # and not BusyError
        broken.write(tmp_path / "acts", dtype="float16", commit_rows=1, resume=True)


def test_nan_rows_are_counted_and_reported(tmp_path):
    x = torch.ones(10, 2)
    x[3, 0], x[8, 1] = float("nan"), float("inf")
    with pytest.warns(JackfieldWarning, match="2 rows hold NaN or Inf"):
        store = Stream.from_tensor(x).write(tmp_path / "acts", commit_rows=5, dtype="float16")
    assert store.nonfinite == {"x": 2}
    assert "2 rows with NaN or Inf" in repr(store)
    assert store["x"][3].isnan().tolist() == [True, False]


def test_a_writer_needs_its_block(tmp_path):
    stream = made()
    with pytest.raises(InputError, match="inside its `with` block"):
        stream.into(StoreWriter(tmp_path / "acts", stream))


@pytest.mark.parametrize("dtype", ["int4", "float64", "bf16"])
def test_dtypes_that_a_store_does_not_have(dtype, tmp_path):
    with pytest.raises(ConfigError, match="one of float32, bfloat16, float16"):
        made().write(tmp_path / "acts", dtype=dtype)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="a folder that can be written"):
        made().write(tmp_path / "file" / "acts")


class Pressing(queue.Queue):
    """A queue at which Ctrl-C is pressed just after so many fillings were given away."""

    left = 0

    def put(self, item):
        super().put(item)
        if isinstance(item, tuple):
            Pressing.left -= 1
            if not Pressing.left:
                raise KeyboardInterrupt


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_stop_while_rows_are_handed_over_commits_nothing_twice(number, tmp_path, monkeypatch):
    stream, path = made(rows=90), tmp_path / "acts"
    with monkeypatch.context() as patch:
        patch.setattr(writer.queue, "SimpleQueue", Pressing)
        patch.setattr(Pressing, "left", number)
        with pytest.raises(KeyboardInterrupt):
            stream.write(path, commit_rows=30)
    assert_prefix(Store(path), stream)
    store = stream.write(path, commit_rows=30, resume=True)
    assert store.rows == 90
    assert_prefix(store, stream)
