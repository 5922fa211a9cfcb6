"""Activation patching: which activation carries what makes the answer?

Two prompts with the same number of tokens differ in the one thing that is asked about. The value
of one site, at one position (or in one head), is moved from the run of one prompt into the run of
the other, and what the metric does is written as a share of the gap between the two:

    value = (m_patched − m_corrupted) / (m_clean − m_corrupted)      0: as corrupted, 1: as clean

"denoise" moves clean into corrupted and finds what suffices to bring the answer back; "noise"
moves corrupted into clean and finds what is needed (1 there means: not needed).

Interchange interventions, Vig et al. 2020 (arXiv 2004.12265); causal tracing, Meng et al. 2022
(2202.05262); the path of names, Wang et al. 2022 (2211.00593); choices of metric and direction,
Zhang and Nanda 2023 (2309.16042). Departures: the denominator is the mean gap over all pairs, so
a pair with a small gap of its own does not blow up; a gap too small to divide by is refused.

How it is made fast: each layer's forwards begin at that layer, many patched copies share one
batch, only the last token is unembedded, and a cell whose two values are equal bit for bit (all
positions before the first difference) is 0 effect without a forward.
"""

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from jackfield.circuits.metrics import Measure, Metric
from jackfield.circuits.pairs import Pair, Side, final_logits, last_site, read_pair
from jackfield.circuits.patch_grid import PatchGrid
from jackfield.core.config import config
from jackfield.core.errors import InputError, SiteError, explain
from jackfield.core.progress import Progress
from jackfield.core.study import Study
from jackfield.edits import Replace

if TYPE_CHECKING:
    from jackfield.model.model import Model
    from jackfield.model.sites import Site

By = Literal["position", "head", "neuron"]
Direction = Literal["denoise", "noise"]
_AXES: dict[str, tuple[str, ...]] = {
    "position": ("position", "query"),
    "head": ("head", "kv_head"),
    "neuron": ("d_mlp", "d_model"),
}


@config
class ActivationPatching(Study):
    """Interchange patching of a site in every layer, one unit at a time.

    Attributes:
        sites: a pattern; each site of it is a row of the grid.
        by: what is moved at a time: "position" (all units of one token), "head" or "neuron" (one
            unit on all tokens), None (the whole site).
        direction: "denoise" (clean into corrupted) or "noise" (corrupted into clean).

    >>> from jackfield.circuits import LogitDifference
    >>> from jackfield.testing import tiny_llama
    >>> clean, corrupted = torch.tensor([[5, 6, 7]]), torch.tensor([[5, 8, 7]])
    >>> metric = LogitDifference(answer=3, wrong=4)
    >>> grid = ActivationPatching().run(
    ...     tiny_llama(), clean=clean, corrupted=corrupted, metric=metric
    ... )
    >>> grid.values.shape, round(float(grid.values[-1, -1]), 3)  # [layer, position]
    (torch.Size([3, 3]), 1.0)
    """

    sites: str = "layers.*.resid_post"
    by: By | None = "position"
    direction: Direction = "denoise"

    def run(
        self,
        model: "Model",
        *,
        clean: Any,
        corrupted: Any,
        metric: Metric | Callable[[Tensor], Tensor],
        labels: Sequence[str] | None = None,
        batch_tokens: int = 1024,
        progress: bool = False,
    ) -> PatchGrid:
        """Patches every cell of the grid.

        Args:
            model: a language model with known blocks.
            clean: a prompt, prompts, or token ids [pair, position]; all of one length.
            corrupted: its twin or twins, of the same length.
            metric: what to measure at the last token; a function [..., pair, vocab] → [..., pair]
                serves too.
            labels: names of the positions, in place of the tokens.
            batch_tokens: tokens in one forward; more is faster until memory runs out.
            progress: show a live line.

        Raises:
            InputError: prompts or labels that do not align, or a gap too small to divide by.
            SiteError: sites outside the blocks, or without the axis that `by` asks for.
        """
        began = perf_counter()
        sites = _sites(model, self.sites, self.by)
        starts = [_start(site) for site in sites]
        pair = read_pair(model, clean, corrupted, [*(site.name for site in sites), *starts], metric)
        source, base = (
            (pair.clean, pair.corrupted) if self.direction == "denoise"
            else (pair.corrupted, pair.clean)
        )  # fmt: skip
        with Progress("patching", total=len(sites), unit="sites", enabled=progress) as shown:
            rows = []
            for site in sites:
                rows.append(_sweep(model, site, self.by, source, base, pair.measure, batch_tokens))
                shown.update(1)
        measured = torch.stack(rows, dim=1)
        units = _axis_labels(model, pair, self.by, measured.shape[-1], labels)
        return PatchGrid(
            per_pair=(measured - pair.corrupted.metric[:, None, None]) / pair.gap,
            sites=tuple(site.name for site in sites),
            labels=tuple(units),
            by=self.by,
            direction=self.direction,
            metric=pair.metric.name,
            clean=pair.clean.metric,
            corrupted=pair.corrupted.metric,
            model=model.name,
            seconds=perf_counter() - began,
        )


