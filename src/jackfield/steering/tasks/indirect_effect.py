"""The causal indirect effect of every attention head on an answer.

    CIE[prompt, layer, head] = p(answer | head's output at the last token := ā) − p(answer)

One head is replaced at a time. Nothing before the last token changes, so all but that token is run
once and kept in a cache, and each head costs one token from its layer on.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from jackfield.core.errors import InputError, explain
from jackfield.core.progress import Progress
from jackfield.edits import Replace
from jackfield.steering.tasks.last_token import calls, check_finite

if TYPE_CHECKING:
    from jackfield.model.model import Model
    from jackfield.model.run import Run

Call = dict[str, Tensor]


def indirect_effects(
    model: "Model",
    prompts: Any,
    answers: Int[Tensor, " prompt"],
    means: Float[Tensor, "layer head d_head"],
    *,
    progress: bool = False,
) -> Float[Tensor, "prompt layer head"]:
    """The effect of each head on the probability of the answers, float64.

    Args:
        model: a language model with attention heads.
        prompts: texts, or token ids [prompt, position]: the task shown wrongly.
        answers: the right answer of each.
        means: what the heads give where the task is shown rightly.
        progress: show a live line.

    Raises:
        InputError: as many answers as prompts are needed.
    """
    where = f"{model.name}, indirect effects"
    if len(answers) != len(prompts):
        got = f"{len(answers)} for {len(prompts)} prompts"
        raise InputError(explain(where=where, expected="an answer a prompt", got=got))
    found, done = [], 0
    total = means.shape[0] * means.shape[1] * len(prompts)
    with Progress("replacing", total=total, unit="heads", enabled=progress) as shown:
        for call in calls(model, prompts, where=where):
            rows = len(call["input_ids"])
            found.append(_effects(model, call, answers[done : done + rows], means, shown))
            done += rows
    effects = torch.cat(found)
    check_finite(effects, where=where)
    return effects


def _effects(
    model: "Model", call: Call, answers: Tensor, means: Tensor, shown: Progress
) -> Float[Tensor, "prompt layer head"]:
    last, past = _split(model, call)
    pre = [f"layers.{layer}.resid_pre" for layer in range(len(means))]
    plain = model.run(last, sites=pre, past=past)
    base = _probability(plain, answers)
    rows: list[Tensor] = []
    for layer, head, mean in _each(means):
        begun = {pre[layer]: plain[pre[layer]]}
        edit = Replace(mean, at=f"layers.{layer}.z[head={head}]", where="last")
        run = model.run(last, edits=[edit], past=past, start=begun)
        rows.append(_probability(run, answers) - base)
        shown.update(len(base))
    return torch.stack(rows, dim=1).unflatten(1, means.shape[:2])


def _split(model: "Model", call: Call) -> tuple[Call, Any]:
    """The last token and a cache of all before it; the whole, where there is none to make."""
    if call["input_ids"].shape[1] < 2:
        return call, None
    before = {name: x[:, :-1] for name, x in call.items()}
    past = model.run(before, cache=True).past
    return (call, None) if past is None else ({n: x[:, -1:] for n, x in call.items()}, past)


def _each(means: Tensor) -> Iterator[tuple[int, int, Tensor]]:
    for layer, heads in enumerate(means.float()):
        for head, mean in enumerate(heads):
            yield layer, head, mean


def _probability(run: "Run", answers: Tensor) -> Float[Tensor, " prompt"]:
    p = run.logits[:, -1].double().softmax(dim=-1).cpu()
    return p.gather(1, answers[:, None])[:, 0]


def strongest(effects: Float[Tensor, "layer head"], count: int) -> Sequence[tuple[int, int]]:
    """(layer, head) of the largest mean effects, the largest first."""
    order = effects.flatten().argsort(descending=True, stable=True)[:count]
    return [divmod(int(place), effects.shape[1]) for place in order]
