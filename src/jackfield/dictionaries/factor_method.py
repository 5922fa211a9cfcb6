"""FactorMethod: what PCA, ICA, k-means, NMF and SNMF share, and their fit.

A method says by `factorise` how the code and the directions are found. All else is the same for
all: rows far from the rest (attention sinks that a stream let through) are left out as they are for
the sparse autoencoders, directions get length 1, and one last pass measures FVU and L0 as they are
measured for every dictionary. Sums are kept in float64, and every pass reads all rows, so how the
stream is cut into batches makes no difference beyond rounding.
"""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from jackfield.core.config import config, setting, to_json
from jackfield.core.errors import ConfigError, InputError, explain
from jackfield.core.fitted import Method
from jackfield.dictionaries.factors import Factors, Rule
from jackfield.dictionaries.measures import Quality
from jackfield.dictionaries.sparse_method import one_site
from jackfield.dictionaries.training_units import geometric_median
from jackfield.streams import Batch, Sink, Stream
from jackfield.streams.units import nonfinite_rows, raise_nonfinite
from jackfield.streams.views import Derived

LOOKED_AT = 4096  # first rows that decide which rows are far from the rest
_CONSTANT = 1e-10  # variance over mean square: below it is nothing but rounding in float32


@dataclass(frozen=True, eq=False)
class Found:
    """What a method found, float64.

    Attributes:
        rule: how a row gets its code.
        encoder: [latent, d], as the rule needs it for codes in units of `decoder`'s rows.
        decoder: [latent, d], rows of any length but 0.
        centre: [d].
        figures, history: what the report says beside the usual.
    """

    rule: Rule
    encoder: Float[Tensor, "latent d"]
    decoder: Float[Tensor, "latent d"]
    centre: Float[Tensor, " d"]
    figures: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)


@config
class FactorMethod(Method):
    """The settings that all share.

    Attributes:
        latents: how many directions.
        reach: rows farther from the middle of the first rows than this many times the median
            distance are left out; None keeps all.
        seed: of the first guess, where there is one.
    """

    latents: int = setting(default=64, ge=1)
    reach: float | None = setting(default=10.0, gt=0)
    seed: int = setting(default=0, ge=0)

    @abstractmethod
    def factorise(self, stream: Stream, first: Float[Tensor, "row d"], progress: bool) -> Found:
        """Finds the factors.

        Args:
            stream: of one site; rows that are near enough only.
            first: up to 4096 of its first rows, float64.
            progress: show a line for each pass.

        Raises:
            ConfigError: settings that contradict the rows.
            InputError: rows that the method cannot take.
        """

    @final
    @torch.no_grad()
    def fit(self, stream: Stream, *, progress: bool = False) -> Factors:
        """Fits on a stream of rows [row, d] of one site.

        A live stream runs its model anew in every pass; write it to a store first.

        Args:
            stream: what to learn from.
            progress: show a line for each pass.

        Raises:
            ConfigError: settings that contradict each other or the rows.
            InputError: several sites, rows that are not [row, d] or not finite, or all equal.
        """
        name = type(self).__name__
        site = one_site(stream.sites, where=f"{name}.fit")[0]
        first = first_rows(stream, site, name=name)
        middle = geometric_median(first)
        away = (first - middle).norm(dim=1)
        radius = None if self.reach is None else float(away.median() * self.reach)
        if radius is not None:
            first, stream = first[away <= radius], near_rows(stream, site, middle, radius)
        if not first.var(dim=0, correction=0).sum() > _CONSTANT * first.square().mean(dim=0).sum():
            where, got = f"{name} at {site}", f"{len(first):,} rows that are (nearly) all equal"
            raise InputError(explain(where=where, expected="rows that differ", got=got))
        found = self.factorise(stream, first, progress)
        return _measured(_dictionary(self, site, found, middle, radius), stream, found, progress)


