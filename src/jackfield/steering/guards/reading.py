"""Prompts as a generation reads them, so that a fit sees the tokens that a guard will see.

A chat is open for its answer: its last token is the one from which the answer begins.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from jackfield.core.errors import InputError, SiteError, explain
from jackfield.model.generation import prompt_of
from jackfield.steering.contrast import Pooling
from jackfield.steering.guards.scorer import Places, Scorer, rows_of

if TYPE_CHECKING:
    from jackfield.model.model import Model

_TEXTS = 16  # in one forward


def read_prompts(
    model: "Model", prompts: Any, sites: Sequence[str], where: str
) -> Iterator[tuple[dict[str, Tensor], Bool[Tensor, "text position"]]]:
    """What a model reads of prompts, some at a time, padded on the left.

    Args:
        model: a language model.
        prompts: as `model.generate` takes them.
        sites: each [batch, position, d].
        where: who asks, for errors.

    Raises:
        InputError: no prompts.
        SiteError: a site of another shape.
    """
    for site in sites:
        _check_site(model, site)
    listed = checked_prompts(model, prompts, where)
    for start in range(0, len(listed), _TEXTS):
        made = prompt_of(model, listed[start : start + _TEXTS])
        assert made.tokens is not None
        assert made.mask is not None
        call = {"input_ids": made.tokens, "attention_mask": made.mask.long()}
        run = model.run(call, sites=list(sites), logits=False)
        yield {site: run[site] for site in sites}, made.mask.cpu()


def checked_prompts(model: "Model", prompts: Any, where: str) -> Any:
    """Prompts as a sequence.

    Raises:
        InputError: there are none.
    """
    listed = [prompts] if isinstance(prompts, str) else prompts
    if not len(listed):
        raise InputError(explain(where=f"{model.name}, {where}", expected="texts", got="none"))
    return listed


def pooled(
    model: "Model", prompts: Any, at: str, tokens: Pooling, where: str
) -> Float[Tensor, "text d"]:
    """One vector a prompt in float64: its last token, or the mean of its tokens without sinks.

    Raises:
        InputError: no prompts, or one of sinks only.
        ModelError: activations that are not finite.
    """
    found = []
    for read, mask in read_prompts(model, prompts, [at], where):
        kept = Places(len(mask), model.sinks).kept(mask)
        if not bool(kept.any(dim=1).all()):
            expected, hint = "a token to read in each text", "Sinks, such as the first, are not."
            raise InputError(
                explain(where=f"{model.name}, {where}", expected=expected, got="none", hint=hint)
            )
        x = rows_of(read, at, kept, read[at].shape[-1]).double()
        if tokens == "last":
            newest = torch.arange(kept.shape[1]).where(kept, -1).amax(dim=1)
            found.append(x[torch.arange(len(x)), newest])
        else:
            found.append(x.sum(dim=1) / kept.sum(dim=1)[:, None])
    return torch.cat(found)


def prompt_scores(model: "Model", scorer: Scorer, prompts: Any) -> Float[Tensor, "text"]:  # noqa: F821
    """A scorer's score of each prompt, as a guard has it before the first new token.

    Args:
        model: a language model.
        scorer: any scorer.
        prompts: as `model.generate` takes them.
    """
    parts = read_prompts(model, prompts, scorer.sites, type(scorer).__name__)
    return torch.cat([scorer.begin(len(mask)).update(read, mask) for read, mask in parts])


def _check_site(model: "Model", at: str) -> None:
    site = model.sites[at]
    if site.axes[:2] != ("batch", "position") or len(site.axes) != 3 or site.role == "logits":
        expected = "a site [batch, position, d], such as layers.15.resid_post"
        got = f"[{' '.join(site.axes)}]"
        raise SiteError(explain(where=f"{model.name}, {at}", expected=expected, got=got))
