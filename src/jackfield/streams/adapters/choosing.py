"""Choosing: which columns of a table become sites, labels and columns of a stream."""

import json
from collections.abc import Collection, Mapping, Sequence

from jackfield.core.errors import InputError, SiteError, did_you_mean, explain
from jackfield.streams.adapters.description import Description
from jackfield.streams.adapters.table import Table

LABELS = {  # of a batch -> what files call them
    "documents": ("document", "documents"),
    "positions": ("position", "positions"),
    "tokens": ("token_id", "token_ids", "tokens"),
}


def chosen_sites(table: Table, asked: Sequence[str] | Mapping[str, str] | None) -> dict[str, str]:
    """Column -> site.

    Args:
        table: to choose from.
        asked: columns, or a mapping from them to sites; None for all whose rows have an axis.

    Raises:
        SiteError: a column that is not there.
        InputError: one that does not hold rows of numbers, or none at all.
    """
    kinds = table.listing.kinds
    if asked is None:
        asked = [name for name, kind in kinds.items() if kind.shape]
    if isinstance(asked, str):
        asked = [asked]
    chosen = dict(asked) if isinstance(asked, Mapping) else dict(zip(asked, asked, strict=True))
    for name in chosen:
        _check_column(table, name)
    if len(set(chosen.values())) < len(chosen):
        expected, got = "another name for each site", ", ".join(chosen.values())
        raise InputError(explain(where=table.name, expected=expected, got=got))
    if not chosen:
        why = "; ".join(f"{name}: {reason}" for name, reason in table.listing.unusable.items())
        plain = ", ".join(kinds)
        got = "; ".join(filter(None, [plain and f"plain columns {plain}", why])) or "none"
        hint = f"Name what should be a site: sites=[{next(iter(kinds))!r}]." if kinds else None
        raise InputError(
            explain(where=table.name, expected="an array [row, ...]", got=got, hint=hint)
        )
    return chosen


def label_column(table: Table, role: str) -> str | None:
    """The column, a number a row, that has one of the role's names.

    Raises:
        InputError: its numbers are not whole.
    """
    kinds = table.listing.kinds
    name = next((n for n in LABELS[role] if n in kinds and not kinds[n].shape), None)
    if name is not None and kinds[name].dtype.is_floating_point:
        where = f"{table.name}, {name}"
        got = str(kinds[name].dtype).removeprefix("torch.")
        raise InputError(explain(where=where, expected="whole numbers", got=got))
    return name


def chosen_columns(
    table: Table, asked: Sequence[str] | None, taken: Collection[str]
) -> tuple[str, ...]:
    """Columns of the rows: those asked for, or all with a number a row that are not `taken`.

    Raises:
        SiteError: a column that is not there.
        InputError: one with more than a number a row.
    """
    kinds = table.listing.kinds
    if asked is None:
        return tuple(name for name, kind in kinds.items() if not kind.shape and name not in taken)
    for name in asked:
        _check_column(table, name)
        if kinds[name].shape:
            got = f"rows of shape {list(kinds[name].shape)}"
            where = f"{table.name}, {name}"
            raise InputError(explain(where=where, expected="a number a row", got=got))
    return tuple(name for name in asked if name not in taken)


def _check_column(table: Table, name: str) -> None:
    listing = table.listing
    if name in listing.unusable:
        where, expected = f"{table.name}, {name}", "an array [row, ...] of numbers"
        raise InputError(explain(where=where, expected=expected, got=listing.unusable[name]))
    if name not in listing.kinds:
        expected = f"one of {', '.join(list(listing.kinds)[:8]) or '(none)'}"
        hint = did_you_mean(name, listing.kinds)
        raise SiteError(explain(where=table.name, expected=expected, got=repr(name), hint=hint))


def check_rows(table: Table, names: Sequence[str], described: Description | None) -> None:
    """Raises InputError unless the columns have as many rows as each other, and as described."""
    counts = {name: table.listing.rows[name] for name in names}
    if len(set(counts.values())) > 1:
        got = json.dumps(counts)
        hint = "Name what belongs together: sites=[...], columns=[...]."
        expected = "the same number of rows in every array"
        raise InputError(explain(where=table.name, expected=expected, got=got, hint=hint))
    rows = next(iter(counts.values()))
    if described is not None and rows != described.rows:
        expected = f"{described.rows:,} rows, as its description says"
        raise InputError(explain(where=table.name, expected=expected, got=f"{rows:,}"))
