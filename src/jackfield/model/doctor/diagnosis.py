"""What the doctor found: rows of checks, and how a difference is judged."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Result = Literal["pass", "fail", "not applicable"]

SHRINK = 1e-5  # rounding must shrink by so much from the model's dtype to float64
FLOOR = 1e-11  # what rounding in float64 itself may leave, relative


@dataclass(frozen=True)
class Row:
    """One check.

    Attributes:
        check: what was compared with what.
        sites: where; of a failed check the sites that failed.
        result: "pass", "fail" or "not applicable".
        measured: the largest difference, relative to the value's size; None if not a number.
        limit: up to which it passes.
        remark: what else there is to know.
    """

    check: str
    sites: str
    result: Result
    measured: float | None = None
    limit: float | None = None
    remark: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """The doctor's table of one model; `print` it.

    Attributes:
        name: of the model.
        rows: one dict a check.
        seconds: how long the examination took.
    """

    name: str
    rows: list[dict[str, Any]]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether no check failed."""
        return not self.failures

    @property
    def failures(self) -> list[dict[str, Any]]:
        """The rows that failed."""
        return [row for row in self.rows if row["result"] == "fail"]

    def __str__(self) -> str:
        header = ("check", "sites", "result", "measured", "limit", "remark")
        lines = [header, *([_cell(row[name]) for name in header] for row in self.rows)]
        widths = [min(max(len(line[i]) for line in lines), 64) for i in range(len(header))]
        shown = ["  ".join(map(_padded, line, widths)).rstrip() for line in lines]
        return "\n".join([shown[0], "─" * min(sum(widths) + 10, 160), *shown[1:], self.summary])

    @property
    def summary(self) -> str:
        """One line: how many passed, failed, did not apply."""
        counts = [sum(row["result"] == kind for row in self.rows) for kind in
                  ("pass", "fail", "not applicable")]  # fmt: skip
        verdict = "healthy" if self.ok else "NOT healthy"
        return (
            f"{self.name}: {verdict}; {counts[0]} passed, {counts[1]} failed, "
            f"{counts[2]} not applicable, in {self.seconds:.0f} s"
        )

    __repr__ = __str__


def diagnosis(name: str, rows: Sequence[Row], seconds: float) -> Diagnosis:
    """The table of these rows."""
    return Diagnosis(name, [asdict(row) for row in rows], seconds)


def judge(
    check: str,
    errors: Mapping[str, float],
    limit: float,
    *,
    twin: Mapping[str, float] | None = None,
    floor: float = FLOOR,
    remark: str = "",
) -> Row:
    """A row from differences by site, in the model's dtype and in float64.

    A difference passes when it is within the limit and, where there is a float64 copy, shrinks in
    it by `SHRINK` or to `floor`: then it is rounding.
    """
    bad = [site for site, error in errors.items() if not error <= limit]
    if twin is not None:
        small = {site: max(SHRINK * errors.get(site, 0.0), floor) for site in twin}
        bad += [site for site, error in twin.items() if not error <= small[site]]
    worst = max(errors.values(), default=0.0)
    sites = spell(list(dict.fromkeys(bad)) or list(errors))
    if not bad and sites.count(" ") > 3:
        sites = f"{len(errors)} sites"
    exact = f"{max(twin.values()):.1e} in float64" if twin and worst else ""
    return Row(
        check,
        sites,
        "fail" if bad else "pass",
        worst,
        limit,
        "; ".join(part for part in (exact, remark) if part),
    )


def absent(check: str, reason: str, sites: str = "") -> Row:
    """A row of a check that does not apply to this model."""
    return Row(check, sites, "not applicable", remark=reason)


def spell(sites: Sequence[str]) -> str:
    """Sites in short: layers of one role are put together.

    >>> spell(["layers.0.z", "layers.2.z", "logits"])
    'layers.0,2.z logits'
    """
    layers: dict[str, list[str]] = {}
    for site in sites:
        head, _, rest = site.partition(".")
        number, _, role = rest.partition(".")
        grouped = head == "layers" and number.isdigit()
        layers.setdefault(role if grouped else site, []).extend([number] if grouped else [])
    return " ".join(
        f"layers.{','.join(numbers)}.{role}" if numbers else role
        for role, numbers in layers.items()
    )


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "0" if value == 0 else f"{value:.1e}"
    return "" if value is None else str(value)


def _padded(text: str, width: int) -> str:
    return text.ljust(width)
