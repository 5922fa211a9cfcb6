"""Sidecars: the labels, texts and vocabulary of a store as Parquet, for SQL and other programs.

rows/*.parquet        document, position, token_id and the user's columns, a line a row
documents/*.parquet   document, text, starts (the character each token starts at), its columns
vocabulary.parquet    token_id, token: what each token id says, alone
"""

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jackfield.streams.texts import Text

_GROUP = 1000  # documents a row group: reading one text unpacks so many
# Arrow's own threads may outlive what they read, and end a process that ends just then.
_ALONE: dict[str, Any] = {"use_threads": False, "pre_buffer": False}


def rows_table(named: Mapping[str, Tensor]) -> bytes:
    """The Parquet of a commit's labels."""
    import pyarrow as pa

    known = {"token": "token_id"}
    columns = {known.get(name, name): pa.array(x.numpy()) for name, x in named.items()}
    return _parquet(pa.table(columns))


def documents_table(documents: Mapping[int, Text]) -> bytes:
    """The Parquet of documents; columns that only some of them have are null in the others."""
    import pyarrow as pa

    texts = documents.values()
    names = sorted({name for text in texts for name in text.columns})
    starts = [text.starts.to(torch.int32).numpy() for text in texts]
    ends = np.cumsum([0, *map(len, starts)], dtype=np.int64)
    joined = np.concatenate(starts) if starts else np.zeros(0, np.int32)
    columns = {
        "document": pa.array(list(documents), pa.int64()),
        "text": pa.array([text.text for text in texts], pa.large_string()),
        "starts": pa.LargeListArray.from_arrays(pa.array(ends), pa.array(joined)),
    }
    for name in names:
        columns[name] = _column([text.columns.get(name) for text in texts])
    return _parquet(pa.table(columns), row_group_size=_GROUP)


def read_document(data: bytes, number: int) -> Text:
    """One document of `documents_table`; KeyError if it is not there."""
    import pyarrow.parquet as pq

    chosen = [("document", "=", number)]
    table = pq.read_table(io.BytesIO(data), filters=chosen, **_ALONE)
    if not len(table):
        raise KeyError(number)
    row = table.slice(0, 1).to_pylist()[0]
    starts = torch.tensor(row.pop("starts"), dtype=torch.int64)
    row.pop("document")
    return Text(row.pop("text"), starts, row)


def document_ids(data: bytes) -> Tensor:
    """The ids of the documents in a table, [document] int64."""
    import pyarrow.parquet as pq

    ids = pq.read_table(io.BytesIO(data), columns=["document"], **_ALONE)["document"]
    return torch.from_numpy(ids.to_numpy().copy())


def vocabulary_table(vocabulary: Sequence[str]) -> bytes:
    """The Parquet of a vocabulary."""
    import pyarrow as pa

    ids = pa.array(range(len(vocabulary)), pa.int64())
    return _parquet(pa.table({"token_id": ids, "token": pa.array(list(vocabulary), pa.string())}))


def _parquet(table: Any, **options: Any) -> bytes:
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", **options)
    return buffer.getvalue()


def _column(values: list[Any]) -> Any:
    """As Arrow takes them, or (mixed, nested) as JSON text."""
    import pyarrow as pa

    try:
        found = pa.array(values)
    except pa.ArrowException:
        found = None
    if found is None or pa.types.is_nested(found.type) or pa.types.is_null(found.type):
        return pa.array([None if v is None else json.dumps(v) for v in values], pa.string())
    return found
