"""Every site equals its definition: the equations of the role table, computed on their own.

The values of one forward are read; each equation is then evaluated by calling the model's modules
outside of it, and compared. Between blocks, resid_pre is the resid_post before. Inside attention,
pattern is the softmax of the scores, its rows sum to 1, and pattern @ v is z.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from jackfield.model.doctor.diagnosis import Row, absent, judge
from jackfield.model.doctor.subject import Subject, relative
from jackfield.model.equations import Scope, evaluate, fitting, lookup

# What attention computes, whatever the family; proven here in code, as it is no module's call.
INSIDE = {
    "scores": "scaled q @ k, capped",
    "pattern": "softmax(scores)",
    "z": "pattern @ v",
}
# transformers makes its rotary tables, and its eager attention takes the softmax, in float32 in
# any dtype: what is smaller is that.
FLOAT32 = 1e-6


def check_equations(patient: Subject, twin: Subject | None) -> Iterator[Row]:
    """One row a role: its equation, at the sampled blocks."""
    if patient.model.family is None:
        yield absent("equations", "no family: raw module paths only")
        return
    found, exact = mistakes(patient), mistakes(twin) if twin else None
    for role, errors in found.items():
        check = f"{role} = {equation_of(patient, role)}"
        yield judge(check, errors, patient.local, twin=exact[role] if exact else None)


def mistakes(patient: Subject) -> dict[str, dict[str, float]]:
    """Role → site → how far it is from its equation, in one forward."""
    model = patient.model
    sites = [s.name for s in patient.sites if s.layer is None or s.layer in _near(patient)]
    run = patient.run(sites)
    found: dict[str, dict[str, float]] = {}
    for layer in patient.layers:
        values = patient.values(run, layer)
        for role, error in block_mistakes(
            patient, values, patient.scope(run, values, layer)
        ).items():
            found.setdefault(role, {})[patient.sites_of(layer)[role]] = error
    last = patient.values(run, model.n_layers - 1)
    tops = {r: run[r] for r in ("final_norm", "logits") if r in model.sites}
    for role, error in top_mistakes(patient, patient.scope(run, {**last, **tops})).items():
        found[role] = {role: error}
    for layer in patient.layers:
        before = f"layers.{layer - 1}.resid_post" if layer else "embed"
        name = f"layers.{layer}.resid_pre"
        found.setdefault("resid_pre", {})[name] = relative(run[name], run[before])
    return found


def block_mistakes(
    patient: Subject, values: Mapping[str, Tensor], scope: Scope
) -> dict[str, float]:
    """Role → how far its value is from its equation over the block's other values."""
    assert patient.model.family is not None
    found = {}
    for role, line in patient.model.family.equations.items():
        equation = fitting(line, scope)
        if role not in values or equation is None:
            continue
        try:
            found[role] = _mistake(values[role], equation, scope)
        except (RuntimeError, TypeError):  # shapes that do not fit
            found[role] = torch.inf
    return {**found, **_attention_mistakes(patient, values, scope)}


def _mistake(value: Tensor, equation: str, scope: Scope) -> float:
    if "rotary(" not in equation:
        return relative(value, _like(evaluate(equation, scope), value))
    return beyond_float32(max(_scaled(value, equation, scope), _length(value, equation, scope)))


def top_mistakes(patient: Subject, scope: Scope) -> dict[str, float]:
    """The same for final_norm and logits."""
    family, values = patient.model.family, scope.values
    assert family is not None
    found = {}
    if "final_norm" in values:
        norm = lookup(patient.model.module, patient.model.sites.base + str(family.final_norm))
        found["final_norm"] = relative(values["final_norm"], norm(values["resid_post"]))
    equation = fitting(family.logits or "", scope) if "logits" in values else None
    if equation:
        found["logits"] = relative(values["logits"], evaluate(equation, scope))
    return found


