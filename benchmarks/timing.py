"""Paired timing: the candidates take turns, so that a busy machine slows all of them alike."""

import gc
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Seconds of each round of one candidate, and the reference's in the same rounds."""

    name: str
    seconds: list[float]
    reference: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def percentile(self, share: float) -> float:
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]

    @property
    def ratio(self) -> float:
        """Median over rounds of candidate / reference."""
        return statistics.median(self._ratios())

    @property
    def interval(self) -> tuple[float, float]:
        """95 % bootstrap interval of the median ratio."""
        draw = random.Random(0)
        ratios = self._ratios()
        medians = sorted(
            statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(2000)
        )
        return medians[50], medians[1949]

    def _ratios(self) -> list[float]:
        return [mine / other for mine, other in zip(self.seconds, self.reference, strict=True)]


def paired(
    candidates: Mapping[str, Callable[[], object]], *, rounds: int, inner: int = 1
) -> list[Timing]:
    """Times every candidate in every round, in an order shuffled anew; the first is the reference.

    Each is called `inner` times a measurement, after one call that does not count.
    """
    for call in candidates.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    draw = random.Random(0)
    gc.disable()
    try:
        for _ in range(rounds):
            order = list(candidates)
            draw.shuffle(order)
            for name in order:
                seconds[name].append(_timed(candidates[name], inner))
            gc.collect()
    finally:
        gc.enable()
    reference = next(iter(seconds.values()))
    return [Timing(name, values, reference) for name, values in seconds.items()]


def _timed(call: Callable[[], object], inner: int) -> float:
    begun = time.perf_counter()
    for _ in range(inner):
        call()
    return (time.perf_counter() - begun) / inner


def table(timings: list[Timing], unit: str = "ms", per: float = 1.0) -> str:
    """A Markdown table; `per` divides the seconds (sites, tokens)."""
    scale = {"s": 1.0, "ms": 1e3, "µs": 1e6}[unit] / per
    lines = [
        f"| | median {unit} | p10 | p90 | ratio to {timings[0].name} | 95 % |",
        "|---|---|---|---|---|---|",
    ]
    for timing in timings:
        low, high = timing.interval
        figures = [timing.median, timing.percentile(0.1), timing.percentile(0.9)]
        shown = " | ".join(f"{value * scale:.3g}" for value in figures)
        lines.append(f"| {timing.name} | {shown} | {timing.ratio:.3f} | {low:.3f}–{high:.3f} |")
    return "\n".join(lines)
