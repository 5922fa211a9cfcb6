"""ReFT-r1: one direction, learned to steer and to detect at once.

    a_i = max(h_i·w, 0)        ‖w‖ = 1, i the tokens of a text
    h_i + (mean of the k largest a) w                              while it is learned
    loss = mean −log p of the texts' tokens + λ t Σ_{i not of the k largest} a_i / n

t goes from 0 to 1 during the descent and n is the number of tokens, so that few tokens are left
that have the concept. Once learned, the direction is added with the mean size that it had.

Wu et al. 2025, AxBench (arXiv 2501.17148), and its code, which like ours ramps λ up and learns of
texts that have the concept only. Departures: w is divided by its length where the code normalises
after the fact; it starts at random where the code starts with equal numbers, turned so that the
texts' activations lie on its positive side; no noise is added to the activations. That the penalty
is divided by n is our reading.
"""

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from jackfield.core.config import config, setting, to_json
from jackfield.core.errors import InputError, explain
from jackfield.core.fitted import Method
from jackfield.core.where import Where
from jackfield.edits import Add, Edit
from jackfield.steering.axes.reading import one_site
from jackfield.steering.guards.rates import Auroc
from jackfield.steering.reft.answers import edited_tokens
from jackfield.steering.reft.descent import Learned, Lessons, descend
from jackfield.steering.reft.latent_direction import LatentDirection
from jackfield.steering.reft.sides import Sides, sides

if TYPE_CHECKING:
    from jackfield.model.model import Model


@config
class ReFTr1(Method):
    """A direction that is learned to steer and to detect.

    Attributes:
        active: k, the tokens of a text that may have the concept at no cost.
        sparse: λ, of the latents of all others.
        steps: of the descent.
        rate: of its first step.
        batch: texts a step.
        where: which tokens are read and edited, of those that are no sinks.
        seed: of the start and of the order of the texts.

    >>> from jackfield.testing import tiny_world
    >>> world = tiny_world()
    >>> found = ReFTr1(steps=5).fit(world.model, positive=world.tokens, at=world.site)
    >>> found.learned.said[1] < found.learned.said[0]
    True
    """

    active: int = setting(default=8, ge=1)
    sparse: float = setting(default=0.005, ge=0)
    steps: int = setting(default=60, ge=1)
    rate: float = setting(default=0.01, gt=0)
    batch: int = setting(default=8, ge=1)
    where: str | int | tuple[int, ...] = "all"
    seed: int = 0

    def fit(
        self,
        model: "Model",
        *,
        positive: Any,
        negative: Any = None,
        prompts: Any = None,
        at: str,
        progress: bool = False,
    ) -> LatentDirection:
        """Learns the direction.

        Args:
            model: the model to steer; its weights stay as they are.
            positive: texts to say: strings, or token ids [text, position].
            negative: texts of the other kind; nothing is learned from them, what becomes of them
                is measured.
            prompts: strings, chats or token ids that the texts of both sides are the answers to,
                as many as there are on each.
            at: a site [batch, position, d] such as layers.15.resid_post.
            progress: show a live line.

        Raises:
            InputError: no texts, one without a token to say, not as many prompts, sides that do
                not differ, or a latent that ends as 0 on all texts.
            SiteError: a site of another shape, or several.
        """
        given = sides(model, positive, negative, prompts, one_site(model, at))
        latent = _Latent(given.lessons, edited_tokens(model, self.where, prompts), self.active)
        w = latent.start(self.seed).requires_grad_()
        losses = descend(
            given.lessons, [w],
            lambda rows, done: latent.attempt(normalize(w, dim=0), rows, self.sparse * done),
            steps=self.steps, rate=self.rate, batch=self.batch, seed=self.seed, progress=progress,
        )  # fmt: skip
        return self._fitted(given, latent, normalize(w.detach(), dim=0), losses)

    def _fitted(
        self, given: Sides, latent: "_Latent", w: Tensor, losses: tuple[float, ...]
    ) -> LatentDirection:
        every = torch.arange(len(given.lessons.answers))
        size, site = float(latent.sizes(w, every).mean()), given.sites[0]
        if not size > 0:
            where, got = f"{given.lessons.model.name}, {site}", "0 on all texts"
            hint = "Take another seed, or a smaller rate."
            raise InputError(
                explain(where=where, expected="a latent that acts", got=got, hint=hint)
            )
        said, unsaid = given.before_and_after([Add(size * w, at=site, where=latent.rule)])
        told = None
        if given.other is not None:
            told = _told(w, latent, _Latent(given.other, latent.rule, self.active))
        norm, name = given.norm(latent.rule), given.lessons.model.name
        learned = Learned(losses, said, unsaid)
        return LatentDirection(
            w.float().cpu(), size, site, to_json(self), name, given.counts, norm, told, learned
        )


