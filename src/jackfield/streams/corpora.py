"""Corpora: documents, one after another, as often as asked.

`corpus(source)` reads what people have: text files, JSON lines, CSV, Parquet, HF datasets, lists of
strings or of chat messages, and "docs", the docstrings of the installed packages, which is English
prose on every machine. Nothing but the current document is held in memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from jackfield.core.errors import InputError, did_you_mean, explain
from jackfield.streams import files
from jackfield.streams.docstrings import docstring_files, docstrings
from jackfield.streams.views import check_count

_USUAL_COLUMNS = ("text", "content", "messages", "conversations", "document", "input_ids")


@dataclass(frozen=True, eq=False)
class Document:
    """One document: exactly one of `text`, `tokens` ([position] int64) and `messages` is given.

    Attributes:
        id: its number in the source, from 0, empty ones counted.
        messages: a chat, each message a dict with "role" and "content".
    """

    id: int
    text: str | None = None
    tokens: Tensor | None = None
    messages: list[dict[str, Any]] | None = None

    def __len__(self) -> int:
        """Characters, tokens or messages; 0 is an empty document."""
        parts = (self.text, self.tokens, self.messages)
        return next(len(part) for part in parts if part is not None)


class Corpus:
    """A re-iterable source of documents; made by `corpus`.

    Attributes:
        name: what it is, for people.
        skipped: empty documents left out in the latest pass.
    """

    def __init__(
        self,
        name: str,
        items: Callable[[], Iterable[Any]],
        fingerprint: Callable[[], dict[str, Any]],
        *,
        column: str | None = None,
        limit: int | None = None,
    ) -> None:
        self.name = name
        self.skipped = 0
        self._items, self._fingerprint = items, fingerprint
        self._column, self._limit = column, limit

    @property
    def provenance(self) -> dict[str, Any]:
        """What determines the documents, as JSON."""
        options = {"column": self._column, "limit": self._limit}
        return {"corpus": self.name, **options, **self._fingerprint()}

    def __iter__(self) -> Iterator[Document]:
        """Goes through the documents.

        Raises:
            InputError: an unknown column, a file that is not what its name says, or no documents.
        """
        self.skipped = given = 0
        for number, item in enumerate(self._items()):
            document = _document(number, item, self._column, self.name)
            if not len(document):
                self.skipped += 1
                continue
            yield document
            given += 1
            if given == self._limit:
                return
        if not given:
            got = f"{self.skipped} empty ones" if self.skipped else "none"
            raise InputError(explain(where=self.name, expected="documents", got=got))

    def find(self, ids: Iterable[int]) -> dict[int, Document]:
        """The documents of these ids (as batches and top examples name them), in one pass."""
        wanted = set(ids)
        found: dict[int, Document] = {}
        for document in self if wanted else ():
            if document.id in wanted:
                found[document.id] = document
                if len(found) == len(wanted):
                    break
        return found

    def __repr__(self) -> str:
        limit = "" if self._limit is None else f", at most {self._limit:,} documents"
        return f"Corpus({self.name}{limit})"


def corpus(
    source: Any,
    *,
    column: str | None = None,
    limit: int | None = None,
    split: Literal["file", "paragraph", "line"] = "file",
) -> Corpus:
    """Opens a corpus.

    Args:
        source: "docs" for the docstrings of the installed packages; a path, a folder or a glob of
            .txt, .md, .jsonl, .csv or .parquet files; paths in a list; anything that gives, each
            time it is iterated, strings, token ids, chats (lists of messages) or dicts with a
            column of these (an HF dataset does); or a function that returns an iterator of them.
        column: which column holds the document; by default "text", or whichever of the usual
            names there is.
        limit: the most documents to give.
        split: what a document is in .txt and .md files: the file, a paragraph (between blank
            lines) or a line.

    Raises:
        InputError: no such file, an unknown kind of file, or something that is not a corpus.

    >>> [document.text for document in corpus(["One.", "", "Two."])]
    ['One.', 'Two.']
    """
    if limit is not None:
        check_count(limit, "corpus: limit")
    if split not in ("file", "paragraph", "line"):
        expected = "'file', 'paragraph' or 'line'"
        raise InputError(explain(where="corpus: split", expected=expected, got=repr(split)))
    if isinstance(source, Corpus) and column is None and limit is None:
        return source
    if isinstance(source, str) and source == "docs":
        return Corpus("docs", docstrings, _docs_fingerprint, limit=limit)
    if paths := _paths(source):
        name = str(source) if isinstance(source, (str, Path)) else f"{len(paths)} files"

        def records() -> Iterator[Any]:
            for path in paths:
                yield from files.records(path, column=column, split=split)

        return Corpus(name, records, lambda: _files_fingerprint(paths), column=column, limit=limit)
    items = _re_iterable(source)
    name = source.name if isinstance(source, Corpus) else type(source).__name__
    return Corpus(name, items, lambda: _items_fingerprint(source), column=column, limit=limit)


def _paths(source: Any) -> list[Path]:
    """The files that `source` names; none if it does not name files."""
    if isinstance(source, (str, Path)):
        return files.find(source)
    if isinstance(source, Sequence) and source and all(isinstance(s, Path) for s in source):
        return [path for each in source for path in files.find(each)]
    return []


def _re_iterable(source: Any) -> Callable[[], Iterable[Any]]:
    if callable(source):
        return source
    if not isinstance(source, Iterable) or isinstance(source, Mapping):
        expected = "'docs', a path, a glob, or documents that can be iterated"
        raise InputError(explain(where="corpus", expected=expected, got=type(source).__name__))
    if isinstance(source, Iterator):
        expected = "something that can be gone through again"
        hint = "Give a list, or a function that returns a new iterator."
        got = f"a {type(source).__name__}, which is used up once"
        raise InputError(explain(where="corpus", expected=expected, got=got, hint=hint))
    return lambda: source


def _document(number: int, item: Any, column: str | None, name: str) -> Document:
    if isinstance(item, Document):
        return item
    if isinstance(item, Mapping):
        item = item[_column_of(list(item), column, f"{name}, document {number}")]
    if isinstance(item, str):
        return Document(number, text=item)
    if isinstance(item, Tensor) and item.ndim == 1 and not item.is_floating_point():
        return Document(number, tokens=item.to(torch.int64))
    if isinstance(item, Sequence) and all(isinstance(part, Mapping) for part in item):
        return Document(number, messages=[dict(part) for part in item])
    if isinstance(item, Sequence) and all(isinstance(part, int) for part in item):
        return Document(number, tokens=torch.tensor(item, dtype=torch.int64))
    expected = "a string, token ids or a list of messages"
    where = f"{name}, document {number}"
    raise InputError(explain(where=where, expected=expected, got=type(item).__name__))


def _column_of(names: list[str], column: str | None, where: str) -> str:
    """The asked column, or the usual one that is there."""
    if column is not None and column not in names:
        expected = f"one of the columns {', '.join(names[:12])}"
        hint = did_you_mean(column, names)
        raise InputError(explain(where=where, expected=expected, got=repr(column), hint=hint))
    usual = next((name for name in _USUAL_COLUMNS if name in names), None)
    found = column or usual or (names[0] if len(names) == 1 else None)
    if found is None:
        expected = f"a column named {' or '.join(_USUAL_COLUMNS[:3])}"
        hint = "Name it: corpus(..., column=...)."
        got = f"the columns {', '.join(names[:12]) or '(none)'}"
        raise InputError(explain(where=where, expected=expected, got=got, hint=hint))
    return found


def _docs_fingerprint() -> dict[str, Any]:
    digest = hashlib.sha256()
    for package, paths in docstring_files().items():
        for path in paths:
            digest.update(f"{package} {path.name} {path.stat().st_size}\n".encode())
    return {"sha256": digest.hexdigest()}


def _files_fingerprint(paths: list[Path]) -> dict[str, Any]:
    return {"files": {str(path): files.fingerprint(path) for path in paths}}


def _items_fingerprint(source: Any) -> dict[str, Any]:
    """What is known of documents that are objects: a list by content, an HF dataset by its own."""
    if isinstance(source, Corpus):
        return {"of": source.provenance}
    if isinstance(source, (list, tuple)):
        digest = hashlib.sha256()
        for item in source:
            digest.update(repr(item.tolist() if isinstance(item, Tensor) else item).encode())
        return {"sha256": digest.hexdigest()}
    known = getattr(source, "_fingerprint", None)
    return {"fingerprint": known} if isinstance(known, str) else {}
