"""The proposal of a detection: roles, places and equations that the trace of a block suggests.

Nothing here is certain: a number may fit by chance, and a place that reads rightly may write
wrongly. What is proposed is proven in `detect.py`.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from jackfield.model.trace import Seen, Trace


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
