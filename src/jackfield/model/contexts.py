"""Contexts on the bare module: `editing`, `swapping`, `saving`. Each leaves it as it was."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
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
    session = Session(sinks=model.sinks_for(plan.edits))
    with ExitStack() as stack:
        stack.enter_context(model.claimed())
        stack.enter_context(plan.installed(session))
        handle = model.module.register_forward_hook(session.end)
        stack.callback(handle.remove)
        stack.enter_context(_guarded_backward(model, plan.edits, session))
        stack.enter_context(_guarded_beams(model, plan.edits))
        yield plan
    silent = plan.silent(session)
    if silent:
        warn(f"{model.name}: the edit at {', '.join(silent)} had no effect: no forward passed it.")


@contextmanager
def swapping(
    model: "Model",
    pattern: str,
    factory: Callable[[nn.Module, str], nn.Module | Callable[..., Any]],
) -> Iterator[list[str]]:
    """Puts `factory(old, path)` in the place of matching modules inside the block.

    Args:
        model: whose modules.
        pattern: a module path; `*` and ranges stand for parts of it (`model.layers.*.mlp`).
        factory: gets the old module and its path, and returns the new one, or any callable.

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
            _set(model.module, path, _as_module(factory(old, path), path))
        model.sites.refresh()
        yield found


@contextmanager
def saving(model: "Model", policy: SavingPolicy) -> Iterator[SavingPolicy]:
    """Packs what autograd saves in the block by `policy`; parameters and buffers are left alone."""
    owned = {
        t.untyped_storage().data_ptr()
        for t in (*model.module.parameters(), *model.module.buffers())
    }

    def pack(x: Tensor) -> tuple[Any, Tensor | None, int]:
        """What is kept; x itself and its version where that is x (hooks turn off torch's check)."""
        kept = x if x.untyped_storage().data_ptr() in owned else policy.pack(x)
        return (None, x, x._version) if kept is x else (kept, None, 0)

    def unpack(saved: tuple[Any, Tensor | None, int]) -> Tensor:
        kept, x, version = saved
        if x is None:
            return policy.unpack(kept)
        if x._version != version:
            raise ModelError(
                explain(
                    where=f"{model.name}.saving",
                    expected="tensors that stay as they are until the backward",
                    got=f"one {list(x.shape)} changed in place since the forward",
                )
            )
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield policy


def recomputes(module: nn.Module) -> bool:
    """Whether the backward runs blocks of `module` again (gradient checkpointing)."""
    parts = module.modules()
    return any(getattr(part, "gradient_checkpointing", False) and part.training for part in parts)


@contextmanager
def _guarded_backward(model: "Model", edits: Sequence[Edit], session: Session) -> Iterator[None]:
    """A checkpointed block runs again in the backward: there the edits must be, as they were."""
    if not recomputes(model.module):
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
    is_open = [True]
    with ExitStack() as stack:
        stack.callback(is_open.clear)
        for part in model.module.modules():
            if "_gradient_checkpointing_func" in part.__dict__:
                plain: Any = part._gradient_checkpointing_func
                stack.callback(setattr, part, "_gradient_checkpointing_func", plain)
                part._gradient_checkpointing_func = _following(plain, session, is_open, model.name)
        yield


def _following(plain: Callable[..., Any], session: Session, is_open: list[bool], name: str) -> Any:
    """`plain` checkpointing whose second run of a block knows the call of the first."""

    def checkpoint(block: Callable[..., Any], *args: Any, **options: Any) -> Any:
        noted = session.noted()
        ran: list[bool] = []

        def run(*given: Any, **more: Any) -> Any:
            if not is_open:
                raise EditError(
                    explain(
                        where=f"{name}.editing",
                        expected="backward inside the block: in it, checkpointed blocks run again",
                        got="backward after it",
                    )
                )
            again = session.repeated(noted) if ran else nullcontext()
            ran.append(True)
            with again:
                return block(*given, **more)

        return plain(run, *args, **options)

    return checkpoint


@contextmanager
def _guarded_beams(model: "Model", edits: Sequence[Edit]) -> Iterator[None]:
    """A beam search reorders rows; edits that follow rows would go on with another row's past."""
    follow = [type(e).__name__ for e in edits if e.stateful or depends_on_row(e.where)]
    if not follow or not hasattr(model.module, "generate"):
        yield
        return
    own, bound = model.module.__dict__.get("generate"), model.module.generate

    def generate(*args: Any, **kwargs: Any) -> Any:
        given = kwargs.get("generation_config") or (args[1] if len(args) > 1 else None)
        config = given or getattr(model.module, "generation_config", None)
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
    module.get_submodule(parent)._modules[name] = value


def _as_module(value: Any, path: str) -> nn.Module:
    if isinstance(value, nn.Module):
        return value
    if not callable(value):
        expected, got = "an nn.Module or a callable from the factory", type(value).__name__
        raise ModelError(explain(where=path, expected=expected, got=got))
    return _Called(value)


class _Called(nn.Module):
    """A plain callable in the place of a module."""

    def __init__(self, call: Callable[..., Any]) -> None:
        super().__init__()
        self._call = call

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._call(*args, **kwargs)
