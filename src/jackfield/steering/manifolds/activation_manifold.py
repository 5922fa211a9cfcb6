"""A fitted manifold: the curve of an ordered concept at a site, and the edits along it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor

from jackfield.core.errors import InputError, did_you_mean, explain
from jackfield.edits import Edit
from jackfield.reports import Report, Scatter, Table
from jackfield.steering.manifolds.curve import Curve
from jackfield.steering.manifolds.move_along import MoveAlong
from jackfield.steering.steering import Steering

_DRAWN = 48  # points of the curve in the picture
_PLAIN = ("labels", "at", "share", "near", "counts", "residual_norm", "model")


@dataclass(frozen=True, eq=False)
class ActivationManifold(Steering):
    """A curve through the centroids of ordered classes.

    It is read at the last token of prompts, and says nothing about others: steer with
    `where="last"`, or `"generated"` for the tokens that follow as well.

    Attributes:
        basis: [k, d] orthonormal rows: the principal components.
        centre: [d] the mean of the centroids.
        curve: in the components; class i lies at u = i.
        labels: of the classes, in their order.
        at: the site.
        share: of the variance of the centroids that the components hold.
        near: for each class the share of its prompts that lie within half a class of it, on curves
            that they had no part in; None for a class of one prompt, which is on every curve.
        counts: prompts of each class.
        residual_norm: mean length of the activation there.
        model: the name of the model.
        method: the name and the settings of the method.
    """

    basis: Float[Tensor, "k d"]
    centre: Float[Tensor, " d"]
    curve: Curve
    labels: tuple[str, ...]
    at: str
    share: float
    near: tuple[float | None, ...]
    counts: tuple[int, ...]
    residual_norm: float
    model: str
    method: Mapping[str, Any]

    def scaled(self, factor: float, where: Any = "~sinks") -> list[Edit]:
        """Moves on along the curve by `factor` classes from wherever a token is."""
        return [self._move(None, float(factor), where, straight=False)]

    def units(self) -> Mapping[str, float]:
        """None but the raw unit, a class."""
        return {}

    def to(
        self,
        target: str | float,
        share: float = 1.0,
        *,
        straight: bool = False,
        where: Any = "last",
    ) -> list[Edit]:
        """Moves to a class, or to a place u between classes.

        Args:
            target: a label, or u.
            share: of the way; 0 changes nothing.
            straight: along the chord, with the same end point, in the place of the curve.
            where: which tokens are moved.

        Raises:
            InputError: a label that is not among the classes.
        """
        if isinstance(target, str) and target not in self.labels:
            hint = did_you_mean(target, self.labels) or f"They are: {', '.join(self.labels)}."
            expected = "one of the classes"
            raise InputError(explain(where=self.at, expected=expected, got=target, hint=hint))
        place = self.labels.index(target) if isinstance(target, str) else target
        return [self._move(float(place), float(share), where, straight=straight)]

    def place(self, x: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows"]:
        """Where activations lie on the curve, as u."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        z = (wide - self.centre.to(wide)) @ self.basis.to(wide).T
        return self.curve.to(wide).nearest(z)

    def report(self) -> Report:
        """The curve in its first two components, and the classes on it."""
        places = self.curve.at(torch.arange(len(self.labels), dtype=torch.float32))
        rows = [
            [name, n, near, *(float(x) for x in place[:2])]
            for name, n, near, place in zip(
                self.labels, self.counts, self.near, places, strict=True
            )
        ]
        columns = ["class", "prompts", "share within half a class", "PC1", "PC2"][: 2 + 1 + min(
            2, len(self.basis))]  # fmt: skip
        table = Table(columns, rows, formats=dict.fromkeys(columns[2:], ".2f"))
        blocks = [self._picture(), table] if len(self.basis) > 1 else [table]
        return Report("Manifold", blocks, summary=self._sentence())

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
        """The config, the curve with its subspace, and what was measured."""
        tensors = {
            "basis": self.basis, "centre": self.centre, "coefficients": self.curve.coefficients,
        }  # fmt: skip
        plain = {name: getattr(self, name) for name in _PLAIN}
        lists = {k: list(v) if isinstance(v, tuple) else v for k, v in plain.items()}
        return dict(self.method), tensors, {**lists, "cyclic": self.curve.cyclic}

    @classmethod
    def from_state(
        cls, config: dict[str, Any], tensors: Mapping[str, Tensor], extra: dict[str, Any]
    ) -> Self:
        """Rebuilds the manifold from `state`."""
        lists = {k: tuple(v) if isinstance(v, list) else v for k, v in extra.items()}
        plain: dict[str, Any] = {k: v for k, v in lists.items() if k != "cyclic"}
        curve = Curve(tensors["coefficients"], bool(extra["cyclic"]))
        return cls(tensors["basis"], tensors["centre"], curve, method=config, **plain)

    def _move(self, target: float | None, strength: float, where: Any, *, straight: bool) -> Edit:
        return MoveAlong(
            self.basis, self.centre, self.curve.coefficients, self.curve.cyclic, target, strength,
            straight, at=self.at, where=where,
        )  # fmt: skip

    def _picture(self) -> Scatter:
        """The curve in its own order, and each class where it lies on it."""
        classes = self.curve.at(torch.arange(len(self.labels), dtype=torch.float32))
        drawn = self.curve.at(torch.linspace(0, self.curve.length, _DRAWN))
        return Scatter(
            classes[:, 0], classes[:, 1], self.labels, drawn[:, 0], drawn[:, 1],
            x_title="PC1", y_title="PC2",
        )  # fmt: skip

    def _sentence(self) -> str:
        kind = "cycle" if self.curve.cyclic else "line"
        return (
            f"{len(self.labels)} classes on a {kind} at {self.at} of {self.model}; "
            f"{len(self.basis)} components hold {self.share:.0%} of the variance of the centroids. "
            f"{self._judged()}"
        )

    def _judged(self) -> str:
        pairs = zip(self.near, self.counts, strict=True)
        judged = [(near, count) for near, count in pairs if near is not None]
        if not judged:
            return "With one prompt a class, none is left to judge the curve by."
        prompts = sum(count for _, count in judged)
        near = sum(near * count for near, count in judged) / prompts
        return (
            f"On curves that they had no part in, {near:.0%} of {prompts} prompts lie within half "
            "a class of their own."
        )
