"""Spectral detector: a small recurrent network over spectra of the last tokens, as a scorer.

One GRU over the descriptors of `spectrum.py`, those of all sites side by side, and one linear map
to a log odds after each token. What it has at a token is the same whether the text came at once
or token by token.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from jackfield.core.artifacts import read_artifact, save_artifact
from jackfield.core.errors import ArtifactError, explain
from jackfield.steering.guards.scorer import Places, Scorer, Watcher, rows_of
from jackfield.steering.guards.spectrum import (
    NoiseSpectrum,
    Windows,
    descriptors,
    eigenvalues,
    names_of,
    spectra,
)

_KIND = f"{__name__}:SpectralDetector"


class Recurrent(nn.Module):
    """A GRU and a linear map: descriptors [row, token, feature] to log odds [row, token]."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.gru = nn.GRU(features, hidden, batch_first=True)
        self.out = nn.Linear(hidden, 1)

    def forward(self, x: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The log odds, and the state after the last token."""
        states, h = self.gru(x, h)
        return self.out(states)[..., 0], h


@dataclass(frozen=True, eq=False)
class SpectralDetector(Scorer):
    """Log odds that a text is of the positive kind, from its first full window on.

    Attributes:
        at: the sites.
        size: tokens of a window.
        leading: eigenvalues told one by one.
        noise: what permuted windows show, one a site.
        means, scales: [site, d] of each unit, on negative texts.
        centre, spread: [feature] of the descriptors, on the texts of the fit.
        weights: of `Recurrent`.
        sinks: positions that are not read.
    """

    at: tuple[str, ...]
    size: int
    leading: int
    noise: tuple[NoiseSpectrum, ...]
    means: Float[Tensor, "site d"]
    scales: Float[Tensor, "site d"]
    centre: Float[Tensor, "feature"]  # noqa: F821
    spread: Float[Tensor, "feature"]  # noqa: F821
    weights: Mapping[str, Tensor]
    sinks: tuple[int, ...]

    @property
    def sites(self) -> tuple[str, ...]:
        """What is read."""
        return self.at

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the descriptors, site by site."""
        return tuple(f"{site} {name}" for site in self.at for name in names_of(self.leading))

    def begin(self, batch: int) -> Watcher:
        """A watcher of new rows."""
        return _Following(self, batch)

    def described(
        self, rows: Sequence[Float[Tensor, "token d"]]
    ) -> Float[Tensor, "window feature"]:
        """The descriptors of every window of one text, given at each site without its sinks."""
        found = [
            descriptors(spectra(self.scaled(x, index), self.size), self.noise[index], self.leading)
            for index, x in enumerate(rows)
        ]
        return (torch.cat(found, dim=-1) - self.centre) / self.spread

    def scores(self, rows: Sequence[Float[Tensor, "token d"]]) -> Float[Tensor, "window"]:  # noqa: F821
        """The log odds after each window of one text, given as for `described`."""
        with torch.no_grad():
            odds: Tensor = self.network()(self.described(rows)[None])[0][0]
        return odds

    def scaled(self, x: Float[Tensor, "*rows d"], site: int) -> Float[Tensor, "*rows d"]:
        """Activations of a site, each unit in its own standard deviation."""
        return (x - self.means[site]) / self.scales[site]

    def network(self) -> Recurrent:
        """The network with its weights."""
        with torch.random.fork_rng(devices=[]):  # what it is made with is written over
            made = Recurrent(len(self.features), self.weights["out.weight"].shape[1])
        made.load_state_dict(dict(self.weights))
        return made.eval()

    def save(self, path: str | Path) -> Path:
        """Writes a folder that `load` reads back to the same detector."""
        names = ("means", "scales", "centre", "spread")
        tensors = {name: getattr(self, name) for name in names}
        tensors |= {f"weights.{name}": value for name, value in self.weights.items()}
        noise = [[each.ratio, each.edge] for each in self.noise]
        config = {"at": list(self.at), "size": self.size, "leading": self.leading}
        extra: dict[str, Any] = {"noise": noise, "sinks": list(self.sinks)}
        return save_artifact(path, kind=_KIND, config=config, tensors=tensors, extra=extra)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads what `save` wrote.

        Raises:
            ArtifactError: the folder is damaged or holds something else.
        """
        found = read_artifact(path)
        if found.kind != _KIND:
            expected = "a SpectralDetector"
            raise ArtifactError(explain(where=str(path), expected=expected, got=found.kind))
        plain = {name: x for name, x in found.tensors.items() if not name.startswith("weights.")}
        return cls(
            at=tuple(found.config["at"]),
            size=found.config["size"],
            leading=found.config["leading"],
            noise=tuple(NoiseSpectrum(*each) for each in found.extra["noise"]),
            sinks=tuple(found.extra["sinks"]),
            weights={
                name.removeprefix("weights."): x
                for name, x in found.tensors.items()
                if name.startswith("weights.")
            },
            **plain,
        )


class _Following(Watcher):
    def __init__(self, detector: SpectralDetector, batch: int) -> None:
        self._of, self._network = detector, detector.network()
        self._places = Places(batch, detector.sinks)
        width = detector.means.shape[1]
        self._windows = [Windows(batch, detector.size, width) for _ in detector.at]
        self._h = torch.zeros(1, batch, self._network.gru.hidden_size)
        self._score = torch.full((batch,), float("nan"))

    def update(self, activations: Mapping[str, Tensor], mask: Tensor) -> Float[Tensor, "batch"]:  # noqa: F821
        kept, width = self._places.kept(mask), self._of.means.shape[1]
        read = [
            self._of.scaled(rows_of(activations, site, kept, width), index)
            for index, site in enumerate(self._of.at)
        ]
        for place in range(kept.shape[1]):
            self._push([x[:, place] for x in read], kept[:, place])
        return self._score

    def _push(self, read: list[Tensor], rows: Bool[Tensor, "batch"]) -> None:  # noqa: F821
        for windows, x in zip(self._windows, read, strict=True):
            windows.push(x, rows)
        ready = (rows & self._windows[0].full).nonzero().flatten()
        if not len(ready):
            return
        with torch.no_grad():
            odds, h = self._network(self._described(ready)[:, None], self._h[:, ready])
        self._h[:, ready], self._score = h, self._score.index_copy(0, ready, odds[:, 0])

    def _described(self, rows: Tensor) -> Float[Tensor, "row feature"]:
        width = self._of.means.shape[1]
        found = [
            descriptors(eigenvalues(windows.products[rows], width), noise, self._of.leading)
            for windows, noise in zip(self._windows, self._of.noise, strict=True)
        ]
        return (torch.cat(found, dim=-1) - self._of.centre) / self._of.spread
