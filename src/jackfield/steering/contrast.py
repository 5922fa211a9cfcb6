"""Contrasts: activations of texts with a property and of texts without it, one vector a text.

Shared by the methods that are fitted from two sides. Several sites are read in one pass; what is
kept is one vector a text and site, so memory grows with the texts, not with their tokens.

How far a direction can be trusted is measured on what it was not fitted on, over random halves
of the texts (pairs stay together when both sides have as many):

    d′ = (mean⁺ − mean⁻) / √(½ (var⁺ + var⁻))    of the held-out half along the other half's v
    cosine between the directions of the two halves
    pair cosine: mean cosine of each pair's difference with the mean difference

In the sample itself d′ would be large for any split of a few texts in hundreds of dimensions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from jackfield.core.errors import InputError, SiteError, explain
from jackfield.core.progress import Progress
from jackfield.steering.unsteered import chosen_tokens

if TYPE_CHECKING:
    from jackfield.model.model import Model
    from jackfield.model.run import Run

Pooling = Literal["all", "last"]
_TOKENS = 1024  # in one forward, padding and all
_SHOWN = 3  # texts a side whose tokens are kept for the report
_FEWEST = 4  # texts a side that can be halved with a variance in each half


@dataclass
class Read:
    """What was read of one side.

    Attributes:
        rows: {site: [text, d]} float64, one vector a text.
        tokens: how many tokens were read.
        norms: {site: the sum of the lengths of the activation on them}.
        shown: of some texts their tokens, {site: [token, d]}, and which were read.
    """

    rows: dict[str, Tensor] = field(default_factory=dict)
    tokens: int = 0
    norms: dict[str, float] = field(default_factory=dict)
    shown: list[tuple[tuple[str, ...], dict[str, Tensor], Tensor]] = field(default_factory=list)


@dataclass(frozen=True)
class Contrast:
    """Both sides at some sites.

    Attributes:
        sites: their names, in the order of the forward.
        positive, negative: what was read.
    """

    sites: tuple[str, ...]
    positive: Read
    negative: Read

    def sides(self, site: str) -> tuple[Float[Tensor, "text d"], Float[Tensor, "text d"]]:
        """The vectors of both sides at a site."""
        return self.positive.rows[site], self.negative.rows[site]

    @property
    def paired(self) -> bool:
        """Whether both sides have as many texts, which are then taken as pairs."""
        return len(self.positive.rows[self.sites[0]]) == len(self.negative.rows[self.sites[0]])

    @property
    def counts(self) -> tuple[int, int]:
        """Texts on the positive and on the negative side."""
        plus, minus = self.sides(self.sites[0])
        return len(plus), len(minus)

    @property
    def tokens_read(self) -> int:
        """Tokens on both sides."""
        return self.positive.tokens + self.negative.tokens

    def norm(self, site: str) -> float:
        """The mean length of the activation on the tokens read."""
        return (self.positive.norms[site] + self.negative.norms[site]) / self.tokens_read


def read_contrast(
    model: "Model",
    positive: Any,
    negative: Any,
    at: str | Sequence[str],
    *,
    tokens: Pooling = "all",
    where: Any = "~sinks",
    progress: bool = False,
) -> Contrast:
    """Reads two sides at the sites `at`.

    Args:
        model: the model to steer.
        positive: texts that have the property: strings, chats, or token ids [text, position].
        negative: texts that have not.
        at: sites [batch, position, d] in the blocks, or patterns of them.
        tokens: what stands for a text: the mean of its tokens ("all") or its last one ("last"),
            of those that `where` chooses.
        where: which tokens may be read.
        progress: show a live line.

    Raises:
        InputError: no texts, a text without a token to read, or numbers that are not finite.
        SiteError: a site of another shape.
    """
    sites = tuple(vector_site(model, name) for name in model.sites.select(at))
    sides = [[given] if isinstance(given, str) else given for given in (positive, negative)]
    with Progress("reading", total=sum(map(len, sides)), unit="texts", enabled=progress) as shown:
        plus, minus = (
            _read(model, side, sites, name, tokens, where, shown)
            for side, name in zip(sides, ("positive", "negative"), strict=True)
        )
    return Contrast(sites, plus, minus)


def difference(plus: Float[Tensor, "text d"], minus: Float[Tensor, "text d"]) -> Float[Tensor, "d"]:  # noqa: F821
    """mean⁺ − mean⁻."""
    return plus.mean(dim=0) - minus.mean(dim=0)


def pair_cosine(plus: Float[Tensor, "text d"], minus: Float[Tensor, "text d"]) -> float | None:
    """How far the pairs point the same way; None where the sides are no pairs."""
    if len(plus) != len(minus):
        return None
    pairs = plus - minus
    return float(torch.cosine_similarity(pairs, pairs.mean(dim=0, keepdim=True), dim=1).mean())


def held_out(
    plus: Float[Tensor, "text d"],
    minus: Float[Tensor, "text d"],
    splits: int,
    seed: int,
    direction: Callable[[Tensor, Tensor], Tensor] = difference,
) -> tuple[float | None, float | None]:
    """Mean d′ on held-out halves and mean cosine between halves; None with too few texts.

    Args:
        plus: one side.
        minus: the other.
        splits: random halvings.
        seed: of them.
        direction: how a direction is made of two sides.
    """
    if min(len(plus), len(minus)) < _FEWEST:
        return None, None
    generator = torch.Generator().manual_seed(seed)
    d_primes, cosines = [], []
    for _ in range(splits):
        order = torch.randperm(len(plus), generator=generator)
        paired = len(plus) == len(minus)
        other = order if paired else torch.randperm(len(minus), generator=generator)
        a, b = _halves(plus, order), _halves(minus, other)
        v = [direction(a[half], b[half]) for half in (0, 1)]
        cosines.append(torch.cosine_similarity(v[0], v[1], dim=0))
        d_primes += [d_prime(a[half] @ v[1 - half], b[half] @ v[1 - half]) for half in (0, 1)]
    return float(torch.stack(d_primes).mean()), float(torch.stack(cosines).mean())


def d_prime(plus: Float[Tensor, "text"], minus: Float[Tensor, "text"]) -> Tensor:  # noqa: F821
    """(mean⁺ − mean⁻) / √(½ (var⁺ + var⁻)) of two samples of numbers."""
    return (plus.mean() - minus.mean()) / ((plus.var() + minus.var()) / 2).sqrt()


def _read(
    model: "Model",
    texts: Sequence[Any],
    sites: Sequence[str],
    side: str,
    tokens: Pooling,
    rule: Any,
    progress: Progress,
) -> Read:
    where = f"{model.name}, {side} texts"
    if not len(texts):
        raise InputError(explain(where=where, expected="at least one", got="none"))
    read = Read(norms=dict.fromkeys(sites, 0.0))
    rows: dict[str, list[Tensor]] = {site: [torch.empty(0)] * len(texts) for site in sites}
    for part in _batches(model, texts):
        run = model.run(_those(texts, part), sites=list(sites), logits=False)
        assert run.mask is not None
        chosen, mask = chosen_tokens(model, run, rule).cpu(), run.mask.cpu()
        _check_chosen(mask, chosen, part, where)
        counted = _counted(chosen, tokens)
        read.tokens += int(counted.sum())
        for site in sites:
            x = run[site].cpu()
            values = x[counted].double()
            if not bool(torch.isfinite(values).all()):
                got = "NaN or Inf"
                raise InputError(explain(where=where, expected="finite activations", got=got))
            read.norms[site] += float(values.norm(dim=-1).sum())
            parts = values.split(counted.sum(dim=1).tolist())
            for text, found in zip(part, parts, strict=True):
                rows[site][text] = found.mean(dim=0)
        read.shown += _shown(model, run, mask, counted, part, sites)
        progress.update(len(part))
    read.rows = {site: torch.stack(found) for site, found in rows.items()}
    return read


def _batches(model: "Model", texts: Sequence[Any]) -> list[list[int]]:
    """Texts of like length together, so that little is padded and memory has a bound."""
    mask = model.inputs(texts).mask
    assert mask is not None
    lengths = mask.sum(dim=-1).tolist()
    batches: list[list[int]] = [[]]
    for text in sorted(range(len(texts)), key=lambda each: lengths[each]):
        if batches[-1] and (len(batches[-1]) + 1) * lengths[text] > _TOKENS:
            batches.append([])
        batches[-1].append(text)
    return batches


def _those(texts: Any, part: list[int]) -> Any:
    return texts[part] if isinstance(texts, Tensor) else [texts[each] for each in part]


def _shown(
    model: "Model",
    run: "Run",
    mask: Tensor,
    counted: Tensor,
    part: list[int],
    sites: Sequence[str],
) -> list[tuple[tuple[str, ...], dict[str, Tensor], Tensor]]:
    """The tokens of the first texts, for the report."""
    assert run.tokens is not None
    found = []
    for row in (row for row, text in enumerate(part) if text < _SHOWN):
        strings = tuple(model.token_strings(run.tokens[row].cpu()[mask[row]]))
        values = {site: run[site][row].cpu()[mask[row]].double() for site in sites}
        found.append((strings, values, counted[row, mask[row]]))
    return found


def _counted(chosen: Bool[Tensor, "text position"], tokens: Pooling) -> Tensor:
    """The tokens that stand for a text."""
    if tokens == "all":
        return chosen
    place = torch.arange(chosen.shape[1]).where(chosen, -1).amax(dim=1)
    return torch.zeros_like(chosen).scatter_(1, place[:, None], True)


def _halves(x: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    half = len(x) // 2
    return x[order[:half]], x[order[half:]]


def vector_site(model: "Model", at: str) -> str:
    """The name of a site in the blocks that has one vector a token.

    Raises:
        SiteError: it has another shape, or lies elsewhere.
    """
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


def _check_chosen(mask: Tensor, chosen: Tensor, part: list[int], where: str) -> None:
    """Every text must have a token to read."""
    empty = (~chosen.any(dim=1)).nonzero().flatten()
    if len(empty):
        got = f"none in text {part[int(empty[0])]} of {int(mask[empty[0]].sum())} tokens"
        hint = "Sink positions, such as the first token, are left out by default."
        raise InputError(explain(where=where, expected="a token to read", got=got, hint=hint))
