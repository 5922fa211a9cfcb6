"""SparseInputs: rules that leave out inputs of linear layers, site by site, and what they save."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any, Self

from torch import Tensor

from jackfield.core.fitted import Fitted
from jackfield.edits import Edit, KeepTopK, Threshold
from jackfield.reports import Lines, Report, Table


@dataclass(frozen=True)
class SiteRule:
    """What is kept at one site, and what was measured of it.

    Attributes:
        width: units of the site; `outputs` how many outputs its readers have together.
        readers: paths of the modules that read it.
        k: units kept on each token, where there is no threshold.
        together: how many of the site's last axes are ranked together.
        threshold: a unit is kept if its score exceeds it; None for the k largest.
        norms: [d] or [head, d_head] the factors c of the scores; None for 1.
        kept: the share of units that was not zero afterwards; k / width if nothing was measured.
        error: ‖W (x − m∘x)‖² / ‖W x‖² over a stream; `by_norms` the part that the norms account
            for. None if nothing was measured.
    """

    width: int
    outputs: int
    readers: tuple[str, ...]
    k: int
    together: int = 1
    threshold: float | None = None
    norms: Tensor | None = None
    kept: float | None = None
    error: float | None = None
    by_norms: float | None = None

    @property
    def share(self) -> float:
        """The share of units kept."""
        return self.k / self.width if self.kept is None else self.kept

    @property
    def dense(self) -> int:
        """Multiply-adds a token in the readers, with all units."""
        return self.width * self.outputs

    def with_threshold(self, threshold: float) -> "SiteRule":
        """The same rule with a threshold in the place of k."""
        return replace(self, threshold=threshold)

    def edit(self, site: str, where: Any = "all") -> Edit:
        """The rule as an edit."""
        if self.threshold is not None:
            return Threshold(self.threshold, self.norms, at=site, where=where)
        return KeepTopK(self.k, self.norms, self.together, at=site, where=where)


class SparseInputs(Fitted):
    """Rules for the inputs of linear layers.

    Attributes:
        settings: the config that made them.
        rules: site → `SiteRule`.
        model: name of the model whose weights were read.
        linear: multiply-adds a token in all of its linear modules, the head included.
    """

    def __init__(
        self, settings: dict[str, Any], rules: Mapping[str, SiteRule], *, model: str, linear: int
    ) -> None:
        self.settings, self.rules = settings, dict(rules)
        self.model, self.linear = model, linear

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites, in the order of the forward."""
        return tuple(self.rules)

    @property
    def saved(self) -> float:
        """The share of the linear modules' multiply-adds that is not needed.

        A unit that is left out saves one multiply-add for each output of each module that reads
        it: Σ_sites (1 − share kept) · width · outputs / Σ over all linear modules of in · out. On
        tokens where the edits act; the scores (one product a unit) and attention's own products
        are not counted.
        """
        return sum((1 - rule.share) * rule.dense for rule in self.rules.values()) / self.linear

    def edits(self, *, where: Any = "~sinks") -> list[Edit]:
        """One edit for each site.

        Args:
            where: which tokens; the model's sinks are left whole by default. `path:in` sites have
                no token axis and need "all".
        """
        return [rule.edit(site, where) for site, rule in self.rules.items()]

    def report(self) -> Report:
        """What is kept, saved and, if a stream was given, changed at each kind of site."""
        title = f"{self._name()} at {len(self.rules)} sites"
        return Report(title, [self._table(), *self._curves()], summary=self._summary())

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
        tensors = {site: r.norms for site, r in self.rules.items() if r.norms is not None}
        plain = {site: asdict(replace(r, norms=None)) for site, r in self.rules.items()}
        return self.settings, tensors, {"rules": plain, "model": self.model, "linear": self.linear}

    @classmethod
    def from_state(
        cls, config: dict[str, Any], tensors: dict[str, Tensor], extra: dict[str, Any]
    ) -> Self:
        rules = {
            site: SiteRule(
                **{**plain, "readers": tuple(plain["readers"]), "norms": tensors.get(site)}
            )
            for site, plain in extra["rules"].items()
        }
        return cls(config, rules, model=extra["model"], linear=extra["linear"])

    def _roles(self) -> dict[str, list[SiteRule]]:
        found: dict[str, list[SiteRule]] = {}
        for site, rule in self.rules.items():
            role = site if site.endswith(":in") else site.rpartition(".")[2]
            found.setdefault(role, []).append(rule)
        return found

    def _curves(self) -> list[Lines]:
        """The error over layers, where it was measured at the same number of layers everywhere."""
        errors = {role: [rule.error for rule in rules] for role, rules in self._roles().items()}
        lengths = {len(curve) for curve in errors.values()}
        if len(lengths) != 1 or any(None in curve for curve in errors.values()):
            return []
        layers = list(range(lengths.pop()))
        return [Lines(layers, errors, x_title="layer", y_title="error", caption=_ERROR)]

    def _table(self) -> Table:
        columns = ["site", "sites", "read by", "kept", "saved", "error", "of it by norms"]
        rows = [self._row(role, rules) for role, rules in self._roles().items()]
        formats = {"kept": ".1%", "saved": ".1%"}
        return Table(columns, rows, caption=_SAVED, formats=formats)

    def _row(self, role: str, rules: list[SiteRule]) -> list[Any]:
        read_by = ", ".join(path.rpartition(".")[2] for path in rules[0].readers)
        errors = [rule.error for rule in rules if rule.error is not None]
        by_norms = [rule.by_norms for rule in rules if rule.by_norms is not None]
        saved = sum((1 - rule.share) * rule.dense for rule in rules) / self.linear
        return [
            role,
            len(rules),
            read_by,
            fmean(rule.share for rule in rules),
            saved,
            fmean(errors) if errors else None,
            fmean(by_norms) if errors else None,
        ]

    def _name(self) -> str:
        return "WINA" if self.settings["weights"] else "TEAL (no weights)"

    def _summary(self) -> str:
        kept = fmean(rule.share for rule in self.rules.values())
        measured = [rule.error for rule in self.rules.values() if rule.error is not None]
        error = f" The outputs move by {fmean(measured):.2g} of their power." if measured else ""
        return (
            f"{kept:.0%} of the inputs kept in {self.model}, which saves {self.saved:.0%} of the "
            f"multiply-adds of its linear layers.{error}"
        )

    def __repr__(self) -> str:
        share = fmean(rule.share for rule in self.rules.values())
        return f"SparseInputs({self.model}: {len(self.rules)} sites, {share:.1%} kept)"


_SAVED = (
    "Saved: the share of the multiply-adds of all linear layers. Error: the squared length of what "
    "is missing in the readers' outputs, as a share of their squared length; each site by itself."
)
_ERROR = "The share of the outputs' squared length that is missing, each site by itself."
