"""Numbers: which documents of a corpus a part of it has.

Documents are numbered from 0 in the order of the source, empty ones counted, and keep their number
in every part. A part is `first <= number < stop` and `number % world == rank`.
"""

from dataclasses import dataclass, replace

from jackfield.core.errors import InputError, explain


@dataclass(frozen=True)
class Numbers:
    """A set of document numbers, every one of them if nothing is said.

    Attributes:
        first: the lowest.
        stop: one more than the highest can be; None is without end.
        rank: what is left over when a number is divided by `world`.
        world: how many parts take turns.

    >>> 7 in Numbers(rank=1, world=3), len(Numbers(rank=1, world=3).up_to(8))
    (True, 3)
    """

    first: int = 0
    stop: int | None = None
    rank: int = 0
    world: int = 1

    def part(self, rank: int, world: int) -> "Numbers":
        """Every `world`-th of them.

        Raises:
            InputError: a rank outside the world, or numbers that take turns already.
        """
        if self.world != 1:
            expected, got = "a corpus that is not in parts yet", f"part {self.rank} of {self.world}"
            raise InputError(explain(where="part", expected=expected, got=got))
        if not 0 <= rank < world:
            expected, got = "0 <= rank < world", f"rank {rank} of {world}"
            raise InputError(explain(where="part", expected=expected, got=got))
        return replace(self, rank=rank, world=world)

    def span(self, first: int, stop: int | None) -> "Numbers":
        """Those of them with `first <= number < stop`.

        Raises:
            InputError: bounds below 0 or in the wrong order.
        """
        if first < 0 or (stop is not None and stop < first):
            expected, got = "0 <= first <= stop", f"{first} and {stop}"
            raise InputError(explain(where="span", expected=expected, got=got))
        stops = [each for each in (self.stop, stop) if each is not None]
        return replace(self, first=max(self.first, first), stop=min(stops) if stops else None)

    def past(self, number: int) -> bool:
        """Whether `number` and all after it are outside."""
        return self.stop is not None and number >= self.stop

    def up_to(self, count: int) -> range:
        """Those below `count`, in order."""
        first = self.first + (self.rank - self.first) % self.world
        return range(first, count if self.stop is None else min(self.stop, count), self.world)

    def __contains__(self, number: int) -> bool:
        return number >= self.first and not self.past(number) and number % self.world == self.rank


ALL = Numbers()
