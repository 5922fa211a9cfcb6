"""Writes have the effect that the equations say: a known Δ is added at each site.

In the forward with the write, everything that the site does not act on is bit for bit as before,
the site reads as before plus Δ, and every other equation of the block still holds, with the
modules called on their own. So a write that misses the skip path, or goes nowhere, or hits a
neighbour too, breaks an equation by name. The model's output must change (an effect-size guard).
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from jackfield.edits import Add
from jackfield.model.doctor.diagnosis import Row, absent, judge
from jackfield.model.doctor.reading import block_mistakes, top_mistakes
from jackfield.model.doctor.subject import Subject, effect, relative
from jackfield.model.equations import lookup, names_in
from jackfield.model.run import Run
from jackfield.model.sites import ROLE_ORDER, Site
from jackfield.model.views import first

EFFECT = 1e-5  # the output must change by at least this, relative to its size
# What a site depends on where no equation of the table says it; else on all before it.
_KNOWN = {
    "scores": {"q", "k"},
    "pattern": {"scores"},
    "z": {"pattern", "v", "q_proj", "k_proj", "v_proj", "attn_in"},
    "q_proj": {"attn_in"},
    "k_proj": {"attn_in"},
    "v_proj": {"attn_in"},
    "q": {"q_proj"},
    "k": {"k_proj"},
    "v": {"v_proj"},
    "mlp_out": {"router"},
}


def check_writes(patient: Subject, twin: Subject | None) -> Iterator[Row]:
    """One row a role: Δ written at the sampled blocks."""
    if patient.model.family is None:
        yield absent("a written Δ", "no family: raw module paths only")
        return
    roles: dict[str, list[Site]] = {}
    for site in patient.sampled:
        roles.setdefault(site.role, []).append(site)
    base = patient.run([site.name for site in patient.sampled])
    exact = twin.run(base.sites) if twin else None
    for role, group in roles.items():
        if group[0].write is None:
            yield absent(f"Δ at {role}", "read only", group[0].name)
            continue
        found, small = {}, {}
        for site in group:
            found.update(write_mistakes(patient, site, base))
            small.update(write_mistakes(twin, site, exact, here=True) if twin and exact else {})
        check = f"Δ at {role} does what its equations say"
        yield judge(check, found, patient.local, twin=small if twin else None)


def write_mistakes(
    patient: Subject, site: Site, base: Run, *, here: bool = False
) -> dict[str, float]:
    """What a Δ at the site does wrongly: "site → other" → how far off; {site: …} is the largest.

    Infinite where something changes that must not, or nothing changes at all. With `here` only the
    block is run, without the output.
    """
    delta = _delta(patient, site, base)
    here = here and site.layer is not None
    run = patient.rerun(base, site.layer, [Add(delta, at=site.name)], logits=not here)
    wrong = {site.name: relative(run[site.name], base[site.name] + delta)}
    if not here and effect(run, base) < EFFECT:
        wrong[f"{site.name} → (no effect)"] = torch.inf
    for name, error in _consequences(patient, site, base, run).items():
        wrong[f"{site.name} → {name}"] = error
    bad = {name: error for name, error in wrong.items() if error > patient.local}
    return bad or {site.name: max(wrong.values())}


def downstream(equations: Mapping[str, str], role: str, roles: Collection[str]) -> set[str]:
    """Of the block's roles those that a change at `role` may act on, itself included."""
    parents = {}
    for place, other in enumerate(ROLE_ORDER):
        said = [names_in(part)[0] for part in equations.get(other, "").split("|") if part]
        known = (set().union(*said) | _KNOWN.get(other, set())) & set(roles)
        parents[other] = known or set(ROLE_ORDER[:place])
    reached = {role}
    while True:
        more = {r for r, above in parents.items() if above & reached} - reached
        if not more:
            return reached
        reached |= more


def _delta(patient: Subject, site: Site, base: Run) -> Tensor:
    """Δ; for a router one that a change of its input makes, so that this can be the reference."""
    if site.role != "router":
        return patient.change(base[site.name])
    router, given = _router(patient, site), base[f"layers.{site.layer}.mlp_in"]
    return patient.change(given) @ router.weight.T


def _consequences(patient: Subject, site: Site, base: Run, run: Run) -> dict[str, float]:
    """Other site → how far it is from what the write should have made of it."""
    wrong = {}
    family = patient.model.family
    assert family is not None
    if site.layer is None:
        return _at_the_top(patient, site, base, run)
    names = patient.sites_of(site.layer)
    reached = downstream(family.equations, site.role, names)
    for role, name in names.items():
        if role not in reached and not torch.equal(run[name], base[name]):
            wrong[name] = torch.inf
    values = patient.values(run, site.layer)
    errors = block_mistakes(patient, values, patient.scope(run, values, site.layer))
    if site.role == "router":
        errors.pop("mlp_out", None)  # its equation is with the router's own choice
        errors.update({"mlp_out": _routed(patient, site, run)} if patient.through < 1 else {})
    return {**wrong, **{names[r]: e for r, e in errors.items() if r != site.role}}


def _at_the_top(patient: Subject, site: Site, base: Run, run: Run) -> dict[str, float]:
    if site.role == "embed":
        name = "layers.0.resid_pre"
        return {name: relative(run[name], run["embed"])}
    last = patient.values(run, patient.model.n_layers - 1)
    tops: dict[str, Tensor] = {r: run[r] for r in ("final_norm", "logits") if r in run.sites}
    errors = top_mistakes(patient, patient.scope(run, {**last, **tops}))
    if not torch.equal(last["resid_post"], base[f"layers.{patient.model.n_layers - 1}.resid_post"]):
        errors["resid_post"] = torch.inf
    return {name: error for name, error in errors.items() if name != site.role}


def _router(patient: Subject, site: Site) -> Any:
    return lookup(patient.model.module, site.point.path)


def _routed(patient: Subject, site: Site, run: Run) -> float:
    """mlp_out against the MLP whose router is given an input that makes these logits."""
    router, given = _router(patient, site), run[f"layers.{site.layer}.mlp_in"]
    shift = patient.change(given)
    path = site.point.path.rpartition(".")[0]

    def shifted(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0] + shift.reshape(args[0].shape), *args[1:])

    handle = router.register_forward_pre_hook(shifted)
    try:
        with torch.no_grad():
            made = first(lookup(patient.model.module, path)(given))
    finally:
        handle.remove()
    return relative(run[f"layers.{site.layer}.mlp_out"], made)
