"""Ray: a corpus read by many workers, on one machine or a cluster, into one store.

    store = jf.engines.Ray(workers=4).write(stream, "acts/")

The corpus is cut into spans of documents. A worker holds the model, reads a span and writes its
shards; the driver commits the spans in the corpus's order, each as a whole. A worker that dies
leaves files that nothing names; its span is read again by another. So rows, their order and their
numbers are the same whatever the number of workers and whoever died.

Connects to the cluster that RAY_ADDRESS names, or starts Ray on this machine. Workers open the
store and the model by themselves: on several machines both must be where all can reach them.
"""

import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jackfield.core.config import config, setting
from jackfield.core.errors import InputError, JackfieldError, ModelError, explain
from jackfield.core.extras import need
from jackfield.core.progress import Progress
from jackfield.model.stream import LiveStream
from jackfield.streams import Store, StoreWriter
from jackfield.streams.store.committing import Committer, write_groups
from jackfield.streams.store.files import Files
from jackfield.streams.store.layout import Commit, Group, read_meta, writer_name
from jackfield.streams.store.places import files_at


@config
class Ray:
    """The Ray engine.

    Attributes:
        workers: processes that hold the model.
        documents: documents a span; what a dead worker costs, and what is committed at once.
        cpus: processors a worker asks Ray for, and threads that it uses.
        gpus: of a GPU a worker asks for; with any, its model is on the GPU.
        attempts: how often a span may fail by the death of its worker before the work is given up.
    """

    workers: int = setting(default=2, ge=1)
    documents: int = setting(default=256, ge=1)
    cpus: int = setting(default=1, ge=1)
    gpus: float = setting(default=0.0, ge=0)
    attempts: int = setting(default=4, ge=1)

    def write(
        self,
        stream: LiveStream,
        path: str | Path | Files,
        *,
        dtype: str | None = None,
        codec: Any = None,
        resume: bool = False,
        progress: bool = False,
    ) -> Store:
        """Writes all rows of a live stream to a store, and opens it.

        Args:
            stream: of a model that `jf.load` gave, over a corpus that other processes can open.
            path: of the store, as `stream.write` takes it.
            dtype: as `stream.write` has it.
            codec: likewise.
            resume: go on with a store that this engine began, with the same `documents`.
            progress: show a line with rows/s, MB/s and the time left.

        Raises:
            MissingExtraError: Ray is not installed.
            InputError: a stream that other processes cannot make again.
            ArtifactError: as `stream.write`.
            ModelError: a span killed its workers `attempts` times.
        """
        ray = need("ray", extra="ray", purpose="The Ray engine")
        recipe, count = stream.recipe(), stream.documents
        if count is None:
            expected = "a stream over documents"
            raise InputError(explain(where="Ray", expected=expected, got=repr(stream)))
        options = {"dtype": dtype, "codec": codec, "resume": resume, "spans": self.documents}
        with StoreWriter(path, stream, **options) as writer:
            if writer.done:
                return writer.finish()
            committer = writer.begin(first := next(stream.batches()))
            assert first.texts is not None
            committer.keep_vocabulary(first.texts.vocabulary)
            most = recipe["options"]["max_tokens"]
            with _running(ray), Progress("reading", total=most, unit="rows", enabled=progress) as p:
                crew = _Crew(ray, self, recipe, path)
                for commit in _commits(crew, committer, count, self.documents, most):
                    committer.claim(commit)
                    p.update(commit.rows)
            return Store(files_at(path))


def _commits(
    crew: "_Crew", committer: Committer, count: int, size: int, most: int | None
) -> Iterator[Commit]:
    """What to commit, span after span, until the corpus or the number of rows ends."""
    name = writer_name(0)
    starts = range(committer.through, count, size)
    rows = committer.rows
    for first, groups in zip(starts, crew.read(starts, size), strict=False):
        found = sum(group.rows for group in groups)
        if most is not None and rows + found > most:
            groups = crew.read_one(first, first + size, most - rows)
            found = most - rows
        rows += found
        stop = min(first + size, count)
        last = stop == count or rows == most
        yield Commit(name, groups, committer.vocabulary, stop, last)
        if last:
            return
    if not starts:
        yield Commit(name, [], committer.vocabulary, count, last=True)


