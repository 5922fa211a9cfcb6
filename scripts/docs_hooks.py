"""Brings into the pages what lives outside docs/: CONTRIBUTING.md, CHANGELOG.md, design/."""

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from jackfield.catalogue import records

ROOT = Path(__file__).parents[1]
NOTES = sorted((ROOT / "design").glob("*.md"))


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that live outside docs/."""
    for path in (ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"):
        files.append(_file(path.name.lower(), path, config))
    for path in NOTES:
        files.append(_file(f"design/{path.name}", path, config))
    return files


def on_page_markdown(markdown: str, page: Page, config: Any, files: Files) -> str:
    """Lists the design notes and the catalogue where a page asks for them."""
    markdown = markdown.replace("<!-- design-notes -->", "\n".join(map(_entry, NOTES)))
    return markdown.replace("<!-- catalogue -->", _catalogue())


def _catalogue() -> str:
    rows = ["| name | kind | chapter | what it does | source |", "|---|---|---|---|---|"]
    for record in records():
        source = f"[{record.arxiv}](https://arxiv.org/abs/{record.arxiv})" if record.arxiv else ""
        told = (f"`{record.name}`", record.kind, record.chapter, record.summary, source)
        rows.append(f"| {' | '.join(told)} |")
    return "\n".join(rows)


def _file(uri: str, path: Path, config: Any) -> File:
    return File.generated(config, uri, content=path.read_text(encoding="utf-8"))


def _entry(note: Path) -> str:
    title = note.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
    return f"- [{title}](design/{note.name})"
