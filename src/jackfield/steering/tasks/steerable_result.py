"""The table of a `SteerableOrDecodable` study: cells, the two by two, a picture."""

from collections import Counter
from dataclasses import dataclass

from jackfield.core.study import Result
from jackfield.reports import HeatMap, Report, Table

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One task in one template, on words that nothing was fitted on.

    Attributes:
        task, template: their names.
        questions: how many words.
        site: where the vector is added.
        plain: accuracy without demonstrations.
        gain: of the template's own vector, with its 95 % interval over words (bootstrap, paired).
        transfer: mean gain of the other templates' vectors.
        lens, tuned: share of answers that the lenses have, with 95 % intervals (Wilson).
        probe, control: accuracy of the probe on real and on random labels.
        selectivity: their difference, with its 95 % interval.
    """

    task: str
    template: str
    questions: int
    site: str
    plain: float
    gain: float
    gain_interval: Interval
    transfer: float
    lens: float
    lens_interval: Interval
    tuned: float
    tuned_interval: Interval
    probe: float
    control: float
    selectivity: float
    selectivity_interval: Interval


@dataclass(frozen=True)
class SteerableTable(Result):
    """All cells.

    Attributes:
        model: its name.
        least: gain, share or selectivity that counts.
        top: among how many tokens the answer may be for a lens.
        cells: in the order of tasks and templates.
    """

    model: str
    least: float
    top: int
    cells: tuple[Cell, ...]

    def steerable(self, cell: Cell) -> bool:
        """A gain that counts, and is above 0 with 95 % confidence."""
        return cell.gain >= self.least and cell.gain_interval[0] > 0

    def decodable(self, cell: Cell) -> tuple[str, ...]:
        """The decoders that have the answer."""
        selective = cell.selectivity >= self.least and cell.selectivity_interval[0] > 0
        found = {"lens": cell.lens >= self.least, "tuned": cell.tuned >= self.least,
                 "probe": selective}  # fmt: skip
        return tuple(name for name, has in found.items() if has)

    @property
    def counts(self) -> dict[tuple[bool, bool], int]:
        """{(steerable, decodable by any): cells}."""
        found = Counter((self.steerable(c), bool(self.decodable(c))) for c in self.cells)
        return {(s, d): found[s, d] for s in (True, False) for d in (True, False)}

    @property
    def closed(self) -> dict[str, int]:
        """Of the steerable cells without the logit lens, how many each other decoder reads."""
        open_ = [c for c in self.cells if self.steerable(c) and "lens" not in self.decodable(c)]
        found = {name: sum(name in self.decodable(c) for c in open_) for name in ("tuned", "probe")}
        return {"open": len(open_), **found}

    def report(self) -> Report:
        """The two by two, a picture of the cells, and all figures."""
        counts = self.counts
        four = Table(
            ["", "decodable", "not decodable"],
            [
                ["steerable", counts[True, True], counts[True, False]],
                ["not steerable", counts[False, True], counts[False, False]],
            ],
            caption=f"Cells of a task and a template; thresholds of {self.least:g} are ours.",
        )
        return Report(
            "Steerable or decodable", [four, self._picture(), self._figures()],
            summary=self._sentence(),
        )  # fmt: skip

    def _picture(self) -> HeatMap:
        names = ["gain", "transfer", "lens", "tuned", "selectivity"]
        return HeatMap(
            [[c.gain, c.transfer, c.lens, c.tuned, c.selectivity] for c in self.cells],
            names,
            [f"{c.task}, {c.template}" for c in self.cells],
            x_title="measure",
            y_title="task and template",
            limits=(-1.0, 1.0),
            value_name="share",
        )

    def _figures(self) -> Table:
        columns = ["task", "template", "words", "site", "plain", "gain", "gain low", "gain high",
                   "transfer", f"lens, top {self.top}", "tuned", "probe", "control",
                   "steerable", "decodable by"]  # fmt: skip
        rows = [
            [c.task, c.template, c.questions, c.site, c.plain, c.gain, *c.gain_interval, c.transfer,
             c.lens, c.tuned, c.probe, c.control, self.steerable(c),
             ", ".join(self.decodable(c)) or "none"]
            for c in self.cells
        ]  # fmt: skip
        return Table(columns, rows, formats=dict.fromkeys(columns[4:13], ".2f"), limit=100)

    def _sentence(self) -> str:
        counts, closed = self.counts, self.closed
        return (
            f"{self.model}: of {len(self.cells)} cells {counts[True, True]} can be steered and "
            f"decoded, {counts[True, False]} only steered, {counts[False, True]} only decoded, "
            f"{counts[False, False]} neither. Of {closed['open']} that are steered without the "
            f"logit lens, a tuned lens reads {closed['tuned']} and a probe {closed['probe']}."
        )
