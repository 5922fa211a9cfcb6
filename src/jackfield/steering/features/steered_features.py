"""Steered features: some latents of a dictionary, added to the activation or set in its code."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, cast

from jaxtyping import Float
from torch import Tensor

from jackfield.core.fitted import Fitted
from jackfield.edits import Add, Edit
from jackfield.reports import Report, Table
from jackfield.steering.direction_units import direction_units
from jackfield.steering.features.dictionary import FeatureDictionary
from jackfield.steering.features.partway import Partway
from jackfield.steering.nested import packed, unpacked
from jackfield.steering.steering import Steering

Act = Literal["add", "set"]


@dataclass(frozen=True, eq=False)
class SteeredFeatures(Steering):
    """Some latents f of a dictionary, with a weight w_f and a value a_f each.

        "add"    x + s Σ_f w_f W_f                   whether they fire or not
        "set"    x + s Σ_f (a_f − z_f) W_f           at s = 1 the latents have the code a_f

    W_f is a latent's direction, z its code of x. Both keep what the dictionary does not explain:
    the second is x + dec(z') − dec(z).

    Attributes:
        dictionary: what the latents are of.
        latents: which.
        weights: [f] float32, w_f.
        values: [f] float32, a_f.
        act: "add" or "set".
        residual_norm: mean length of the activation on the tokens read.
        sigma: standard deviation of the texts along Σ_f w_f W_f; None of too few.
        figures: {what was measured: one number a latent}.
        method: the name and the settings of the method that chose them.
        model: the name of the model.
    """

    dictionary: FeatureDictionary
    latents: tuple[int, ...]
    weights: Float[Tensor, " f"]
    values: Float[Tensor, " f"]
    act: Act
    residual_norm: float
    sigma: float | None
    figures: Mapping[str, tuple[float, ...]]
    method: Mapping[str, Any]
    model: str

    @property
    def vector(self) -> Float[Tensor, " d"]:
        """Σ_f w_f W_f, what "add" adds at strength 1."""
        return added(self.dictionary, self.latents, self.weights)

    def scaled(self, factor: float, where: Any = "~sinks") -> list[Edit]:
        """Adds `factor` times the vector, or sets the latents `factor` of the way."""
        if self.act == "add":
            at = self.dictionary.site
            return [Add(self.vector, at=at, where=where, strength=float(factor))]
        return self._set(self.values.tolist(), float(factor), where)

    def units(self) -> Mapping[str, float]:
        """As of a direction for "add"; of "set" none, as its change depends on the token."""
        if self.act == "set":
            return {}
        return direction_units(self.vector, self.residual_norm, self.sigma)

    def ablate(self, share: float = 1.0, *, where: Any = "~sinks") -> list[Edit]:
        """Silences the latents, `share` of the way, and leaves all else as it was."""
        return self._set([0.0] * len(self.latents), float(share), where)

    def report(self) -> Report:
        """Which latents, and why these."""
        columns = ["latent", *self.figures]
        rows = [list(row) for row in zip(self.latents, *self.figures.values(), strict=True)]
        table = Table(columns, rows, formats=dict.fromkeys(columns[1:], ".3f"))
        done = "adds their directions" if self.act == "add" else "sets their codes"
        name = self.method["name"]
        summary = (
            f"{name} chose {len(rows)} of {len(self.dictionary.directions)} latents at "
            f"{self.dictionary.site} of {self.model}, and {done}. The vector is "
            f"{float(self.vector.norm()) / self.residual_norm:.2f} of the activation's length."
        )
        return Report(f"Steered features ({name})", [table], summary=summary)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
        """The config, the latents, and the dictionary."""
        tensors, dictionary = packed(cast(Any, self.dictionary), "dictionary")
        names = ("latents", "act", "residual_norm", "sigma", "model")
        extra = {name: getattr(self, name) for name in names}
        figures = {name: list(each) for name, each in self.figures.items()}
        return (
            dict(self.method),
            {"weights": self.weights, "values": self.values, **tensors},
            {**extra, "latents": list(self.latents), "figures": figures, "dictionary": dictionary},
        )

    @classmethod
    def from_state(
        cls, config: dict[str, Any], tensors: Mapping[str, Tensor], extra: dict[str, Any]
    ) -> Self:
        """Rebuilds the steering and its dictionary from `state`."""
        return cls(
            dictionary=unpacked(tensors, extra["dictionary"], "dictionary", Fitted),
            latents=tuple(extra["latents"]),
            weights=tensors["weights"],
            values=tensors["values"],
            act=extra["act"],
            residual_norm=extra["residual_norm"],
            sigma=extra["sigma"],
            figures={name: tuple(each) for name, each in extra["figures"].items()},
            method=config,
            model=extra["model"],
        )

    def _set(self, values: list[float], share: float, where: Any) -> list[Edit]:
        inner = self.dictionary.splice(
            where=where, error=True, latents=self.latents, values=tuple(values)
        )
        return [Partway(inner, share, at=inner.at, where=where, reads=inner.reads)]


def added(
    dictionary: FeatureDictionary, latents: tuple[int, ...], weights: Float[Tensor, " f"]
) -> Float[Tensor, " d"]:
    """Σ_f w_f W_f, float32."""
    directions = dictionary.directions[list(latents)].detach().float().cpu()
    return weights.float() @ directions
