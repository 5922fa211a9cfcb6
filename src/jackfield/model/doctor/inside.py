"""What q, k and v projections mean, for attention that cannot be tapped inside.

The families that do not call the attention interface have q_proj, k_proj, v_proj and z, and nothing
between. What attention must do with them, whatever its rotary or its bias, is checked instead:
at position 0 a causal head sees one key only, so z = v_proj; without queries or without keys the
scores are the same; a query acts at its own position, a key and a value from theirs on.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from jackfield.edits import Add, ZeroOut
from jackfield.model.doctor.diagnosis import Row, judge
from jackfield.model.doctor.reading import expand_heads
from jackfield.model.doctor.subject import Subject, relative

PLACE = 2  # the position that is written


def check_inside(patient: Subject, twin: Subject | None) -> Iterator[Row]:
    """Three rows, for blocks with projections and z but no q, k, v."""
    roles = patient.sites_of(0) if patient.model.n_layers else {}
    if "q" in roles or not {"q_proj", "k_proj", "v_proj", "z"} <= roles.keys():
        return
    checks = {
        "z at position 0 = v_proj, each head its own": _first_position,
        "z without queries = z without keys": _without,
        "a query acts at its position, k and v from theirs on": _footprint,
    }
    for check, measure in checks.items():
        found = {f"layers.{layer}.z": measure(patient, layer) for layer in patient.layers}
        exact = {f"layers.{la}.z": measure(twin, la) for la in patient.layers} if twin else None
        yield judge(check, found, patient.local, twin=exact)


def _first_position(patient: Subject, layer: int) -> float:
    run = patient.run([f"layers.{layer}.z", f"layers.{layer}.v_proj"])
    z, v = run[f"layers.{layer}.z"], run[f"layers.{layer}.v_proj"]
    return relative(z[:, :1], expand_heads(v, z.shape[-2])[:, :1])


def _without(patient: Subject, layer: int) -> float:
    z = f"layers.{layer}.z"
    gone = [
        patient.run([z], [ZeroOut(at=f"layers.{layer}.{part}")])[z] for part in ("q_proj", "k_proj")
    ]
    same = torch.equal(gone[0], patient.run([z])[z])
    return torch.inf if same else relative(gone[0], gone[1])


def _footprint(patient: Subject, layer: int) -> float:
    """0 when each part changes z at the positions where it must, and at no other."""
    wanted = {"q_proj": "here", "k_proj": "after", "v_proj": "from here"}
    z = f"layers.{layer}.z"
    base = patient.run([z, *(f"layers.{layer}.{part}" for part in wanted)])
    for part, where in wanted.items():
        site = f"layers.{layer}.{part}"
        edit = Add(patient.change(base[site]), at=site, where=[PLACE])
        changed = (patient.run([z], [edit])[z] != base[z]).flatten(2).any(-1).any(0)
        if not _fits(changed, where):
            return torch.inf
    return 0.0


def _fits(changed: Tensor, where: str) -> bool:
    before, here, after = changed[:PLACE].any(), changed[PLACE], changed[PLACE + 1 :]
    if where == "here":
        return bool(here and not before and not after.any())
    return bool(not before and after.any() and (here or where == "after"))
