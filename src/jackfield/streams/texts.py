"""Texts: the words that rows came from, carried beside the batches so that a store can keep them.

A `Text` is one document: its characters, and where among them each of its tokens starts. A batch
carries the texts of the documents that it has rows of, and the vocabulary they were cut with.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Text:
    """One document as it was read.

    Attributes:
        text: its characters (a chat as the template rendered it).
        starts: [position] int64, the character at which each token starts.
        columns: what else the corpus knows of the document, by name: plain JSON values.
    """

    text: str
    starts: Tensor
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Texts:
    """Documents by id.

    Attributes:
        documents: document id -> text; at least those that the batch has rows of.
        vocabulary: token id -> what it says, alone.
    """

    documents: Mapping[int, Text]
    vocabulary: Sequence[str]


def joined(texts: Sequence[Texts]) -> Texts | None:
    """The documents of all of them; None for none."""
    if not texts:
        return None
    together = {number: text for each in texts for number, text in each.documents.items()}
    return Texts(together, texts[0].vocabulary)
