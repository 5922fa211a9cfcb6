"""Columns: which one of a record's holds the document, and which are kept beside it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jackfield.core.errors import InputError, did_you_mean, explain

USUAL = ("text", "content", "messages", "conversations", "document", "input_ids")

_JSON = (str, int, float, bool, list, dict, type(None))


def column_of(names: Sequence[str], column: str | None, where: str) -> str:
    """The asked column, or the usual one that is there.

    Raises:
        InputError: it is not there, or none can be guessed.
    """
    if column is not None:
        return check_columns(names, [column], where)[0]
    usual = next((name for name in USUAL if name in names), None)
    found = usual or (names[0] if len(names) == 1 else None)
    if found is None:
        expected = f"a column named {' or '.join(USUAL[:3])}"
        hint = "Name it: corpus(..., column=...)."
        got = f"the columns {', '.join(names[:12]) or '(none)'}"
        raise InputError(explain(where=where, expected=expected, got=got, hint=hint))
    return found


def check_columns(names: Sequence[str], asked: Iterable[str], where: str) -> list[str]:
    """The columns asked for.

    Raises:
        InputError: one is not there; says the nearest.
    """
    listed = list(asked)
    for column in listed:
        if column not in names:
            expected = f"one of the columns {', '.join(names[:12]) or '(none)'}"
            hint = did_you_mean(column, names)
            raise InputError(explain(where=where, expected=expected, got=repr(column), hint=hint))
    return listed


def needed(names: Sequence[str], column: str | None, keep: Sequence[str], where: str) -> list[str]:
    """The columns that have to be read: the document's and the kept ones, each once."""
    kept = check_columns(names, keep, where)
    return list(dict.fromkeys([column_of(names, column, where), *kept]))


def kept(item: Mapping[str, Any], keep: Sequence[str], where: str) -> dict[str, Any]:
    """The kept columns of a record; what JSON cannot hold (a date) is kept as text."""
    names = check_columns(list(item), keep, where)
    return {
        name: item[name] if isinstance(item[name], _JSON) else str(item[name]) for name in names
    }
