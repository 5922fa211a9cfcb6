"""Vocabulary: what each token says alone, its space included, however a tokenizer writes it.

It writes " Paris" as "ĠParis", "▁Paris" or "Paris". What a piece says is found by having
the tokenizer decode it after a known one: "x" + "▁Paris" is "x Paris", so it says " Paris". A piece
that is part of a character says U+FFFD, or nothing.
"""

from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache
from typing import Any, overload

_BEFORE = "x"  # a piece of its own in every alphabet, and nothing joins with it


class Vocabulary(Sequence[str]):
    """Token id -> what it says; worked out at the first look. An id without a token says nothing.

    Args:
        tokenizer: a transformers tokenizer, fast or slow.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer, self._size = tokenizer, len(tokenizer)
        added = tokenizer.added_tokens_decoder
        self._added = {number: token.content for number, token in added.items()}
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self._fast, self._decoder = backend is not None, getattr(backend, "decoder", None)

    def says(self, token: int) -> str:
        """What a token says; "" for an id beyond the vocabulary."""
        return self._words[token] if 0 <= token < self._size else ""

    def together(self, tokens: Iterable[int]) -> str:
        """What tokens say one after another, the parts of a character joined."""
        said, pieces = "", list[str]()
        for token in tokens:
            if token in self._added:
                said, pieces = said + self._decode(pieces) + self._added[token], []
            elif 0 <= token < self._size:
                pieces.append(self._tokenizer.convert_ids_to_tokens(token) or "")
        return said + self._decode(pieces)

    @cached_property
    def _words(self) -> list[str]:
        return [self.together([token]) for token in range(self._size)]

    def _decode(self, pieces: list[str]) -> str:
        if not any(pieces):
            return ""
        if not self._fast:
            said = self._tokenizer.convert_tokens_to_string([_BEFORE, *pieces])
        elif self._decoder is None:
            return "".join(pieces)
        else:
            said = self._decoder.decode([_BEFORE, *pieces])
        return str(said).removeprefix(_BEFORE)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        return self._words[index]

    def __len__(self) -> int:
        return self._size


def vocabulary_of(tokenizer: Any) -> Vocabulary:
    """The vocabulary of a tokenizer, made once for the latest few (anew if tokens are added)."""
    return _vocabulary(tokenizer, len(tokenizer))


@lru_cache(maxsize=4)
def _vocabulary(tokenizer: Any, size: int) -> Vocabulary:
    return Vocabulary(tokenizer)
