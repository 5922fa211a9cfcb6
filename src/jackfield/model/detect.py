"""Automatic detection: the sites of a model that the role table does not list.

A family is proposed from what one small forward shows, not from names: which list of modules hands
the stream on, which two outputs in a block add up to what leaves it, which linear layer makes them
(`trace.py` and `propose.py`). Then it is proven with the doctor's equations, in reading and in
writing, and a role that does not hold is dropped. What is left is right or absent; module paths
always work.
"""

import copy
import re
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from jackfield.core.errors import JackfieldError, SiteError
from jackfield.model.equations import names_in
from jackfield.model.families import Family
from jackfield.model.propose import propose
from jackfield.model.trace import trace

if TYPE_CHECKING:
    from jackfield.model.doctor.subject import Subject

COPY_LIMIT = 500_000_000  # parameters: above it no float32 copy is made of a low-precision model


def detect(module: nn.Module) -> Family | None:
    """A family whose every role is proven on this module, None if it has no stack of blocks.

    Costs nothing for a module without a list of attention blocks; else some dozens of forwards on
    16 tokens. The module is left as it was.
    """
    blocks = _blocks(module)
    if blocks is None or any(parameter.is_meta for parameter in module.parameters()):
        return None
    from jackfield.model.doctor.subject import calm, restore

    modes = calm(module)
    try:
        with torch.no_grad():
            return _detected(module, blocks)
    except (JackfieldError, RuntimeError, TypeError, ValueError, AttributeError, LookupError):
        return None  # a module that cannot be run on made-up inputs keeps its module paths
    finally:
        restore(modes)


def _blocks(module: nn.Module) -> str | None:
    """The path of the largest list of alike modules with attention in them."""
    if getattr(getattr(module, "config", None), "is_encoder_decoder", False):
        return None
    found: dict[str, int] = {}
    for path, part in module.named_modules():
        inside = any(path.startswith(f"{outer}.") for outer in found)
        if isinstance(part, nn.ModuleList) and len(part) and not inside and _attends(part):
            found[path] = sum(parameter.numel() for parameter in part.parameters())
    return max(found, key=lambda path: found[path]) if found else None


def _attends(part: nn.ModuleList) -> bool:
    alike = len({type(each) for each in part}) == 1
    return alike and all(
        any(
            re.search("attn|attention", f"{name} {type(inner).__name__}".lower())
            for name, inner in each.named_modules()
        )
        for each in part
    )


def _detected(module: nn.Module, blocks: str) -> Family | None:
    from jackfield.model.doctor.subject import admit
    from jackfield.model.model import Model

    name = f"detected: {type(module).__name__}"
    bare = Family(
        name=name, model_types=(), blocks=blocks, roles={}, logits=None, attention=None
    )  # fmt: skip
    patient = admit(Model(_precise(module), family=bare))
    seen = trace(patient)
    if seen is None:
        return None
    shown = replace(bare, attention=seen.attention, returns_tuple=seen.returns_tuple)
    return _proven(patient, replace(shown, **propose(seen)))


def _precise(module: nn.Module) -> nn.Module:
    """The module, or a float32 copy of one in low precision, whose equations would prove little."""
    floats = {p.dtype for p in module.parameters() if p.is_floating_point()}
    if floats <= {torch.float32, torch.float64}:
        return module
    if sum(p.numel() for p in module.parameters()) > COPY_LIMIT:
        raise ValueError("too large to copy")
    return copy.deepcopy(module).float()


# The proof -----------------------------------------------------------------------------------


def _proven(patient: "Subject", family: Family) -> Family | None:
    """The family with the roles that hold; None if not even the stream does."""
    while wrong := _tapped(patient, family):
        less = _without(family, wrong)
        if less == family:  # the stream itself is not what we take it for
            return None
        family = less
    return family


def _without(family: Family, wrong: set[str]) -> Family:
    """The family less these roles; the equation of resid_post goes rather than the stream."""
    inside = {"q", "k", "v", "scores", "pattern", "z"}
    roles = {role: line for role, line in family.roles.items() if role not in wrong}
    return replace(
        family,
        roles=roles,
        attention=None if wrong & inside - family.roles.keys() else family.attention,
        final_norm=None if "final_norm" in wrong else family.final_norm,
        logits=None if wrong & {"logits", "final_norm"} else family.logits,
    )


def _tapped(patient: "Subject", family: Family) -> set[str]:
    """What is wrong; attention that does what is not understood is not tapped."""
    try:
        return _wrong(patient, family)
    except SiteError:
        if family.attention is None:
            raise
        return {"pattern"}


def _unproven(family: Family, found: set[str]) -> set[str]:
    """Roles whose own equation could not be evaluated, and which no evaluated one contains."""
    said = {name for role in found for name in _names(family.equations.get(role, ""))}
    return set(family.places) - found - said


def _names(equation: str) -> set[str]:
    return names_in(equation)[0] if equation else set()


def _wrong(patient: "Subject", family: Family) -> set[str]:
    """Roles whose equation fails in reading at any block, or in writing at the sampled ones."""
    from jackfield.model.doctor.reading import mistakes
    from jackfield.model.doctor.subject import Subject
    from jackfield.model.doctor.writing import write_mistakes
    from jackfield.model.model import Model

    model = Model(patient.model.module, family=family)
    every = Subject(model, patient.given, tuple(range(model.n_layers)))
    found = mistakes(every)
    wrong = {role for role, errors in found.items() if max(errors.values()) > every.local}
    wrong |= _unproven(family, set(found))
    if wrong:
        return wrong
    near = Subject(model, patient.given, patient.layers)
    base = near.run([site.name for site in near.sampled])
    for site in near.sampled:
        if site.write and any(e > near.local for e in write_mistakes(near, site, base).values()):
            wrong.add(site.role)
    return wrong
