"""Every Python block of the pages runs, and a block that does not run says why.

A page is one script: its Python blocks run in order, in one namespace, in an empty folder.
A comment just before a block changes that, and needs a reason:

    <!-- docs-test: skip, needs two machines -->     the next block is not run
    <!-- docs-test: slow, trains for a minute -->    the page is a slow test
"""

import re
import sys
import textwrap
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(ROOT.glob("docs/**/*.md")),
    *sorted(ROOT.glob("design/**/*.md")),
]

RUN = {"python"}
COMMANDS = {"console"}  # one command a line; `make` targets are checked
SHOWN = {"text", "json", "toml", "html", "bibtex"}  # output and data, for the eye only

FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,})(?P<language>[^`]*)$")
NOTE = re.compile(r"^ *<!-- docs-test: (?P<verb>\w+)(?:, (?P<reason>.+?))? *-->$")


@dataclass(frozen=True)
class Block:
    """A fenced block: the line of its first line of code, and what the comment before it says."""

    line: int
    language: str
    code: str
    verb: str = ""
    reason: str = ""

    @property
    def fault(self) -> str:
        """What is wrong with the way the block is marked; empty when nothing is."""
        if self.language not in RUN | COMMANDS | SHOWN:
            return f"line {self.line}: the language {self.language!r} is not one the guard knows"
        if self.verb not in ("", "skip", "slow"):
            return f"line {self.line}: 'docs-test: {self.verb}' means nothing; say skip or slow"
        if self.verb and not self.reason:
            return f"line {self.line}: 'docs-test: {self.verb}' needs a reason after a comma"
        if self.language in RUN and not self.code.strip():
            return f"line {self.line}: the block is empty"
        return ""


def blocks_of(text: str) -> Iterator[Block]:
    lines = text.splitlines()
    at, verb, reason = 0, "", ""
    while at < len(lines):
        opened, note = FENCE.match(lines[at]), NOTE.match(lines[at])
        at += 1
        if note:
            verb, reason = note["verb"], note["reason"] or ""
        if not opened:
            continue
        end = _closing(lines, at, opened["fence"])
        code = textwrap.dedent("\n".join(lines[at:end]))
        yield Block(at + 1, opened["language"].strip(), code, verb, reason)
        at, verb, reason = end + 1, "", ""


def _closing(lines: list[str], start: int, fence: str) -> int:
    for at in range(start, len(lines)):
        if re.fullmatch(rf" *{re.escape(fence[0])}{{{len(fence)},}} *", lines[at]):
            return at
    raise ValueError(f"line {start}: the block that opens here is never closed")


def read(page: Path) -> list[Block]:
    return list(blocks_of(page.read_text(encoding="utf-8")))


def pages_to_run() -> list[object]:
    return [page_to_run(page, blocks) for page in PAGES if (blocks := runnable(page))]


def runnable(page: Path) -> list[Block]:
    return [block for block in read(page) if block.language in RUN and block.verb != "skip"]


def page_to_run(page: Path, blocks: list[Block]) -> object:
    slow = any(block.verb == "slow" for block in blocks)
    marks = [pytest.mark.slow] if slow else []
    return pytest.param(page, blocks, id=str(page.relative_to(ROOT)), marks=marks)


@pytest.mark.parametrize(("page", "blocks"), pages_to_run())
def test_blocks_run(page, blocks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    script = types.ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", script)
    for block in blocks:
        padding = "\n" * (block.line - 1)  # so that a traceback names the page's own line
        code = compile(padding + block.code, str(page), "exec", dont_inherit=True)
        exec(code, vars(script))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_is_marked(page):
    assert not [block.fault for block in read(page) if block.fault]


def test_commands_name_targets_that_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = {
        target
        for page in PAGES
        for block in read(page)
        if block.language in COMMANDS
        for target in re.findall(r"^make ([a-z-]+)", block.code, flags=re.MULTILINE)
    }
    assert named <= targets


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text()
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in ROOT.glob("docs/**/*.md")]
    assert not [page for page in pages if f" {page}\n" not in navigation]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("```\nx = 1\n```", "language ''"),
        ("```py\nx = 1\n```", "language 'py'"),
        ("<!-- docs-test: skip -->\n```python\nx = 1\n```", "needs a reason"),
        ("<!-- docs-test: later, soon -->\n```python\nx = 1\n```", "means nothing"),
        ("```python\n```", "empty"),
    ],
)
def test_the_guard_finds(text, fault):
    (block,) = blocks_of(text)
    assert fault in block.fault


def test_the_guard_reads_blocks_as_markdown_does():
    text = (
        "<!-- docs-test: skip, far away -->\n"
        "```python\na = '``'\n```\n"
        "    ~~~~python\n    b = 1\n    ~~~\n    ~~~~\n"
    )
    first, second = blocks_of(text)
    assert (first.line, first.code, first.verb, first.reason) == (3, "a = '``'", "skip", "far away")
    assert (second.line, second.code, second.verb) == (6, "b = 1\n~~~", "")


def test_an_open_block_is_an_error():
    with pytest.raises(ValueError, match="line 2: the block that opens here is never closed"):
        list(blocks_of("text\n```python\nx = 1"))
