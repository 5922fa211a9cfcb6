"""What checks are written with: a claim that names what failed, and comparisons that say where."""

import json
import random
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from jackfield.core.errors import JackfieldError
from jackfield.core.fitted import Fitted
from jackfield.reports import Report


class ConformanceError(AssertionError):
    """An entry does not do what all entries of its kind do."""


class NoTensorWork(TorchFunctionMode):
    """Refuses every call of torch inside the block."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called in the place of each function of torch."""
        raise ConformanceError(f"the constructor calls torch.{getattr(func, '__name__', func)}")


def claim(holds: bool, message: str) -> None:
    """Raises ConformanceError with `message` unless it holds."""
    if not holds:
        raise ConformanceError(message)


def same(left: Any, right: Any, what: str) -> None:
    """Claims that two values are equal: tensors bit for bit (a NaN equals a NaN), also nested."""
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        left, right = left.detach(), right.detach()
        claim(left.dtype == right.dtype, f"{what}: {left.dtype} became {right.dtype}")
        claim(left.shape == right.shape, f"{what}: {list(left.shape)} became {list(right.shape)}")
        equal = torch.equal(left.nan_to_num(), right.nan_to_num())
        equal = equal and torch.equal(left.isnan(), right.isnan())
        claim(equal, f"{what}: {_apart(left, right)}")
    elif isinstance(left, Mapping) and isinstance(right, Mapping):
        claim(left.keys() == right.keys(), f"{what}: {sorted(left)} became {sorted(right)}")
        for key in left:
            same(left[key], right[key], f"{what}, {key}")
    else:
        claim(left == right or left != left, f"{what}: {left!r} became {right!r}")


def near(left: Tensor, right: Tensor, what: str, *, tolerance: float = 1e-4) -> None:
    """Claims that two tensors differ by at most `tolerance` of the largest entry."""
    claim(left.shape == right.shape, f"{what}: {list(left.shape)} became {list(right.shape)}")
    left, right = left.detach(), right.detach()
    scale = float(left.abs().max()) if left.numel() else 0.0
    claim(bool(torch.isfinite(left - right).all()), f"{what}: not finite")
    close = torch.allclose(left, right, rtol=0, atol=tolerance * max(scale, 1e-12))
    claim(close, f"{what}: {_apart(left, right)}")


def _apart(left: Tensor, right: Tensor) -> str:
    gap = (left.double() - right.double()).abs().max() if left.numel() else 0.0
    return f"values differ by up to {float(gap):.3g}"


def state_of(fitted: Fitted) -> dict[str, Any]:
    """A fitted object's state with config and extra as JSON, so that it can be compared."""
    config, tensors, extra = fitted.state()
    return {"config": as_json(config), "tensors": dict(tensors), "extra": as_json(extra)}


def fields_of(result: Any, *, leave_out: tuple[str, ...] = ()) -> dict[str, Any]:
    """The fields of a dataclass, or the attributes of any other object."""
    names = [f.name for f in fields(result)] if is_dataclass(result) else list(vars(result))
    return {name: getattr(result, name) for name in names if name not in leave_out}


def as_json(value: Any) -> Any:
    """`value` after a trip through JSON text."""
    return json.loads(json.dumps(value))


def report_of(thing: Any) -> Report:
    """The report of a fitted object or result, which must be a `Report` with JSON inside."""
    report = thing.report()
    claim(isinstance(report, Report), f"report() gives a {type(report).__name__}, not a Report")
    text = json.dumps(report.to_json(), allow_nan=False)
    again = Report.from_json(json.loads(text))
    claim(
        json.dumps(again.to_json(), allow_nan=False) == text,
        "the report changes on its way in JSON",
    )
    claim(bool(report.summary), "the report has no summary: one sentence with the result")
    claim(len(report.blocks) > 0, "the report shows nothing: it has no blocks")
    return report


@contextmanager
def chance(seed: int) -> Iterator[None]:
    """Other global random numbers inside the block, and the old ones after it."""
    kept = random.getstate()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(kept)


def traces(module: nn.Module) -> dict[str, Any]:
    """All that a context can leave behind: hooks, replaced forwards, the attention tap."""
    from transformers.modeling_utils import AttentionInterface

    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    found: dict[str, Any] = {"AttentionInterface": AttentionInterface.get_interface}
    for name, part in module.named_modules():
        hooks = {kind: list(vars(part)[kind]) for kind in kinds if vars(part).get(kind)}
        found[name] = (type(part), "forward" in vars(part), hooks)
    return found


def untouched(before: Mapping[str, Any], module: nn.Module, when: str) -> None:
    """Claims that `traces` are as they were."""
    after = traces(module)
    left = sorted(set(before) ^ set(after))
    left += [name for name in before if name in after and before[name] != after[name]]
    claim(
        not left, f"{when} something is left at: {', '.join(each or 'the model' for each in left)}"
    )


def refuses(call: Callable[[], Any], names: tuple[str, ...], what: str) -> None:
    """Claims that `call` raises one of our errors, with one of `names` in its message."""
    try:
        call()
    except JackfieldError as error:
        named = any(re.search(rf"\b{re.escape(name)}", str(error)) for name in names)
        wanted = ", ".join(names)
        claim(named, f"{what}: the error names none of {wanted}: {error}")
    except Exception as error:  # the point is which error it is
        got = f"{type(error).__name__}: {error}"
        raise ConformanceError(f"{what}: raises {got}, not a JackfieldError") from error
    else:
        raise ConformanceError(f"{what}: nothing is raised")
