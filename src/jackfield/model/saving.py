"""The interface of a saved-tensor policy: how tensors are kept between forward and backward."""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor


class SavingPolicy(ABC):
    """Packs a tensor when autograd saves it, and unpacks it when backward asks for it.

    Parameters are never packed: they are kept anyway.
    """

    @abstractmethod
    def pack(self, x: Tensor) -> Any:
        """What is kept of `x`."""

    @abstractmethod
    def unpack(self, kept: Any) -> Tensor:
        """The tensor for the backward, of the shape, dtype and device of the packed one."""
