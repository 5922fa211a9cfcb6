"""Function vector: what the heads that carry a task write, added where there are no examples of it.

    ā_lj = mean over prompts that show the task of z_lj at the last token           [d_head]
    CIE_lj = mean over prompts that show it wrongly of p(y | z_lj := ā_lj) − p(y)
    v = Σ ā_lj W_O^(lj)                   over the `heads` with the largest CIE     [d]
    resid_post ← resid_post + v           at layer ≈ L/3, last token, zero-shot

Shown wrongly: the same demonstrations with their answers in other places, so that a head which
brings the answer back carries the task and not the words. Todd et al. 2023 (arXiv 2310.15213).

Departures: none in the formulas. The paper's ten heads are for GPT-J (448 heads); larger models
had more there. Only the heads' product with W_O is summed, so biases and a norm after attention
(post-norm) are left out, which is the paper's definition where there are none.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from jackfield.core.config import config, setting, to_json
from jackfield.core.errors import InputError, SiteError, explain
from jackfield.core.fitted import Method
from jackfield.model.readers import linear_readers, matrix
from jackfield.steering.behaviours import word_ids
from jackfield.steering.tasks.function_direction import FunctionDirection, TaskHead
from jackfield.steering.tasks.indirect_effect import indirect_effects, strongest
from jackfield.steering.tasks.last_token import read_last

if TYPE_CHECKING:
    from jackfield.model.model import Model


@config
class FunctionVector(Method):
    """The sum of what the heads with the largest indirect effect write.

    Attributes:
        heads: how many.
        acts: on which tokens the vector is added: "last", as published, or another `where`.

    >>> from jackfield.testing import tiny_world
    >>> world = tiny_world()
    >>> sides = {"positive": world.tokens, "negative": world.other}
    >>> found = FunctionVector(heads=2).fit(world.model, **sides, answers=world.tokens[:, 0])
    >>> found.at, len(found.heads)
    ('layers.1.resid_post', 2)
    """

    heads: int = setting(default=10, ge=1)
    acts: str = "last"

    def fit(
        self,
        model: "Model",
        *,
        positive: Any,
        negative: Any,
        answers: Sequence[str | int] | Int[Tensor, " prompt"],
        at: str | None = None,
        progress: bool = False,
    ) -> FunctionDirection:
        """Measures every head, and sums the strongest.

        Args:
            model: a language model with attention heads.
            positive: prompts that show the task: texts, or token ids [prompt, position].
            negative: prompts that show it wrongly.
            answers: the right next token of each negative prompt: a token id, or a text of one
                token with its space.
            at: a site [batch, position, d] to add the vector at; a third of the way up if not
                given.
            progress: show a live line.

        Raises:
            InputError: no prompts, a number of answers that does not fit, an answer of several
                tokens, more heads than there are, or activations that are not finite.
            SiteError: a site of another shape, or a model without heads.
        """
        site = task_site(model, at)
        z = [f"layers.{layer}.z" for layer in range(model.n_layers)]
        read = read_last(model, positive, [*z, site], where="positive")
        means = torch.stack([read[name].mean(dim=0) for name in z])
        if self.heads > means.shape[0] * means.shape[1]:
            got = f"{means.shape[0] * means.shape[1]} in {model.name}"
            expected = f"a model of at least {self.heads} heads"
            raise InputError(explain(where="FunctionVector", expected=expected, got=got))
        ids = torch.cat([word_ids(model, [each]) for each in _listed(answers)])
        effects = indirect_effects(model, negative, ids, means, progress=progress).mean(dim=0)
        chosen = strongest(effects, self.heads)
        written = {layer: written_by(model, layer, means[layer]) for layer, _ in chosen}
        vector = torch.stack([written[layer][head] for layer, head in chosen]).sum(dim=0)
        return function_direction(
            self, model, vector, site, read[site], self.acts, (len(positive), len(negative)),
            heads=tuple(TaskHead(i, j, float(effects[i, j])) for i, j in chosen),
            effects=effects.float(),
        )  # fmt: skip


def written_by(
    model: "Model", layer: int, z: Float[Tensor, "*rows head d_head"]
) -> Float[Tensor, "*rows head d"]:
    """What each head adds to the stream, z_j W_O^(j); the bias belongs to no head. float64.

    Raises:
        SiteError: attention's output is no linear projection of the heads.
    """
    (module,) = linear_readers(model, f"layers.{layer}.z").values()
    parts = matrix(module).double().cpu().unflatten(1, z.shape[-2:])
    return torch.einsum("...jk,djk->...jd", z.double(), parts)


def task_site(model: "Model", at: str | None) -> str:
    """Where a function vector is added: a third of the way up, or the one site asked for.

    Raises:
        SiteError: several sites, or one without a residual stream.
    """
    names = model.sites.select(at or f"layers.{model.n_layers // 3}.resid_post")
    axes = model.sites[names[0]].axes
    if len(names) > 1 or len(axes) != 3 or axes[:2] != ("batch", "position"):
        got = f"{len(names)} sites [{' '.join(axes)}]"
        expected = "one site [batch, position, d], such as layers.9.resid_post"
        raise SiteError(explain(where=f"{model.name}, {at}", expected=expected, got=got))
    return names[0]


def function_direction(
    method: Method,
    model: "Model",
    vector: Tensor,
    site: str,
    read: Float[Tensor, "prompt d"],
    acts: str,
    counts: tuple[int, int],
    **found: Any,
) -> FunctionDirection:
    """The fitted object, with the length and the spread of the activation `read` at its site.

    Raises:
        InputError: the vector is nothing.
    """
    length = vector.norm()
    if not bool(length > 0):
        where, expected = f"{model.name}, {site}", "prompts that differ from those without the task"
        raise InputError(explain(where=where, expected=expected, got="a vector of length 0"))
    return FunctionDirection(
        vector=vector.float(),
        at=site,
        acts=acts,
        method={"name": type(method).__name__, **to_json(method)},
        model=model.name,
        counts=counts,
        residual_norm=float(read.norm(dim=-1).mean()),
        sigma=float((read @ (vector / length)).std()) if len(read) > 1 else None,
        **found,
    )


def _listed(answers: Any) -> list[str | int]:
    return answers.tolist() if isinstance(answers, Tensor) else list(answers)
