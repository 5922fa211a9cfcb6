"""SparseLearner: the first weights of a sparse dictionary, and one step of its training.

The same for every method; what differs is the objective (`objective.py`). Nothing here waits for an
accelerator within a step: which latents are dead is read at each look. Scales (`training_units.py`)
and the lengths of the decoder's rows are folded into the weights at the end: decoder rows of length
1, codes in units of the activation.
"""

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from jackfield.core.config import to_json
from jackfield.dictionaries.code import product
from jackfield.dictionaries.objective import Outcome, Seen, Weights
from jackfield.dictionaries.run import Learner, Rows
from jackfield.dictionaries.sparse_dictionary import SparseDictionary
from jackfield.dictionaries.training_units import TrainingUnits, beside, measure

if TYPE_CHECKING:
    from jackfield.dictionaries.sparse_method import SparseMethod, Wiring

_RECENT = 0.05  # share of the newest look in the densities, so that they forget the beginning
_LOOKED_AT = 2048  # rows that decide how long the first encoder is
_SLOW = 0.01  # share of the newest step in what objectives note
_MATRICES = ("encoder", "decoder", "skip")


class SparseLearner(Learner):
    """The weights, Adam's moments, and what is counted.

    `held`: silent [latent], rows since a latent fired; fired [latent] and sums (error, spread,
    active, rows), both since the last look; density [latent], looks (how many), dead (which
    latents), steps, and what the objective noted. `units`: how rows are scaled.
    """

    def __init__(
        self, name: str, config: "SparseMethod[Any]", wiring: "Wiring", rate: float
    ) -> None:
        self.name, self.config, self.rate = name, config, rate
        self.wiring, self.objective = wiring, wiring.objective
        self.compute = getattr(torch, config.compute)

    def start(self, rows: Rows) -> None:
        config, sites = self.config, self.wiring.sites
        units, scaled = measure(
            rows, sites, normalise=config.normalise, reach=config.reach, name=self.name
        )
        self._use(units)
        weights = self._first(scaled)
        zeros = weights["encoder_bias"]
        counts = {name: zeros.long() for name in ("silent", "fired")}
        counts |= {name: zeros[0].clone() for name in ("looks", "steps")}
        sums = {"density": zeros, "sums": zeros.new_zeros(4), "dead": zeros[:0].long()}
        self._take(weights, counts | sums)

    @torch.enable_grad()
    def step(self, rows: Rows, done: float) -> None:
        x, y = self.units.scaled(rows)
        weights = {
            name: value.to(self.compute) if name in _MATRICES else value
            for name, value in self.weights.items()
        }
        outcome = self.objective.loss(self.seen(x, y, weights, done), weights)
        outcome.loss.backward()
        self._update(done)
        self._count(y, outcome)

    def look(self) -> dict[str, float]:
        held = self.held
        error, spread, active, rows = held["sums"].tolist()
        held["looks"] += 1
        share = (1 / held["looks"]).clamp_min(_RECENT)
        held["density"] += share * (held["fired"] / rows - held["density"])
        held["dead"] = (held["silent"] >= self.config.dead_after).nonzero().flatten()
        held["fired"].zero_()
        held["sums"].zero_()
        fvu = error / spread if spread else 0.0
        return {"FVU": fvu, "dead": len(held["dead"]), "L0": active / rows}

    def state(self) -> dict[str, Tensor]:
        moments = self.adam.state_dict()["state"]
        named = zip(self.weights, moments.values(), strict=True)
        adam = {f"adam.{name}.{key}": value for name, own in named for key, value in own.items()}
        kept = {"weights": self.weights, "held": self.held, "units": self.units.held}
        plain = {f"{kind}.{name}": v for kind, own in kept.items() for name, v in own.items()}
        return adam | plain

    def restore(self, state: dict[str, Tensor]) -> None:
        self._use(_under("units", state))
        self._take(_under("weights", state), _under("held", state))
        adam = self.adam.state_dict()
        adam["state"] = {i: _under(f"adam.{name}", state) for i, name in enumerate(self.weights)}
        self.adam.load_state_dict(adam)

    @torch.no_grad()
    def dictionaries(self, history: list[dict[str, float]]) -> list[SparseDictionary]:
        """What was learned, in the units of the activations: one for each site that is rebuilt."""
        weights, k = self._folded()
        reads, writes = self.wiring.reads, self.wiring.writes
        widths = self.units.widths(writes)
        decoders = weights.pop("decoder").split(widths, dim=1)
        biases = weights.pop("decoder_bias").split(widths)
        return [
            SparseDictionary(
                self.name,
                to_json(self.config),
                {name: value.clone() for name, value in weights.items()}
                | {"decoder": decoder.clone(), "decoder_bias": bias.clone()},
                site=site,
                sources=reads,
                widths=self.units.widths(reads),
                radius=() if self.config.reach is None else self.units.radius,
                k=k,
                history=history,
            )
            for site, decoder, bias in zip(writes, decoders, biases, strict=True)
        ]

    def seen(self, x: Tensor, y: Tensor, weights: Weights, done: float) -> Seen:
        """A batch of scaled rows as the objective sees it."""
        tied, bias = self.wiring.tied, weights["decoder_bias"]
        centred = x - (bias if tied else self.units.read_centre)
        wanted = centred if tied else y - bias
        if "skip" in weights:
            wanted = wanted - product(centred, weights["skip"])
        return Seen(y, centred, wanted, self.units.variance, self.held["dead"], done)

    def _use(self, units: dict[str, Tensor]) -> None:
        self.units = TrainingUnits(self.wiring.reads, self.wiring.writes, units)
        self.objective.widths = self.units.widths(self.wiring.writes)

    @torch.no_grad()
    def _first(self, scaled: dict[str, Tensor]) -> Weights:
        """First weights: directions of rows with noise, and the encoder as long as fits best."""
        x, y = (beside(scaled, sites) for sites in (self.wiring.reads, self.wiring.writes))
        latents, generator = self.config.latents, torch.Generator().manual_seed(self.config.seed)
        drawn = torch.randint(len(x), (latents,), generator=generator).to(x.device)
        decoder = _noisy(y[drawn], generator)
        encoder = decoder if self.wiring.tied else _noisy(x[drawn], generator)
        weights = {"encoder": encoder, "encoder_bias": x.new_zeros(latents), "decoder": decoder}
        weights |= self.objective.begin(encoder)
        rebuilt = self.objective.code(x[:_LOOKED_AT], weights).combine(decoder)
        weights["encoder"] = encoder * (y[:_LOOKED_AT] * rebuilt).sum() / rebuilt.square().sum()
        weights["decoder_bias"] = self.units.write_centre
        skip = {"skip": x.new_zeros(x.shape[1], y.shape[1])} if self.wiring.skip else {}
        return weights | skip

    def _take(self, weights: Weights, held: dict[str, Tensor]) -> None:
        self.weights = {name: value.clone().requires_grad_() for name, value in weights.items()}
        self.held = {name: value.clone() for name, value in held.items()}
        self.adam = torch.optim.Adam(
            list(self.weights.values()),
            eps=6.25e-10,
            fused=self.weights["encoder"].device.type in ("cpu", "cuda"),
        )

    @torch.no_grad()
    def _update(self, done: float) -> None:
        """A step of Adam; if the objective wants it, the decoder's rows keep their length."""
        decoder, grad = self.weights["decoder"], self.weights["decoder"].grad
        assert grad is not None
        if self.objective.unit:
            grad.addcmul_(torch.linalg.vecdot(grad, decoder)[:, None], decoder, value=-1)
        rising = done / self.config.warmup if self.config.warmup else 1.0
        falling = (1 - done) / self.config.decay if self.config.decay else 1.0
        self.adam.param_groups[0]["lr"] = self.rate * min(1.0, rising, falling)
        self.adam.step()
        self.adam.zero_grad()
        if self.objective.unit:
            decoder /= decoder.norm(dim=1, keepdim=True)
        for name in self.objective.nonnegative:
            self.weights[name].clamp_(min=0)

    @torch.no_grad()
    def _count(self, y: Tensor, outcome: Outcome) -> None:
        held, counts = self.held, outcome.code.fired()
        held["silent"].add_(len(y)).masked_fill_(counts > 0, 0)
        held["fired"] += counts
        spread = (y - y.mean(dim=0)).square().sum()
        error = outcome.error.detach()
        held["sums"] += torch.stack([error, spread, counts.sum(), y.new_tensor(len(y))])
        held["steps"] += 1
        share = (1 / held["steps"]).clamp_min(_SLOW)
        for name, value in outcome.noted.items():
            old = held.setdefault(f"noted.{name}", torch.zeros_like(value))
            old += torch.where(value.isfinite(), share * (value - old), 0)

    def _folded(self) -> tuple[Weights, int | None]:
        """The weights for rows as they are: without the scales, decoder rows of length 1."""
        weights = {name: value.detach() for name, value in self.weights.items()}
        kept, k = self.objective.rule(weights, _under("noted", self.held))
        into, out = self.units.read_scale, self.units.write_scale
        decoder, bias = weights["decoder"] / out, weights["decoder_bias"] / out
        length = decoder.norm(dim=1).clamp_min(torch.finfo(decoder.dtype).tiny)
        centre = bias if self.wiring.tied else self.units.read_centre / into
        kept = {
            name: value * length if value.dim() == 1 else value * into * length[:, None]
            for name, value in kept.items()
        }
        if self.wiring.skip:
            kept["skip"] = weights["skip"] * into[:, None] / out
            bias = bias - centre @ kept["skip"]
        kept |= {"decoder": decoder / length[:, None], "decoder_bias": bias, "centre": centre}
        return kept | {"density": self.held["density"]}, k


def _noisy(x: Tensor, generator: torch.Generator) -> Tensor:
    """Directions of rows plus random ones twice as long; drawn on the host, the same everywhere."""
    noise = torch.randn(x.shape, generator=generator).to(x)
    return F.normalize(F.normalize(x) + 2 * F.normalize(noise))


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Undoes `_prefixed`."""
    start = f"{prefix}."
    return {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
