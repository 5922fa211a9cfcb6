"""Order: in which the rows of a store come, written order or shuffled, whole or a rank's share.

Shuffled means: blocks of a few neighbouring rows in random order, gathered into a window of many
blocks, whose rows are mixed; batches are cut from the windows. A block is one read, so the disk is
nearly as fast as in order; a window holds rows from all over the store, so that documents, which
lie together on disk, come apart. Everything follows from (seed, epoch): any batch can be found
again without reading those before it, and the ranks' shares are the whole, each row once.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from jackfield.core.errors import InputError, explain
from jackfield.streams.protocol import Batch, Stream

if TYPE_CHECKING:
    from jackfield.streams.store.store import Store

_BLOCKS = 1024  # blocks mixed in a window, where memory allows
_BLOCK_BYTES = 128 << 10  # of a site, read together: less costs the disk, more costs mixing …
_FEWEST = 16  # … but never fewer rows
_WINDOW_BYTES = 192 << 20  # of all sites; there are two windows, one read ahead


def block_rows(widths: Sequence[int], packed: int) -> int:
    """Rows read together when shuffling: a multiple of `packed`, the rows that a codec packs.

    Args:
        widths: bytes of a row of each site.
        packed: rows that cannot be read apart.
    """
    fitting = _WINDOW_BYTES // max(sum(widths), 1) // _BLOCKS
    wanted = min(_BLOCK_BYTES // max(*widths, 1), fitting)
    # A power of two, so that windows are whole batches without being long.
    rounded = 1 << (max(wanted, _FEWEST).bit_length() - 1)
    return math.ceil(rounded / packed) * packed


@dataclass(frozen=True)
class Share:
    """Which rows come, and in which order.

    Attributes:
        rows: of the store.
        block: rows a block.
        seed, epoch: of the order; seed None is the order on disk.
        rank, world: which share of how many.
    """

    rows: int
    block: int
    seed: int | None
    epoch: int
    rank: int
    world: int

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            expected = f"rank from 0 to world - 1 = {self.world - 1}"
            raise InputError(
                explain(where="store.stream", expected=expected, got=f"rank = {self.rank}")
            )

    @property
    def count(self) -> int:
        """How many rows come."""
        if self.seed is None:
            return self._bounds(self.rank + 1) - self._bounds(self.rank)
        return int(self._sizes(self.blocks()).sum())

    def first(self) -> int:
        """The first row of a share that is read in order."""
        return self._bounds(self.rank)

    def blocks(self) -> Tensor:
        """[block] the share's blocks as they come, the store's last, shorter one at the end."""
        assert self.seed is not None
        order = torch.randperm(-(-self.rows // self.block), generator=_random(self, "blocks"))
        own = order[self.rank :: self.world]
        short = own == self.rows // self.block
        return torch.cat([own[~short], own[short]])

    def ids(self, blocks: Tensor) -> Tensor:
        """[row] the rows of blocks, one block after another."""
        ids = (blocks[:, None] * self.block + torch.arange(self.block)).reshape(-1)
        return ids[ids < self.rows]

    def mixing(self, window: int, rows: int) -> Tensor:
        """[row] in which order the rows of a window come."""
        return torch.randperm(rows, generator=_random(self, f"window {window}"))

    def _bounds(self, rank: int) -> int:
        return self.rows * rank // self.world

    def _sizes(self, blocks: Tensor) -> Tensor:
        return (self.rows - blocks * self.block).clamp(max=self.block)


class StoreStream(Stream):
    """The rows of a share, in batches, read ahead."""

    def __init__(self, store: "Store", sites: tuple[str, ...], batch: int, share: Share) -> None:
        self._store, self._sites, self._batch, self._share = store, sites, batch, share
        fitting = max(1, _WINDOW_BYTES // max(store.row_bytes(sites), 1))
        rows = min(_BLOCKS * share.block, fitting)
        # Whole blocks and whole batches, so that only the last window gives a shorter batch.
        unit = math.lcm(batch, share.block)
        self._window = max(1, rows // unit) * unit

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites asked for."""
        return self._sites

    @property
    def rows(self) -> int:
        """Rows of the share."""
        return self._share.count

    @property
    def provenance(self) -> dict[str, Any]:
        """The provenance of what was written, and how it is read."""
        share = self._share
        how: dict[str, Any] = {"store": self._store.provenance, "rows": share.rows}
        how["select"] = list(self._sites)
        if share.world > 1:
            how["share"] = [share.rank, share.world]
        if share.seed is None:
            return how
        order = {"seed": share.seed, "epoch": share.epoch}
        return {**how, "shuffle": {**order, "block": share.block, "window": self._window}}

    def batches(self, start: int = 0) -> Iterator[Batch]:
        """Reads from row `start` of this order on."""
        with ThreadPoolExecutor(1, thread_name_prefix="jackfield-ahead") as ahead:
            if self._share.seed is None:
                yield from self._in_order(start, ahead)
            else:
                yield from self._mixed(start, ahead)

    def _in_order(self, start: int, ahead: ThreadPoolExecutor) -> Iterator[Batch]:
        first, stop = self._share.first(), self._share.first() + self._share.count

        def read(at: int) -> Batch:
            ids = torch.arange(at, min(at + self._batch, stop))
            return self._store.gather(ids, self._sites)

        yield from _one_ahead(ahead, read, range(first + start, stop, self._batch))

    def _mixed(self, start: int, ahead: ThreadPoolExecutor) -> Iterator[Batch]:
        share, blocks = self._share, self._share.blocks()
        windows = blocks.split(self._window // share.block)
        skipped, left = divmod(start, self._window)

        rooms = self._store.room(), self._store.room()  # one is read into, one taken from

        def read(number: int) -> Batch:
            ids = share.ids(windows[number].sort().values)
            return self._store.gather(ids, self._sites, rooms[number % 2])

        numbers = range(skipped, len(windows))
        for number, window in zip(numbers, _one_ahead(ahead, read, numbers), strict=True):
            order = share.mixing(number, len(window))[left:]
            left = 0
            for chosen in order.split(self._batch):
                yield window.rows(chosen)


def _one_ahead(ahead: ThreadPoolExecutor, make: Any, numbers: range) -> Iterator[Batch]:
    """make(number) for each, the next one made while this one is used."""
    waiting: Future[Batch] | None = None
    for number in numbers:
        now = waiting or ahead.submit(make, number)
        following = number + numbers.step
        waiting = ahead.submit(make, following) if following < numbers.stop else None
        yield now.result()


def _random(share: Share, what: str) -> torch.Generator:
    """Another sequence for each use, from (seed, epoch) alone."""
    text = f"{share.seed} {share.epoch} {what}"
    digest = hashlib.sha256(text.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
