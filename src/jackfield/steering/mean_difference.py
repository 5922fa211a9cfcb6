"""Mean difference: the direction from texts without a property to texts with it.

    v = mean_i x̄⁺_i − mean_i x̄⁻_i            x̄_i [d]: the activation at a site, one vector a text

Each text counts once: its tokens are averaged first ("all"), or its last one is taken. Also known
as difference in means and contrastive activation addition (Turner et al. 2023, arXiv 2308.10248;
Rimsky et al. 2023, 2312.06681); projected out of every layer it is directional ablation (Arditi
et al. 2024, 2406.11717).

How much the direction can be trusted is measured on what it was not fitted on, over random halves
of the texts (pairs stay together when both sides have as many):

    d′ = (mean⁺ − mean⁻) / √(½ (var⁺ + var⁻))    of the held-out half along the other half's v
    cosine between the directions of the two halves

In the sample itself d′ would be large for any split of a few texts in hundreds of dimensions.

Sinks are left out: position 0 of SmolLM2 is a hundred times as long as the rest, and a mean that
includes it is a statement about the sink.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from jackfield.core.config import config, setting, to_json
from jackfield.core.errors import InputError, SiteError, explain
from jackfield.core.fitted import Method
from jackfield.core.progress import Progress
from jackfield.steering.cost import chosen_tokens, sinks_in
from jackfield.steering.steering_vector import SteeringVector, TokensRead

if TYPE_CHECKING:
    from jackfield.model.model import Model

_TEXTS = 16  # in one forward
_SHOWN = 3  # texts a side whose tokens are kept for the report
_FEWEST = 4  # texts a side that can be halved with a variance in each half


@config
class MeanDifference(Method):
    """The difference of mean activations on contrastive texts.

    Attributes:
        tokens: what stands for a text: the mean of its tokens ("all") or its last one ("last"),
            of those that `where` chooses.
        where: which tokens may be read.
        splits: random halvings for d′ and the cosine.
        seed: of the halvings.

    >>> from jackfield.testing import tiny_world
    >>> world = tiny_world()
    >>> sides = {"positive": world.tokens, "negative": world.other}
    >>> found = MeanDifference().fit(world.model, **sides, at="layers.1.resid_post")
    >>> found.vector.shape, found.counts
    (torch.Size([32]), (24, 24))
    """

    tokens: Literal["all", "last"] = "all"
    where: str | int | tuple[int, ...] = "~sinks"
    splits: int = setting(default=20, ge=1)
    seed: int = 0

    def fit(
        self, model: "Model", *, positive: Any, negative: Any, at: str, progress: bool = False
    ) -> SteeringVector:
        """Fits the direction at one site.

        Args:
            model: the model to steer.
            positive: texts that have the property: strings, chats, or token ids [text, position].
            negative: texts that have not. The same number, in pairs, is best but not needed.
            at: a site [batch, position, d] such as layers.15.resid_post.
            progress: show a live line.

        Raises:
            InputError: no texts, a text without a token to read, or sides that do not differ.
            SiteError: a site of another shape, or several.
        """
        site = _site(model, at)
        sides = [[given] if isinstance(given, str) else given for given in (positive, negative)]
        with Progress("reading", total=sum(map(len, sides)), unit="texts", enabled=progress) as p:
            plus, minus = (
                self._read(model, side, site, name, p)
                for side, name in zip(sides, ("positive", "negative"), strict=True)
            )
        vector = difference(plus.texts, minus.texts)
        if not bool(vector.norm() > 0):
            raise InputError(
                explain(where=site, expected="sides whose means differ", got="equal means")
            )
        d_prime, cosine = _held_out(plus.texts, minus.texts, self.splits, self.seed)
        unit = vector / vector.norm()
        middle = float((plus.texts.mean(0) + minus.texts.mean(0)) @ unit / 2)
        return SteeringVector(
            vector=vector.float(),
            at=site,
            method={"name": type(self).__name__, **to_json(self)},
            model=model.name,
            counts=(len(plus.texts), len(minus.texts)),
            tokens_read=plus.tokens + minus.tokens,
            sinks=sinks_in(model, self.where),
            residual_norm=(plus.norms + minus.norms) / (plus.tokens + minus.tokens),
            d_prime=d_prime,
            cosine=cosine,
            shown=tuple(
                TokensRead(
                    side, strings, tuple(((x @ unit) - middle).tolist()), tuple(read.tolist())
                )
                for side, held in (("positive", plus), ("negative", minus))
                for strings, x, read in held.shown
            ),
        )

    def _read(
        self, model: "Model", texts: Sequence[Any], site: str, side: str, progress: Progress
    ) -> "_Read":
        if not len(texts):
            where = f"{model.name}, {side} texts"
            raise InputError(explain(where=where, expected="at least one", got="none"))
        read = _Read()
        for start in range(0, len(texts), _TEXTS):
            part = texts[start : start + _TEXTS]
            run = model.run(part, sites=[site], logits=False)
            assert run.tokens is not None
            assert run.mask is not None
            chosen = chosen_tokens(model, run, self.where)
            x, chosen, mask = run[site].cpu().double(), chosen.cpu(), run.mask.cpu()
            _check(x, mask, chosen, first=start, where=f"{model.name}, {side} texts")
            read.add(x, chosen, self.tokens)
            for row in range(min(len(x), _SHOWN - len(read.shown))):
                real = mask[row]
                strings = tuple(model.token_strings(run.tokens[row].cpu()[real]))
                read.shown.append((strings, x[row, real], chosen[row, real]))
            progress.update(len(part))
        return read


class _Read:
    """What was read of one side."""

    def __init__(self) -> None:
        self.rows: list[Tensor] = []
        self.tokens, self.norms = 0, 0.0
        self.shown: list[tuple[tuple[str, ...], Tensor, Tensor]] = []

    def add(
        self,
        x: Float[Tensor, "text position d"],
        chosen: Bool[Tensor, "text position"],
        tokens: str,
    ) -> None:
        """Takes in a batch of texts."""
        if tokens == "last":
            place = torch.arange(x.shape[1]).where(chosen, -1).amax(dim=1)
            chosen = torch.zeros_like(chosen).scatter_(1, place[:, None], True)
        weights = chosen.double()[..., None]
        self.rows.append((x * weights).sum(dim=1) / weights.sum(dim=1))
        self.tokens += int(chosen.sum())
        self.norms += float(x[chosen].norm(dim=-1).sum())

    @property
    def texts(self) -> Float[Tensor, "text d"]:
        """One vector a text."""
        return torch.cat(self.rows)


def difference(plus: Float[Tensor, "text d"], minus: Float[Tensor, "text d"]) -> Float[Tensor, "d"]:  # noqa: F821
    """mean⁺ − mean⁻."""
    return plus.mean(dim=0) - minus.mean(dim=0)


def _held_out(
    plus: Tensor, minus: Tensor, splits: int, seed: int
) -> tuple[float | None, float | None]:
    """Mean d′ on held-out halves and mean cosine between halves; None with too few texts."""
    if min(len(plus), len(minus)) < _FEWEST:
        return None, None
    generator = torch.Generator().manual_seed(seed)
    d_primes, cosines = [], []
    for _ in range(splits):
        order = torch.randperm(len(plus), generator=generator)
        paired = len(plus) == len(minus)
        other = order if paired else torch.randperm(len(minus), generator=generator)
        a, b = _halves(plus, order), _halves(minus, other)
        v = [difference(a[half], b[half]) for half in (0, 1)]
        cosines.append(torch.cosine_similarity(v[0], v[1], dim=0))
        d_primes += [_d_prime(a[half] @ v[1 - half], b[half] @ v[1 - half]) for half in (0, 1)]
    return float(torch.stack(d_primes).mean()), float(torch.stack(cosines).mean())


def _halves(x: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    half = len(x) // 2
    return x[order[:half]], x[order[half:]]


def _d_prime(plus: Tensor, minus: Tensor) -> Tensor:
    return (plus.mean() - minus.mean()) / ((plus.var() + minus.var()) / 2).sqrt()


def _site(model: "Model", at: str) -> str:
    site = model.sites[at]
    inside = site.layer is not None or site.role == "embed"
    if site.axes[:2] != ("batch", "position") or len(site.axes) != 3 or not inside:
        raise SiteError(
            explain(
                where=f"{model.name}, {at}",
                expected="a site [batch, position, d] in the blocks, such as layers.15.resid_post",
                got=f"[{' '.join(site.axes)}]",
            )
        )
    return site.name


def _check(x: Tensor, mask: Tensor, chosen: Tensor, *, first: int, where: str) -> None:
    """Every text must have a token to read, and finite numbers there."""
    empty = (~chosen.any(dim=1)).nonzero().flatten()
    if len(empty):
        got = f"none in text {first + int(empty[0])} of {int(mask[empty[0]].sum())} tokens"
        hint = "Sink positions, such as the first token, are left out by default."
        raise InputError(explain(where=where, expected="a token to read", got=got, hint=hint))
    if not bool(torch.isfinite(x[chosen]).all()):
        raise InputError(explain(where=where, expected="finite activations", got="NaN or Inf"))