def first_rows(stream: Stream, site: str, *, name: str) -> Float[Tensor, "row d"]:
    """The first rows of a stream, float64.

    Raises:
        InputError: no rows, not [row, d], or not finite.
    """
    parts: list[Tensor] = []
    for batch in stream.take(LOOKED_AT):
        x = batch[site]
        if x.dim() != 2:
            got = str(list(x.shape))
            raise InputError(explain(where=f"{name} at {site}", expected="rows [row, d]", got=got))
        bad = nonfinite_rows(x)
        if bad.any():
            raise_nonfinite(batch, bad, where=f"{name} at {site}")
        parts.append(x.detach().double())
    if not parts:
        raise InputError(explain(where=f"{name} at {site}", expected="rows", got="none"))
    return torch.cat(parts)


def near_rows(stream: Stream, site: str, middle: Float[Tensor, " d"], radius: float) -> Stream:
    """A stream of one site without the rows that are farther than `radius` from `middle`."""

    def through(source: Stream, start: int) -> Iterator[Batch]:
        for batch in source.batches(start):
            away = (batch[site].detach().double() - middle).norm(dim=1)
            # A row that is not finite goes on, to be refused by whatever reads it.
            kept = batch.rows((away <= radius) | ~away.isfinite())
            if len(kept):
                yield kept

    return Derived(stream, through, note={"within": radius}, sites=(site,))


def check_latents(latents: int, most: int, what: str, *, where: str) -> None:
    """Raises ConfigError unless there are at most `most` latents."""
    if latents > most:
        expected = f"latents <= {most}, {what}"
        raise ConfigError(explain(where=where, expected=expected, got=str(latents)))


def doubles(batch: Batch, site: str, *, where: str) -> Float[Tensor, "row d"]:
    """A batch's rows of a site in float64.

    Raises:
        InputError: NaN or Inf.
    """
    x = batch[site].detach()
    bad = nonfinite_rows(x)
    if bad.any():
        raise_nonfinite(batch, bad, where=f"{where} at {site}")
    return x.double()


class _Sizes(Sink["_Sizes"]):
    """Sums the squares of codes."""

    def __init__(self, dictionary: Factors) -> None:
        self._dictionary, self._rows = dictionary, 0
        self._sum = torch.zeros(dictionary.latents, dtype=torch.float64)

    @property
    def sites(self) -> tuple[str, ...]:
        return self._dictionary.sources

    def update(self, batch: Batch) -> None:
        codes = self._dictionary.encode(batch[self._dictionary.site])
        self._sum += codes.double().square().sum(dim=0).cpu()
        self._rows += len(batch)

    def finish(self) -> "_Sizes":
        return self

    @property
    def root_mean_square(self) -> Float[Tensor, " latent"]:
        return (self._sum / self._rows).sqrt().float()


def _dictionary(
    method: FactorMethod, site: str, found: Found, middle: Tensor, radius: float | None
) -> Factors:
    """The dictionary, its directions of length 1."""
    length = found.decoder.norm(dim=1, keepdim=True)
    encoder = found.encoder * length if found.rule == "linear" else found.encoder
    return Factors(
        name=type(method).__name__,
        settings=to_json(method),
        place=site,
        rule=found.rule,
        encoder=encoder.float(),
        decoder=(found.decoder / length).float(),
        centre=found.centre.float(),
        middle=middle.float(),
        sizes=length.new_zeros(len(length)).float(),
        radius=radius,
        history=found.history,
    )


def _measured(dictionary: Factors, stream: Stream, found: Found, progress: bool) -> Factors:
    """The dictionary with the figures of the rows that it was fitted on."""
    quality, sizes = stream.into(Quality(dictionary), _Sizes(dictionary), progress=progress)
    usual = {"rows": float(quality.rows), "FVU": quality.fvu, "L0": quality.l0}
    figures = usual | {"dead": quality.dead} | found.figures
    return replace(dictionary, sizes=sizes.root_mean_square, figures=figures)
