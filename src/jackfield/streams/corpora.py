"""Corpora: documents, one after another, as often as asked.

`corpus(source)` reads what people have: text files, JSON lines, CSV, Parquet, HF datasets, lists of
strings or of chat messages, and "docs", the docstrings of the installed packages, which is English
prose on every machine. Nothing but the current document is held in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from jackfield.core.errors import InputError, explain
from jackfield.streams import files
from jackfield.streams.columns import column_of, kept
from jackfield.streams.files import Reading
from jackfield.streams.numbers import ALL, Numbers
from jackfield.streams.saved_datasets import is_saved, open_saved, unpacked
from jackfield.streams.sources import Docs, Files, Nested, Source, source_of
from jackfield.streams.views import check_count


@dataclass(frozen=True, eq=False)
class Document:
    """One document: exactly one of `text`, `tokens` ([position] int64) and `messages` is given.

    Attributes:
        id: its number in the source, from 0, empty ones counted.
        messages: a chat, each message a dict with "role" and "content".
        columns: what `keep` named of its record, by name: plain JSON values.
    """

    id: int
    text: str | None = None
    tokens: Tensor | None = None
    messages: list[dict[str, Any]] | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        """Characters, tokens or messages; 0 is an empty document."""
        parts = (self.text, self.tokens, self.messages)
        return next(len(part) for part in parts if part is not None)


class Corpus:
    """A re-iterable source of documents, or a part of it; made by `corpus`.

    Attributes:
        name: what it is, for people.
        skipped: empty documents left out in the latest pass.
    """

    def __init__(
        self,
        source: Source,
        reading: Reading,
        *,
        limit: int | None = None,
        numbers: Numbers = ALL,
    ) -> None:
        self.name, self.skipped = source.name, 0
        self._source, self._reading = source, reading
        self._limit, self._numbers = limit, numbers

    @property
    def provenance(self) -> dict[str, Any]:
        """What determines the documents, as JSON; that of the whole for each of its parts."""
        options = {"column": self._reading.column, "limit": self._limit}
        return {"corpus": self.name, **options, **self._source.fingerprint()}

    @property
    def part_of(self) -> tuple[int, int] | None:
        """(rank, world) of a part, None for the whole."""
        return None if self._numbers.world == 1 else (self._numbers.rank, self._numbers.world)

    @property
    def span_of(self) -> tuple[int, int | None] | None:
        """(first, stop) of a span, None for the whole."""
        span = (self._numbers.first, self._numbers.stop)
        return None if span == (0, None) else span

    def part(self, rank: int, world: int) -> Corpus:
        """The documents with `id % world == rank`; a pass spares the work for the others.

        With a limit the documents before are looked at all the same: it counts those of the whole.

        Raises:
            InputError: `rank` is not in `range(world)`, or this is such a part already.
        """
        return self._with(self._numbers.part(rank, check_count(world, "part: world")))

    def span(self, first: int, stop: int | None = None) -> Corpus:
        """The documents with `first <= id < stop`; a pass spares the work for the others.

        Raises:
            InputError: bounds below 0 or in the wrong order.
        """
        return self._with(self._numbers.span(first, stop))

    def known(self) -> int | None:
        """`count()` where it can be had without going through the documents, else None."""
        total = None if self._limit is not None else self._source.known()
        return None if total is None else len(self._numbers.up_to(total))

    def count(self) -> int:
        """How many documents there are, empty ones counted.

        At once for lists, Parquet and datasets; otherwise by going through them.
        """
        return len(self._numbers.up_to(self.total()))

    def total(self) -> int:
        """`count()` of the whole that this is a part of."""
        if self._limit is None:
            return self._source.count()
        last = -1
        for document in self._with(ALL)._given():
            last = document.id
        return last + 1

    def share(self, count: int) -> float | None:
        """The share of the whole source that its first `count` documents take up, if known.

        Of documents where their number is known, else of the files' bytes; a limit is taken as if
        no document was empty.
        """
        shares = [self._source.share(count), self._limit and min(count / self._limit, 1.0)]
        return max((each for each in shares if each is not None), default=None)

    def recipe(self) -> dict[str, Any]:
        """The corpus as JSON, for `from_recipe` in another process.

        Raises:
            InputError: it is made of objects that only this process has.
        """
        reading, numbers = self._reading, self._numbers
        return {
            "source": self._source.recipe(),
            "column": reading.column,
            "keep": list(reading.keep),
            "split": reading.split,
            "errors": reading.errors,
            "limit": self._limit,
            "part": self.part_of,
            "span": [numbers.first, numbers.stop],
        }

    @staticmethod
    def from_recipe(recipe: Mapping[str, Any]) -> Corpus:
        """The corpus that `recipe()` described.

        Raises:
            InputError: its files are not on this machine.
        """
        ways = {name: recipe[name] for name in ("column", "split", "errors")}
        reading = Reading(**ways, keep=tuple(recipe["keep"]))
        made = Corpus(_from_recipe(recipe["source"], reading), reading, limit=recipe["limit"])
        spanned = made.span(*recipe["span"])
        return spanned if recipe["part"] is None else spanned.part(*recipe["part"])

    def __iter__(self) -> Iterator[Document]:
        """Goes through the documents.

        Raises:
            InputError: an unknown column, a file that is not what its name says, or no documents
                (a part may have none).
        """
        given = 0
        for document in self._given():
            yield document
            given += 1
        if not given and self._numbers == ALL:
            got = f"{self.skipped} empty ones" if self.skipped else "none"
            raise InputError(explain(where=self.name, expected="documents", got=got))

    def chosen(self, numbers: Numbers) -> Iterator[Document]:
        """The documents of these numbers, of the whole; none is no error."""
        return self._with(numbers)._given()

    def find(self, ids: Iterable[int]) -> dict[int, Document]:
        """The documents of these ids (as batches and top examples name them), in one pass."""
        wanted = set(ids)
        span = (max(min(wanted), 0), max(max(wanted) + 1, 0)) if wanted else (0, 0)
        found: dict[int, Document] = {}
        for document in self.span(*span)._given() if wanted else ():
            if document.id in wanted:
                found[document.id] = document
                if len(found) == len(wanted):
                    break
        return found

    def _given(self) -> Iterator[Document]:
        """The documents that are not empty; a limit counts them from the first of the whole."""
        self.skipped = given = 0
        limited = self._limit is not None
        for number, item in self._source.records(ALL if limited else self._numbers):
            if self._numbers.past(number):
                return
            document = _document(number, item, self._reading, self.name)
            mine = number in self._numbers
            if not len(document):
                self.skipped += mine
                continue
            if mine:
                yield document
            given += 1
            if given == self._limit:
                return

    def _with(self, numbers: Numbers) -> Corpus:
        return Corpus(self._source, self._reading, limit=self._limit, numbers=numbers)

    def __repr__(self) -> str:
        limit = "" if self._limit is None else f", at most {self._limit:,} documents"
        part = "" if self.part_of is None else ", part {} of {}".format(*self.part_of)
        span = "" if self.span_of is None else ", documents {} to {}".format(*self.span_of)
        return f"Corpus({self.name}{limit}{part}{span.replace('None', 'the last')})"


def corpus(
    source: Any,
    *,
    column: str | None = None,
    limit: int | None = None,
    split: Literal["file", "paragraph", "line"] = "file",
    keep: Sequence[str] = (),
    errors: Literal["strict", "replace"] = "strict",
) -> Corpus:
    """Opens a corpus.

    Args:
        source: "docs" for the docstrings of the installed packages; a path, a folder or a glob of
            .txt, .md, .jsonl, .csv (also .gz) or .parquet files; paths in a list; a folder that HF
            datasets saved to disk; anything that gives, each time it is iterated, strings, token
            ids, chats (lists of messages) or dicts with a column of these (an HF dataset does); or
            a function that returns an iterator of them.
        column: which column holds the document; by default "text", or whichever of the usual
            names there is.
        limit: the most documents to give.
        split: what a document is in .txt and .md files: the file, a paragraph (between blank
            lines) or a line.
        keep: other columns of the records that each document keeps, such as ("url", "label").
        errors: "strict" refuses bytes that are not UTF-8 and says where they are, "replace" puts
            U+FFFD for them.

    Raises:
        InputError: no such file, an unknown kind of file, or something that is not a corpus.

    >>> [document.text for document in corpus(["One.", "", "Two."])]
    ['One.', 'Two.']
    """
    if limit is not None:
        check_count(limit, "corpus: limit")
    _check_choice("split", split, ("file", "paragraph", "line"))
    _check_choice("errors", errors, ("strict", "replace"))
    names = (keep,) if isinstance(keep, str) else tuple(keep)
    reading = Reading(column, names, split, errors)
    if isinstance(source, Corpus):
        return (
            source if limit is None and reading == Reading() else _limited(source, limit, reading)
        )
    return Corpus(_open(source, reading), reading, limit=limit)


def _open(source: Any, reading: Reading) -> Source:
    if isinstance(source, str) and source == "docs":
        return Docs()
    if isinstance(source, (str, Path)) and is_saved(Path(source).expanduser()):
        return open_saved(Path(source).expanduser(), reading)
    if paths := _paths(source):
        name = str(source) if isinstance(source, (str, Path)) else f"{len(paths)} files"
        return Files(name, paths, reading)
    made = unpacked(source, reading)
    return made if isinstance(made, Source) else source_of(made)


def _limited(source: Corpus, limit: int | None, reading: Reading) -> Corpus:
    """The first documents of a corpus.

    Raises:
        InputError: other options, which are the opened corpus's own, or a limit after a part.
    """
    if reading != Reading():
        got = "a corpus that is open already"
        expected = "column, split, keep and errors where the corpus is opened"
        raise InputError(explain(where="corpus", expected=expected, got=got))
    if source.part_of is not None or source.span_of is not None:
        expected, hint = "a whole corpus to limit", "Limit first: corpus(x, limit=…).part(…)."
        raise InputError(explain(where="corpus", expected=expected, got=repr(source), hint=hint))
    return Corpus(Nested(source), reading, limit=limit)


def _paths(source: Any) -> list[Path]:
    """The files that `source` names; none if it does not name files."""
    if isinstance(source, (str, Path)):
        return files.find(source)
    if isinstance(source, Sequence) and source and all(isinstance(s, Path) for s in source):
        return [path for each in source for path in files.find(each)]
    return []


def _from_recipe(source: Any, reading: Reading) -> Source:
    if not isinstance(source, Mapping):
        return Docs() if source == "docs" else source_of(source)
    if "corpus" in source:
        return Nested(Corpus.from_recipe(source["corpus"]))
    if "saved" in source:
        return open_saved(Path(source["saved"]), reading)
    paths = [path for each in source["files"] for path in files.find(Path(each))]
    return Files(source["name"], paths, reading)


def _document(number: int, item: Any, reading: Reading, name: str) -> Document:
    if isinstance(item, Document):
        return item
    where = f"{name}, document {number}"
    columns: dict[str, Any] = {}
    if isinstance(item, Mapping):
        columns = kept(item, reading.keep, where)
        item = item[column_of(list(item), reading.column, where)]
    elif reading.keep:
        expected, got = f"a record with {', '.join(reading.keep)}", type(item).__name__
        raise InputError(explain(where=where, expected=expected, got=got))
    if isinstance(item, str):
        return Document(number, text=item, columns=columns)
    if isinstance(item, Tensor) and item.ndim == 1 and not item.is_floating_point():
        return Document(number, tokens=item.to(torch.int64), columns=columns)
    if isinstance(item, Sequence) and all(isinstance(part, Mapping) for part in item):
        return Document(number, messages=[dict(part) for part in item], columns=columns)
    if isinstance(item, Sequence) and all(isinstance(part, int) for part in item):
        tokens = torch.tensor(item, dtype=torch.int64)
        return Document(number, tokens=tokens, columns=columns)
    expected = "a string, token ids or a list of messages"
    raise InputError(explain(where=where, expected=expected, got=type(item).__name__))


def _check_choice(name: str, got: str, choices: tuple[str, ...]) -> None:
    if got not in choices:
        *most, last = map(repr, choices)
        expected = f"{', '.join(most)} or {last}"
        raise InputError(explain(where=f"corpus: {name}", expected=expected, got=repr(got)))
