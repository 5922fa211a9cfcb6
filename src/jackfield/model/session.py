"""A session: what is known while a model runs, from the first token of a sequence to its last.

It follows the calls of the whole model, so that an edit knows at every step which tokens it has
before it, and what it remembered of this sequence.
"""

import inspect
import threading
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from jackfield.core.errors import BusyError, EditError, explain
from jackfield.core.where import Coordinates


class Session:
    """The running state of one plan: coordinates, recorded values, the edits' memories.

    Args:
        sinks: the model's sink positions.
        lengths: [batch] prompt tokens of each row; None: all tokens of the first call.
        spans, roles: the role of each token of a chat, for `where=Role(...)`.
    """

    def __init__(
        self,
        *,
        sinks: tuple[int, ...] = (),
        lengths: Tensor | None = None,
        spans: Tensor | None = None,
        roles: tuple[str, ...] = (),
    ) -> None:
        self.values: dict[str, Tensor] = {}
        self.raws: dict[str, Any] = {}
        self.versions: dict[str, int] = {}
        self.fired: Counter[str] = Counter()
        self.states: dict[Any, dict[str, Any]] = {}
        self.remaining = -1
        self.keep_graph = False
        self._sinks, self._given_lengths, self._lengths = sinks, lengths, lengths
        self._spans, self._roles = spans, roles
        self._call: Mapping[str, Any] = {}
        self._past = 0
        self._at: Coordinates | None = None
        self._all: Tensor | None = None
        self._thread = threading.get_ident()

    def begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Notes a call of the whole model; one without a past begins a new sequence.

        Raises:
            BusyError: another thread calls a model that is being edited.
        """
        if threading.get_ident() != self._thread:
            raise BusyError(
                explain(
                    where=type(module).__name__,
                    expected="calls from the thread that edits this model",
                    got="one from another thread",
                    hint="Give each thread its own copy of the model.",
                )
            )
        self._call = _bound(module, args, kwargs)
        self._past = _past_length(self._call)
        self._at = self._all = None
        if self._past == 0:
            self.states.clear()
            self._lengths = self._given_lengths

    @property
    def shape(self) -> tuple[int, int] | None:
        """[batch, position] of the tokens of this call."""
        tokens = _token_like(self._call)
        return None if tokens is None else (tokens.shape[0], tokens.shape[1])

    @property
    def at(self) -> Coordinates | None:
        """Coordinates of the tokens of this call; None for a model without tokens."""
        if self._at is None and self.shape is not None:
            count = self.shape[1]
            ids = self._call.get("input_ids")
            every = self._every()
            spans = (
                self._spans[:, -every.shape[1] :][:, -count:] if self._spans is not None else None
            )
            self._at = self._coordinates(every[:, -count:], ids, spans)
        return self._at

    def keys(self, count: int) -> Coordinates | None:
        """Coordinates of `count` key slots: all so far, the last (sliding), or a fixed cache."""
        if self.shape is None:
            return None
        every = self._every()
        seen = every.shape[1]
        if count > seen:  # a static cache: slots beyond what was written are empty
            empty = every.new_full((every.shape[0], count - seen), -1)
            return self._coordinates(torch.cat([every, empty], dim=1), None, None)
        return self._coordinates(every[:, seen - count :], None, None)

    def this_pass(self, count: int) -> slice:
        """Which of `count` key slots were written by this call."""
        assert self.shape is not None
        stop = min(count, self._past + self.shape[1])
        return slice(stop - self.shape[1], stop)

    def state_of(self, key: Any) -> dict[str, Any]:
        """The memory of one edit at one site, for this sequence."""
        return self.states.setdefault(key, {})

    def _coordinates(
        self, positions: Tensor, tokens: Tensor | None, spans: Tensor | None
    ) -> Coordinates:
        assert self._lengths is not None
        lengths = self._lengths.to(positions.device)
        return Coordinates(positions, lengths, tokens, self._sinks, spans, self._roles)

    def _every(self) -> Tensor:
        """[batch, so far] absolute positions of all tokens so far, −1 for padding."""
        if self._all is None:
            assert self.shape is not None
            batch, count = self.shape
            mask, given = self._call.get("attention_mask"), self._call.get("position_ids")
            if (
                mask is None
                and isinstance(given, Tensor)
                and given.shape[0] == batch
                and not self._past
            ):
                self._all = given  # packed documents: positions begin anew with each
            elif isinstance(mask, Tensor) and mask.dim() == 2:
                mask = mask[:, : self._past + count]
                self._all = (mask.long().cumsum(-1) - 1).masked_fill(mask == 0, -1)
            else:
                device = _token_like(self._call).device  # type: ignore[union-attr]
                self._all = torch.arange(self._past + count, device=device).expand(batch, -1)
            if self._lengths is None:
                self._lengths = self._all.amax(-1) + 1
            if len(self._lengths) != batch:
                raise EditError(
                    explain(
                        where="edited generation",
                        expected=f"the {len(self._lengths)} rows that the sequence began with",
                        got=str(batch),
                    )
                )
        return self._all


def _bound(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The call's arguments by name."""
    if not args:
        return kwargs
    names = inspect.signature(module.forward).parameters
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _past_length(call: Mapping[str, Any]) -> int:
    past = call.get("past_key_values")
    return int(past.get_seq_length()) if past is not None and hasattr(past, "get_seq_length") else 0


def _token_like(call: Mapping[str, Any]) -> Tensor | None:
    for name in ("input_ids", "inputs_embeds"):
        if isinstance(call.get(name), Tensor):
            return call[name]
    return None
