"""A role space: role vectors at a site, the assistant axis among them, and how they lie."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor

from jackfield.edits import Edit
from jackfield.reports import Bars, Lines, Report, Table
from jackfield.steering.nested import packed, unpacked
from jackfield.steering.steering import Steering
from jackfield.steering.steering_vector import SteeringVector

_MOST = 0.7  # of the variance, which so many components hold
_LISTED = 8  # components in the report


@dataclass(frozen=True, eq=False)
class RoleSpace(Steering):
    """Role vectors and the axis from them to the model as itself.

    Attributes:
        direction: the axis as a direction that steers; positive is towards the assistant.
        roles: [role, d] the vector of each role.
        default: [d] that of the model as itself.
        names: of the roles.
        counts: answers of each role.
    """

    direction: SteeringVector
    roles: Float[Tensor, "role d"]
    default: Float[Tensor, " d"]
    names: tuple[str, ...]
    counts: tuple[int, ...]

    def scaled(self, factor: float, where: Any = "~sinks") -> list[Edit]:
        """Adds the axis; 1 is the whole way from the mean role to the assistant."""
        return self.direction.scaled(factor, where)

    def units(self) -> Mapping[str, float]:
        """As its direction: "norm" and "sigma", the spread of answers within a role."""
        return self.direction.units()

    @property
    def shares(self) -> Float[Tensor, " component"]:
        """Shares of the variance of the role vectors, largest first."""
        variances = torch.linalg.svdvals(self._centred()).square()
        return variances / variances.sum()

    @property
    def needed(self) -> int:
        """How many components hold 70 % of the variance of the role vectors."""
        return int((self.shares.cumsum(dim=0) < _MOST).sum()) + 1

    @property
    def first(self) -> Float[Tensor, " d"]:
        """PC1 of the centred role vectors, 1 long, on the side of the assistant."""
        component = torch.linalg.svd(self._centred(), full_matrices=False).Vh[0]
        return component * (1 if float(component @ self._unit()) >= 0 else -1)

    @property
    def cosine(self) -> float:
        """Between the axis and PC1, 0 to 1; two random directions have about 0.8/√d."""
        return float(self.first @ self._unit())

    def places(self) -> dict[str, float]:
        """Where each role lies on the axis: 0 is the mean role, 1 the assistant."""
        axis = self.direction.vector.double()
        along = self._centred() @ axis / (axis @ axis)
        return dict(zip(self.names, along.tolist(), strict=True))

    def report(self) -> Report:
        """The roles along the axis, and the spectrum of their vectors."""
        places = sorted(self.places().items(), key=lambda each: -each[1])
        bars = Bars(
            ["(the model as itself)", *(name for name, _ in places)],
            [1.0, *(place for _, place in places)],
            label_title="role",
            value_title="place on the axis: 0 the mean role, 1 the assistant",
            limit=len(places) + 1,
        )
        shares = self.shares[: max(_LISTED, 2)].tolist()
        spectrum = Lines(
            list(range(1, len(shares) + 1)), {"share of the variance": shares},
            x_title="component", y_title="share of the variance",
        )  # fmt: skip
        rows = [
            ["cosine of PC1 with the axis", self.cosine],
            ["components for 70 % of the variance", self.needed],
            ["answers a role", sum(self.counts) / len(self.counts)],
            ["length of the axis ÷ mean residual norm", 1 / self.units()["norm"]],
            ["d′ of default answers against roles, held out", self.direction.d_prime],
        ]
        table = Table(["measure", "value"], rows)
        return Report("Assistant axis", [bars, spectrum, table], summary=self._sentence())

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
        """The config, the direction, and the role vectors."""
        tensors, inner = packed(self.direction, "direction")
        tensors |= {"roles": self.roles, "default": self.default}
        extra = {"direction": inner, "names": list(self.names), "counts": list(self.counts)}
        return dict(self.direction.method), tensors, extra

    @classmethod
    def from_state(
        cls, config: dict[str, Any], tensors: Mapping[str, Tensor], extra: dict[str, Any]
    ) -> Self:
        """Rebuilds the space from `state`."""
        direction = unpacked(tensors, extra["direction"], "direction", SteeringVector)
        names, counts = tuple(extra["names"]), tuple(extra["counts"])
        return cls(direction, tensors["roles"], tensors["default"], names, counts)

    def _centred(self) -> Float[Tensor, "role d"]:
        roles = self.roles.double()
        return roles - roles.mean(dim=0)

    def _unit(self) -> Float[Tensor, " d"]:
        axis = self.direction.vector.double()
        return axis / axis.norm()

    def _sentence(self) -> str:
        places = self.places()
        near, far = max(places, key=places.__getitem__), min(places, key=places.__getitem__)
        return (
            f"{len(self.names)} roles at {self.direction.at} of {self.direction.model}: nearest "
            f"the assistant is {near}, farthest {far}. PC1 of the roles has a cosine of "
            f"{self.cosine:.2f} with the axis (random directions about "
            f"{0.8 / len(self.default) ** 0.5:.2f}), and {float(self.shares[0]):.0%} of the "
            f"variance; {self.needed} components hold 70 %."
        )
