"""Reads and writes are what a plain PyTorch hook at the same module gives, bit for bit.

This holds for any module, so it is the check that a CNN or a hand-written network gets: a sample of
its parts is read, changed at the output and changed at the input.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from jackfield.edits import Add
from jackfield.model.doctor.diagnosis import Row, absent, judge
from jackfield.model.doctor.subject import Subject, effect, relative
from jackfield.model.doctor.writing import EFFECT
from jackfield.model.sites import ATTENTION_ROLES, Site
from jackfield.model.views import first

PARTS = 8  # modules that are tried


def check_hooks(patient: Subject, twin: Subject | None) -> Iterator[Row]:
    """Four rows: reads and writes, at sites and at modules."""
    sites = [site for site in patient.sampled if _is_whole(site)]
    paths = once_called(patient)
    parts = [patient.model.sites[f"{path}:out"] for path in paths]
    if not parts:
        yield absent("plain hooks", "no module that is called once and returns a tensor")
    for kind, group in (("sites", sites), ("modules", parts)):
        if group:
            base = patient.run([site.name for site in group])
            yield judge(
                f"{kind}: a read is a plain hook's", _read_mistakes(patient, group, base), 0.0
            )
            near = [site for site in group if site.layer in (None, patient.middle)]
            tried = {site.name: _write_mistake(patient, site, base) for site in near}
            writes = {name: error for name, error in tried.items() if error is not None}
            yield judge(f"{kind}: a written Δ is a plain hook's", writes, 0.0)
    paths = [path for path in paths if twin is None or path in set(_called(twin))]
    if paths:
        found = {f"{path}:in": input_mistake(patient, path) for path in paths}
        exact = {f"{path}:in": input_mistake(twin, path) for path in paths} if twin else None
        yield judge(
            "modules: Δ at the input gives module(input + Δ)", found, patient.local, twin=exact
        )


def once_called(patient: Subject) -> list[str]:
    """A few leaf modules, first to last, that the forward calls once and that give a tensor."""
    names = _called(patient)
    step = max(1.0, (len(names) - 1) / (PARTS - 1))
    return list(dict.fromkeys(names[round(i * step)] for i in range(min(PARTS, len(names)))))


def leaf_outputs(patient: Subject) -> list[str]:
    """The outputs of these modules, as sites."""
    return [f"{path}:out" for path in once_called(patient)]


def input_mistake(patient: Subject, path: str) -> float:
    """How far a module's output is from module(input + Δ) after Δ was written at its input."""
    module = patient.model.module.get_submodule(path)
    sites = [f"{path}:in", f"{path}:out"]
    base = patient.run(sites)
    run = patient.run(sites, [Add(patient.change(base[sites[0]]), at=sites[0])])
    if torch.equal(run[sites[0]], base[sites[0]]):
        return torch.inf
    return relative(run[sites[1]], first(module(run[sites[0]].clone())))


def _called(patient: Subject) -> list[str]:
    """Leaf modules that one forward calls once, on one float tensor, for one float tensor."""
    calls: dict[str, list[bool]] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
            alone = len(args) == 1 and not kwargs
            calls.setdefault(name, []).append(alone and all(map(_is_float, (*args, out))))

        return hook

    leaves = [
        (n, m) for n, m in patient.model.module.named_modules() if n and not any(m.children())
    ]
    handles = [m.register_forward_hook(note(n), with_kwargs=True) for n, m in leaves]
    try:
        patient.run()
    finally:
        for handle in handles:
            handle.remove()
    return [name for name, fits in calls.items() if fits == [True]]


def _is_float(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()


def _is_whole(site: Site) -> bool:
    """Whether the site's tensor is all of a module's first tensor, up to its shape."""
    plain = site.point.side in ("in", "out") and site.point.path and not site.via
    return (
        bool(plain)
        and site.write == site.point
        and site.role not in (*ATTENTION_ROLES[3:5], "router")
    )


def _keeper(kept: list[Tensor]) -> Callable[[Tensor], None]:
    return lambda x: kept.append(x.clone())


def _read_mistakes(patient: Subject, sites: list[Site], base: Any) -> dict[str, float]:
    seen: dict[str, list[Tensor]] = {site.name: [] for site in sites}
    with ExitStack() as stack:
        for site in sites:
            stack.enter_context(_hooked(patient, site, _keeper(seen[site.name])))
        patient.run()
    return {name: _differs(base[name], found) for name, found in seen.items()}


def _differs(value: Tensor, seen: list[Tensor]) -> float:
    """0 where the one tensor that was seen holds the value, all of it or as a part."""
    if len(seen) != 1:
        return torch.inf
    if value.numel() != seen[0].numel():  # a part of a fused projection
        return 0.0 if torch.isin(value, seen[0]).all() else torch.inf
    return 0.0 if torch.equal(value.reshape(seen[0].shape), seen[0]) else torch.inf


def _write_mistake(patient: Subject, site: Site, base: Any) -> float | None:
    """None for a part of a fused projection, which no plain hook sees as a whole."""
    delta = patient.change(base[site.name])
    edited = patient.run((), [Add(delta, at=site.name)])
    if effect(edited, base) < EFFECT:
        return torch.inf
    fits: list[bool] = []

    def add(x: Tensor) -> Tensor:
        fits.append(x.numel() == delta.numel())
        return x + delta.reshape(x.shape) if fits[-1] else x

    with _hooked(patient, site, add):
        hooked = patient.run()
    return effect(edited, hooked) if all(fits) else None


@contextmanager
def _hooked(patient: Subject, site: Site, change: Callable[[Tensor], Any]) -> Iterator[None]:
    """A plain hook at the site's module: `change` of its first tensor."""
    module = patient.model.module.get_submodule(site.point.path)

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args and isinstance(args[0], Tensor):
            new = change(args[0])
            return None if new is None else ((new, *args[1:]), kwargs)
        name = next(key for key, value in kwargs.items() if isinstance(value, Tensor))
        new = change(kwargs[name])
        return None if new is None else (args, {**kwargs, name: new})

    def after(module: nn.Module, args: Any, out: Any) -> Any:
        new = change(first(out))
        if new is None:
            return None
        return new if isinstance(out, Tensor) else (new, *out[1:])

    if site.point.side == "in":
        handle = module.register_forward_pre_hook(before, with_kwargs=True)
    else:
        handle = module.register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()
