"""Streams: activations as batches of rows that can be gone through again and again.

Lives here: the Stream protocol and its sinks (moments, top examples, histograms, the disk store),
the corpora that documents come from, and the packing of their tokens into batches.
May use: core, edits. Look first: `protocol.py` (Batch, Stream, Sink), then `moments.py` for a sink.

A live model is a stream too; that one lives in `model/stream.py`, on top of `packing.py` here.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jackfield.streams.corpora import Corpus, Document, corpus
    from jackfield.streams.histogram import Histogram
    from jackfield.streams.moments import Moments
    from jackfield.streams.packing import TokenBatch, packed_batches, padded_batches
    from jackfield.streams.protocol import Batch, Sink, Stream
    from jackfield.streams.quantiles import Quantiles
    from jackfield.streams.store import Store, StoreWriter
    from jackfield.streams.top_examples import Example, TopExamples, TopRows

_HOME = {
    "Batch": "protocol",
    "Corpus": "corpora",
    "Document": "corpora",
    "Example": "top_examples",
    "Histogram": "histogram",
    "Moments": "moments",
    "Quantiles": "quantiles",
    "Sink": "protocol",
    "Store": "store",
    "StoreWriter": "store",
    "Stream": "protocol",
    "TokenBatch": "packing",
    "TopExamples": "top_examples",
    "TopRows": "top_examples",
    "corpus": "corpora",
    "packed_batches": "packing",
    "padded_batches": "packing",
}

__all__ = [
    "Batch",
    "Corpus",
    "Document",
    "Example",
    "Histogram",
    "Moments",
    "Quantiles",
    "Sink",
    "Store",
    "StoreWriter",
    "Stream",
    "TokenBatch",
    "TopExamples",
    "TopRows",
    "corpus",
    "packed_batches",
    "padded_batches",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