class _Reader:
    """What a worker is: the stream, made again in its process."""

    def __init__(self, recipe: dict[str, Any], path: Any, threads: int, *, gpu: bool) -> None:
        import torch

        torch.set_num_threads(threads)
        self._stream = LiveStream.from_recipe(recipe, **({"device": "cuda"} if gpu else {}))
        self._files = files_at(path)
        self._meta = read_meta(self._files)

    def read(self, first: int, stop: int, limit: int | None) -> list[Group]:
        """Writes the rows of a span of documents; gives what a manifest must say of them."""
        stream: Any = self._stream.span(first, stop)
        batches = iter(stream if limit is None else stream.take(limit))
        return write_groups(self._files, self._meta, batches, f"{writer_name(0)}-{first:08d}")


class _Crew:
    """The workers; a dead one is replaced, and its span given out again."""

    def __init__(self, ray: Any, engine: Ray, recipe: dict[str, Any], path: Any) -> None:
        self._ray, self._engine = ray, engine
        reader = ray.remote(num_cpus=engine.cpus, num_gpus=engine.gpus)(_Reader)
        told = ray.put(recipe)
        self._make = lambda: reader.remote(told, path, engine.cpus, gpu=engine.gpus > 0)
        self._workers = [self._make() for _ in range(engine.workers)]

    def read(self, starts: range, size: int) -> Iterator[list[Group]]:
        """Reads spans side by side; gives their groups in the corpus's order."""
        free = deque(range(len(self._workers)))
        todo = deque((first, 0) for first in starts)
        running: dict[Any, tuple[int, int, int]] = {}
        done: dict[int, list[Group]] = {}
        for wanted in starts:
            while wanted not in done:
                # Some are read ahead of their turn, so that no worker waits for a slow one.
                while free and todo and todo[0][0] < wanted + 4 * len(self._workers) * size:
                    first, attempt = todo.popleft()
                    worker = free.popleft()
                    answer = self._workers[worker].read.remote(first, first + size, None)
                    running[answer] = (worker, first, attempt)
                (answer,), _ = self._ray.wait(list(running), num_returns=1)
                worker, first, attempt = running.pop(answer)
                groups = self._answer(answer, worker, first, attempt + 1)
                free.append(worker)
                if groups is None:
                    todo.appendleft((first, attempt + 1))
                else:
                    done[first] = groups
            yield done.pop(wanted)

    def read_one(self, first: int, stop: int, limit: int) -> list[Group]:
        """Reads one span, at most `limit` rows."""
        for attempt in range(self._engine.attempts):
            answer = self._workers[0].read.remote(first, stop, limit)
            if (groups := self._answer(answer, 0, first, attempt + 1)) is not None:
                return groups
        raise AssertionError("the last attempt raises")

    def _answer(self, answer: Any, worker: int, first: int, attempt: int) -> list[Group] | None:
        """A span's groups; None if its worker died, which is replaced."""
        try:
            groups: list[Group] = self._ray.get(answer)
            return groups
        except self._ray.exceptions.RayTaskError as error:
            cause = error.cause
            raise cause if isinstance(cause, JackfieldError | OSError) else error from error
        except self._ray.exceptions.RayActorError as error:
            if attempt == self._engine.attempts:
                where = f"Ray, documents from {first:,}"
                expected = "a worker that lives through them"
                got = f"{attempt} that died; the last: {str(error).splitlines()[0]}"
                hint = "Often it is memory: fewer workers, fewer documents, smaller batch_tokens."
                raise ModelError(
                    explain(where=where, expected=expected, got=got, hint=hint)
                ) from error
            self._workers[worker] = self._make()
            return None


@contextmanager
def _running(ray: Any) -> Iterator[None]:
    """Ray, started here if it is not running, and then stopped again."""
    ours = not ray.is_initialized()
    if ours:
        ray.init(
            address=os.environ.get("RAY_ADDRESS"),
            log_to_driver=False,
            logging_level="warning",
            **({} if "RAY_ADDRESS" in os.environ else {"include_dashboard": False}),
        )
    try:
        yield
    finally:
        if ours:
            ray.shutdown()
