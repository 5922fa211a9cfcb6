"""Families: what an architecture is to us, and how a line of the role table is read.

The table itself is data, in `role_table.py`. A line says where a site is and what it equals:

    "mlp_out": "mlp:out = mlp.down_proj(mlp_post)"

Its place, before the "=", is "path:side view", relative to the block:

    self_attn:in                  what the module is given (its first tensor)
    self_attn:out                 what it returns (the first tensor of a tuple)
    self_attn.q_proj:out heads    with a view; the views are listed in `views.py`
    norm:in via attn_out          read here, written as a change of attn_out (the skip path would
                                  miss a write at the norm's input)
    (nothing)                     a site of the attention function, or the block's own in or output

Its equation, after the "=", is over the block's other sites and modules; the words it may use are
in `equations.py`. `jackfield doctor` proves the equations on a model, which proves the places.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Topology = Literal["sequential", "parallel", "post-norm"]


@dataclass(frozen=True, kw_only=True)
class Family:
    """One architecture.

    Attributes:
        name: how we call it; `model_types` are the names in a transformers config.
        blocks: path of the list of blocks, relative to the base model.
        roles: site role → "place = equation".
        topology: how a block adds up: "sequential" (attention, then MLP), "parallel" (both read
            the block's input) or "post-norm" (a norm after each addition).
        final_norm: path of the last norm, relative to the base model.
        logits: the equation of the logits over final_norm or resid_post; paths are relative to the
            whole model. A model that lacks one of them has no logits.
        attention: the module that calls the attention interface; None where it does not use it.
        returns_tuple: whether a block returns a tuple.
        when: values of the config that this entry is for, by name.
    """

    name: str
    model_types: tuple[str, ...]
    blocks: str
    roles: Mapping[str, str]
    topology: Topology = "sequential"
    final_norm: str | None = None
    logits: str | None = "lm_head(final_norm)"
    attention: str | None = "self_attn"
    returns_tuple: bool = False
    when: Mapping[str, Any] = field(default_factory=dict)

    @property
    def places(self) -> dict[str, str]:
        """Role → where it is, for the roles whose line says so."""
        halves = {role: _split(line)[0] for role, line in self.roles.items()}
        return {role: place for role, place in halves.items() if place}

    @property
    def equations(self) -> dict[str, str]:
        """Role → what it equals, for the roles whose line says so."""
        halves = {role: _split(line)[1] for role, line in self.roles.items()}
        return {role: equation for role, equation in halves.items() if equation}

    def fits(self, config: Any) -> bool:
        """Whether this entry is for a model with this config."""
        if getattr(config, "model_type", None) not in self.model_types:
            return False
        return all(getattr(config, name, None) == value for name, value in self.when.items())


def family_of(config: Any) -> Family | None:
    """The entry of the role table for a model's config, None if no entry is for it."""
    from jackfield.model.role_table import FAMILIES

    return next((family for family in FAMILIES if family.fits(config)), None)


def _split(line: str) -> tuple[str, str]:
    place, _, equation = re.sub(r"\s+", " ", line).strip().partition("=")
    return place.strip(), equation.strip()
