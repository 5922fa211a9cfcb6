"""Behaviours: what every steering method does at the same KL, beside random directions."""

import sys
import time
from dataclasses import dataclass
from typing import Any

import jackfield as jf
from jackfield.core.fitted import Fitted, Method
from jackfield.steering import Entry, MethodTable

KL, AT = 0.3, "layers.20.resid_post"
LAYERS = (12, 16, 20, 25)
SAE = {"latents": 2048, "k": 32, "rows": 300_000, "batch": 1024}


@dataclass(frozen=True)
class WithDictionary(Method):
    """A method that wants a dictionary besides the two sides."""

    method: Any
    dictionary: Any

    def fit(self, model: jf.Model, *, positive: Any, negative: Any, at: str) -> Fitted:
        """Fits with the dictionary, which has its own site."""
        assert at == AT
        return self.method.fit(
            model, positive=positive, negative=negative, dictionary=self.dictionary
        )


def table() -> str:
    """Shifts of the odds at a KL of 0.3, nats, with 95 % intervals over prompts; layer 20."""
    model = jf.load("smollm2")
    behaviours = list(jf.steering.BEHAVIOURS.values())
    entries = [*_by_layer(), *_at_one_layer(), *_over_layers(), *_with_dictionary(model)]
    found: dict[str, dict[str, Any]] = {entry.name: {} for entry in entries}
    for behaviour in behaviours:
        begun = time.perf_counter()
        for cell in MethodTable(kl=KL).run(model, entries, [behaviour], progress=True).cells:
            found[cell.entry][behaviour.name] = cell
            print(f"{behaviour.name}, {cell.entry}: {_figure(cell)}", file=sys.stderr)
        print(f"{time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
    names = [each.name for each in behaviours]
    lines = [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    lines += [f"| {name} | {_row(cells)} |" for name, cells in found.items()]
    return "\n".join([*lines, "", *(_said(found, each) for each in names)])


def _by_layer() -> list[Entry]:
    mean = jf.steering.MeanDifference()
    return [Entry(f"mean difference, layer {n}", mean, f"layers.{n}.resid_post") for n in LAYERS]


def _at_one_layer() -> list[Entry]:
    s = jf.steering
    methods = {
        "PCA of pairs": s.PairedPCA(),
        "logistic": s.LogisticDirection(),
        "covariance-aware": s.CovarianceAware(),
        "random tokens filtered": s.RandomFilteredDifference(),
        "AcT": s.AcT(),
        "LinEAS": s.LinEAS(),
        "OT map": s.OTMap(),
        "BiPO": s.BiPO(),
        "LoReFT": s.LoReFT(),
        "ReFT-r1": s.ReFTr1(),
    }
    return [Entry(name, method, AT) for name, method in methods.items()]


def _over_layers() -> list[Entry]:
    s, over = jf.steering, "layers.6:27.resid_post"
    return [
        Entry("AUSteer, MLPs of all layers", s.AUSteer(), "layers.*.mlp_out"),
        Entry("AcT, layers 6 to 26", s.AcT(), over),
        Entry("LQR, layers 6 to 26", s.LQR(), over),
        Entry("PID, layers 6 to 26", s.PIDSteering(), over),
    ]


def _with_dictionary(model: jf.Model) -> list[Entry]:
    rows = model.stream(jf.corpus("docs"), sites=[AT], max_tokens=60_000).collect()
    stream = jf.Stream.from_tensor(rows[AT], site=AT)
    sae = jf.dictionaries.TopK(**SAE).fit(stream, progress=False)
    s = jf.steering
    methods = {
        "5 SAE latents added": s.FeatureSteering(features=5),
        "50 SAE latents added": s.FeatureSteering(features=50),
        "5 SAE latents set": s.FeatureSteering(features=5, act="set"),
        "YaPO": s.YaPO(),
    }
    return [Entry(name, WithDictionary(method, sae), AT) for name, method in methods.items()]


def _row(cells: dict[str, Any]) -> str:
    return " | ".join(_figure(cell) for cell in cells.values())


def _figure(cell: Any) -> str:
    if cell.effect is None:
        return "not to be had"
    low, high = cell.effect.interval
    marks = "" if cell.works else " ✗"
    marks += f" (KL {cell.effect.kl:.2g})" if cell.effect.kl < 0.9 * KL else ""
    return f"{cell.effect.mean:+.2f} ({low:.2f} to {high:.2f}){marks}"


def _said(found: dict[str, dict[str, Any]], behaviour: str) -> str:
    held = {name: cells[behaviour] for name, cells in found.items()}
    works = {name: cell.effect for name, cell in held.items() if cell.works}
    random = max(cell.effect.random_size for cell in held.values() if cell.effect)
    lost = ", ".join(name for name, cell in held.items() if not cell.works) or "none"
    best = max(works, key=lambda name: works[name].mean, default="none")
    return (
        f"- {behaviour}: most by {best}; the largest random direction {random:.2f}; no more than "
        f"its random ones (✗) or not to be had: {lost}."
    )