def equation_of(patient: Subject, role: str) -> str:
    """A role's equation as text."""
    family = patient.model.family
    assert family is not None
    fixed = {
        **INSIDE,
        "resid_pre": "resid_post of the block before, or embed",
        "final_norm": f"{family.final_norm}(resid_post)",
        "logits": str(family.logits),
    }
    return family.equations.get(role) or fixed.get(role, "")


def beyond_float32(error: float) -> float:
    """0 for what transformers' own float32 parts may leave in any dtype."""
    return error if error > FLOAT32 else 0.0


def expand_heads(x: Tensor, heads: int) -> Tensor:
    """[..., kv_head, d_head] with each KV head repeated for the query heads that share it."""
    return x.repeat_interleave(heads // x.shape[-2], dim=-2)


def _near(patient: Subject) -> set[int]:
    """The sampled blocks and those before them."""
    return {near for layer in patient.layers for near in (layer, layer - 1)}


def _like(x: Tensor, value: Tensor) -> Tensor:
    return x if x.shape == value.shape or x.numel() != value.numel() else x.reshape(value.shape)


def _scaled(value: Tensor, equation: str, scope: Scope) -> float:
    """At position 0, up to one positive factor (some rotary tables carry one, as YaRN does)."""
    expected = evaluate(equation, scope)
    said = ~expected.isnan()
    a, b = value[said].double(), expected[said].double()
    factor = float((a @ b) / (b @ b))
    return relative(value, expected * factor) if factor > 0 else torch.inf


def _length(value: Tensor, equation: str, scope: Scope) -> float:
    """A turn keeps lengths, up to that factor: checked at every position."""
    unturned = evaluate(equation, replace(scope, start=torch.ones_like(scope.start)))  # type: ignore[arg-type]
    a, b = value.double().norm(dim=-1), unturned.double().norm(dim=-1)
    return relative(a, b * float((a * b).sum() / (b * b).sum()))


def _attention_mistakes(
    patient: Subject, values: Mapping[str, Tensor], scope: Scope
) -> dict[str, float]:
    if not {"q", "k", "v", "scores", "pattern", "z"} <= values.keys():
        return {}
    v = expand_heads(values["v"], values["pattern"].shape[1])
    mixed = torch.einsum("bhqk,bkhd->bqhd", values["pattern"].double(), v.double())
    error = relative(values["z"], mixed)
    eager = getattr(patient.model.config, "_attn_implementation", None) == "eager"
    return {
        "scores": _scores_mistake(patient, values),
        "pattern": relative(values["pattern"], _softmax(patient, values["scores"], scope)),
        "z": beyond_float32(error) if eager else error,
    }


def _scores_mistake(patient: Subject, values: Mapping[str, Tensor]) -> float:
    """Scores = s · q @ k where not masked, with one s; a cap is undone first."""
    k = expand_heads(values["k"], values["scores"].shape[1])
    product = torch.einsum("bqhd,bkhd->bhqk", values["q"].double(), k.double())
    scores = values["scores"].double()
    cap = getattr(patient.model.config, "attn_logit_softcapping", None)
    if cap is not None:
        scores = torch.atanh(scores / cap) * cap
    seen = scores.isfinite()
    factor = (scores[seen] @ product[seen]) / (product[seen] @ product[seen])
    size = values["q"].double().norm(dim=-1).amax() * k.double().norm(dim=-1).amax() * factor.abs()
    return float((scores - product * factor)[seen].abs().max() / size)


def _softmax(patient: Subject, scores: Tensor, scope: Scope) -> Tensor:
    family = patient.model.family
    sink = lookup(scope.module, f"{family.attention}.sinks") if family else None
    scores = scores.double()
    if sink is None:
        return torch.softmax(scores, dim=-1)
    column = sink.double().reshape(1, -1, 1, 1).expand(*scores.shape[:-1], 1)
    return torch.softmax(torch.cat([scores, column], dim=-1), dim=-1)[..., :-1]
