"""Records: one frozen, import-free entry for each thing in the catalogue."""

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

Kind = Literal["method", "part", "study", "battery"]


@dataclass(frozen=True, kw_only=True)
class Record:
    """What the catalogue knows of a method, part, study or battery without importing it.

    Attributes:
        name: short unique name, as typed in a terminal ("topk").
        kind: "method" (config → fit → fitted), "part" (nn.Module), "study" (config → run →
            report) or "battery" (data).
        summary: one line for a reader who has not seen the paper.
        chapter: the room it lives in ("dictionaries").
        target: "module:Class".
        paper: title or first author and year; `arxiv` its id where there is one.
        reads, writes: what it does at a site, in words ("any site", "resid_post").
        needs: of "labels", "pairs", "gradients", "text", "model", "stream".
        streaming: fits from a stream in constant memory.
        exact: computes its quantity exactly (no estimate, no training).
        cost: one line in forwards, passes or seconds.
    """

    name: str
    kind: Kind
    summary: str
    chapter: str
    target: str
    paper: str
    arxiv: str | None = None
    reads: str = ""
    writes: str = ""
    needs: frozenset[str] = frozenset()
    streaming: bool = False
    exact: bool = False
    cost: str = ""

    def load(self) -> Any:
        """Imports and returns the class behind the record."""
        module, _, name = self.target.partition(":")
        return getattr(import_module(module), name)