def _told(w: Tensor, *both: "_Latent") -> float | None:
    """How well the largest latents tell two sides apart; None where a text has none."""
    if not all(bool(side.read.any(dim=1).all()) for side in both):
        return None
    return Auroc.of(*(side.largest(w) for side in both)).value


class _Latent:
    """The latents of some texts for a direction w, and the edits that they make."""

    def __init__(self, lessons: Lessons, rule: Where, active: int) -> None:
        self.lessons, self.rule, self.active = lessons, rule, active
        chosen = lessons.answers.chosen(rule, lessons.model.sinks)
        self.chosen = chosen.to(lessons.values.device)
        self.site = lessons.site

    def start(self, seed: int) -> Float[Tensor, "d"]:  # noqa: F821
        x = self.lessons.values
        draw = torch.Generator().manual_seed(seed)
        dtype = torch.promote_types(x.dtype, torch.float32)
        w = normalize(torch.randn(x.shape[-1], generator=draw, dtype=dtype), dim=0).to(x.device)
        return -w if float((x[self.chosen].to(dtype) @ w).mean()) < 0 else w

    def latents(self, w: Tensor, rows: Tensor) -> Float[Tensor, "row position"]:
        """A of each token; 0 where nothing is edited."""
        return (self.lessons.values[rows].to(w.dtype) @ w).relu() * self.chosen[rows]

    @property
    def read(self) -> Bool[Tensor, "text position"]:
        """Those of the tokens to say that are chosen; a prompt's say nothing of the sides."""
        return self.chosen & self.lessons.answers.said.to(self.chosen.device)

    def largest(self, w: Tensor) -> Float[Tensor, " text"]:
        """The largest a of the tokens that are read."""
        return (self.latents(w, torch.arange(len(self.chosen))) * self.read).amax(dim=1)

    def sizes(self, w: Tensor, rows: Tensor) -> Float[Tensor, " row"]:
        """The mean of the k largest a of each text, of all where there are fewer."""
        return self._top(self.latents(w, rows)).sum(dim=1) / self._counted(rows)

    def attempt(self, w: Tensor, rows: Tensor, sparse: float) -> tuple[list[Edit], Tensor]:
        """The edit of some texts, and the penalty."""
        a = self.latents(w, rows)
        top = self._top(a)
        size = top.sum(dim=1) / self._counted(rows)
        rest = (a.sum(dim=1) - top.sum(dim=1)) / self.chosen[rows].sum(dim=1).clamp(min=1)
        width = int(self.lessons.answers.mask[rows].sum(dim=1).max())
        added = (size[:, None] * w)[:, None].expand(-1, width, -1)
        return [Add(added, at=self.site, where=self.rule)], sparse * rest.mean()

    def _top(self, a: Tensor) -> Float[Tensor, "row k"]:
        return a.topk(min(self.active, a.shape[1]), dim=1).values

    def _counted(self, rows: Tensor) -> Tensor:
        return self.chosen[rows].sum(dim=1).clamp(min=1, max=self.active)