def patch(
    model: "Model",
    *,
    clean: Any,
    corrupted: Any,
    metric: Metric | Callable[[Tensor], Tensor],
    sites: str = "layers.*.resid_post",
    by: By | None = "position",
    direction: Direction = "denoise",
    **options: Any,
) -> PatchGrid:
    """`ActivationPatching(sites=…, by=…, direction=…).run(model, clean=…, …)` in one call."""
    study = ActivationPatching(sites=sites, by=by, direction=direction)
    return study.run(model, clean=clean, corrupted=corrupted, metric=metric, **options)


def _sweep(
    model: "Model",
    site: "Site",
    by: By | None,
    source: Side,
    base: Side,
    measure: Measure,
    batch_tokens: int,
) -> Tensor:
    """The metric [pair, unit] with each unit of one site taken from `source`."""
    given, kept = source.run[site.name], base.run[site.name]
    axis = _axis(site, by)
    units = 1 if axis is None else kept.shape[axis]
    out = base.metric[:, None].repeat(1, units)
    todo = _changed(given, kept, axis)
    size = max(1, batch_tokens // base.tokens.numel())
    for chunk in todo.split(size):
        mixed = _mixed(given, kept, axis, chunk)
        logits = _resumed_logits(model, site, mixed, base)
        out[:, chunk] = measure(logits).double().cpu().T
    return out


def _changed(given: Tensor, kept: Tensor, axis: int | None) -> Tensor:
    """The units whose values differ at all; patching the others changes nothing."""
    different = given != kept
    if axis is None:
        return torch.arange(int(different.any()))
    return different.movedim(axis, 0).flatten(1).any(dim=1).nonzero().flatten().cpu()


def _mixed(given: Tensor, kept: Tensor, axis: int | None, units: Tensor) -> Tensor:
    """[unit, pair, ...]: a copy of `kept` for each unit, with that unit of `given`."""
    if axis is None:
        return given[None]
    shape = [1] * kept.dim()
    shape[axis] = kept.shape[axis]
    chosen = torch.zeros(len(units), kept.shape[axis], dtype=torch.bool)
    chosen[torch.arange(len(units)), units] = True
    return torch.where(chosen.to(kept.device).reshape(len(units), *shape), given, kept)


def _resumed_logits(model: "Model", site: "Site", mixed: Tensor, base: Side) -> Tensor:
    """Logits [unit, pair, vocab] of the base prompts with `mixed` at the site.

    What comes before the site's layer is that of the base run, so the forward starts there.
    """
    start, copies = _start(site), len(mixed)
    run = model.run(
        _repeated(base.tokens, copies),
        start={start: _repeated(base.run[start], copies)},
        edits=[Replace(mixed.flatten(0, 1), at=site.name)],
        sites=[last_site(model)],
        logits=False,
    )
    return final_logits(model, run).unflatten(0, (copies, -1))


def _repeated(x: Tensor, copies: int) -> Tensor:
    return x[None].expand(copies, *x.shape).flatten(0, 1)


def _start(site: "Site") -> str:
    """Where a forward may begin that is the base run up to this site."""
    return "embed" if site.layer is None else f"layers.{site.layer}.resid_pre"


def _sites(model: "Model", pattern: str, by: By | None) -> list["Site"]:
    sites = [model.sites[name] for name in model.sites.select(pattern)]
    inside = all(site.layer is not None or site.role == "embed" for site in sites)
    if not inside or len({site.role for site in sites}) > 1:
        expected = "one kind of site in the blocks, such as layers.*.resid_post"
        raise SiteError(explain(where=f"{model.name}, patching", expected=expected, got=pattern))
    for site in sites:
        _axis(site, by)
    return sites


def _axis(site: "Site", by: By | None) -> int | None:
    """Which axis of the site's value `by` names."""
    if by is None:
        return None
    found = [index for index, name in enumerate(site.axes) if name in _AXES[by]]
    if not found:
        raise SiteError(
            explain(
                where=f"{site.name}, by={by!r}",
                expected=f"a site with one of the axes {', '.join(_AXES[by])}",
                got=f"[{' '.join(site.axes)}]",
                hint="layers.*.z has heads, layers.*.mlp_post neurons.",
            )
        )
    return found[0]


def _axis_labels(
    model: "Model", pair: Pair, by: By | None, units: int, labels: Sequence[str] | None
) -> Sequence[str]:
    """Names of the units: tokens or the given labels, else numbers."""
    if by != "position":
        return list(map(str, range(units))) if by else ["all"]
    if labels and len(labels) != units:
        raise InputError(
            explain(where="patching, labels", expected=f"{units} labels", got=str(len(labels)))
        )
    return labels or pair.token_labels(model)
