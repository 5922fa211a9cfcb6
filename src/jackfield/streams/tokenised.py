"""Tokenised documents: their token ids, and at which character of the text each token starts.

Where the tokenizer tells the place of its tokens, it is asked. Otherwise the words of the tokens
are found one after another; a document that came as tokens gets the text that they say. Several
tokens that make one character start at the same one; a token that the tokenizer put in (a begin
token) starts where the next one does and has no text.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from jackfield.streams.corpora import Document
from jackfield.streams.texts import Text
from jackfield.streams.vocabulary import Vocabulary, vocabulary_of

_LONGEST_CHARACTER = 4  # bytes of UTF-8
_LOOK_AHEAD = 32  # characters that a tokenizer may have left out before a word


@dataclass(frozen=True, eq=False)
class Tokenised:
    """A document as tokens.

    Attributes:
        id: its number in the corpus.
        tokens: token ids.
        text: its text, `starts` as many as there are tokens.
    """

    id: int
    tokens: Sequence[int]
    text: Text

    def cut(self, most: int) -> "Tokenised":
        """Its first `most` tokens, and the text that they cover."""
        if len(self.tokens) <= most:
            return self
        covered = self.text.text[: int(self.text.starts[most])]
        text = replace(self.text, text=covered, starts=self.text.starts[:most])
        return Tokenised(self.id, self.tokens[:most], text)


def tokenised(document: Document, tokenizer: Any) -> Tokenised:
    """Tokenises a document: text with the tokenizer's special tokens, a chat by its template."""
    vocabulary = vocabulary_of(tokenizer)
    if document.tokens is not None:
        tokens = document.tokens.tolist()
        words = _words(tokens, vocabulary)
        text, starts = "".join(word for _, word in words), _spread(words)
    else:
        text, special = _text(document, tokenizer)
        options = {"add_special_tokens": special, "verbose": False}
        if tokenizer.is_fast:
            encoded = tokenizer(text, return_offsets_mapping=True, **options)
            tokens = list(encoded["input_ids"])
            starts = _from_offsets(tokens, encoded["offset_mapping"], text, vocabulary)
        else:
            tokens = list(tokenizer(text, **options)["input_ids"])
            starts = _found(tokens, text, vocabulary, frozenset(tokenizer.all_special_ids))
    return Tokenised(document.id, tokens, Text(text, starts, document.columns))


class Held:
    """The texts of the documents that a pass has begun with, each until its last token is out."""

    def __init__(self) -> None:
        self._texts: dict[int, Text] = {}
        self._left: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._texts)

    def through(self, documents: Iterable[Tokenised]) -> Iterator[tuple[int, Sequence[int]]]:
        """The ids and tokens of the documents, whose texts are held from here on."""
        for document in documents:
            if document.tokens:
                self._texts[document.id] = document.text
                self._left[document.id] = len(document.tokens)
                yield document.id, document.tokens

    def texts(self, documents: Int[Tensor, "row"]) -> Mapping[int, Text]:  # noqa: F821
        """The texts of the documents that rows are of."""
        return {number: self._texts[number] for number in documents.unique().tolist()}

    def release(self, documents: Int[Tensor, "*places"]) -> None:
        """Notes that tokens are out, each told by its document, -1 for none."""
        numbers, counts = documents.unique(return_counts=True)
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
            if number >= 0:
                self._left[number] -= count
                if not self._left[number]:
                    del self._left[number], self._texts[number]


def _text(document: Document, tokenizer: Any) -> tuple[str, bool]:
    """The text, and whether special tokens are still to be added."""
    if document.messages is None:
        return document.text or "", True
    return str(tokenizer.apply_chat_template(document.messages, tokenize=False)), False


def _from_offsets(
    tokens: list[int], offsets: list[tuple[int, int]], text: str, vocabulary: Vocabulary
) -> Tensor:
    """Where the tokenizer says; a token that begins with the space before it starts there."""
    begin, end = torch.tensor(offsets, dtype=torch.int64).reshape(-1, 2).unbind(1)
    before = torch.cat([end.new_zeros(1), end.cummax(0).values])[:-1]
    starts = torch.where(begin == end, before, begin)
    for index in (starts > before).nonzero().flatten().tolist():
        if vocabulary.says(tokens[index]).startswith(text[before[index] : starts[index]]):
            starts[index] = before[index]
    return starts.cummax(0).values


def _found(tokens: list[int], text: str, vocabulary: Vocabulary, special: frozenset[int]) -> Tensor:
    """The words of the tokens, looked for one after another."""
    lower = text.lower() if len(text.lower()) == len(text) else text
    starts: list[int] = []
    cursor = 0
    for count, word in _words(tokens, vocabulary):
        added = tokens[len(starts)] in special and not text.startswith(word, cursor)
        first, stop = (cursor, cursor) if added else _place(word, text, lower, cursor)
        starts += [first] * count
        cursor = stop
    return torch.tensor(starts, dtype=torch.int64)


def _place(word: str, text: str, lower: str, cursor: int) -> tuple[int, int]:
    """Where a word starts and ends from `cursor` on; both are `cursor` if it is not there."""
    if text.startswith(word, cursor):
        return cursor, cursor + len(word)
    bare = word.strip()
    for within in (text, lower):
        at = within.find(bare, cursor, cursor + len(bare) + _LOOK_AHEAD) if bare else -1
        if at >= 0:
            return (cursor if word.startswith(text[cursor:at]) else at), at + len(bare)
    return cursor, cursor


def _words(tokens: Sequence[int], vocabulary: Vocabulary) -> list[tuple[int, str]]:
    """(tokens, what they say), together for those that are parts of one character."""
    words: list[tuple[int, str]] = []
    parts: list[int] = []
    for token in tokens:
        word = vocabulary.says(token)
        if parts and not _is_part(word):
            words.append((len(parts), vocabulary.together(parts)))
            parts = []
        if not _is_part(word):
            words.append((1, word))
            continue
        parts.append(token)
        said = vocabulary.together(parts)
        if not _is_part(said) or len(parts) == _LONGEST_CHARACTER:
            words.append((len(parts), said))
            parts = []
    return [*words, *([(len(parts), vocabulary.together(parts))] if parts else [])]


def _is_part(word: str) -> bool:
    return not word or "\ufffd" in word


def _spread(words: list[tuple[int, str]]) -> Tensor:
    """[token] where each starts if the words follow one another."""
    counts = torch.tensor([count for count, _ in words], dtype=torch.int64)
    lengths = torch.tensor([len(word) for _, word in words], dtype=torch.int64)
    return (lengths.cumsum(0) - lengths).repeat_interleave(counts)
