"""TopK: a sparse autoencoder that keeps the k largest latents of each token (2406.04093).

    p = (x − b_dec) W_encᵀ + b_enc            [row, latent]
    z = the k largest of relu(p), all others 0
    x̂ = z W_dec + b_dec                       rows of W_dec have length 1
    L = ‖x − x̂‖² / V  +  α ‖e − z_aux W_dec‖² / ‖e − ē‖²,     e = x − x̂, without gradient

V is the variance of the first rows. z_aux are the k_aux largest of relu(p) among latents that have
not fired for `dead_after` rows: what is dead learns from what the others miss, and its gradient
reaches the encoder too. The part of a gradient that would lengthen a row of W_dec is removed.
Training is on rows scaled to mean ‖x − b_dec‖² = d; the scale is folded into the biases at the end,
so codes are in units of the activation.

Source: Gao et al. 2024, "Scaling and evaluating sparse autoencoders", arXiv 2406.04093. Where we
depart from it, for runs a hundredth as long: each decoder row begins as the direction of a data row
plus a random vector twice as long (not random alone), and the encoder as W_dec times the one number
that makes the first reconstruction best (not 1); the default learning rate is five times as high
(100 000 rows of SmolLM2's layer 15, 4096 latents: FVU 0.23 on other rows, with their start and rate
0.43); rows farther from the centre than `reach` times the median are not learned from.
"""

from pathlib import Path

import torch

from jackfield.core.config import config, setting, to_json
from jackfield.core.errors import ConfigError, InputError, explain
from jackfield.core.fitted import Method
from jackfield.dictionaries.topk_dictionary import TopKDictionary
from jackfield.dictionaries.topk_learner import TopKLearner
from jackfield.dictionaries.training import Plan, train
from jackfield.streams import Stream


@config
class TopK(Method):
    """Config of the TopK sparse autoencoder.

    Attributes:
        latents: size of the dictionary.
        k: latents kept on each row.
        rows: rows seen in training; the stream is gone through as often as that takes.
        batch: rows a step.
        learning_rate: Adam's; 1e-3 / √(latents / 2^14) if not given.
        warmup, decay: shares of the run in which the rate rises at the start and falls at the end.
        aux: α, the weight of the auxiliary loss; 0 turns it off.
        k_aux: latents in it; the power of two nearest to d / 2 if not given.
        dead_after: a latent that has not fired for so many rows is dead.
        normalise: train on rows scaled to mean ‖x − b_dec‖² = d.
        reach: rows farther from the centre than this many times the median distance are left out
            of training (sinks that `where=~sinks` let through); None keeps all.
        seed: of the first weights and the order of rows.

    >>> from jackfield.streams import Stream
    >>> stream = Stream.from_tensor(torch.randn(512, 8), site="x")
    >>> sae = TopK(latents=16, k=2, rows=1024, batch=128).fit(stream, progress=False)
    >>> sae.encode(torch.randn(3, 8)).shape, sae.directions.shape
    (torch.Size([3, 16]), torch.Size([16, 8]))
    """

    latents: int = setting(default=2048, ge=1)
    k: int = setting(default=32, ge=1)
    rows: int = setting(default=500_000, ge=1)
    batch: int = setting(default=1024, ge=2)
    learning_rate: float | None = setting(default=None, gt=0)
    warmup: float = setting(default=0.05, ge=0, le=1)
    decay: float = setting(default=0.2, ge=0, le=1)
    aux: float = setting(default=1 / 32, ge=0)
    k_aux: int | None = setting(default=None, ge=1)
    dead_after: int = setting(default=20_000, ge=1)
    normalise: bool = setting(default=True)
    reach: float | None = setting(default=10.0, gt=0)
    seed: int = setting(default=0, ge=0)

    def fit(
        self,
        stream: Stream,
        *,
        device: str | torch.device | None = None,
        progress: bool = True,
        checkpoint: str | Path | None = None,
        resume: bool = True,
    ) -> "TopKDictionary":
        """Trains on a stream of one site, rows [row, d].

        A live stream runs its model anew in every epoch; write it to a store first.

        Args:
            stream: what to learn from.
            device: where to train; the rows' own if not given.
            progress: show a line with rows/s, FVU, dead latents and the time left.
            checkpoint: a folder, written every minute, at the end and on Ctrl-C.
            resume: go on from `checkpoint` if it is there, to the same bits as without the stop.

        Raises:
            ConfigError: k is larger than latents, or the loss is no longer finite.
            InputError: several sites, rows that are not [row, d] or not finite, fewer than a batch.
            ArtifactError: the checkpoint is damaged, or of another run.
        """
        if self.k > self.latents:
            expected = f"k <= latents = {self.latents}"
            raise ConfigError(explain(where="TopK", expected=expected, got=f"k = {self.k}"))
        site = _one_site(stream)
        learner = TopKLearner(self, site, device)
        plan = Plan(
            f"TopK at {site}", site, self.rows, self.batch, self.seed, {"TopK": to_json(self)}
        )
        history = train(
            learner, stream, plan, progress=progress, checkpoint=checkpoint, resume=resume
        )
        return learner.dictionary(history)


def _one_site(stream: Stream) -> str:
    if len(stream.sites) != 1:
        got = ", ".join(stream.sites)
        hint = f"Choose one: stream.select({stream.sites[0]!r})." if stream.sites else None
        raise InputError(
            explain(where="TopK.fit", expected="a stream of one site", got=got, hint=hint)
        )
    return stream.sites[0]
