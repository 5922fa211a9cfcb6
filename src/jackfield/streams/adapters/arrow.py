"""Arrow: columns of numbers, lists of them, and arrays, to tensors and back.

Rows of an Arrow column can be missing, and lists can differ in length; a tensor's cannot. Whatever
is not [row, ...] through and through is refused, never padded. Arrow has no bfloat16.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from jackfield.streams.adapters.table import Listing, damaged, torch_dtype
from jackfield.streams.store.codecs import Kind

if TYPE_CHECKING:
    import pyarrow as pa


def listing_of(first: "pa.Table", rows: int) -> Listing:
    """What a table holds, told by its schema and, where lists have no fixed length, its first row.

    Args:
        first: the first row.
        rows: how many rows there are.
    """
    listing = Listing()
    for name in first.column_names:
        listing.add(name, _kind(first[name].combine_chunks()), rows)
    return listing


def tensor(column: "pa.ChunkedArray", kind: Kind, where: str) -> Tensor:
    """A column as [row, ...].

    Raises:
        InputError: a value is missing, or rows differ in shape.
    """
    array: Any = column.combine_chunks()
    rows = len(array)
    for length in kind.shape:
        array = _storage(array)
        _check_whole(array, where)
        lengths = _lengths(array)
        if not np.all(lengths == length):
            other = int(lengths[lengths != length][0])
            raise damaged(where, f"lists of {length} values in every row", f"one of {other}")
        array = array.flatten()
    array = _storage(array)
    _check_whole(array, where)
    values = np.array(array.to_numpy(zero_copy_only=False))  # a copy: Arrow's memory is read-only
    return torch.from_numpy(values).reshape(rows, *kind.shape)


def fixed_lists(rows: Tensor) -> "pa.Array":
    """[row, ...] as an Arrow array, an axis a list of fixed length."""
    import pyarrow as pa

    array = pa.array(rows.reshape(-1).numpy())
    for length in reversed(rows.shape[1:]):
        array = pa.FixedSizeListArray.from_arrays(array, length)
    return array


def _kind(array: Any) -> Kind | str:
    """The kind of a column's rows by its first, or why there is none."""
    import pyarrow as pa

    shape: list[int] = []
    while pa.types.is_nested((array := _storage(array)).type):
        if array.null_count or not _is_list(array.type):
            return f"it holds {array.type}"
        shape.append(int(_lengths(array)[0]) if len(array) else 0)
        array = array.flatten()
    if not (_is_number(array.type) or pa.types.is_boolean(array.type)):
        return f"it holds {array.type}"
    dtype = torch_dtype(np.dtype(array.type.to_pandas_dtype()))
    return dtype if isinstance(dtype, str) else Kind(tuple(shape), dtype)


def _storage(array: Any) -> Any:
    """What lies beneath an extension type, such as the Array2D of HF datasets."""
    return getattr(array, "storage", array)


def _lengths(array: Any) -> Any:
    """The length of each list."""
    import pyarrow as pa

    if pa.types.is_fixed_size_list(array.type):
        return np.full(len(array), array.type.list_size)
    return array.value_lengths().to_numpy(zero_copy_only=False)


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(kind) for test in tests)


def _is_number(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _check_whole(array: Any, where: str) -> None:
    if array.null_count:
        raise damaged(where, "a value in every row", f"{array.null_count:,} missing ones")
