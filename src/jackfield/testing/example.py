"""Examples: how an entry of the catalogue is exercised in well under a second.

One small frozen dataclass a kind. An example says how to make the thing and how to use it on a
tiny `World`; the checks do the rest. Callables are given the thing and the world, so that a check
can hand over another world: in bfloat16, without rows, with a NaN in it.
"""

from abc import ABC
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from jackfield.core.battery import Battery
from jackfield.core.fitted import Fitted, Method
from jackfield.core.study import Result, Study
from jackfield.edits import Edit
from jackfield.model.model import Model
from jackfield.model.saving import SavingPolicy
from jackfield.testing.worlds import World, tiny_llama, tiny_world


class Example(ABC):  # noqa: B024 - one root for the kinds, which have nothing to declare together
    """How to exercise an entry; one leaf for each kind."""


@dataclass(frozen=True, kw_only=True)
class MethodExample(Example):
    """How to exercise a method.

    Attributes:
        make: a config for tiny data.
        fit: fits it, quietly, on the world's model, texts or rows.
        identity: edits of a setting that changes nothing, such as strength 0.
        edits: what is applied; must change the logits.
        world: a world in a dtype.
        differentiable: a gradient flows through the edits.
        refused: further things that must raise a JackfieldError, by name: "two sites at once".
    """

    make: Callable[[], Method]
    fit: Callable[[Any, World], Fitted]
    identity: Callable[[Any, World], list[Edit]]
    edits: Callable[[Any], list[Edit]] = lambda fitted: fitted.edits(where="all")
    world: Callable[[torch.dtype], World] = tiny_world
    differentiable: bool = True
    refused: Mapping[str, Callable[[World], Any]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StudyExample(Example):
    """How to exercise a study.

    Attributes:
        make: a config for tiny data.
        run: runs it, quietly, on the world's model and texts.
        world: a world in a dtype.
        varying: fields of the result that may differ from run to run, such as seconds.
        refused: as in `MethodExample`.
    """

    make: Callable[[], Study]
    run: Callable[[Any, World], Result]
    world: Callable[[torch.dtype], World] = tiny_world
    varying: tuple[str, ...] = ()
    refused: Mapping[str, Callable[[World], Any]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class BatteryExample(Example):
    """How to exercise a battery.

    Attributes:
        make: a config.
        model: a model whose tokenizer knows the battery's words.
    """

    make: Callable[[], Battery]
    model: Callable[[], Model]


@dataclass(frozen=True, kw_only=True)
class PartExample(Example):
    """How to exercise an `nn.Module`.

    Attributes:
        make: a new one, in float32.
        x: its input in float32; moved to other dtypes by the checks.
        swap: the pattern of the modules of a tiny Llama that it can stand in for; None if none.
    """

    make: Callable[[], nn.Module]
    x: Callable[[], Tensor] = lambda: torch.randn(
        2, 5, 8, generator=torch.Generator().manual_seed(0)
    )
    swap: str | None = None


@dataclass(frozen=True, kw_only=True)
class SavingExample(Example):
    """How to exercise a saved-tensor policy.

    Attributes:
        make: a policy.
        tolerance: how far the gradients of a tiny model may move, as a share of their length.
        model: a model in a dtype.
    """

    make: Callable[[], SavingPolicy]
    tolerance: float
    model: Callable[[torch.dtype], Model] = tiny_llama
