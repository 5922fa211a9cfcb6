"""The fault campaign: what a store loses when writers are killed, disks fill up and bytes flip.

    make faults            or: python scripts/faults.py [kills] [--seed N]

Writers are killed with SIGKILL at random moments, one writer or two at once; a real file system (a
small tmpfs) runs full; single bytes of random files are flipped, files cut short and removed. After
each fault it is checked that the store opens, that every committed row is the truth bit for bit,
that `resume` finishes the store, that `verify` names what was damaged, and that reading damaged
rows raises. Prints a table; exits with 1 if anything was lost or went unnoticed.
"""

import argparse
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet  # noqa: F401  (loaded before forking, so that kills fall into writing)
import torch

from jackfield.core.errors import ArtifactError
from jackfield.streams import Batch, Store, Stream
from jackfield.streams.texts import Text, Texts

ROWS, WIDTH, COMMIT = 12_000, 48, 400


class Truth(Stream):
    """Rows that can be computed from their number, of every `world`-th document of 30 rows."""

    sites = ("a", "b")

    def __init__(self, rank: int = 0, world: int = 1) -> None:
        self.rank, self.world = rank, world
        documents = torch.arange(ROWS // 30)[rank::world]
        self.numbers = (documents[:, None] * 30 + torch.arange(30)).reshape(-1)

    @property
    def rows(self) -> int:
        return len(self.numbers)

    @property
    def provenance(self) -> dict[str, object]:
        part = {"part": [self.rank, self.world]} if self.world > 1 else {}
        return {"corpus": "numbers", **part}

    def batches(self, start: int = 0) -> Iterator[Batch]:
        for first in range(start, len(self.numbers), 170):
            yield truth(self.numbers[first : first + 170])


def truth(numbers: torch.Tensor) -> Batch:
    """The rows of these numbers."""
    a = torch.sin(numbers[:, None] * 1.7 + torch.arange(WIDTH) * 0.3)
    b = (numbers[:, None] * 3 + torch.arange(5)).to(torch.int32)
    documents = numbers // 30
    words = {d: Text(f"document {d}", torch.arange(5), {}) for d in documents.unique().tolist()}
    known = numbers % 7, documents, numbers % 30, {"number": numbers}, Texts(words, "abcdefg")
    return Batch({"a": a, "b": b}, *known)


def assert_true(store: Store) -> None:
    """Every row that the store has is the truth, once, and every file is sound."""
    assert store.verify() == [], store.verify()
    if not store.rows:
        return
    found = store.stream(batch=4096).collect()
    right = truth(found.columns["number"])
    assert len(right.columns["number"].unique()) == store.rows, "a row came twice"
    for site in right.sites:
        assert torch.equal(found[site], right[site]), site
    assert torch.equal(found.documents, right.documents)
    assert torch.equal(found.tokens, right.tokens)
    for number in found.documents[::997].tolist():
        assert store.documents[number].text == f"document {number}"


def forked(act: Callable[[], object]) -> int:
    """Runs `act` in a forked process, with everything loaded; gives its id."""
    child = os.fork()
    if child:
        return child
    try:
        torch.set_num_threads(1)
        act()
        os._exit(0)
    except ArtifactError:
        os._exit(3)
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)


def ended(child: int) -> int:
    """Waits for a child; gives its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def write(path: Path, rank: int = 0, world: int = 1) -> Store:
    """Writes a rank's part, going on with what is there."""
    return Truth(rank, world).write(path, commit_rows=COMMIT, resume=True)


def kills(folder: Path, count: int, random_: random.Random, world: int) -> Counter[str]:
    """Kills writers until `count` were killed at work; each store is finished in the end."""
    counts: Counter[str] = Counter()
    begun = time.monotonic()
    for child in [forked(lambda r=r: write(folder / "whole", r, world)) for r in range(world)]:
        assert ended(child) == 0
    whole = time.monotonic() - begun
    assert_true(Store(folder / "whole"))
    while counts["killed at work"] < count:
        path = folder / f"kill-{world}-{counts['stores']}"
        counts["stores"] += 1
        for _ in range(3):  # a store may be killed three times before it is finished
            children = [forked(lambda p=path, r=r: write(p, r, world)) for r in range(world)]
            time.sleep(whole * random_.random() * 0.9)
            for child in children:
                os.kill(child, signal.SIGKILL)
                counts["killed at work"] += ended(child) == -signal.SIGKILL
            if (path / "meta.json").exists():
                store = Store(path)
                assert_true(store)
                counts["opened, all rows true"] += 1
                counts["… with rows in them"] += store.rows > 0
        for rank in range(world):
            write(path, rank, world)
        store = Store(path)
        assert_true(store)
        assert store.rows == ROWS
        assert store.finished
        counts["finished by resume, equal to the truth"] += 1
        counts["files swept by gc"] += len(store.gc())
        assert_true(Store(path))
        shutil.rmtree(path)
    return counts


def full_disk(folder: Path, count: int, random_: random.Random) -> Counter[str]:
    """Writes to a file system that is too small, then makes it larger and goes on."""
    counts: Counter[str] = Counter()
    for _ in range(count):
        with tmpfs(folder / "small", kilobytes=random_.randrange(64, 2500)) as path:
            code = ended(forked(lambda p=path: write_blindly(p / "acts")))
            counts["stopped by ENOSPC" if code == 3 else "fitted"] += 1
            assert code in (0, 3), code
            if (path / "acts" / "meta.json").exists():
                assert_true(Store(path / "acts"))
                counts["opened, all rows true"] += 1
            subprocess.run(["mount", "-o", "remount,size=64m", str(path)], check=True)
            store = write(path / "acts")
            assert store.rows == ROWS
            assert_true(store)
            counts["finished by resume, equal to the truth"] += 1
    return counts


