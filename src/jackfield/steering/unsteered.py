"""Unsteered: what the unsteered model makes of some texts, kept, for steered runs to stand beside.

A dose is found by measuring again and again on the same texts. The unsteered run is made once, and
a steered one begins at the first place that its edits touch, with the stream that is kept there:
what comes before is the same to the bit.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from jackfield.core.where import Coordinates, where
from jackfield.edits import Edit
from jackfield.model.sinks import mentioned

if TYPE_CHECKING:
    from jackfield.model.model import Model
    from jackfield.model.run import Run

_TEXTS = 8  # in one forward
_ROWS = 128  # tokens unembedded at once


@dataclass(frozen=True)
class _Part:
    """Some of the texts: where a run begins, its last stream, and the tokens that count."""

    texts: Any
    begun: dict[str, Tensor] | None
    stream: Float[Tensor, "token d"]
    counted: Bool[Tensor, "text position"]


class Unsteered:
    """The unsteered run of texts.

    Args:
        model: a language model with known blocks; edits act in its blocks.
        texts: texts, or token ids [text, position].
        edits: what will be measured, at any strength; none of it may act earlier than these.
    """

    @torch.no_grad()
    def __init__(self, model: "Model", texts: Any, edits: Sequence[Edit]) -> None:
        self._model, self._last = model, f"layers.{model.n_layers - 1}.resid_post"
        self._start = _first(model, edits)
        listed = [texts] if isinstance(texts, str) else texts
        self._parts = [self._part(listed[at : at + _TEXTS]) for at in range(0, len(listed), _TEXTS)]

    @torch.no_grad()
    def beside(self, edits: Sequence[Edit]) -> Iterator[tuple[Tensor, Tensor]]:
        """Logits [token, vocab] in float32, unsteered and steered, of some tokens at a time.

        Sink positions are left out: nothing reads their predictions.
        """
        for part in self._parts:
            run = self._model.run(
                part.texts, sites=[self._last], edits=edits, logits=False, start=part.begun
            )
            both = part.stream.split(_ROWS), run[self._last][part.counted].split(_ROWS)
            for plain, steered in zip(*both, strict=True):
                yield tuple(self._model.unembed(x).float() for x in (plain, steered))  # type: ignore[misc]

    def _part(self, texts: Any) -> _Part:
        begin = [] if self._start is None else [self._start]
        run = self._model.run(texts, sites=[*begin, self._last], logits=False)
        counted = chosen_tokens(self._model, run, "~sinks")
        begun = {name: run[name] for name in begin} or None
        return _Part(texts, begun, run[self._last][counted], counted)


def chosen_tokens(model: "Model", run: "Run", rule: Any) -> Bool[Tensor, "text position"]:
    """Which tokens of a run a `where` means."""
    assert run.mask is not None
    assert run.positions is not None
    sinks = sinks_in(model, rule)
    at = Coordinates(run.positions, run.mask.sum(dim=-1), run.tokens, sinks)
    return where(rule).mask(at)


def sinks_in(model: "Model", rule: Any) -> tuple[int, ...]:
    """The model's sink positions, if a `where` speaks of them."""
    return model.sinks if mentioned(where(rule)) else ()


def _first(model: "Model", edits: Sequence[Edit]) -> str | None:
    """The last place to begin at that comes before all that edits write or read; None if unknown.

    An edit of the very stream that a run begins with acts on it.
    """
    names = model.sites.select([name for edit in edits for name in (*edit.sites, *edit.reads)])
    sites = [model.sites[name] for name in names]
    layers = [site.layer for site in sites if site.layer is not None]
    if not sites or len(layers) < len(sites):
        return None
    roles = {site.role for site in sites if site.layer == min(layers)}
    return f"layers.{min(layers)}.{'resid_post' if roles == {'resid_post'} else 'resid_pre'}"
