"""Nothing is changed that was not asked for, and nothing stays behind.

Without an edit, and with one that changes nothing, the output is that of the bare module bit for
bit; leaving the block, or an exception inside it, leaves no hook and the first output.
"""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from jackfield.edits import Add, Function, Scale
from jackfield.model.doctor.diagnosis import Row, absent, judge
from jackfield.model.doctor.hooks import leaf_outputs
from jackfield.model.doctor.reading import beyond_float32
from jackfield.model.doctor.subject import Subject, output, relative
from jackfield.model.inputs import arguments
from jackfield.model.views import first


class _RaisedError(Exception):
    """Ours, so that no other is caught."""


def check_identities(patient: Subject, twin: Subject | None) -> Iterator[Row]:
    """No edit, reads only, and an edit that changes nothing, against the bare module."""
    bare = plain_output(patient)
    yield judge(
        "no edit: the bare module's output", {"output": _same(output(patient.run()), bare)}, 0.0
    )
    names = [site.name for site in patient.sites] or leaf_outputs(patient)
    read = output(patient.run(names))
    yield judge("reading every site changes nothing", {"output": _same(read, bare)}, 0.0)
    found, rebuilt, exact = {}, {}, {}
    for role, name in _writable(patient):
        made = output(patient.run((), [Scale(1.0, at=name)]))
        if role in ("scores", "pattern"):
            rebuilt[name] = relative(made, bare)
            if twin:
                exact[name] = relative(
                    output(twin.run((), [Scale(1.0, at=name)])), output(twin.run())
                )
        else:
            found[name] = _same(made, bare)
    if found:
        yield judge("an edit that changes nothing", found, 0.0)
    if rebuilt:
        remark = "attention is computed explicitly for these"
        kept = {name: beyond_float32(error) for name, error in exact.items()} if twin else None
        yield judge(
            "an edit that changes nothing, rebuilt",
            rebuilt,
            patient.through,
            twin=kept,
            remark=remark,
        )


def check_leaving(patient: Subject, twin: Subject | None) -> Iterator[Row]:
    """After `editing`, after an exception in it, after `run`: the first output, no hooks."""
    before, bare = traces(patient.model.module), plain_output(patient)
    edits = _edits(patient)
    with patient.model.editing(edits):
        inside = plain_output(patient)
    effect = relative(inside, bare)
    after = {"after the block": _same(plain_output(patient), bare)}
    _raise_inside(patient, edits)
    after["after an exception in it"] = _same(plain_output(patient), bare)
    _raise_in_an_edit(patient, edits)
    after["after an exception in an edit"] = _same(plain_output(patient), bare)
    after["effect inside"] = 0.0 if effect > 1e-6 else torch.inf
    after["hooks left"] = 0.0 if traces(patient.model.module) == before else torch.inf
    yield judge("the first output comes back, no hook stays", after, 0.0)


def check_parts(patient: Subject, twin: Subject | None) -> Iterator[Row]:
    """Starting in the middle, stopping early, and unembedding give what the whole run gives."""
    model = patient.model
    if not model.n_layers:
        yield absent("start, stop, unembed", "no known blocks")
        return
    sites = [f"layers.{patient.middle}.resid_pre", f"layers.{model.n_layers - 1}.resid_post"]
    run = patient.run(sites)
    found = {
        f"start={sites[0]}": _same(
            output(patient.run(start={sites[0]: run[sites[0]]})), output(run)
        ),
        f"stop at {sites[0]}": _same(patient.run(sites[:1], logits=False)[sites[0]], run[sites[0]]),
    }
    yield judge("a part of the forward is that of the whole", found, 0.0)
    if patient.has_tokens and "logits" in model.sites:
        made, exact = _unembedded(patient), _unembedded(twin) if twin else None
        yield judge("unembed(resid_post) is the logits", made, patient.through, twin=exact)


def plain_output(patient: Subject) -> Tensor:
    """What the bare module returns for the inputs, called as its users call it."""
    given, module = patient.given, patient.model.module
    uncached = {"use_cache": False} if "use_cache" in arguments(module) else {}
    with torch.no_grad():
        made = module(**given, **uncached) if isinstance(given, dict) else module(given, **uncached)
    if hasattr(made, "logits"):
        return made.logits
    return first(made[0] if hasattr(made, "keys") else made)


def traces(module: nn.Module) -> tuple[Any, ...]:
    """All that a hook or a context could leave in a module and in transformers."""
    hooks = tuple(
        (len(part._forward_hooks), len(part._forward_pre_hooks), len(part._backward_hooks),
         "forward" in part.__dict__, id(type(part).forward))
        for part in module.modules()
    )  # fmt: skip
    return hooks, tuple(name for name, _ in module.named_modules()), _interface()


def _interface() -> int:
    import sys

    transformers = sys.modules.get("transformers.modeling_utils")
    return id(transformers.AttentionInterface.get_interface) if transformers else 0


def _writable(patient: Subject) -> list[tuple[str, str]]:
    """(role, pattern over the layers), or the modules' outputs where there are no roles."""
    roles = {site.role: site for site in patient.sites if site.write}
    if not roles:
        return [("", name) for name in leaf_outputs(patient)]
    return [
        (role, f"layers.*.{role}" if site.layer is not None else role)
        for role, site in roles.items()
    ]


def _edits(patient: Subject) -> list[Any]:
    """An edit at each of a few sites of different kinds, those of attention included."""
    wanted = ("resid_mid", "resid_post", "z", "k", "pattern", "mlp_out")
    names = [s.name for s in patient.sampled if s.role in wanted and s.write] or leaf_outputs(
        patient
    )
    run = patient.run(names)
    return [Add(patient.change(run[name]), at=name) for name in names]


def _raise_inside(patient: Subject, edits: list[Any]) -> None:
    try:
        with patient.model.editing(edits):
            plain_output(patient)
            raise _RaisedError
    except _RaisedError:
        pass


def _raise_in_an_edit(patient: Subject, edits: list[Any]) -> None:
    def fail(x: Tensor, context: Any) -> Tensor:
        raise _RaisedError

    with suppress(_RaisedError):
        patient.run((), [*edits, Function(fail, at=edits[-1].at)])


def _unembedded(patient: Subject) -> dict[str, float]:
    last = f"layers.{patient.model.n_layers - 1}.resid_post"
    run = patient.run([last])
    return {last: relative(patient.model.unembed(run[last]), run.logits)}


def _same(found: Tensor, expected: Tensor) -> float:
    return 0.0 if torch.equal(found, expected) else max(relative(found, expected), 1e-300)
