"""TrainingUnits: rows of some sites as a learner sees them, and weights as everyone else does.

Each site is scaled, if wanted, to mean square d about its centre (the geometric median, which a few
attention sinks do not move); rows farther from a centre than `reach` times the median distance are
not learned from. What is read and what is rebuilt are sites side by side. `TrainingUnits` holds the
numbers that were measured on the first rows, so a checkpoint keeps them.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from jackfield.core.errors import InputError, explain
from jackfield.dictionaries.run import Rows

_SAME = 1e-10  # variance over mean square: below it is nothing but rounding in float32


class TrainingUnits:
    """The units of the sites that a dictionary reads and writes.

    Args:
        reads, writes: the sites, each in the order in which they stand side by side.
        held: scale, radius, variance and width [site] and centre [d of all], as `measure` gives
            them; sites in the order of `sites`.
    """

    def __init__(
        self, reads: tuple[str, ...], writes: tuple[str, ...], held: dict[str, Tensor]
    ) -> None:
        self.reads, self.writes, self.held = reads, writes, held
        self.sites = all_sites(reads, writes)
        self._widths = dict(zip(self.sites, held["width"].tolist(), strict=True))
        self.variance = self._of(writes, "variance").sum()
        self.read_centre = self._centre(reads)

    def scaled(self, rows: Rows) -> tuple[Float[Tensor, "row d_in"], Float[Tensor, "row d"]]:
        """What is read and what is rebuilt, scaled; a row too far away is the centre instead.

        So there is no row more or less, and nothing to wait for.
        """
        held = self.held
        centres = held["centre"].split([self._widths[site] for site in self.sites])
        parts = [rows[site].to(s) * s for site, s in zip(self.sites, held["scale"], strict=True)]
        away = [(x - centre).norm(dim=1) for x, centre in zip(parts, centres, strict=True)]
        far = torch.stack([d > r for d, r in zip(away, held["radius"], strict=True)]).any(dim=0)
        kept = {
            site: torch.where(far[:, None], centre, x)
            for site, x, centre in zip(self.sites, parts, centres, strict=True)
        }
        x = beside(kept, self.reads)
        return x, x if self.reads == self.writes else beside(kept, self.writes)

    @property
    def write_centre(self) -> Float[Tensor, " d"]:
        """The centre of what is rebuilt, scaled."""
        return self._centre(self.writes)

    @property
    def read_scale(self) -> Float[Tensor, " d_in"]:
        """What each column that is read was multiplied by."""
        return self._columns(self.reads)

    @property
    def write_scale(self) -> Float[Tensor, " d"]:
        """What each column that is rebuilt was multiplied by."""
        return self._columns(self.writes)

    @property
    def write_scales(self) -> tuple[float, ...]:
        """The same, one number for each site."""
        return tuple(self._of(self.writes, "scale").tolist())

    @property
    def radius(self) -> tuple[float, ...]:
        """For each site that is read, how far rows may be from its centre, in the rows' units."""
        return tuple((self._of(self.reads, "radius") / self._of(self.reads, "scale")).tolist())

    def widths(self, sites: tuple[str, ...]) -> tuple[int, ...]:
        """The columns of each of some sites."""
        return tuple(self._widths[site] for site in sites)

    def _of(self, sites: tuple[str, ...], name: str) -> Tensor:
        return self.held[name][[self.sites.index(site) for site in sites]]

    def _columns(self, sites: tuple[str, ...]) -> Tensor:
        return self._of(sites, "scale").repeat_interleave(self._of(sites, "width"))

    def _centre(self, sites: tuple[str, ...]) -> Tensor:
        parts = self.held["centre"].split(self.widths(self.sites))
        return beside(dict(zip(self.sites, parts, strict=True)), sites)


def measure(
    rows: Rows, sites: tuple[str, ...], *, normalise: bool, reach: float | None, name: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What `TrainingUnits` holds, and the rows near enough, scaled and centred, by site.

    Raises:
        InputError: the rows of a site are all equal; `name` says whose.
    """
    parts = {site: rows[site].float() for site in sites}
    centres = [geometric_median(x) for x in parts.values()]
    away = [(x - centre).norm(dim=1) for x, centre in zip(parts.values(), centres, strict=True)]
    radii = [distance.median() * (math.inf if reach is None else reach) for distance in away]
    near = torch.stack([d <= r for d, r in zip(away, radii, strict=True)]).all(dim=0)
    kept = {s: x[near] - c for (s, x), c in zip(parts.items(), centres, strict=True)}
    variance = torch.stack([_variance(kept[site], x, site, name) for site, x in parts.items()])
    width = torch.tensor([x.shape[1] for x in parts.values()], device=variance.device)
    scale = (width / variance).sqrt() if normalise else torch.ones_like(variance)
    held = {"scale": scale, "width": width, "variance": variance * scale.square()}
    held["radius"] = torch.stack(radii) * scale
    held["centre"] = torch.cat([c * s for c, s in zip(centres, scale, strict=True)])
    return held, {site: x * s for (site, x), s in zip(kept.items(), scale, strict=True)}


def all_sites(reads: tuple[str, ...], writes: tuple[str, ...]) -> tuple[str, ...]:
    """The sites that are read and those that are written, each once."""
    return tuple(dict.fromkeys(reads + writes))


def beside(parts: Rows, sites: tuple[str, ...]) -> Tensor:
    """The columns of some sites, side by side."""
    return parts[sites[0]] if len(sites) == 1 else torch.cat([parts[s] for s in sites], dim=-1)


def geometric_median(x: Float[Tensor, "row d"], rounds: int = 20) -> Float[Tensor, " d"]:
    """The point whose distances to the rows sum to the least; outliers hardly move it (Weiszfeld).

    >>> geometric_median(torch.tensor([[0.0], [1.0], [2.0], [1.0], [1e6]])).round(decimals=3)
    tensor([1.])
    """
    centre = x.median(dim=0).values
    for _ in range(rounds):
        weight = 1 / (x - centre).norm(dim=1).clamp_min(1e-6)
        centre = (weight @ x) / weight.sum()
    return centre


def _variance(kept: Tensor, x: Tensor, site: str, name: str) -> Tensor:
    variance = kept.square().sum(dim=1).mean()
    if not variance > _SAME * x.square().sum(dim=1).mean():
        where, got = f"{name} at {site}", f"{len(x):,} rows that are (nearly) all equal"
        raise InputError(explain(where=where, expected="rows that differ", got=got))
    return variance
