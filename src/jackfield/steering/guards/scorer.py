"""Scorers: what a guard watches with. One number a row after every step of a generation.

A scorer is plain data that says which sites it reads. `begin` gives a watcher, which follows the
rows of one batch from the prompt's first token to the answer's last, and keeps all that it must
remember of them: nothing is shared between two batches, two models or two rows.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from jackfield.core.errors import InputError, ModelError, explain
from jackfield.steering.contrast import Pooling


class Watcher(ABC):
    """Follows the rows of one batch."""

    @abstractmethod
    def update(
        self,
        activations: Mapping[str, Float[Tensor, "batch position d"]],
        mask: Bool[Tensor, "batch position"],
    ) -> Float[Tensor, "batch"]:  # noqa: F821
        """Takes in what a step has read, and gives each row's score by now.

        Args:
            activations: {site: the tokens that are new in this step}.
            mask: which of them are a row's own.

        Returns:
            NaN in rows that have no score yet.

        Raises:
            InputError: activations of another width.
            ModelError: activations that are not finite; a guard must not pass over them.
        """


class Scorer(ABC):
    """Scores the rows of a generation from their activations; higher is more of what is watched.

    Attributes:
        sites: what is read, each [batch, position, d].
    """

    @property
    @abstractmethod
    def sites(self) -> tuple[str, ...]:
        """What is read."""

    @abstractmethod
    def begin(self, batch: int) -> Watcher:
        """A watcher of `batch` new rows."""


@dataclass(frozen=True, eq=False)
class Projection(Scorer):
    """⟨h, w⟩ + b: how far a row's activation lies along a direction.

    Attributes:
        weight: [d] the direction w, as long as its unit asks: 1 / ‖v‖² for shares of v.
        at: the site.
        bias: b.
        tokens: "last", the newest token of the row, or "all", the mean of those so far.
        sinks: positions that are left out.

    >>> watcher = Projection(torch.tensor([1.0, 0.0]), "layers.0.resid_post").begin(batch=1)
    >>> prompt = torch.tensor([[[3.0, 9.0], [5.0, 9.0]]])
    >>> watcher.update({"layers.0.resid_post": prompt}, torch.ones(1, 2, dtype=torch.bool))
    tensor([5.])
    """

    weight: Float[Tensor, "d"]  # noqa: F821
    at: str
    bias: float = 0.0
    tokens: Pooling = "last"
    sinks: tuple[int, ...] = ()

    @property
    def sites(self) -> tuple[str, ...]:
        """The one site."""
        return (self.at,)

    def begin(self, batch: int) -> Watcher:
        """A watcher of new rows."""
        return _Projected(self, batch)


class Places:
    """Counts each row's tokens, so that sinks are known by their position."""

    def __init__(self, batch: int, sinks: tuple[int, ...]) -> None:
        self._sinks, self._seen = torch.tensor(sinks, dtype=torch.long), torch.zeros(batch)

    def kept(self, mask: Bool[Tensor, "batch position"]) -> Bool[Tensor, "batch position"]:
        """The row's own tokens that are no sinks."""
        mask = mask.cpu()
        positions = self._seen[:, None].long() + mask.long().cumsum(dim=1) - 1
        self._seen = self._seen + mask.sum(dim=1)
        return mask & ~torch.isin(positions, self._sinks)


def rows_of(
    activations: Mapping[str, Tensor], site: str, kept: Bool[Tensor, "batch position"], width: int
) -> Float[Tensor, "batch position d"]:
    """A site's activations in float32 on the CPU, 0 where no token is kept.

    Raises:
        InputError: they are of another width.
        ModelError: those of kept tokens are not finite.
    """
    x = activations[site].float().cpu()
    if x.shape[-1] != width:
        expected, got = f"activations of width {width}, as in the fit", str(x.shape[-1])
        hint = "Watch the model that this was fitted on."
        raise InputError(explain(where=f"guard, {site}", expected=expected, got=got, hint=hint))
    if not bool(torch.isfinite(x[kept]).all()):
        expected, got = "finite activations", "NaN or Inf"
        raise ModelError(explain(where=f"guard, {site}", expected=expected, got=got))
    return x.masked_fill(~kept[..., None], 0.0)


class _Projected(Watcher):
    def __init__(self, scorer: Projection, batch: int) -> None:
        self._scorer, self._places = scorer, Places(batch, scorer.sinks)
        self._sum, self._count = torch.zeros(batch), torch.zeros(batch)

    def update(self, activations: Mapping[str, Tensor], mask: Tensor) -> Float[Tensor, "batch"]:  # noqa: F821
        scorer = self._scorer
        kept = self._places.kept(mask)
        x = rows_of(activations, scorer.at, kept, len(scorer.weight))
        along = (x @ scorer.weight.float().cpu() + scorer.bias).masked_fill(~kept, 0.0)
        if scorer.tokens == "last":
            self._keep_newest(along, kept)
        else:
            self._sum = self._sum + along.sum(dim=1)
            self._count = self._count + kept.sum(dim=1)
        return self._sum / self._count  # 0 / 0 is NaN: no score yet

    def _keep_newest(self, along: Tensor, kept: Tensor) -> None:
        newest = torch.arange(kept.shape[1]).where(kept, -1).amax(dim=1)
        found = newest >= 0
        value = along.gather(1, newest.clamp(min=0)[:, None])[:, 0]
        self._sum = value.where(found, self._sum)
        self._count = torch.ones_like(self._count).where(found, self._count)
