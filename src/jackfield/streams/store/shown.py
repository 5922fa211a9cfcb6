"""How a store shows itself: a table of its sites, as text and in a notebook."""

import json
from html import escape
from typing import TYPE_CHECKING

from jackfield.core.sizes import byte_text
from jackfield.streams.store.layout import Meta

if TYPE_CHECKING:
    from jackfield.streams.store.store import Store

_HEAD = ("site", "row", "dtype", "codec", "bytes", "")


def store_text(store: "Store", meta: Meta) -> str:
    """The table as plain text."""
    lines = [_HEAD, *_lines(store, meta)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(_HEAD))]
    table = [
        "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) for line in lines
    ]
    return "\n".join([_title(store), *(line.rstrip() for line in table), *_origin(store, meta)])


def store_html(store: "Store", meta: Meta) -> str:
    """The table as HTML."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in _HEAD)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>"
        for line in _lines(store, meta)
    )
    rest = "<br>".join(escape(line) for line in [_title(store), *_origin(store, meta)])
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><p>{rest}</p>"


def _title(store: "Store") -> str:
    commits = f"{store.commits} commit" + ("" if store.commits == 1 else "s")
    state = "" if store.finished else ", not finished (go on with resume=True)"
    return f"Store {store.path}: {store.rows:,} rows, {byte_text(store.bytes())}, {commits}{state}"


def _lines(store: "Store", meta: Meta) -> list[tuple[str, ...]]:
    nonfinite, error = store.nonfinite, store.error
    lines: list[tuple[str, ...]] = []
    for site, info in meta.sites.items():
        remark = [f"{nonfinite[site]:,} rows with NaN or Inf"] if nonfinite[site] else []
        remark += [f"largest error {error[site]:.3g}"] if error[site] else []
        dtype = str(info.dtype).removeprefix("torch.")
        cells = (site, str(list(info.shape)), dtype, info.codec.name, byte_text(store.bytes(site)))
        lines.append((*cells, ", ".join(remark)))
    return lines


def _origin(store: "Store", meta: Meta) -> list[str]:
    """Model and corpus, a line each, or whatever else the rows came from."""
    known = [key for key in ("model", "corpus") if key in meta.provenance]
    told = {key: meta.provenance[key] for key in known} if known else {"from": meta.provenance}
    lines = [f"{key}: {json.dumps(value)[:160]}" for key, value in told.items()]
    return [*lines, f"written by Jackfield {meta.library}"]
