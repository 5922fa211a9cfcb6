"""Automatic detection: the sites of a model that the role table does not list.

A family is proposed from what one small forward shows, not from names: which list of modules hands
the stream on, which two outputs in a block add up to what leaves it, which linear layer makes them.
Then it is proven with the doctor's equations, in reading and in writing, and a role that does not
hold is dropped. What is left is right or absent; module paths always work.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from jackfield.core.errors import JackfieldError, SiteError
from jackfield.model.equations import names_in
from jackfield.model.families import Family
from jackfield.model.trace import Seen, Trace, trace

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
        any(re.search("attn|attention", name.lower()) for name, _ in each.named_modules())
        for each in part
    )


def _detected(module: nn.Module, blocks: str) -> Family | None:
    from jackfield.model.doctor.subject import admit
    from jackfield.model.model import Model

    bare = Family(name=f"detected: {type(module).__name__}", model_types=(), blocks=blocks,
                  roles={}, logits=None, attention=None)  # fmt: skip
    patient = admit(Model(_precise(module), family=bare))
    seen = trace(patient)
    if seen is None:
        return None
    proposed = replace(
        bare,
        attention=seen.attention,
        returns_tuple=seen.returns_tuple,
        **propose(seen),
    )
    return _proven(patient, proposed)


def _precise(module: nn.Module) -> nn.Module:
    """The module, or a float32 copy of one in low precision, whose equations would prove little."""
    floats = {p.dtype for p in module.parameters() if p.is_floating_point()}
    if floats <= {torch.float32, torch.float64}:
        return module
    if sum(p.numel() for p in module.parameters()) > COPY_LIMIT:
        raise ValueError("too large to copy")
    import copy

    return copy.deepcopy(module).float()


# The proposal --------------------------------------------------------------------------------


def propose(seen: Trace) -> dict[str, Any]:
    """Roles, topology, final norm and logits, as the trace of one block suggests them."""
    return {**_additions(seen), **_top(seen)}


def _additions(seen: Trace) -> dict[str, Any]:
    """attn_out and mlp_out are two outputs that with resid_pre give resid_post."""
    for a, m in seen.pairs():
        if seen.near(seen.entry + seen.wide(a.out) + seen.wide(m.out), seen.exit):
            return _pre_norm(seen, a, m)
    last = seen.last_norm()
    if last is not None:
        for middle, m in seen.pairs():
            norm = seen.norm_making(middle.out)
            whole = seen.wide(middle.out) + seen.wide(m.out)
            if norm is None or not seen.near(whole, last.given):
                continue
            for a in seen.outputs():
                if seen.near(seen.entry + seen.wide(a.out), norm.given):
                    return _post_norm(seen, a, m, norm, last)
    return {"roles": {}}


def _pre_norm(seen: Trace, a: Seen, m: Seen) -> dict[str, Any]:
    middle = seen.entry + seen.wide(a.out)
    readers = [each for each in seen.calls if seen.near(each.given, middle)]
    reader = min(readers, key=lambda each: each.path.count("."), default=None)
    sides = {"resid_post": "= resid_pre + attn_out + mlp_out"}
    if reader is not None:
        sides = {
            "resid_mid": f"{seen.place(reader, 'in')} via attn_out = resid_pre + attn_out",
            "resid_post": "= resid_mid + mlp_out",
        }
    stream = {"resid_pre": seen.entry, **({"resid_mid": middle} if reader else {})}
    roles = {**_attention(seen, a, stream), **_mlp(seen, m, stream), **sides}
    return {"roles": roles, "topology": "sequential" if reader else "parallel"}


def _post_norm(seen: Trace, a: Seen, m: Seen, norm: Seen, last: Seen) -> dict[str, Any]:
    stream = {"resid_pre": seen.entry, "resid_mid": norm.out}
    roles = {
        **_attention(seen, a, stream),
        **_mlp(seen, m, stream),
        "resid_mid": f"{seen.outermost(norm.out)}:out = {norm.path}(resid_pre + attn_out)",
        "resid_post": f"= {last.path}(resid_mid + mlp_out)",
    }
    return {"roles": roles, "topology": "post-norm"}


def _attention(seen: Trace, a: Seen, stream: Mapping[str, Tensor]) -> dict[str, str]:
    post, inner = seen.after_norm(a)
    roles = {"attn_out": seen.place(a, "out")}
    reader = seen.call(seen.attention) or seen.largest(inner.out)
    if reader is None:
        return roles
    entry = _reads(seen, reader, {"resid_pre": stream["resid_pre"]})
    roles.update({"attn_in": f"{seen.place(reader, 'in')} = {entry}"} if entry else {})
    maker = seen.linear_making(inner.out)
    if seen.z is None or maker is None:
        return roles
    if seen.near(maker.given, seen.z.flatten(-2)):
        roles["attn_out"] += " = " + post.format(f"{maker.path}(join(z))")
    return {**roles, **_projections(seen, reader)}


def _projections(seen: Trace, reader: Seen) -> dict[str, str]:
    """q_proj, k_proj, v_proj by what becomes of them: v as it is, q and k at position 0."""
    roles: dict[str, str] = {}
    for linear in seen.linears(reading=reader.given):
        split = linear.out.unflatten(-1, (-1, seen.d_head)) if seen.d_head else linear.out
        for part, value in seen.inside.items():
            if f"{part}_proj" in roles or split.shape != value.shape:
                continue
            equation = _becomes(seen, part, linear, split, value)
            if equation:
                path = linear.path
                roles[f"{part}_proj"] = f"{path}:out heads = split({path}(attn_in))"
                roles[part] = f"= {equation}"
    return roles


def _becomes(seen: Trace, part: str, linear: Seen, split: Tensor, value: Tensor) -> str | None:
    """The equation of q, k or v over its projection."""
    name = f"{part}_proj"
    if seen.near(split, value):
        return name
    forms = {name: split} if part != "v" else {}
    for norm in seen.norms_after(linear):
        joint = norm.given.shape[-1] == linear.out.shape[-1]
        form = f"split({norm.path}(join({name})))" if joint else f"{norm.path}({name})"
        forms[form] = norm.module(linear.out if joint else split).reshape(split.shape)
    for form, made in forms.items():
        if seen.near(made, value):
            return form
        if seen.near(made[:, :1], value[:, :1]):
            return f"rotary({form})"
    return None


def _mlp(seen: Trace, m: Seen, stream: Mapping[str, Tensor]) -> dict[str, str]:
    post, inner = seen.after_norm(m)
    maker, down = seen.largest(inner.out), seen.linear_making(inner.out)
    late = dict(list(stream.items())[-1:])  # resid_mid, or resid_pre in a parallel block
    readers = [each for each in (maker, *seen.beside_attention()) if each is not None]
    reader = next((each for each in readers if _reads(seen, each, late)), None)
    if reader is None:
        return {"mlp_out": seen.place(m, "out")}
    roles = {"mlp_in": f"{seen.place(reader, 'in')} = {_reads(seen, reader, late)}"}
    hidden = _hidden(seen, reader, down) if down and down.path != reader.path else {}
    whole = f"{reader.path}(mlp_in)" if reader is maker and seen.repeats(reader) else None
    whole = f"{down.path}(mlp_post)" if hidden and down else whole
    equation = f" = {post.format(whole)}" if whole else ""
    return {**roles, **hidden, "mlp_out": f"{seen.place(m, 'out')}{equation}"}


def _hidden(seen: Trace, reader: Seen, down: Seen) -> dict[str, str]:
    """mlp_pre and mlp_post: what the activation function is given, what the last layer is given."""
    ups = list(seen.linears(reading=reader.given))
    for act in seen.activations():
        gate = next((up for up in ups if seen.near(up.out, act.given)), None)
        if gate is None:
            continue
        plain = f"{act.path}(mlp_pre)"
        if seen.near(act.out, down.given):
            post = plain
        else:
            wide = (up for up in ups if up.out.shape == act.out.shape)
            other = next((up for up in wide if seen.near(act.out * up.out, down.given)), None)
            if other is None:
                continue
            post = f"{plain} * {other.path}(mlp_in)"
        return {
            "mlp_pre": f"{seen.place(gate, 'out')} = {gate.path}(mlp_in)",
            "mlp_post": f"{seen.place(down, 'in')} = {post}",
        }
    return {}


def _reads(seen: Trace, reader: Seen, stream: Mapping[str, Tensor]) -> str | None:
    """What a sub-layer is given, over the stream: as it is, or through a norm."""
    for name, value in stream.items():
        if seen.near(reader.given, value):
            return name
        for norm in seen.norms_after(None):
            if seen.near(norm.given, value) and seen.near(norm.out, reader.given):
                return f"{norm.path}({name})"
    return None


def _top(seen: Trace) -> dict[str, Any]:
    """The final norm and the equation of the logits."""
    norms = (each for each in seen.after if each.is_norm)
    norm = next((each for each in norms if seen.near(each.given, seen.last)), None)
    stream = norm.out if norm else seen.last
    head = next(
        (
            each
            for each in seen.after
            if seen.near(each.given, stream) and seen.near(each.out, seen.output)
        ),
        None,
    )
    source = "final_norm" if norm else "resid_post"
    return {
        "final_norm": norm.path if norm else None,
        "logits": f"{head.path}({source})" if head else None,
    }


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
