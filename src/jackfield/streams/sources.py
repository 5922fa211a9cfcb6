"""Sources: where a corpus takes its records from, numbered from 0 and the same at each pass.

A source gives the records whose numbers are asked for, and spares the work for all others as far as
it can: a list jumps, a file of lines goes past them, Parquet leaves row groups out.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from jackfield.core.errors import InputError, explain
from jackfield.streams import files
from jackfield.streams.docstrings import docstring_files, docstrings
from jackfield.streams.files import Reading
from jackfield.streams.numbers import Numbers

if TYPE_CHECKING:
    from jackfield.streams.corpora import Corpus


class Source(ABC):
    """Numbered records.

    Attributes:
        name: what it is, for people.
    """

    name: str

    @abstractmethod
    def records(self, numbers: Numbers) -> Iterator[tuple[int, Any]]:
        """The records asked for, each with its number, in order."""

    @abstractmethod
    def known(self) -> int | None:
        """How many records there are, None if that takes going through them."""

    @abstractmethod
    def count(self) -> int:
        """How many records there are, gone through if need be."""

    @abstractmethod
    def share(self, count: int) -> float | None:
        """The share of the source that the first `count` records take up, None if none can say."""

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """What is known of the content, as JSON; equal means the same records."""

    @abstractmethod
    def recipe(self) -> Any:
        """What `corpus` takes to open it in another process, as JSON.

        Raises:
            InputError: it is an object of this process only.
        """


class Docs(Source):
    """The docstrings of the installed packages."""

    name = "docs"

    def records(self, numbers: Numbers) -> Iterator[tuple[int, Any]]:
        return _numbered(docstrings(), numbers)

    def known(self) -> int | None:
        return None

    def count(self) -> int:
        return sum(1 for _ in docstrings())

    def share(self, count: int) -> float | None:
        return None

    def fingerprint(self) -> dict[str, Any]:
        digest = hashlib.sha256()
        for package, paths in docstring_files().items():
            for path in paths:
                digest.update(f"{package} {path.name} {path.stat().st_size}\n".encode())
        return {"sha256": digest.hexdigest()}

    def recipe(self) -> Any:
        return "docs"


class Files(Source):
    """Files, one after another; see `files.py`."""

    def __init__(self, name: str, paths: Sequence[Path], reading: Reading) -> None:
        self.name, self._reading = name, reading
        self._paths = [path.absolute() for path in paths]

    def records(self, numbers: Numbers) -> Iterator[tuple[int, Any]]:
        number = 0
        for path in self._paths:
            if numbers.past(number):
                return
            reader = files.reader_of(path)
            known = reader.known(path, self._reading)
            if known is not None and not numbers.span(number, None).up_to(number + known):
                number += known
            else:
                number = yield from reader.records(path, self._reading, numbers, number)

    def known(self) -> int | None:
        total = 0
        for path in self._paths:
            count = files.reader_of(path).known(path, self._reading)
            if count is None:
                return None
            total += count
        return total

    def count(self) -> int:
        return sum(files.reader_of(path).count(path, self._reading) for path in self._paths)

    def share(self, count: int) -> float | None:
        sizes = {path: path.stat().st_size for path in self._paths}
        gone = 0.0
        for path, size in sizes.items():
            if not count:
                break
            share, found = files.reader_of(path).share(path, self._reading, count)
            gone, count = gone + share * size, count - found
        return gone / max(sum(sizes.values()), 1)

    def fingerprint(self) -> dict[str, Any]:
        ways = {"split": self._reading.split, "errors": self._reading.errors}
        return {"files": {str(path): files.fingerprint(path) for path in self._paths}, **ways}

    def recipe(self) -> Any:
        return {"files": [str(path) for path in self._paths], "name": self.name}


class Listed(Source):
    """A list or tuple in memory."""

    def __init__(self, items: Sequence[Any]) -> None:
        self.name, self._items = type(items).__name__, items

    def records(self, numbers: Numbers) -> Iterator[tuple[int, Any]]:
        return ((number, self._items[number]) for number in numbers.up_to(len(self._items)))

    def known(self) -> int | None:
        return len(self._items)

    def count(self) -> int:
        return len(self._items)

    def share(self, count: int) -> float | None:
        return min(count / max(len(self._items), 1), 1.0)

    def fingerprint(self) -> dict[str, Any]:
        digest = hashlib.sha256()
        for item in self._items:
            digest.update(repr(item.tolist() if isinstance(item, Tensor) else item).encode())
        return {"sha256": digest.hexdigest()}

    def recipe(self) -> Any:
        return [item.tolist() if isinstance(item, Tensor) else item for item in self._items]


class Iterated(Source):
    """Anything else that can be iterated again, or a function that gives an iterator each time."""

    def __init__(self, items: Callable[[], Iterable[Any]], given: Any) -> None:
        self.name, self._items, self._given = type(given).__name__, items, given

    def records(self, numbers: Numbers) -> Iterator[tuple[int, Any]]:
        return _numbered(self._items(), numbers)

    def known(self) -> int | None:
        return None

    def count(self) -> int:
        return sum(1 for _ in self._items())

    def share(self, count: int) -> float | None:
        return None

    def fingerprint(self) -> dict[str, Any]:
        known = getattr(self._given, "_fingerprint", None)  # as HF datasets have it
        return {"fingerprint": known} if isinstance(known, str) else {}

    def recipe(self) -> Any:
        expected = "'docs', files, or a list of texts, which another process can open too"
        hint = "Write the documents to a file."
        raise InputError(explain(where="corpus", expected=expected, got=self.name, hint=hint))


class Nested(Source):
    """Another corpus, of which fewer documents or other columns are wanted."""

    def __init__(self, inner: Corpus) -> None:
        self.name, self._inner = inner.name, inner

    def records(self, numbers: Numbers) -> Iterator[tuple[int, Any]]:
        return ((document.id, document) for document in self._inner.chosen(numbers))

    def known(self) -> int | None:
        return self._inner.known()

    def count(self) -> int:
        return self._inner.total()

    def share(self, count: int) -> float | None:
        return self._inner.share(count)

    def fingerprint(self) -> dict[str, Any]:
        return {"of": self._inner.provenance}

    def recipe(self) -> Any:
        return {"corpus": self._inner.recipe()}


def source_of(given: Any) -> Source:
    """The source that an object is.

    Raises:
        InputError: it cannot be gone through, or only once.
    """
    if callable(given):
        return Iterated(given, given)
    if not isinstance(given, Iterable) or isinstance(given, Mapping):
        expected = "'docs', a path, a glob, or documents that can be iterated"
        raise InputError(explain(where="corpus", expected=expected, got=type(given).__name__))
    if isinstance(given, Iterator):
        expected = "something that can be gone through again"
        hint = "Give a list, or a function that returns a new iterator."
        got = f"a {type(given).__name__}, which is used up once"
        raise InputError(explain(where="corpus", expected=expected, got=got, hint=hint))
    return Listed(given) if isinstance(given, (list, tuple)) else Iterated(lambda: given, given)


def _numbered(items: Iterable[Any], numbers: Numbers) -> Iterator[tuple[int, Any]]:
    for number, item in enumerate(items):
        if numbers.past(number):
            return
        if number in numbers:
            yield number, item