def write_blindly(path: Path) -> None:
    """Writes without the look at the free space that would refuse to begin."""
    stream = Truth()
    type(stream).rows = property(lambda self: None)  # type: ignore[assignment]
    try:
        stream.write(path, commit_rows=COMMIT)
    except ArtifactError as error:
        assert isinstance(error.__cause__, OSError), error
        assert error.__cause__.errno == errno.ENOSPC, error
        raise


def damage(folder: Path, count: int, random_: random.Random) -> Counter[str]:
    """Damages one file at a time."""
    counts: Counter[str] = Counter()
    write(folder / "sound")
    files = sorted(p for p in (folder / "sound").rglob("*") if p.is_file() and p.name[0] != ".")
    for _ in range(count):
        file = random_.choice(files)
        kept = file.read_bytes()
        kind = random_.choice(["flipped byte", "cut short", "removed"])
        spoil(file, kept, kind, random_)
        name = file.relative_to(folder / "sound").as_posix()
        try:
            noticed(folder / "sound", name)
            counts[f"{kind}: noticed and named"] += 1
        finally:
            file.write_bytes(kept)
    assert_true(Store(folder / "sound"))
    return counts


def spoil(file: Path, kept: bytes, kind: str, random_: random.Random) -> None:
    """Damages a file whose bytes were `kept`."""
    if kind == "removed":
        file.unlink()
    elif kind == "cut short":
        file.write_bytes(kept[: random_.randrange(len(kept))])
    else:
        data = bytearray(kept)
        data[random_.randrange(len(data))] ^= 1 << random_.randrange(8)
        file.write_bytes(data)


def noticed(path: Path, name: str) -> None:
    """The damage is named; damaged rows raise; what is sound stays usable."""
    head = name == "meta.json" or name.startswith("manifest/")
    try:
        store = Store(path)
    except (ArtifactError, ValueError) as error:
        assert head, (name, error)
        return
    if name == "meta.json":  # still JSON, and says something else
        raise AssertionError(f"{name} was changed and nobody noticed")
    if name.startswith("manifest/"):
        # The last one removed: its commit, or the word that there is no more, never was.
        assert store.rows < ROWS or not store.finished, name
        return
    (problem,) = store.verify()
    assert problem.startswith(name), (problem, name)
    commits = store.commits
    number = int(name.rpartition("/")[2].split("-")[1]) if "-" in name else 0
    sites = [s for s in store.sites if name.startswith(f"shards/{s}/")] or list(store.sites)
    first = number * COMMIT
    if name.endswith(".safetensors"):
        try:
            store.gather(torch.arange(first, first + COMMIT), sites)
        except ArtifactError as error:
            assert name in str(error), (name, error)
        else:
            raise AssertionError(f"{name}: damaged rows were read")
    other = (number + 1) % commits
    ids = torch.arange(other * COMMIT, other * COMMIT + COMMIT)
    assert torch.equal(store.gather(ids)["a"], truth(ids)["a"])


def reading_meanwhile(folder: Path, random_: random.Random) -> Counter[str]:
    """Opens and checks a store again and again while two writers fill it."""
    counts: Counter[str] = Counter()
    path = folder / "meanwhile"
    children = [forked(lambda r=r: write(path, r, 2)) for r in range(2)]
    rows = 0
    while rows < ROWS:
        if (path / "meta.json").exists():
            store = Store(path)
            assert store.rows >= rows
            rows = store.rows
            assert_true(store)
            counts["opened while two wrote, all rows true"] += 1
    assert [ended(child) for child in children] == [0, 0]
    return counts


@contextmanager
def tmpfs(path: Path, kilobytes: int) -> Iterator[Path]:
    """A file system of this size."""
    path.mkdir(exist_ok=True)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(path)], check=True
    )
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def main() -> None:
    """Runs all campaigns."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("kills", type=int, nargs="?", default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if os.environ.get("JACKFIELD_FAULTS") != "inside" and shutil.which("unshare"):
        # A namespace of our own, in which a file system may be mounted without being root.
        os.environ["JACKFIELD_FAULTS"] = "inside"
        os.execvp("unshare", ["unshare", "-rm", sys.executable, *sys.argv])
    torch.set_num_threads(1)
    random_ = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        campaigns: dict[str, Callable[[], Counter[str]]] = {
            "kill -9, one writer": lambda: kills(folder, given.kills, random_, world=1),
            "kill -9, two writers": lambda: kills(folder, given.kills // 2, random_, world=2),
            "a full disk": lambda: full_disk(folder, max(given.kills // 5, 1), random_),
            "damaged files": lambda: damage(folder, given.kills, random_),
            "a reader beside two writers": lambda: reading_meanwhile(folder, random_),
        }
        for title, campaign in campaigns.items():
            began = time.monotonic()
            counts = campaign()
            print(f"{title} ({time.monotonic() - began:.0f} s)")
            for what, count in counts.items():
                print(f"  {count:>6}  {what}")
            sys.stdout.flush()
            for left in ("whole", "sound", "meanwhile"):
                shutil.rmtree(folder / left, ignore_errors=True)
    print("Nothing was lost, and nothing went unnoticed.")


if __name__ == "__main__":
    main()
