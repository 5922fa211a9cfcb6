"""Upkeep: finding damaged files, and clearing away what killed writers left."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from filelock import FileLock, Timeout

from jackfield.core.errors import BusyError, explain
from jackfield.core.progress import Progress
from jackfield.streams.store.files import THREADS, Files, LocalFiles, Piece
from jackfield.streams.store.layout import (
    DOCUMENTS,
    ROWS,
    SHARDS,
    Commit,
    Entry,
    read_commits,
    writer_name,
)

_PIECE = 8 << 20  # bytes of a file hashed at once


def problems(files: Files, commits: list[Commit], *, progress: bool) -> list[str]:
    """Every file that is not as its manifest says, with what is wrong."""
    entries = {entry["file"]: entry for commit in commits for entry in commit.entries}
    total = sum(int(entry["bytes"]) for entry in entries.values())
    found: list[str] = []
    with (
        Progress("verify", total=total, unit="bytes", enabled=progress) as shown,
        ThreadPoolExecutor(THREADS) as threads,  # not the readers: they serve these
    ):
        asked = {name: threads.submit(_problem, files, e) for name, e in entries.items()}
        for name, answer in asked.items():
            if (wrong := answer.result()) is not None:
                found.append(f"{name}: {wrong}")
            shown.update(int(entries[name]["bytes"]))
    return found


def swept(files: Files, writers: int) -> list[str]:
    """Removes files that no manifest names."""
    with ExitStack() as held:
        removed: list[str] = []
        if isinstance(files, LocalFiles):
            for rank in range(writers):
                held.enter_context(_nobody_writing(files, rank))
            for left in files.unfinished():
                removed.append(left.relative_to(files.root).as_posix())
                left.unlink()
        named = {entry["file"] for commit in read_commits(files) for entry in commit.entries}
        there = [name for folder in (SHARDS, ROWS, DOCUMENTS) for name in files.names(folder)]
        for name in there:
            if name not in named:
                files.remove(name)
                removed.append(name)
        return removed


def _problem(files: Files, entry: Entry) -> str | None:
    name, expected = entry["file"], int(entry["bytes"])
    try:
        size = files.size(name)
        if size != expected:
            return f"{size:,} bytes, not {expected:,}"
        return None if _digest(files, name, size) == entry["sha256"] else "the checksum differs"
    except FileNotFoundError:
        return "missing"
    except (OSError, EOFError) as error:
        return f"cannot be read: {error}"


def _digest(files: Files, name: str, size: int) -> str:
    digest, buffer = hashlib.sha256(), bytearray(min(_PIECE, size))
    for offset in range(0, size, _PIECE):
        view = memoryview(buffer)[: min(_PIECE, size - offset)]
        files.fetch([Piece(name, offset, view)])
        digest.update(view)
    return digest.hexdigest()


def _nobody_writing(files: LocalFiles, rank: int) -> FileLock:
    lock = FileLock(Path(files.root) / f".lock-{writer_name(rank)}", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        expected, got = "a store that nobody is writing", f"{writer_name(rank)} at work"
        raise BusyError(explain(where=files.url, expected=expected, got=got)) from error
    lock.release()
    return lock
