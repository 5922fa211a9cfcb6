"""What a model holds and says at the last token of prompts, where the answer is made.

Only that token is unembedded: with a large vocabulary the rest of the head's work is for nothing.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from jackfield.core.errors import InputError, explain
from jackfield.edits import Edit
from jackfield.reports.intervals import mean_interval

if TYPE_CHECKING:
    from jackfield.model.model import Model

_PROMPTS = 16  # in one forward


def calls(model: "Model", prompts: Any, *, where: str) -> Iterator[dict[str, Tensor]]:
    """The prompts in batches, padded on the left so that the last token is at place −1.

    Raises:
        InputError: there are none.
    """
    listed = [prompts] if isinstance(prompts, str) else prompts
    if not len(listed):
        raise InputError(explain(where=where, expected="at least one prompt", got="none"))
    for start in range(0, len(listed), _PROMPTS):
        made = model.inputs(listed[start : start + _PROMPTS], padding="left", answer=True)
        assert made.tokens is not None
        assert made.mask is not None
        yield {"input_ids": made.tokens, "attention_mask": made.mask.long()}


def read_last(
    model: "Model",
    prompts: Any,
    sites: Sequence[str],
    edits: Sequence[Edit] = (),
    *,
    where: str = "prompts",
) -> dict[str, Float[Tensor, "prompt *rest"]]:  # noqa: F821
    """{site: [prompt, ...]} float64 on the CPU, at the last token.

    Raises:
        InputError: no prompts, or numbers that are not finite.
    """
    found: dict[str, list[Tensor]] = {site: [] for site in sites}
    for call in calls(model, prompts, where=f"{model.name}, {where}"):
        run = model.run(call, sites=list(sites), edits=edits, logits=False)
        for site, kept in found.items():
            kept.append(run[site][:, -1].cpu().double())
    read = {site: torch.cat(kept) for site, kept in found.items()}
    for site, x in read.items():
        check_finite(x, where=f"{model.name}, {where}, {site}")
    return read


def last_logits(
    model: "Model", prompts: Any, edits: Sequence[Edit] = (), *, where: str = "prompts"
) -> Float[Tensor, "prompt vocab"]:
    """The logits of the token after each prompt, float32 on the CPU.

    Raises:
        InputError: as `read_last`.
    """
    final = f"layers.{model.n_layers - 1}.resid_post"
    stream = read_last(model, prompts, [final], edits, where=where)[final]
    rows = stream.to(device=model.device, dtype=model.dtype).split(_PROMPTS)
    return torch.cat([model.unembed(part).detach().float().cpu() for part in rows])


def answered(
    model: "Model", prompts: Any, answers: Sequence[int], edits: Sequence[Edit] = ()
) -> Bool[Tensor, " prompt"]:
    """Whether the likeliest token of the whole vocabulary is the answer."""
    return last_logits(model, prompts, edits).argmax(dim=-1) == torch.tensor(answers)


def check_finite(x: Tensor, *, where: str) -> None:
    """Raises an InputError if there is a NaN or Inf."""
    if not bool(torch.isfinite(x).all()):
        raise InputError(explain(where=where, expected="finite activations", got="NaN or Inf"))


def gain_interval(
    after: Bool[Tensor, " item"], before: Bool[Tensor, " item"], seed: int = 0
) -> tuple[float, float]:
    """The 95 % bootstrap interval of the gain in accuracy, over the same items."""
    return mean_interval(after.double() - before.double(), seed)
