"""Packing: tokenised documents into batches for a model, so that little is spent on padding.

Two ways, both pure functions of the documents' tokens, in a fixed order:

- *padded*: a row of the batch is one document, or one chunk of a long one. Chunks of like length go
  together: within a window of documents they are sorted by length and cut into batches.
- *packed*: documents are joined, an end token between them, into rows of exactly `context` tokens.

A document longer than the context becomes several chunks; no token is dropped and none comes twice.
A position that is no document's token (padding, an end or begin token put in here) has document -1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jackfield.core.errors import InputError, explain
from jackfield.streams.views import check_count

Tokenised = Iterable[tuple[int, Sequence[int]]]

_WINDOW_BATCHES = 16  # a window holds at least so many batches' worth of tokens


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """What a model is given, and where each token came from. All [batch, position] int64.

    Attributes:
        input_ids: token ids.
        attention_mask: 1 where there is a token, 0 where there is padding (always on the right).
        position_ids: the position within the chunk, from 0; starts anew with each chunk of a row.
        document: the document's id, -1 where the token is not a document's.
        doc_position: the position within the whole document, -1 likewise.
    """

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    document: Tensor
    doc_position: Tensor

    @property
    def waste(self) -> float:
        """The share of positions that is padding."""
        return 1.0 - float(self.attention_mask.float().mean())

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True)
class _Chunk:
    """A piece of a document, between tokens that we put before and after it."""

    document: int
    start: int
    tokens: Sequence[int]
    begin: tuple[int, ...] = ()
    end: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.begin) + len(self.tokens) + len(self.end)


def padded_batches(
    documents: Tokenised,
    *,
    context: int = 256,
    batch_tokens: int = 2048,
    window: int = 64,
    bos: int | None = None,
    pad: int = 0,
) -> Iterator[TokenBatch]:
    """Batches of single documents (or chunks), like lengths together, padded on the right.

    Args:
        documents: pairs (id, token ids); a document without tokens gives none.
        context: the most tokens in a row.
        batch_tokens: the most positions in a batch, padding included (one row is always allowed).
        window: how many documents at least are sorted together; a batch never mixes two windows.
        bos: a token that every row must begin with; put before the chunks that do not.
        pad: the id that fills up.

    >>> batches = padded_batches([(0, [5, 6, 7]), (1, [8])], context=2, batch_tokens=4)
    >>> [batch.input_ids.tolist() for batch in batches]
    [[[5, 6], [7, 0]], [[8]]]
    """
    _check_sizes(context, batch_tokens, bos)
    check_count(window, "padded_batches: window")
    held: list[_Chunk] = []
    count = 0
    for document, tokens in documents:
        held.extend(_cut(document, tokens, context, context, bos=bos))
        count += 1
        if count >= window and sum(map(len, held)) >= _WINDOW_BATCHES * batch_tokens:
            yield from _by_length(held, batch_tokens, pad)
            held, count = [], 0
    yield from _by_length(held, batch_tokens, pad)


def packed_batches(
    documents: Tokenised,
    *,
    context: int = 256,
    batch_tokens: int = 2048,
    eos: int | None = None,
    bos: int | None = None,
    pad: int = 0,
) -> Iterator[TokenBatch]:
    """Batches of full rows: documents joined one after another, cut every `context` tokens.

    Only the last row of all can hold padding. A row has several documents; to keep them from
    attending to each other use `document` or `position_ids` (which starts anew with each chunk).

    Args:
        documents: pairs (id, token ids); a document without tokens gives none.
        context: tokens in a row.
        batch_tokens: positions in a batch, a multiple of context or rounded down to one.
        eos: a token to put after each document (unless the row ends there).
        bos: a token that every chunk must begin with; put before those that do not (unless the
            chunk is one position at a row's end).
        pad: the id that fills up the last row.

    >>> batches = packed_batches([(0, [5, 6, 7]), (1, [8])], context=3, eos=9)
    >>> [batch.input_ids.tolist() for batch in batches]
    [[[5, 6, 7], [8, 9, 0]]]
    """
    _check_sizes(context, batch_tokens, bos)
    rows: list[list[_Chunk]] = []
    for row in _full_rows(documents, context, bos, eos):
        rows.append(row)
        if (len(rows) + 1) * context > batch_tokens:
            yield _batch(rows, pad)
            rows = []
    if rows:
        yield _batch(rows, pad)


def _cut(
    document: int,
    tokens: Sequence[int],
    context: int,
    room: int,
    *,
    bos: int | None,
    eos: int | None = None,
) -> Iterator[_Chunk]:
    """One document cut where rows end: `room` positions are left in the first."""
    start = 0
    while start < len(tokens):
        begin = () if bos is None or room == 1 or tokens[start] == bos else (bos,)
        stop = start + room - len(begin)
        # A document that ends where its row ends needs no end token: nothing follows it there.
        end = (eos,) if eos is not None and stop > len(tokens) else ()
        yield _Chunk(document, start, tokens[start:stop], begin, end)
        start, room = stop, context


def _by_length(chunks: list[_Chunk], batch_tokens: int, pad: int) -> Iterator[TokenBatch]:
    """Longest first, so that the first of a batch tells how wide it is."""
    rows: list[list[_Chunk]] = []
    for chunk in sorted(chunks, key=len, reverse=True):
        if rows and (len(rows) + 1) * len(rows[0][0]) > batch_tokens:
            yield _batch(rows, pad)
            rows = []
        rows.append([chunk])
    if rows:
        yield _batch(rows, pad)


def _full_rows(
    documents: Tokenised, context: int, bos: int | None, eos: int | None
) -> Iterator[list[_Chunk]]:
    """Rows of chunks that fill the context exactly, except the last."""
    row: list[_Chunk] = []
    room = context
    for document, tokens in documents:
        for chunk in _cut(document, tokens, context, room, bos=bos, eos=eos):
            row.append(chunk)
            room -= len(chunk)
            if room == 0:
                yield row
                row, room = [], context
    if row:
        yield row


def _batch(rows: list[list[_Chunk]], pad: int) -> TokenBatch:
    width = max(sum(map(len, row)) for row in rows)
    ids = torch.full((len(rows), width), pad, dtype=torch.int64)
    mask, positions = torch.zeros_like(ids), torch.zeros_like(ids)
    document, doc_position = torch.full_like(ids, -1), torch.full_like(ids, -1)
    for index, row in enumerate(rows):
        at = 0
        for chunk in row:
            whole = slice(at, at + len(chunk))
            first = at + len(chunk.begin)
            own = slice(first, first + len(chunk.tokens))
            ids[index, whole] = torch.tensor([*chunk.begin, *chunk.tokens, *chunk.end])
            mask[index, whole] = 1
            positions[index, whole] = torch.arange(len(chunk))
            document[index, own] = chunk.document
            doc_position[index, own] = torch.arange(chunk.start, chunk.start + len(chunk.tokens))
            at = whole.stop
    return TokenBatch(ids, mask, positions, document, doc_position)


def _check_sizes(context: int, batch_tokens: int, bos: int | None) -> None:
    check_count(context, "packing: context")
    check_count(batch_tokens, "packing: batch_tokens")
    if bos is not None and context < 2:
        expected = "context >= 2, room for the begin token and one more"
        raise InputError(explain(where="packing: context", expected=expected, got=f"{context}"))
