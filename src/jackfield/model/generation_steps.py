"""The steps of a generation: what one holds and reads, and what each row has by now."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from jackfield.core.errors import InputError, SiteError, explain
from jackfield.edits import Edit
from jackfield.model.plan import Plan
from jackfield.model.session import Session

if TYPE_CHECKING:
    from jackfield.model.model import Model


@dataclass(frozen=True)
class Step:
    """One new token in each row, and what was read to choose it.

    Attributes:
        tokens: [batch] the new ids; filler in rows that have ended before.
        texts: what they add to each row; "" in rows that have ended, and while a character still
            lacks tokens.
        logits: [batch, vocab] that the new tokens were chosen from.
        mask: [batch, position] which of the tokens read in this step are a row's own: not the
            prompt's padding, nor filler behind a row's end.
        ended: [batch] rows that have ended, with this step or before.
        activations: {site: [batch, position, …]} of the tokens read in this step, if asked for:
            all of the prompt in the first step, then the token before the new one.
    """

    tokens: Int[Tensor, "batch"]  # noqa: F821
    texts: list[str]
    logits: Float[Tensor, "batch vocab"]
    mask: Bool[Tensor, "batch position"]
    ended: Bool[Tensor, "batch"]  # noqa: F821
    activations: Mapping[str, Tensor] = field(default_factory=dict)


Stop = Callable[[Step], Bool[Tensor, "batch"]]  # noqa: F821


class Rows:
    """What each row has by now: its ids, its text, and whether it has ended."""

    def __init__(self, model: "Model", prompt: Int[Tensor, "batch position"]) -> None:
        self._model, self._prompt, self.tokens = model, prompt.shape[1], prompt
        self.ended = torch.zeros(len(prompt), dtype=torch.bool)
        self._kept = torch.zeros(len(prompt), dtype=torch.long)  # new ids that are text
        self._said = [""] * len(prompt)
        self.read = 0  # places that a step has read

    def offered(self, new: Tensor, step: Step, *, final: bool) -> Step:
        """The step that says `new`, where a row has not ended."""
        new = new.where(~self.ended, _filler(self._model))
        ended = self.ended | torch.isin(new, ends_of(self._model))
        return replace(step, tokens=new, ended=ended, texts=self._pieces(new, ended, final))

    def stopped(self, step: Step, stop: Tensor, *, final: bool) -> Step:
        """The same step, without the new token in the rows that are to stop.

        Raises:
            InputError: `stop` is not one bool a row.
        """
        stop = torch.as_tensor(stop).cpu()
        if stop.shape != step.ended.shape or stop.dtype != torch.bool:
            where, expected = f"{self._model.name}.generate, stop", f"bool [{len(self.tokens)}]"
            got = f"{stop.dtype} {list(stop.shape)}"
            raise InputError(explain(where=where, expected=expected, got=got))
        new = stop & ~self.ended
        tokens = step.tokens.where(~new, end_of(self._model))
        ended = step.ended | stop
        return replace(step, tokens=tokens, ended=ended, texts=self._pieces(tokens, ended, final))

    def take(self, step: Step) -> None:
        """Notes what the step said."""
        self.read = self.tokens.shape[1]
        new = step.tokens[:, None].to(self.tokens.device)
        self.tokens = torch.cat([self.tokens, new], dim=1)
        self._kept += ~step.ended
        self.ended = step.ended
        self._said = [said + text for said, text in zip(self._said, step.texts, strict=True)]

    def _pieces(self, new: Tensor, ended: Tensor, final: bool) -> list[str]:
        """What each row's text becomes longer by."""
        pieces = []
        for index, said in enumerate(self._said):
            ids = self.tokens[index, self._prompt : self._prompt + int(self._kept[index])].cpu()
            text = decoded(self._model, ids if ended[index] else torch.cat([ids, new[index, None]]))
            cut = text.endswith("\ufffd") and not (final or ended[index])  # lacks more tokens
            pieces.append("" if cut else text[len(said) :])
        return pieces


def plan_of(
    model: "Model", tokens: Tensor, sites: str | Sequence[str], edits: Sequence[Edit]
) -> Plan:
    """The plan of every step.

    One token is run first where sites are asked for: it fails for those that are not called once
    in a forward, and finds those that the model changes in place after they were read.
    """
    names = model.sites.select([sites] if isinstance(sites, str) else list(sites)) if sites else []
    for name in names:
        axes = model.sites[name].axes
        if name.startswith("cache.") or (axes and _token_axis(axes) is None):
            expected, got = "sites of the tokens of one step", f"[{' '.join(axes)}]"
            where = f"{model.name}.generate, {name}"
            raise SiteError(explain(where=where, expected=expected, got=got))
    if names:
        model.run(tokens[:1, -1:], sites=names, logits=False)
    return model.plan(names, edits)


def activations_of(
    model: "Model", plan: Plan, session: Session, count: int, *, static: bool
) -> dict[str, Tensor]:
    """What was read of the last `count` tokens."""
    found = {}
    for name in plan.reads:
        x, axes = session.values[name], model.sites[name].axes
        axis = _token_axis(axes)
        whole = axis is None or x.shape[axis] == count
        x = x if whole else x.narrow(axis or 0, x.shape[axis or 0] - count, count)
        # A static cache is written over, and a part would keep the whole text alive.
        found[name] = x.clone() if static or not whole else x
    return found


def _token_axis(axes: tuple[str, ...]) -> int | None:
    return next((axes.index(each) for each in ("position", "query") if each in axes), None)


def lean(step: Step, *, logits: bool = False) -> Step:
    """A step to keep: without activations, and without logits if they are not asked for."""
    return replace(step, activations={}, logits=step.logits if logits else step.logits.new_empty(0))


def ends_of(model: "Model") -> Tensor:
    """Ids that end a row."""
    config = getattr(model.module, "generation_config", None)
    ends = getattr(config, "eos_token_id", None)
    ends = model.config.eos_token_id if ends is None else ends
    listed = [] if ends is None else ends if isinstance(ends, list) else [ends]
    return torch.tensor(listed, dtype=torch.long)


def end_of(model: "Model") -> Tensor:
    """What ends a row that is stopped: an end of sequence, or filler where a model knows none."""
    ends = ends_of(model)
    return ends[0] if len(ends) else _filler(model)


def _filler(model: "Model") -> Tensor:
    ends = ends_of(model)
    sources = (model.tokenizer, getattr(model.module, "generation_config", None), model.config)
    named = (getattr(source, "pad_token_id", None) for source in sources)
    padding = next((each for each in named if each is not None), None)
    return torch.tensor(padding if padding is not None else int(ends[0]) if len(ends) else 0)


def decoded(model: "Model", ids: Tensor) -> str:
    """The text of ids."""
    if model.tokenizer is None:
        return " ".join(str(int(each)) for each in ids)
    return str(model.tokenizer.decode(ids))
