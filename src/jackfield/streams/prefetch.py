"""Prefetch: a stream's batches made ahead, in a thread, while the last one is being used.

The batches and their order stay the same. What goes wrong in the thread is raised where the batch
was to be taken; a pass that is left early stops its thread.
"""

import contextlib
import queue
import threading
from collections.abc import Iterator
from typing import Any

from jackfield.streams.protocol import Batch, Stream
from jackfield.streams.views import Derived, check_count


def prefetched(stream: Stream, batches: int) -> Stream:
    """A stream whose batches are made ahead; at most `batches` wait."""
    check_count(batches, "prefetch")

    def through(source: Stream, start: int) -> Iterator[Batch]:
        return _ahead(source.batches(start), batches)

    return Derived(stream, through, note=None)


_END = object()


def _ahead(source: Iterator[Batch], most: int) -> Iterator[Batch]:
    waiting: queue.Queue[Any] = queue.Queue(most)
    left = threading.Event()

    def put(item: Any) -> None:
        while not left.is_set():
            with contextlib.suppress(queue.Full):
                waiting.put(item, timeout=0.1)
                break

    def make() -> None:
        try:
            for batch in source:
                put(batch)
                if left.is_set():
                    return
            put(_END)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=make, name="jackfield-prefetch", daemon=True)
    thread.start()
    try:
        while (item := waiting.get()) is not _END:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        left.set()
        thread.join()
