"""Contexts on the bare module: `editing`, `swapping`, `saving`. Each leaves it as it was."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from jackfield.core.errors import EditError, ModelError, SiteError, did_you_mean, explain, warn
from jackfield.core.sites import expand, parse
from jackfield.core.where import depends_on_row
from jackfield.edits import Edit
from jackfield.model.plan import Plan
from jackfield.model.saving import SavingPolicy
from jackfield.model.session import Session

if TYPE_CHECKING:
    from jackfield.model.model import Model


@contextmanager
def editing(model: "Model", edits: Sequence[Edit]) -> Iterator[Plan]:
    """Edits every forward of `model.module` inside the block; nests; see `Model.editing`.

    Raises:
        EditError: a backward of a checkpointed graph after the block, or a beam search under
            edits that follow rows: both would go wrong silently.
    """
    plan = model.plan((), edits)
    session = Session(sinks=model.sinks_for(edits))
    with ExitStack() as stack:
        stack.enter_context(model.claimed())
        stack.enter_context(plan.installed(session))
        stack.enter_context(_guarded_backward(model, edits))
        stack.enter_context(_guarded_beams(model, edits))
        yield plan
    silent = [
        s
        for e in edits
        for s in model.sites.select(list(e.sites))
        if not session.fired[f"edit {s}"]
    ]
    if silent:
        warn(f"{model.name}: the edit at {', '.join(silent)} had no effect: no forward passed it.")


@contextmanager
def swapping(
    model: "Model", pattern: str, factory: Callable[[nn.Module, str], nn.Module]
) -> Iterator[list[str]]:
    """Puts `factory(old, path)` in the place of matching modules inside the block.

    Args:
        model: whose modules.
        pattern: a module path; `*` and ranges stand for parts of it (`model.layers.*.mlp`).
        factory: gets the old module and its path, and returns the new one.

    Yields:
        The paths that were swapped.

    Raises:
        SiteError: no module matches.
    """
    paths = [name for name, _ in model.module.named_modules() if name]
    found = expand(parse(pattern), paths)
    if not found:
        raise SiteError(
            explain(
                where=f"{model.name}.swapping",
                expected="the path of a module",
                got=pattern,
                hint=did_you_mean(pattern, paths),
            )
        )
    with ExitStack() as stack:
        stack.enter_context(model.claimed())
        stack.callback(model.sites.refresh)
        for path in found:
            old = model.module.get_submodule(path)
            stack.callback(_set, model.module, path, old)
            _set(model.module, path, factory(old, path))
        model.sites.refresh()
        yield found


@contextmanager
def saving(model: "Model", policy: SavingPolicy) -> Iterator[SavingPolicy]:
    """Packs what autograd saves in the block by `policy`; parameters and buffers are left alone."""
    owned = {
        t.untyped_storage().data_ptr()
        for t in (*model.module.parameters(), *model.module.buffers())
    }

    def pack(x: Tensor) -> tuple[bool, Any]:
        kept_anyway = x.untyped_storage().data_ptr() in owned
        return (False, x) if kept_anyway else (True, policy.pack(x))

    def unpack(kept: tuple[bool, Any]) -> Tensor:
        packed, value = kept
        return policy.unpack(value) if packed else value

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield policy


@contextmanager
def _guarded_backward(model: "Model", edits: Sequence[Edit]) -> Iterator[None]:
    """A checkpointed block is run again in the backward, so the edits must still be there."""
    recomputes = any(
        getattr(part, "gradient_checkpointing", False) for part in model.module.modules()
    )
    if not recomputes or not model.module.training:
        yield
        return
    stateful = [type(edit).__name__ for edit in edits if edit.stateful]
    if stateful:
        raise EditError(
            explain(
                where=f"{model.name}.editing",
                expected="edits without memory, as gradient checkpointing runs blocks twice",
                got=", ".join(stateful),
            )
        )
    open_now = [True]

    def check(gradient: Tensor) -> None:
        if not open_now[0]:
            raise EditError(
                explain(
                    where=f"{model.name}.editing",
                    expected="backward inside the block, as checkpointed blocks run again in it",
                    got="backward after it",
                )
            )

    def watch(module: nn.Module, args: Any, output: Any) -> None:
        values = output.values() if hasattr(output, "values") else (output,)
        for value in values:
            if isinstance(value, Tensor) and value.requires_grad:
                value.register_hook(check)

    handle = model.module.register_forward_hook(watch)
    try:
        yield
    finally:
        handle.remove()
        open_now[0] = False


@contextmanager
def _guarded_beams(model: "Model", edits: Sequence[Edit]) -> Iterator[None]:
    """A beam search reorders rows; edits that follow rows would go on with another row's past."""
    follow = [type(e).__name__ for e in edits if e.stateful or depends_on_row(e.where)]
    if not follow or not hasattr(model.module, "generate"):
        yield
        return
    own, bound = model.module.__dict__.get("generate"), model.module.generate

    def generate(*args: Any, **kwargs: Any) -> Any:
        config = kwargs.get("generation_config") or getattr(model.module, "generation_config", None)
        beams = kwargs.get("num_beams") or getattr(config, "num_beams", None) or 1
        if beams > 1:
            raise EditError(
                explain(
                    where=f"{model.name}.editing",
                    expected="no beam search: it reorders rows under edits that follow them",
                    got=f"num_beams={beams} with {', '.join(follow)}",
                )
            )
        return bound(*args, **kwargs)  # type: ignore[operator]

    model.module.generate = generate  # type: ignore[assignment]
    try:
        yield
    finally:
        del model.module.generate
        if own is not None:
            model.module.generate = own


def _set(module: nn.Module, path: str, value: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    owner = module.get_submodule(parent)
    if not isinstance(value, nn.Module):
        raise ModelError(
            explain(where=path, expected="an nn.Module from the factory", got=type(value).__name__)
        )
    owner._modules[name] = value
