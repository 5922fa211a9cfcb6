"""Assistant axis: the direction from the roles that a model can play to what it is by itself.

    r_i = mean over answers in role i of the mean activation over the answer's tokens     [d]
    r₀  = the same of the model as itself
    axis = r₀ − mean_i r_i

The role vectors, centred, have principal components; where the first lies along the axis, being
the assistant is the largest difference between roles. Along the axis the model is steered back to
itself, or out of itself; `AxisCap` with the axis, a floor, keeps it from drifting away.

Lu et al. 2026, The assistant axis (arXiv 2601.10387): 275 roles, 5 system prompts, 240 questions,
the output of blocks, a language model that judges whether an answer is in its role. Departures:
our roles, prompts and questions are few; the judge is the caller's function, and there is none by
default; d′ is of the default answers against role vectors, on halves of both that the axis was not
made of.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from jackfield.core.config import config, setting, to_json
from jackfield.core.errors import InputError, explain
from jackfield.core.fitted import Method
from jackfield.core.progress import Progress
from jackfield.steering.axes.answers import AnswersRead, read_answers
from jackfield.steering.axes.reading import one_site
from jackfield.steering.axes.role_space import RoleSpace
from jackfield.steering.contrast import held_out
from jackfield.steering.steering_vector import SteeringVector

if TYPE_CHECKING:
    from jackfield.model.model import Model

_FEWEST = 2  # roles
_LEAST = 1e-9  # length of an axis that is not rounding, of that of the roles


@config
class AssistantAxis(Method):
    """The direction from roles to the model as itself.

    Attributes:
        splits: random halvings for d′ and the cosine.
        seed: of them.

    >>> from jackfield.testing import tiny_world
    >>> world = tiny_world()
    >>> roles = {"one": world.other[:8], "two": world.other[8:16], "three": world.other[16:]}
    >>> given = {"roles": roles, "default": world.tokens, "at": "layers.1.resid_post"}
    >>> AssistantAxis().fit(world.model, **given).roles.shape
    torch.Size([3, 32])
    """

    splits: int = setting(default=20, ge=1)
    seed: int = 0

    def fit(
        self,
        model: "Model",
        *,
        roles: Mapping[str, Any],
        default: Any,
        at: str,
        progress: bool = False,
    ) -> RoleSpace:
        """Fits the axis at one site.

        Args:
            model: the model to steer.
            roles: {role: answers in it}, as `ask_roles` gives them: chats that end with an answer;
                or texts, or token ids [text, position], which are read as a whole.
            default: answers of the model as itself.
            at: a site [batch, position, d] such as layers.15.resid_post.
            progress: show a live line.

        Raises:
            InputError: fewer than two roles, a role without an answer, or roles that do not
                differ from the default.
            SiteError: several sites.
        """
        return self.fit_all(
            model, roles=roles, default=default, at=one_site(model, at), progress=progress
        )[0]

    def fit_all(
        self,
        model: "Model",
        *,
        roles: Mapping[str, Any],
        default: Any,
        at: str = "layers.*.resid_post",
        progress: bool = False,
    ) -> tuple[RoleSpace, ...]:
        """Fits an axis at every site of a pattern in one pass over the answers.

        Raises:
            InputError: as `fit`.
        """
        where = f"{model.name}, AssistantAxis"
        if len(roles) < _FEWEST:
            expected = f"at least {_FEWEST} roles"
            raise InputError(explain(where=where, expected=expected, got=str(len(roles))))
        sites = model.sites.select(at)
        with Progress("reading", total=1 + len(roles), unit="roles", enabled=progress) as shown:
            own = read_answers(model, default, sites, name="the model as itself")
            shown.update(1)
            played = {}
            for role, answers in roles.items():
                played[role] = read_answers(model, answers, sites, name=role)
                shown.update(1)
        return tuple(self._space(model, site, own, played) for site in sites)

    def _space(
        self, model: "Model", site: str, own: AnswersRead, played: Mapping[str, AnswersRead]
    ) -> RoleSpace:
        default = own.rows[site]
        roles = torch.stack([read.rows[site].mean(dim=0) for read in played.values()])
        return RoleSpace(
            direction=self._direction(model, site, own, played, roles),
            roles=roles.float(),
            default=default.mean(dim=0).float(),
            names=tuple(played),
            counts=tuple(len(read.rows[site]) for read in played.values()),
        )

    def _direction(
        self,
        model: "Model",
        site: str,
        own: AnswersRead,
        played: Mapping[str, AnswersRead],
        roles: Tensor,
    ) -> SteeringVector:
        default = own.rows[site]
        axis = default.mean(dim=0) - roles.mean(dim=0)
        if not bool(axis.norm() > _LEAST * roles.norm()):
            expected = "roles that differ from the default"
            raise InputError(explain(where=site, expected=expected, got="equal means"))
        reads = [own, *played.values()]
        tokens = sum(read.tokens for read in reads)
        d_prime, cosine = held_out(default, roles, self.splits, self.seed)
        return SteeringVector(
            vector=axis.float(),
            at=site,
            method={"name": "AssistantAxis", **to_json(self), "where": "~sinks"},
            model=model.name,
            counts=(len(default), sum(len(read.rows[site]) for read in played.values())),
            tokens_read=tokens,
            sinks=model.sinks,
            residual_norm=sum(read.norms[site] for read in reads) / tokens,
            d_prime=d_prime,
            cosine=cosine,
            sigma=_spread(played, site, axis / axis.norm()),
        )


def _spread(played: Mapping[str, AnswersRead], site: str, unit: Tensor) -> float | None:
    """The standard deviation along the axis of answers within a role; None of single answers."""
    inside = [read.rows[site] @ unit for read in played.values() if len(read.rows[site]) > 1]
    if not inside:
        return None
    left = sum(float((x - x.mean()).square().sum()) for x in inside)
    return (left / sum(len(x) - 1 for x in inside)) ** 0.5
