"""Reinjected parts: which ones carry facts, and the edit that adds what they say again."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor

from jackfield.core.errors import EditError, InputError, explain
from jackfield.edits import Edit
from jackfield.edits.base import Context
from jackfield.reports import Bars, Report, Table
from jackfield.steering.steering import Steering


@dataclass(frozen=True, eq=False, repr=False)
class Reinject(Edit):
    """`x + strength ‖x‖ s / ‖s‖`, with s the weighted sum of the sites in `reads`, at each token.

    Attributes:
        weights: [site] one for each of `reads`.
        width: d of the model that the weights are of.
        strength: in lengths of x; 0 changes nothing.
    """

    weights: Tensor
    width: int
    strength: float = 1.0

    def apply(self, x: Float[Tensor, "*rows d"], context: Context) -> Float[Tensor, "*rows d"]:
        if x.shape[-1] != self.width:
            where, expected = f"{context.site}, Reinject", f"a model of width {self.width}"
            raise EditError(explain(where=where, expected=expected, got=str(x.shape[-1])))
        said = [context.read(site).float() for site in self.reads]
        s = sum((w * o for w, o in zip(self.weights.tolist(), said, strict=True)),
                torch.zeros_like(x, dtype=torch.float32))  # fmt: skip
        size = x.float().norm(dim=-1, keepdim=True) / s.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        return x + (self.strength * size * s).to(x.dtype)


@dataclass(frozen=True, eq=False)
class Reinjected(Steering):
    """Parts that carry facts, and where what they say is added again.

    Steer with `where="generated"` to leave the reading of the prompt as it is.

    Attributes:
        rates: [source] the recovery rate of each part.
        sources: their sites.
        targets: the sites where is added.
        width: d of the model.
        known: the mean probability of the answers, clean.
        gap: how much of it the noise took, on average.
        facts: how many were traced.
        model: the name of the model.
        method: the name and the settings of the method.
    """

    rates: Float[Tensor, " source"]
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    width: int
    known: float
    gap: float
    facts: int
    model: str
    method: Mapping[str, Any]

    @property
    def kept(self) -> dict[str, float]:
        """The parts that are heard again, with their rates, largest first.

        Raises:
            InputError: no part brings anything back.
        """
        order = self.rates.argsort(descending=True)[: self.method["keep"]].tolist()
        found = {self.sources[i]: float(self.rates[i]) for i in order if self.rates[i] > 0}
        if not found:
            expected = "a part that brings something back"
            raise InputError(explain(where="Reinjected", expected=expected, got="none"))
        return found

    def scaled(self, factor: float, where: Any = "~sinks") -> list[Edit]:
        """Adds λ = `factor` lengths of the stream, at every target."""
        kept = self.kept
        weights = torch.tensor(list(kept.values()))
        return [
            Reinject(
                weights, self.width, float(factor), at=self.targets, where=where, reads=tuple(kept)
            )
        ]

    def units(self) -> Mapping[str, float]:
        """The raw unit is already "norm"."""
        return {"norm": 1.0}

    def report(self) -> Report:
        """The rates, and what they were measured on."""
        title = "recovery rate: 0 as covered, 1 as clean"
        bars = Bars(self.sources, self.rates, label_title="part", value_title=title)
        rows = [
            ["facts", self.facts],
            ["probability of the answers, clean", self.known],
            ["taken by the noise", self.gap],
            ["added at", ", ".join(self.targets)],
        ]
        best = next(iter(self.kept.items()))
        summary = (
            f"{self.facts} facts, {len(self.sources)} parts of {self.model}: {best[0]} brings most "
            f"of the answer back, {best[1]:.0%} of what noise on the subject takes; "
            f"{len(self.kept)} parts are heard again at {len(self.targets)} sites."
        )
        return Report("Reinjection", [bars, Table(["measure", "value"], rows)], summary=summary)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
        """The config, the rates, and what was measured."""
        names = ("width", "known", "gap", "facts", "model")
        extra = {name: getattr(self, name) for name in names}
        sites = {"sources": list(self.sources), "targets": list(self.targets)}
        return dict(self.method), {"rates": self.rates}, {**extra, **sites}

    @classmethod
    def from_state(
        cls, config: dict[str, Any], tensors: Mapping[str, Tensor], extra: dict[str, Any]
    ) -> Self:
        """Rebuilds it from `state`."""
        sites = {name: tuple(extra[name]) for name in ("sources", "targets")}
        return cls(rates=tensors["rates"], method=config, **{**extra, **sites})
