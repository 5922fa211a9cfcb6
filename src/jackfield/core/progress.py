"""Progress: one live line on stderr with a rate, an estimate and a few figures.

On a terminal the line is drawn by rich; elsewhere a plain line appears every ten seconds, so
that a log file stays readable.
"""

import sys
import time
from types import TracebackType
from typing import Any, Self


class Progress:
    """Counts work and shows it: `with Progress("fit", total=90, unit="rows") as p: p.update(9)`.

    Args:
        label: what is being done.
        total: how much there is, None if unknown.
        unit: what is counted.
        enabled: False shows nothing.
    """

    def __init__(self, label: str, *, total: int | None, unit: str, enabled: bool = True) -> None:
        self._label, self._total, self._unit, self._enabled = label, total, unit, enabled
        self._done, self._printed, self._figures = 0, 0, ""
        self._live: Any = None

    def __enter__(self) -> Self:
        self._start = self._shown = time.monotonic()
        if self._enabled and sys.stderr.isatty():
            self._live = _live_display(self._label, self._total)
            self._live.start()
            self._task = self._live.add_task(self._label, total=self._total, figures="")
        return self

    def update(self, amount: int, **figures: Any) -> None:
        """Adds `amount` of work; `figures` are shown behind it (`FVU=0.12`)."""
        self._done += amount
        if not self._enabled:
            return
        if figures:
            self._figures = "  ".join(f"{name} {_short(value)}" for name, value in figures.items())
        if self._live is not None:
            text = f"{self._rate()}  {self._figures}"
            self._live.update(self._task, completed=self._done, figures=text)
        elif time.monotonic() - self._shown > 10:
            self._print()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
        elif self._enabled and self._done != self._printed:
            self._print()

    def _rate(self) -> str:
        elapsed = max(time.monotonic() - self._start, 1e-9)
        return f"{self._done / elapsed:,.0f} {self._unit}/s"

    def _print(self) -> None:
        self._shown, self._printed = time.monotonic(), self._done
        share = f"{self._done:,}/{self._total:,}" if self._total else f"{self._done:,}"
        line = f"{self._label}: {share} {self._unit}  {self._rate()}  {self._eta()}{self._figures}"
        print(line, file=sys.stderr, flush=True)

    def _eta(self) -> str:
        if not self._total or not self._done or self._done >= self._total:
            return ""
        left = (time.monotonic() - self._start) * (self._total / self._done - 1)
        return f"{left:.0f} s left  "


def _live_display(label: str, total: int | None) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns: list[Any] = [TextColumn("{task.description}"), BarColumn(bar_width=24)]
    columns += [TextColumn("{task.percentage:>3.0f}%"), TimeRemainingColumn()] if total else []
    columns.append(TextColumn("{task.fields[figures]}"))
    return RichProgress(*columns, console=Console(stderr=True), transient=False)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
