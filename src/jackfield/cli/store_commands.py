"""`jackfield store`: what a store holds, whether it is sound, and out of it into other formats."""

import json as js
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from jackfield.cli import show

if TYPE_CHECKING:
    from jackfield.streams import Store

app = App(name="store", help="Look into a store of activations, check it, export it.")

Json = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON for programs.")]


@app.command
def info(path: str, *, json: Json = False) -> None:
    """Tell what the store PATH holds: rows, sites, bytes, model, corpus.

    Parameters
    ----------
    path
        Folder or URL of the store.
    json
        Print JSON for programs.
    """
    store = _opened(path)
    show.text([js.dumps(_told(store), indent=2) if json else repr(store)])


@app.command
def verify(path: str, *, json: Json = False) -> int:
    """Read every file of the store PATH and name the damaged ones; exit code 1 if there are any.

    Parameters
    ----------
    path
        Folder or URL of the store.
    json
        Print JSON for programs.
    """
    store = _opened(path)
    found = [problem.partition(": ") for problem in store.verify(progress=True)]
    if json or found:
        damaged = [{"file": file, "problem": problem} for file, _, problem in found]
        show.rows(f"Damaged files of {path}", damaged, as_json=json, styles={"file": "cyan"})
    else:
        show.line(f"All files are sound: {store.rows:,} rows.")
    return 1 if found else 0


@app.command
def gc(path: str, *, json: Json = False) -> None:
    """Remove files that killed writers left in the store PATH; no committed row is touched.

    Parameters
    ----------
    path
        Folder or URL of the store.
    json
        Print JSON for programs.
    """
    removed = _opened(path).gc()
    if json:
        show.text([js.dumps(removed, indent=2)])
        return
    if removed:
        show.text(["\n".join(removed)])
    show.line(f"{len(removed):,} files removed.")


@app.command
def export(
    path: str,
    out: Path,
    *,
    format: Literal["datasets", "saelens", "safetensors", "numpy", "parquet"],
    sites: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None,
    dtype: str | None = None,
    context: int | None = None,
    partial: Literal["refuse", "drop", "join"] = "refuse",
) -> None:
    """Write the rows of the store PATH to the folder OUT, as another library reads them.

    Rows keep their order; columns document, position and token_id say where each came from.

    Parameters
    ----------
    path
        Folder or URL of the store.
    out
        New or empty folder.
    format
        An HF dataset, the same as SAELens caches activations, or plain files.
    sites
        Which sites, all by default; SITE=NAME gives one another name there.
    dtype
        float32, float16 or (safetensors) bfloat16; that of the store by default.
    context
        For saelens: rows a context; by default what the rows were read with.
    partial
        For saelens: what is done with rows that do not fill a context.
    """
    from jackfield.streams.adapters import export as exported

    names = None if sites is None else dict(_named(site) for site in sites)
    made = exported(
        _opened(path),
        out,
        format,
        sites=names,
        dtype=dtype,
        context=context,
        partial=partial,
        progress=True,
    )
    show.text([str(made)])


@app.command
def text(path: str, row: int, *, before: int = 20, after: int = 5, json: Json = False) -> None:
    """Show the words around a row of the store PATH, its token marked.

    Parameters
    ----------
    path
        Folder or URL of the store.
    row
        Id of the row, from 0 on.
    before
        Tokens to show before it.
    after
        Tokens to show after it.
    json
        Print JSON for programs.
    """
    excerpt = _opened(path).text(row, before=before, after=after)
    show.text([js.dumps(asdict(excerpt), indent=2) if json else str(excerpt)])
    if not json:
        show.line(f"Document {excerpt.document}, position {excerpt.position}.")


def _opened(path: str) -> "Store":
    from jackfield.streams import Store

    return Store(path)


def _told(store: "Store") -> dict[str, Any]:
    """What `info` prints for programs."""
    return {
        "path": str(store.path),
        "rows": store.rows,
        "documents": len(store.documents),
        "commits": store.commits,
        "finished": store.finished,
        "bytes": store.bytes(),
        "sites": [_site(store, site) for site in store.sites],
        "columns": list(store.columns),
        "provenance": store.provenance,
    }


def _site(store: "Store", site: str) -> dict[str, Any]:
    held = store.info(site)
    return {
        "site": site,
        "shape": list(held.shape),
        "dtype": str(held.dtype).removeprefix("torch."),
        "codec": held.codec.name,
        "bytes": store.bytes(site),
        "nonfinite": store.nonfinite[site],
        "error": store.error[site],
    }


def _named(site: str) -> tuple[str, str]:
    """SITE or SITE=NAME; a site such as layers.3.z[head=3] has its own signs of equality."""
    end = site.rfind("]") + 1
    own, sign, name = site[end:].partition("=")
    return site[:end] + own, name if sign else site
