"""SavedBytes: how many bytes autograd keeps for the backward.

    bytes            Σ over the different storages that are kept       as the policy keeps them
    unpacked_bytes   Σ over the different storages that were saved     as PyTorch would

A storage counts once and in full, however many operations save it and however small the view of it
is: that is what stays in memory. Parameters and buffers do not count (`model.saving` leaves them
out), nor do the allocator's rounding and the temporary tensors of an operation. Storages are told
apart by weak references, so the meter keeps nothing alive.

The sums are over the whole block: for one forward they are what is held when it ends. Blocks under
activation checkpointing run again in the backward; have that outside the block, or it counts too.

Saved-tensor hooks of PyTorch do not add up, the innermost pair alone runs. So the meter is a policy
itself, and takes the one that it measures.
"""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from jackfield.model.saving import SavingPolicy


class SavedBytes(SavingPolicy):
    """A policy that counts what another one keeps.

    Args:
        policy: the one to measure; None keeps every tensor as it is.

    >>> import torch
    >>> import jackfield as jf
    >>> model = jf.wrap(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh()))
    >>> with model.saving(SavedBytes()) as meter:
    ...     y = model.module(torch.ones(2, 4))  # saves the input [2, 4] and tanh's output [2, 8]
    >>> meter.bytes
    96
    """

    def __init__(self, policy: SavingPolicy | None = None) -> None:
        self.policy = policy
        self._kept: dict[StorageWeakRef, int] = {}
        self._saved: dict[StorageWeakRef, int] = {}

    @property
    def bytes(self) -> int:
        """Bytes that are kept for the backward."""
        return sum(self._kept.values())

    @property
    def unpacked_bytes(self) -> int:
        """Bytes that would be kept without a policy."""
        return sum(self._saved.values())

    def pack(self, x: Tensor) -> Any:
        _note(self._saved, x)
        kept = x if self.policy is None else self.policy.pack(x)
        for each in _tensors(kept):
            _note(self._kept, each)
        return kept

    def unpack(self, kept: Any) -> Tensor:
        return kept if self.policy is None else self.policy.unpack(kept)


def _note(seen: dict[StorageWeakRef, int], x: Tensor) -> None:
    storage = x.untyped_storage()
    seen[StorageWeakRef(storage)] = storage.nbytes()


def _tensors(kept: Any) -> Iterator[Tensor]:
    """The tensors inside what a policy keeps."""
    if isinstance(kept, Tensor):
        yield kept
    elif isinstance(kept, (tuple, list)):
        for each in kept:
            yield from _tensors(each)
    elif isinstance(kept, Mapping):
        yield from _tensors(list(kept.values()))
    elif is_dataclass(kept):
        yield from _tensors([getattr(kept, field.name) for field in fields(kept)])
