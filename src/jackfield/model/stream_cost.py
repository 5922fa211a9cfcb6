"""Cost: what a pass over a live stream will take, asked before it runs.

Rows are counted by tokenising, which is cheap beside the model; what does not fit the time allowed
is estimated from the share of the corpus gone through. Speed is that of a few real forwards.
"""

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from jackfield.core.errors import InputError, explain
from jackfield.model.token_rows import Tally, TokenRows
from jackfield.streams import Corpus, TokenBatch
from jackfield.streams.tokenised import Tokenised

_TIMED = 3  # forwards


@dataclass(frozen=True)
class StreamCost:
    """What one pass takes.

    Attributes:
        rows: rows of the pass.
        tokens: tokens that the model is run on (rows, and what is read but not kept).
        row_bytes: site -> bytes of one row.
        dtype: that the bytes are counted in.
        tokens_per_second: of the model, the sites read.
        exact: whether rows and tokens were counted; else they are estimated.
        share: how much of the corpus was gone through, None where that cannot be known: then rows
            and tokens are the least that there are.
    """

    rows: int
    tokens: int
    row_bytes: dict[str, int]
    dtype: str
    tokens_per_second: float
    exact: bool
    share: float | None

    @property
    def bytes(self) -> int:
        """Bytes of all rows of all sites, without what a codec spares."""
        return self.rows * sum(self.row_bytes.values())

    @property
    def seconds(self) -> float:
        """Of the forwards."""
        return self.tokens / self.tokens_per_second

    def __str__(self) -> str:
        about = "" if self.exact else "at least " if self.share is None else "about "
        sites = f"{len(self.row_bytes)} site{'s' if len(self.row_bytes) > 1 else ''}"
        size = f"{_in_units(self.bytes)} as {self.dtype}"
        speed = f"about {_spoken(self.seconds)} at {self.tokens_per_second:,.0f} tokens/s"
        line = f"{about}{self.rows:,} rows × {sites}, {size}, {speed}"
        if self.exact:
            return line
        seen = "a part" if self.share is None else f"{self.share:.1%}"
        return f"{line} (estimated from {seen} of the corpus)"


@dataclass
class _Counted:
    """What tokenising found; `sample` are some of the batches, all equally likely."""

    rows: int = 0
    tokens: int = 0
    batches: int = 0
    last: int = -1
    ended: bool = False

    def __post_init__(self) -> None:
        self.sample: list[tuple[TokenBatch, torch.Tensor]] = []
        self._random = random.Random(0)

    def add(self, given: TokenBatch, chosen: torch.Tensor) -> None:
        self.rows += int(chosen.sum())
        self.tokens += int(given.attention_mask.sum())
        self.batches += 1
        if len(self.sample) < _TIMED:
            self.sample.append((given, chosen))
        elif (place := self._random.randrange(self.batches)) < _TIMED:
            self.sample[place] = (given, chosen)


def measure(
    rows: TokenRows, corpus: Corpus, most: int | None, seconds: float, dtype: torch.dtype | None
) -> StreamCost:
    """Counts for at most `seconds`, then times.

    Raises:
        InputError: there are no rows.
    """
    counted = _count(rows, corpus, most, seconds)
    if not counted.rows:
        raise InputError(explain(where="stream.cost", expected="rows", got="an empty stream"))
    row_bytes, kept, speed = _timed(rows, counted, dtype)
    share = 1.0 if counted.ended else _share(corpus, counted.last)
    whole = counted.rows if share is None else round(counted.rows / share)
    capped = whole if most is None else min(whole, most)
    return StreamCost(
        rows=capped,
        tokens=counted.tokens if counted.ended else round(counted.tokens * capped / counted.rows),
        row_bytes=row_bytes,
        dtype=kept,
        tokens_per_second=speed,
        exact=counted.ended,
        share=share,
    )


def _count(rows: TokenRows, corpus: Corpus, most: int | None, seconds: float) -> _Counted:
    counted = _Counted()
    stop = time.monotonic() + seconds

    def until() -> Iterator[Tokenised]:
        for document in rows.documents(corpus, Tally()):
            yield document
            counted.last = document.id
            if time.monotonic() >= stop:
                return
        counted.ended = True

    for given, chosen in rows.planned((each.id, each.tokens) for each in until()):
        counted.add(given, chosen)
        if most is not None and counted.rows >= most:
            counted.ended = True
            break
    return counted


def _timed(
    rows: TokenRows, counted: _Counted, dtype: torch.dtype | None
) -> tuple[dict[str, int], str, float]:
    """Bytes of a row at each site, the dtype they are in, and tokens a second."""
    chosen = [(given, mask) for given, mask in counted.sample if mask.any()] or counted.sample
    batch = rows.read(*chosen[0])  # the first forward is slower: not timed
    start = time.perf_counter()
    for given, mask in chosen:
        rows.read(given, mask)
    spent = time.perf_counter() - start
    tokens = sum(int(given.attention_mask.sum()) for given, _ in chosen)
    kept = {site: batch[site].dtype if dtype is None else dtype for site in rows.sites}
    sizes = {site: batch[site][0].numel() * kept[site].itemsize for site in rows.sites}
    names = ", ".join(dict.fromkeys(str(each).removeprefix("torch.") for each in kept.values()))
    return sizes, names, tokens / spent


def _share(corpus: Corpus, last: int) -> float | None:
    """How much of the corpus (of its part) was gone through when document `last` was."""
    first, stop = corpus.span_of or (0, None)
    ends = [corpus.share(each) for each in (first, last + 1)]
    end = 1.0 if stop is None else corpus.share(stop)
    if None in ends or end is None:
        return None
    begun, gone = (each for each in ends if each is not None)
    return min((gone - begun) / max(end - begun, 1e-9), 1.0)


def _in_units(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _spoken(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s" if seconds >= 1 else "a second"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
