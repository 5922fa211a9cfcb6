"""Joint patching: several activations moved together, as one set.

A grid moves one unit at a time; a claim about a circuit is about a set of them. The set's share of
the gap between the corrupted (0) and the clean run (1) is

    share(S) = (m_S − m_corrupted) / (m_clean − m_corrupted)

with all of S moved at once, each as it is in the other prompt's run. The shares of single units
need not add up to it: what one unit brings, another may bring as well (then the set has less than
the sum), or only two together (then more). The whole residual stream of a block has share 1.

Vig et al. 2020 (arXiv 2004.12265); Wang et al. 2022 (2211.00593).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from jackfield.circuits.metrics import Metric
from jackfield.circuits.pairs import final_logits, last_site, read_pair
from jackfield.circuits.patching import Direction, positions_of
from jackfield.circuits.tasks.accuracy import mean_and_interval
from jackfield.core.config import config
from jackfield.core.study import Result, Study
from jackfield.edits import Replace
from jackfield.reports import Report, Table

if TYPE_CHECKING:
    from jackfield.model.model import Model


@config
class JointPatching(Study):
    """Moves a set of activations together.

    Attributes:
        sites: what is moved: sites, patterns, or parts of them such as "layers.9.z[head=6]".
        positions: on these tokens only; −1 is the last.
        direction: "denoise" (clean into corrupted) or "noise" (corrupted into clean).

    >>> import torch
    >>> from jackfield.circuits import LogitDifference
    >>> from jackfield.testing import tiny_llama
    >>> clean, corrupted = torch.tensor([[5, 6, 7]]), torch.tensor([[5, 8, 7]])
    >>> study = JointPatching(sites=("layers.1.resid_post",))
    >>> found = study.run(
    ...     tiny_llama(),
    ...     clean=clean,
    ...     corrupted=corrupted,
    ...     metric=LogitDifference(answer=3, wrong=4),
    ... )
    >>> round(found.share, 4)
    1.0
    """

    sites: tuple[str, ...]
    positions: tuple[int, ...] | None = None
    direction: Direction = "denoise"

    def run(
        self,
        model: "Model",
        *,
        clean: Any,
        corrupted: Any,
        metric: Metric | Callable[[Tensor], Tensor],
    ) -> "JointPatch":
        """Patches the set.

        Args:
            model: a language model with known blocks.
            clean: a prompt, prompts, or token ids [pair, position]; all of one length.
            corrupted: its twin or twins, of the same length.
            metric: what to measure at the last token.

        Raises:
            InputError: prompts that do not align, or a gap too small to divide by.
            SiteError: an unknown site.
        """
        names = list(dict.fromkeys(n for each in self.sites for n in model.sites.select(each)))
        pair = read_pair(model, clean, corrupted, names, metric)
        source, base = (
            (pair.clean, pair.corrupted) if self.direction == "denoise"
            else (pair.corrupted, pair.clean)
        )  # fmt: skip
        where: Any = "all"
        if self.positions is not None:
            where = list(positions_of(self.positions, base.tokens.shape[1]))
        edits = [Replace(source.run[name], at=name, where=where) for name in names]
        run = model.run(base.tokens, sites=[last_site(model)], edits=edits, logits=False)
        measured = pair.measure(final_logits(model, run)).double().cpu()
        return JointPatch(
            per_pair=(measured - pair.corrupted.metric) / pair.gap,
            sites=tuple(names),
            direction=self.direction,
            metric=pair.metric.name,
            gap=float(pair.gap),
            model=model.name,
        )


@dataclass(frozen=True)
class JointPatch(Result):
    """What a set of activations does together.

    Attributes:
        per_pair: [pair] the share of the mean gap.
        sites: what was moved.
        direction: "denoise" or "noise".
        metric: its name; `gap` the mean difference between clean and corrupted, in its unit.
        model: its name.
    """

    per_pair: Float[Tensor, "pair"]  # noqa: F821
    sites: tuple[str, ...]
    direction: str
    metric: str
    gap: float
    model: str

    @property
    def share(self) -> float:
        """0: as the corrupted run, 1: as the clean one; the mean over pairs."""
        return float(self.per_pair.mean())

    def report(self) -> Report:
        """One row with its interval, and a sentence."""
        row: list[Any] = [", ".join(self.sites), self.share]
        columns = ["moved together", "share of the gap"]
        if len(self.per_pair) > 1:
            row = [row[0], *mean_and_interval(self.per_pair.tolist())]
            columns += ["low (95 %)", "high (95 %)"]
        moved = "Clean into corrupted" if self.direction == "denoise" else "Corrupted into clean"
        summary = (
            f"{moved}, {len(self.sites)} sites at once, {self.model}: {self.share:.2f} of the gap "
            f"in {self.metric} ({self.gap:.3g}), {len(self.per_pair)} pairs."
        )
        return Report("Joint patching", [Table(columns, [row])], summary=summary)
