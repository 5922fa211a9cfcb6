"""A session: what is known while a model runs, from the first token of a sequence to its last.

It follows the calls of the whole model, so that an edit knows at every step which tokens it has
before it, and what it remembered of this sequence.
"""

import inspect
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

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
        self.awaited: set[str] = set()
        self.keep_graph = False
        self._sinks, self._given_lengths, self._lengths = sinks, lengths, lengths
        self._spans, self._roles = spans, roles
        self._call: Mapping[str, Any] = {}
        self.past = 0
        self._first: int | None = None
        self._at: Coordinates | None = None
        self._all: Tensor | None = None
        self._tokens: Tensor | None = None
        self._inside = False
        self._thread = threading.get_ident()

    def begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Notes a call of the whole model; one without a past begins a new sequence.

        Raises:
            BusyError: another thread calls a model that is being edited, or an edit does.
        """
        if self._inside:
            raise BusyError(
                explain(
                    where=type(module).__name__,
                    expected="no call of the whole model from inside an edit",
                    got="one",
                    hint="Call its parts, or a copy of it.",
                )
            )
        if threading.get_ident() != self._thread:
            raise BusyError(
                explain(
                    where=type(module).__name__,
                    expected="calls from the thread that edits this model",
                    got="one from another thread",
                    hint="Give each thread its own copy of the model.",
                )
            )
        self._inside = True
        self._call = _bound(module, args, kwargs)
        self.past = _past_length(self._call)
        self._at = self._all = None
        self._first = self.past if self._first is None else self._first
        self._note_tokens()
        if self.past == 0:
            self.states.clear()
            self._lengths = self._given_lengths

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        """Notes that the call is over, well or not."""
        self._inside = False

    def end(self, module: nn.Module, args: Any, output: Any) -> None:
        """Forgets the call, so that calls of parts of the model are not taken for it."""
        self._call, self._at, self._all = {}, None, None

    @contextmanager
    def repeated(self, noted: dict[str, Any]) -> Iterator[None]:
        """Puts back what `noted` said for the block, in which a part of that call runs again."""
        now = self.noted()
        self._go_back_to(noted)
        try:
            yield
        finally:
            self._go_back_to(now)

    def _go_back_to(self, noted: dict[str, Any]) -> None:
        self.values.clear()  # the same dict: hooks hold it
        self.values.update(noted["values"])
        self.__dict__.update({name: x for name, x in noted.items() if name != "values"})

    def noted(self) -> dict[str, Any]:
        """What is known of this call and was read in it so far."""
        names = ("_call", "_at", "_all", "_lengths", "_tokens", "past")
        return {"values": dict(self.values), **{name: self.__dict__[name] for name in names}}

    @property
    def shape(self) -> tuple[int, int] | None:
        """[batch, position] of the tokens of this call."""
        tokens = _token_like(self._call)
        return None if tokens is None else (tokens.shape[0], tokens.shape[1])

    @property
    def at(self) -> Coordinates | None:
        """Coordinates of the tokens of this call; None for a model without tokens."""
        if self._at is None and self.shape is not None:
            self._at = self._from(self.past)
        return self._at

    @property
    def real(self) -> Tensor | None:
        """[batch, so far] True on the tokens so far, False on padding."""
        every = self._every()
        return None if every is None else every >= 0

    def last(self, count: int) -> Coordinates | None:
        """Coordinates of the last `count` tokens, those that `logits_to_keep` leaves."""
        kept = self._call.get("logits_to_keep", 0)
        return self._from(self._total - count) if isinstance(kept, int) else None

    def keys(self, count: int) -> Coordinates | None:
        """Coordinates of `count` key slots: all so far, the last (sliding), or a fixed cache.

        In a fixed cache the slots beyond what was written are empty.
        """
        return self._from(max(0, self._total - count), empty=max(0, count - self._total))

    def this_pass(self, count: int) -> slice:
        """Which of `count` key slots were written by this call."""
        assert self.shape is not None
        stop = min(count, self.past + self.shape[1])
        return slice(stop - self.shape[1], stop)

    def state_of(self, key: Any) -> dict[str, Any]:
        """The memory of one edit at one site, for this sequence."""
        return self.states.setdefault(key, {})

    @property
    def _total(self) -> int:
        """Places so far, padding included."""
        return self.past + (self.shape[1] if self.shape else 0)

    def _from(self, begin: int, empty: int = 0) -> Coordinates | None:
        """Coordinates of the places from `begin` on, and of `empty` slots after them."""
        every = self._every()
        if every is None:
            return None
        assert self._lengths is not None

        def cut(x: Tensor | None, nothing: int) -> Tensor | None:
            return None if x is None else pad(x[:, begin:], (0, empty), value=nothing)

        positions = cut(every, -1)
        assert positions is not None
        tokens, spans = cut(self._tokens, 0), cut(self._all_spans(), -1)
        lengths = self._lengths.to(positions.device)
        return Coordinates(positions, lengths, tokens, self._sinks, spans, self._roles)

    def _all_spans(self) -> Tensor | None:
        """[batch, so far] roles; what follows the given chat is the answer to it."""
        if self._spans is None:
            return None
        answer = self._roles.index("assistant") if "assistant" in self._roles else -1
        first = self._first or 0
        later = self._total - first - self._spans.shape[1]
        return pad(pad(self._spans, (first, 0), value=-1), (0, later), value=answer)

    def _note_tokens(self) -> None:
        """Ids of all places so far, None once they are not known."""
        new = self._call.get("input_ids")
        held = self._tokens
        if self.past and isinstance(new, Tensor) and held is not None and len(held) == len(new):
            new = torch.cat([held[:, : self.past], new], dim=1)
        known = isinstance(new, Tensor) and new.shape[1] == self._total
        self._tokens = new if known else None

    def _every(self) -> Tensor | None:
        """[batch, so far] absolute positions of all tokens so far, −1 for padding.

        None for a model without tokens, and where a mask of another kind leaves them unknown.
        """
        if self._all is None and self.shape is not None:
            self._all = self._positions()
            if self._all is not None:
                self._note_lengths(self._all)
        return self._all

    def _positions(self) -> Tensor | None:
        assert self.shape is not None
        batch = self.shape[0]
        mask, given = self._call.get("attention_mask"), self._call.get("position_ids")
        if isinstance(mask, Tensor) and mask.dim() == 2:
            mask = mask[:, : self._total]
            return (mask.long().cumsum(-1) - 1).masked_fill(mask == 0, -1)
        if mask is not None:
            return None
        if isinstance(given, Tensor) and given.shape[0] == batch and not self.past:
            return given  # packed documents: positions begin anew with each
        device = _token_like(self._call).device  # type: ignore[union-attr]
        return torch.arange(self._total, device=device).expand(batch, -1)

    def _note_lengths(self, every: Tensor) -> None:
        if self._lengths is None:
            self._lengths = every.amax(-1) + 1
        if len(self._lengths) != len(every):
            raise EditError(
                explain(
                    where="prompt lengths",
                    expected=f"one for each of the {len(every)} rows",
                    got=str(len(self._lengths)),
                    hint="The rows of a sequence must stay those that it began with.",
                )
            )


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
    # A module of the user's own: ids are whole numbers, [batch, position].
    tensors = (value for value in call.values() if isinstance(value, Tensor))
    whole = (x for x in tensors if x.dim() == 2 and x.dtype in (torch.int64, torch.int32))
    return next(whole, None)
