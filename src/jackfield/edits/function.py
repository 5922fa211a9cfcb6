"""Function: any function of the activation as an edit."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from torch import Tensor

from jackfield.edits.base import Context, Edit


@dataclass(frozen=True, eq=False, repr=False)
class Function(Edit):
    """`function(x, context)`; it returns a new tensor of the same shape and leaves `x` alone.

    Attributes:
        function: gets the activation and the `Context`, which reads the sites in `reads`. Read
            from a file it is the name "module:function" of one; only a function that can be
            imported can be saved.
    """

    function: Callable[[Tensor, Context], Tensor] | str

    def apply(self, x: Tensor, context: Context) -> Tensor:
        function = _imported(self.function) if isinstance(self.function, str) else self.function
        return function(x, context)


def _imported(name: str) -> Callable[[Tensor, Context], Tensor]:
    module, _, function = name.partition(":")
    return getattr(import_module(module), function)
