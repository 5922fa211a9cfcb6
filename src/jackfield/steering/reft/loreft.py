"""LoReFT: a low-rank affine map of the activation, learned from what the model is to say.

    h + Rᵀ (W h + b − R h)          R [rank, d] with R Rᵀ = 1,  W [rank, d],  b [rank]

In the subspace that R spans the activation becomes W h + b; what is orthogonal to it stays. R, W
and b descend the mean −log p of the texts' tokens; R stays orthonormal, as it is parametrised.

Wu et al. 2024, arXiv 2404.03592, where the first and last p tokens of a prompt are edited, at some
layers: `where=first_and_last(p)` with prompts. Departures: all tokens but the sinks by default, so
that texts without prompts will do and a dose means what it means for other methods; W = R and b = 0
at the start, so that learning begins at the plain model; no dropout.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

from jackfield.core.config import config, setting, to_json
from jackfield.core.errors import InputError, explain
from jackfield.core.fitted import Method
from jackfield.core.where import Where
from jackfield.edits import Edit
from jackfield.steering.reft.answers import edited_tokens
from jackfield.steering.reft.descent import Learned, descend
from jackfield.steering.reft.low_rank import LowRank
from jackfield.steering.reft.low_rank_maps import LowRankMap, LowRankMaps
from jackfield.steering.reft.sides import Sides, sides

if TYPE_CHECKING:
    from jackfield.model.model import Model


@config
class LoReFT(Method):
    """A learned low-rank map at one site or several.

    Attributes:
        rank: directions that are edited at each site.
        steps: of the descent.
        rate: of its first step.
        batch: texts a step.
        where: which tokens are edited, of those that are no sinks; `first_and_last(p)` as in the
            paper, which needs prompts.
        seed: of the start and of the order of the texts.

    >>> from jackfield.testing import tiny_world
    >>> world = tiny_world()
    >>> found = LoReFT(rank=2, steps=5).fit(world.model, positive=world.tokens, at=world.site)
    >>> found.learned.said[1] < found.learned.said[0]
    True
    """

    rank: int = setting(default=4, ge=1)
    steps: int = setting(default=60, ge=1)
    rate: float = setting(default=0.004, gt=0)
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
        at: str | Sequence[str],
        progress: bool = False,
    ) -> LowRankMaps:
        """Learns the maps of all sites together.

        Args:
            model: the model to steer; its weights stay as they are.
            positive: texts to say: strings, or token ids [text, position].
            negative: texts of the other kind; nothing is learned from them, what becomes of them
                is measured.
            prompts: strings, chats or token ids that the texts of both sides are the answers to,
                as many as there are on each.
            at: a site [batch, position, d] such as layers.15.resid_post, or several.
            progress: show a live line.

        Raises:
            InputError: no texts, one without a token to say, not as many prompts, sides that do
                not differ, or a rank beyond the site's width.
            SiteError: a site of another shape.
        """
        given = sides(model, positive, negative, prompts, at)
        rule = edited_tokens(model, self.where, prompts)
        turns = self._turns(given)
        losses = descend(
            given.lessons, [p for turn in turns.values() for p in turn.parameters()],
            lambda rows, done: (_edits(turns, rule), None), steps=self.steps, rate=self.rate,
            batch=self.batch, seed=self.seed, progress=progress,
        )  # fmt: skip
        with torch.no_grad():
            said, unsaid = given.before_and_after(_edits(turns, rule))
            maps = {site: turn.fixed() for site, turn in turns.items()}
        learned = Learned(losses, said, unsaid)
        return LowRankMaps(maps, to_json(self), model.name, given.counts, learned)

    def _turns(self, given: Sides) -> dict[str, "_Turn"]:
        draw = torch.Generator().manual_seed(self.seed)
        width = given.lessons.values.shape[-1]
        if self.rank > width:
            where, expected = f"LoReFT at {given.sites[0]}", f"a rank of at most {width}"
            raise InputError(explain(where=where, expected=expected, got=f"{self.rank}"))
        dtype = torch.promote_types(given.lessons.values.dtype, torch.float32)
        basis = [torch.randn(width, self.rank, generator=draw, dtype=dtype) for _ in given.sites]
        return {s: _Turn(torch.linalg.qr(b).Q.T) for s, b in zip(given.sites, basis, strict=True)}


class _Turn(nn.Module):
    """What is learned at one site; `basis` is orthonormal whatever is learned."""

    basis: Tensor

    def __init__(self, basis: Tensor) -> None:
        super().__init__()
        self.basis = nn.Parameter(basis.contiguous())
        self.source = nn.Parameter(basis.clone())
        self.bias = nn.Parameter(torch.zeros(len(basis), dtype=basis.dtype))
        orthogonal(self, "basis", "householder", use_trivialization=False)

    def fixed(self) -> LowRankMap:
        held = (self.basis, self.source, self.bias)
        return LowRankMap(*(each.detach().clone().float() for each in held))


def _edits(turns: dict[str, _Turn], rule: Where) -> list[Edit]:
    return [
        LowRank(turn.basis, turn.source, turn.bias, at=site, where=rule)
        for site, turn in turns.items()
    ]
