"""Gradients at sites are the slopes that finite differences measure, in float64."""

from collections.abc import Iterator

import torch
from torch import Tensor

from jackfield.core.sites import layer_of
from jackfield.edits import Add
from jackfield.model.doctor.diagnosis import Row, absent, judge
from jackfield.model.doctor.hooks import leaf_outputs
from jackfield.model.doctor.subject import Subject, output
from jackfield.model.run import Run

# Steps, of the site's typical size. What transformers does in float32 in any dtype is noise of
# about 1e-7 / step in a slope; a longer step may cross a kink. A wrong gradient agrees at none.
STEPS = (1e-3, 1e-4, 1e-2, 1e-6)
LIMIT = 1e-2


def check_gradients(patient: Subject, twin: Subject | None) -> Iterator[Row]:
    """The derivative along a random direction, at each role of one block."""
    check = "run.gradients = finite differences"
    double = twin or (patient if patient.model.dtype == torch.float64 else None)
    if double is None:
        yield absent(check, "no copy in float64")
        return
    yield judge(check, gradient_mistakes(double), LIMIT, remark="in float64")


def gradient_mistakes(patient: Subject) -> dict[str, float]:
    """Site → how far the slope by autograd is from the measured one, relative."""
    last = patient.layers[-1] if patient.layers else None
    names = [s.name for s in patient.sampled if s.layer in (None, last) and s.write]
    names = names or leaf_outputs(patient)
    with torch.enable_grad():
        run = patient.run(names, grad=True)
        weights = patient.change(output(run), scale=1.0)
        gradients = run.gradients((output(run) * weights).sum())
    return {name: _mistake(patient, run, name, gradients[name], weights) for name in names}


def _mistake(patient: Subject, run: Run, name: str, gradient: Tensor, weights: Tensor) -> float:
    direction = patient.change(run[name], scale=1.0)
    slope = float((gradient * direction).sum())
    typical = float(gradient.norm() * direction.norm()) / direction.numel() ** 0.5
    error = torch.inf
    for step in STEPS:
        up, down = (
            _metric(patient, run, Add(direction, at=name, strength=end), weights)
            for end in (step, -step)
        )
        measured = (up - down) / (2 * step)
        error = min(error, abs(slope - measured) / max(abs(measured), typical, 1e-30))
        if error <= LIMIT:
            break
    return error


def _metric(patient: Subject, base: Run, edit: Add, weights: Tensor) -> float:
    layer = layer_of(edit.sites[0])
    entry = f"layers.{layer}.resid_pre"
    start = None if layer is None else {entry: base[entry].detach()}
    return float((output(patient.run((), [edit], start=start)) * weights).sum())
