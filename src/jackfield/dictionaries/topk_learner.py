"""TopKLearner: the loss of `TopK`, its first weights, and one step of its training.

See `topk.py` for the formulas. Nothing here waits for an accelerator within a step: rows that are
left out are replaced rather than dropped, and which latents are dead is read at each look.
"""

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from jackfield.core.config import to_json
from jackfield.core.errors import InputError, explain
from jackfield.dictionaries.sparse import combine, dense, top_k
from jackfield.dictionaries.topk_dictionary import TopKDictionary
from jackfield.dictionaries.training import Learner

if TYPE_CHECKING:
    from jackfield.dictionaries.topk import TopK

_NOTHING = 1e-6  # of the variance: an error below it is nothing that dead latents should learn
_SAME = 1e-10  # variance over mean square: below it is nothing but rounding in float32
_RECENT = 0.05  # share of the newest look in the densities, so that they forget the beginning


def loss_of(
    x: Float[Tensor, "row d"],
    weights: dict[str, Tensor],
    k: int,
    *,
    variance: Tensor,
    dead: Int[Tensor, " dead"],
    k_aux: int,
    aux: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The loss, Σ ‖x − x̂‖² (without its graph), and the codes as values and latents [row, k]."""
    centred = x - weights["decoder_bias"]
    values, latents = top_k(centred, weights["encoder"], weights["encoder_bias"], k)
    missed = centred - combine(values, latents, weights["decoder"])
    error = missed.square().sum()
    total = len(x) * variance
    loss = error / total
    if aux and len(dead):
        missed = missed.detach()
        left = _left_by_dead(centred, missed, weights, dead, k_aux)
        spread = (missed - missed.mean(dim=0)).square().sum()
        loss = loss + aux * left / spread.maximum(_NOTHING * total)
    return loss, error.detach(), values.detach(), latents


def geometric_median(x: Float[Tensor, "row d"], rounds: int = 20) -> Float[Tensor, " d"]:
    """The point whose distances to the rows sum to the least; outliers hardly move it (Weiszfeld).

    >>> geometric_median(torch.tensor([[0.0], [1.0], [2.0], [1.0], [1e6]])).round(decimals=3)
    tensor([1.])
    """
    centre = x.median(dim=0).values
    for _ in range(rounds):
        weight = 1 / (x - centre).norm(dim=1).clamp_min(1e-6)
        centre = (weight @ x) / weight.sum()
    return centre


def first_weights(
    x: Float[Tensor, "row d"], config: "TopK"
) -> tuple[Float[Tensor, "latent d"], Tensor]:
    """The first decoder, from centred rows, and the number that makes it the best encoder."""
    generator = torch.Generator().manual_seed(config.seed)
    drawn = torch.randint(len(x), (config.latents,), generator=generator)
    noise = torch.randn(config.latents, x.shape[1], generator=generator).to(x)
    decoder = F.normalize(F.normalize(x[drawn.to(x.device)]) + 2 * F.normalize(noise))
    values, latents = top_k(x, decoder, x.new_zeros(config.latents), config.k)
    x_hat = combine(values, latents, decoder)
    return decoder, (x * x_hat).sum() / x_hat.square().sum()


class TopKLearner(Learner):
    """Four weights, Adam's moments, and what is counted.

    `held`: scale, radius, variance and centre of the rows; silent [latent], rows since a latent
    fired; fired [latent] and sums (error, spread, active, rows), both since the last look; density
    [latent], looks (how many), dead (which latents).
    """

    def __init__(self, config: "TopK", site: str, device: str | torch.device | None) -> None:
        self.config, self.site, self.device = config, site, device
        self.rate = config.learning_rate or 1e-3 / math.sqrt(config.latents / 2**14)

    def start(self, x: Tensor) -> None:
        x = x.to(self.device or x.device, torch.float32)
        centre = geometric_median(x)
        distance = (x - centre).norm(dim=1)
        radius = distance.median() * (math.inf if self.config.reach is None else self.config.reach)
        kept = x[distance <= radius] - centre
        variance = kept.square().sum(dim=1).mean()
        if not variance > _SAME * x.square().sum(dim=1).mean():
            where, got = f"TopK at {self.site}", f"{len(x):,} rows that are (nearly) all equal"
            raise InputError(explain(where=where, expected="rows that differ", got=got))
        normalise = self.config.normalise
        scale = (x.shape[1] / variance).sqrt() if normalise else torch.ones_like(variance)
        decoder, gain = first_weights(kept * scale, self.config)
        zeros = x.new_zeros(self.config.latents)
        weights = {"encoder": gain * decoder, "encoder_bias": zeros, "decoder": decoder}
        weights["decoder_bias"] = centre * scale
        held = {"scale": scale, "radius": radius * scale, "variance": variance * scale.square()}
        held |= {"centre": centre * scale, "density": zeros, "sums": x.new_zeros(4)}
        held |= {name: zeros.long() for name in ("silent", "fired")}
        self._take(weights, held | {"looks": zeros.new_zeros(()), "dead": zeros[:0].long()})

    @torch.enable_grad()
    def step(self, x: Tensor, done: float) -> None:
        config, held = self.config, self.held
        x = x.to(held["scale"]) * held["scale"]
        far = (x - held["centre"]).norm(dim=1) > held["radius"]
        x = torch.where(far[:, None], held["centre"], x)  # no row more or less: nothing to wait for
        k_aux = config.k_aux or 2 ** round(math.log2(max(1.0, x.shape[1] / 2)))
        loss, error, values, latents = loss_of(
            x, self.weights, config.k,
            variance=held["variance"], dead=held["dead"], k_aux=k_aux, aux=config.aux,
        )  # fmt: skip
        loss.backward()
        self._update(done)
        self._count(x, error, values, latents)

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
        return adam | _prefixed("weights", self.weights) | _prefixed("held", self.held)

    def restore(self, state: dict[str, Tensor], like: Tensor) -> None:
        device = self.device or like.device
        state = {name: value.to(device) for name, value in state.items()}
        self._take(_under("weights", state), _under("held", state))
        adam = self.adam.state_dict()
        adam["state"] = {i: _under(f"adam.{name}", state) for i, name in enumerate(self.weights)}
        self.adam.load_state_dict(adam)

    def dictionary(self, history: list[dict[str, float]]) -> TopKDictionary:
        """What was learned, in the units of the activation."""
        weights = {name: value.detach().clone() for name, value in self.weights.items()}
        for name in ("encoder_bias", "decoder_bias"):
            weights[name] /= self.held["scale"]
        radius = float(self.held["radius"] / self.held["scale"])
        return TopKDictionary(
            to_json(self.config),
            self.site,
            weights | {"density": self.held["density"]},
            radius=radius if math.isfinite(radius) else None,
            history=history,
        )

    def _take(self, weights: dict[str, Tensor], held: dict[str, Tensor]) -> None:
        self.weights = {name: value.clone().requires_grad_() for name, value in weights.items()}
        self.held = {name: value.clone() for name, value in held.items()}
        self.adam = torch.optim.Adam(
            list(self.weights.values()),
            eps=6.25e-10,
            fused=self.held["scale"].device.type in ("cpu", "cuda"),
        )

    @torch.no_grad()
    def _update(self, done: float) -> None:
        """A step of Adam on which the decoder's rows keep their length."""
        decoder, grad = self.weights["decoder"], self.weights["decoder"].grad
        assert grad is not None
        grad.addcmul_(torch.linalg.vecdot(grad, decoder)[:, None], decoder, value=-1)
        rising = done / self.config.warmup if self.config.warmup else 1.0
        falling = (1 - done) / self.config.decay if self.config.decay else 1.0
        self.adam.param_groups[0]["lr"] = self.rate * min(1.0, rising, falling)
        self.adam.step()
        self.adam.zero_grad()
        decoder /= decoder.norm(dim=1, keepdim=True)

    @torch.no_grad()
    def _count(self, x: Tensor, error: Tensor, values: Tensor, latents: Tensor) -> None:
        held, active = self.held, (values > 0).long().flatten()
        counts = torch.zeros_like(held["fired"]).scatter_add_(0, latents.flatten(), active)
        held["silent"].add_(len(x)).masked_fill_(counts > 0, 0)
        held["fired"] += counts
        spread = (x - x.mean(dim=0)).square().sum()
        held["sums"] += torch.stack([error, spread, active.sum(), x.new_tensor(len(x))])


def _left_by_dead(
    centred: Tensor, missed: Tensor, weights: dict[str, Tensor], dead: Tensor, k_aux: int
) -> Tensor:
    """‖e − z_aux W_dec‖²: what the dead latents leave of the error e, summed over rows."""
    codes = (centred @ weights["encoder"][dead].T + weights["encoder_bias"][dead]).relu()
    if len(dead) > k_aux:
        codes = dense(*codes.topk(k_aux, dim=1, sorted=False), len(dead))
    return (missed - codes @ weights["decoder"][dead]).square().sum()


def _prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": value for name, value in tensors.items()}


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Undoes `_prefixed`."""
    start = f"{prefix}."
    return {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
