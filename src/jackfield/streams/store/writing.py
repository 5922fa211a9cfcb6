"""Writing a whole stream to a store: what `stream.write` does."""

from pathlib import Path
from time import monotonic
from typing import Any

from jackfield.core.errors import InputError, explain
from jackfield.core.progress import Progress
from jackfield.streams.protocol import Stream
from jackfield.streams.store.files import Files
from jackfield.streams.store.store import Store
from jackfield.streams.store.writer import StoreWriter


def write(stream: Stream, path: str | Path | Files, *, progress: bool, **options: Any) -> Store:
    """Feeds a writer from where it stopped; see `Stream.write` for the options."""
    with StoreWriter(path, stream, **options) as writer:
        if writer.done:
            return writer.finish()
        first = writer.committed
        writer.fed_from(first)
        label = "writing" if not first else f"writing, from row {first:,}"
        left = None if stream.rows is None else stream.rows - first
        begun, seen = monotonic(), 0
        with Progress(label, total=left, unit="rows", enabled=progress) as shown:
            for batch in stream.batches(first):
                writer.update(batch)
                seen += len(batch)
                rate = seen * writer.row_bytes / 1e6 / max(monotonic() - begun, 1e-9)
                shown.update(len(batch), **{"MB/s": rate})
        if not seen and not first:
            raise InputError(explain(where=repr(stream), expected="rows", got="an empty stream"))
        return writer.finish()
