"""Steerable or decodable: can a task be steered where its answer cannot be read?

For each task and template, on words that nothing was fitted on and prompts without demonstrations:

    gain         accuracy with a function vector added at the last token − accuracy without
    transfer     the same with the vectors of the other templates
    lens, tuned  share of answers among the `top` of a logit lens, of a diagonal tuned lens
    selectivity  accuracy of a probe with two layers − that of one trained on random labels

    steerable: gain ≥ `least` and its interval above 0        decodable: any of the three ≥ `least`

After Nadaf 2026 (arXiv 2604.02608), known to us by its abstract: mean-difference vectors, transfer
between templates, these three decoders. The thresholds, the layers and the rest are ours. The layer
of a vector is chosen on the words it is fitted on; decoders have the best of their layers on the
*test* words, without the last block: what counts as not decodable is so in the decoders' favour.
The tuned lens pools all tasks: words that any of them tests are left out of what it is fitted on.
The probe is tested on unseen words too: a label drawn for each word (Hewitt and Liang 2019) is then
out of reach, and no decoder passes by knowing the word. It chooses among the test words' answers,
with random labels among the same.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from jackfield.core.config import config, setting
from jackfield.core.errors import InputError, explain
from jackfield.core.progress import Progress
from jackfield.core.study import Study
from jackfield.reports.intervals import share_interval
from jackfield.steering.tasks.decoders import Probe, diagonal_lens, lens_hits
from jackfield.steering.tasks.in_context import InContextTask
from jackfield.steering.tasks.last_token import gain_interval
from jackfield.steering.tasks.steerable_result import Cell, SteerableTable
from jackfield.steering.tasks.task_reading import TaskReading, read_task

if TYPE_CHECKING:
    from jackfield.model.model import Model

Readings = dict[tuple[str, str], TaskReading]
_TUNED_ON = 128  # prompts that a tuned lens is fitted on


@config
class SteerableOrDecodable(Study):
    """The table of what can be steered and what can be read, of activations [word, d].

    Attributes:
        templates: by name; at least two, for the transfer.
        shots: demonstrations a prompt.
        layers: at whose `resid_post` a vector may be added; a third, two thirds and three quarters
            of the way up if empty.
        every: decoders read each so-many-th block.
        top: among how many tokens the answer may be for a lens.
        tuned_steps: of descent for each layer's tuned lens.
        probe_steps, hidden, decay: of the probe: descent, width, penalty.
        least: gain, share and selectivity that count.
        seed: of the halves, the demonstrations, the probe and the intervals.

    >>> SteerableOrDecodable(top=1).templates
    ('qa', 'arrow', 'io')
    """

    templates: tuple[str, ...] = ("qa", "arrow", "io")
    shots: int = setting(default=5, ge=2)
    layers: tuple[int, ...] = ()
    every: int = setting(default=4, ge=1)
    top: int = setting(default=5, ge=1)
    tuned_steps: int = setting(default=10, ge=0)
    probe_steps: int = setting(default=40, ge=1)
    hidden: int = setting(default=64, ge=1)
    decay: float = setting(default=1e-3, ge=0)
    least: float = setting(default=0.2, gt=0, le=1)
    seed: int = 0

    def run(
        self, model: "Model", tasks: Sequence[InContextTask], *, progress: bool = False
    ) -> SteerableTable:
        """Measures every task in every template.

        Raises:
            InputError: no tasks, fewer than two templates, a layer that is not there, words that
                are too few, or activations that are not finite.
        """
        vectors, decoders = self._sites(model, tasks)
        keys = [(task, template) for task in tasks for template in self.templates]
        readings: Readings = {}
        with Progress("reading", total=len(keys), unit="cells", enabled=progress) as shown:
            for task, template in keys:
                readings[task.name, template] = read_task(
                    model, task, template, shots=self.shots, seed=self.seed, vectors=vectors,
                    decoders=decoders,
                )  # fmt: skip
                shown.update(1)
        lenses = self._lenses(model, readings, decoders)
        cells = []
        with Progress("steering", total=len(keys), unit="cells", enabled=progress) as shown:
            for task in tasks:
                own = {each: readings[task.name, each] for each in self.templates}
                probed = self._probed(model, own, decoders[:-1])
                steered = self._steered(model, own, vectors)
                for template in self.templates:
                    decoded = self._decoded(model, own[template], lenses)
                    found = {**steered[template], **decoded, **probed[template]}
                    cells.append(Cell(task=task.name, template=template, **found))
                    shown.update(1)
        return SteerableTable(model.name, self.least, self.top, tuple(cells))

    def _sites(self, model: "Model", tasks: Sequence[InContextTask]) -> tuple[list[str], list[str]]:
        """Where vectors may be added, and where decoders read: the last block at the end."""
        where, n = f"{model.name}, SteerableOrDecodable", model.n_layers
        if not tasks or len(self.templates) < 2:
            got = f"{len(tasks)} tasks, {len(self.templates)} templates"
            expected = "at least one task and two templates"
            raise InputError(explain(where=where, expected=expected, got=got))
        chosen = self.layers or tuple(sorted({n // 3, 2 * n // 3, 3 * n // 4}))
        if n < 2 or not all(0 <= layer < n for layer in chosen):
            got, expected = f"{chosen} of {n}", f"layers from 0 to {n - 1}"
            raise InputError(explain(where=where, expected=expected, got=got))
        read = [*range(self.every - 1, n - 1, self.every)] or [n - 2]
        return [f"layers.{i}.resid_post" for i in chosen], [
            f"layers.{i}.resid_post" for i in [*read, n - 1]
        ]

    def _lenses(
        self, model: "Model", readings: Readings, sites: Sequence[str]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Gain and bias of each site's tuned lens, fitted on words that no task tests."""
        tested = {word for reading in readings.values() for word in reading.test.words}
        words = [word for reading in readings.values() for word in reading.fit.words]
        unseen = torch.tensor([i for i, word in enumerate(words) if word not in tested])
        if len(unseen) < 2:
            where, got = f"{model.name}, SteerableOrDecodable, tuned lens", str(len(unseen))
            expected = "two or more words to fit on that no other task tests"
            raise InputError(explain(where=where, expected=expected, got=got))
        rows = {s: torch.cat([r.fit_bare[s] for r in readings.values()]).float() for s in sites}
        draw = torch.Generator().manual_seed(self.seed)
        some = unseen[torch.randperm(len(unseen), generator=draw)[:_TUNED_ON]]
        return {
            site: diagonal_lens(
                model, rows[site][some], rows[sites[-1]][some], steps=self.tuned_steps
            )
            for site in sites[:-1]
        }

    def _steered(
        self, model: "Model", own: dict[str, TaskReading], sites: Sequence[str]
    ) -> dict[str, dict[str, Any]]:
        """What the vector of each template does to its own and to the others' questions."""
        best = {template: reading.best(model, sites) for template, reading in own.items()}
        edits = {template: reading.edits(best[template]) for template, reading in own.items()}
        found: dict[str, dict[str, Any]] = {}
        for to, reading in own.items():
            plain = reading.steered(model)
            after = {origin: reading.steered(model, edits[origin]) for origin in own}
            base = float(plain.double().mean())
            gains = {origin: float(hit.double().mean()) - base for origin, hit in after.items()}
            others = [gain for origin, gain in gains.items() if origin != to]
            found[to] = {
                "questions": len(plain),
                "site": best[to],
                "plain": base,
                "gain": gains[to],
                "gain_interval": gain_interval(after[to], plain, self.seed),
                "transfer": sum(others) / len(others),
            }
        return found

    def _decoded(
        self, model: "Model", reading: TaskReading, lenses: dict[str, tuple[Tensor, Tensor]]
    ) -> dict[str, Any]:
        plain, tuned = [], []
        for site, (gain, bias) in lenses.items():
            h = reading.test_bare[site].float()
            plain.append(lens_hits(model, h, reading.test_answers, self.top))
            tuned.append(lens_hits(model, h * gain + bias, reading.test_answers, self.top))
        found: dict[str, Any] = {}
        for name, hits in (("lens", plain), ("tuned", tuned)):
            best = max(hits, key=lambda each: int(each.sum()))
            found |= {
                name: float(best.double().mean()),
                f"{name}_interval": share_interval(best.tolist()),
            }
        return found

    def _probed(
        self, model: "Model", own: dict[str, TaskReading], sites: Sequence[str]
    ) -> dict[str, dict[str, Any]]:
        """The probe of each site is fitted on all templates, and tested on each by itself."""
        found: dict[str, dict[str, Any]] = {}
        for site in sites:
            for template, (real, control) in self._probe_at(model, own, site).items():
                difference = float(real.double().mean() - control.double().mean())
                if template in found and difference <= found[template]["selectivity"]:
                    continue
                found[template] = {
                    "probe": float(real.double().mean()),
                    "control": float(control.double().mean()),
                    "selectivity": difference,
                    "selectivity_interval": gain_interval(real, control, self.seed),
                }
        return found

    def _probe_at(
        self, model: "Model", own: dict[str, TaskReading], site: str
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """{template: (right on real labels, right on random ones)} for words not fitted on."""
        rows = torch.cat([each.fit_bare[site] for each in own.values()]).float()
        (fit, test), *_ = [(each.fit_answers, each.test_answers) for each in own.values()]
        draw = torch.Generator().manual_seed(self.seed)
        drawn = [each[torch.randint(len(each), each.shape, generator=draw)] for each in (fit, test)]
        right: dict[str, list[Tensor]] = {template: [] for template in own}
        for known, asked in ((fit, test), drawn):
            probe = Probe(model, hidden=self.hidden, seed=self.seed)
            probe.fit(
                rows, known.repeat(len(own)), fit.unique(), steps=self.probe_steps,
                decay=self.decay,
            )  # fmt: skip
            for template, each in own.items():
                hits = probe.right(each.test_bare[site].float(), asked, test.unique())
                right[template].append(hits)
        return {template: (hits[0], hits[1]) for template, hits in right.items()}
