"""The preference objective: how much more a steering raises one answer than another.

    Δ(y) = log π_v(y | x) − log π_0(y | x)             summed over the answer's tokens, in nats
    L(m) = − log σ( m β [Δ(y_w) − Δ(y_l)] )            m ∈ {−1, +1}: steered by m v

π_0 is the same model unsteered, so no second copy is kept. What comes before the site does not
depend on v: it is computed once and kept, [pair, position, d] for both answers, and each step
starts there. Of the rest only the tokens that predict an answer's are unembedded.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from jackfield.core.errors import InputError, SiteError, explain
from jackfield.core.where import Coordinates, where
from jackfield.edits import Edit
from jackfield.steering.learned_tokens import check_prompted
from jackfield.steering.preference.pairs import Pairs
from jackfield.steering.unsteered import sinks_in

if TYPE_CHECKING:
    from jackfield.model.model import Model

_PAIRS = 8  # in one forward that needs no gradient
_STARTS = ("embed", "resid_pre", "resid_post")  # where a forward can begin


class PreferenceObjective:
    """The loss of pairs under edits at one site, with all before the site computed once.

    Attributes:
        pairs: the tokens.
        at: the site.
        reference: [2, pair] log π_0 of both answers, in nats.
        rows: [row, d] the activation at the site on the tokens that `where` chooses.
        means: [2, pair, d] its mean over those of each text, float64.
    """

    def __init__(self, model: "Model", pairs: Pairs, at: str, rule: Any = "~sinks") -> None:
        """Reads the activations and the unsteered probabilities.

        Args:
            model: a language model with known blocks; its weights stay as they are.
            pairs: the tokens.
            at: a site [batch, position, d] in the blocks.
            rule: which tokens are steered.

        Raises:
            SiteError: a site of another shape, or several.
            InputError: activations that are not finite, a text without a token to steer, or a
                rule that asks where prompts end, without prompts.
        """
        check_prompted(model, rule, prompted=pairs.prompted)
        self.model, self.pairs, self.at = model, pairs, _one_site(model, at)
        site = model.sites[self.at]
        begins = site.role in _STARTS
        self._start = self.at if begins else f"layers.{site.layer}.resid_pre"
        self._last = f"layers.{model.n_layers - 1}.resid_post"
        held, there = self._read()
        self._held = held
        chosen = self._chosen(rule)
        self.rows = there[chosen]
        weights = chosen.double() / chosen.sum(dim=-1, keepdim=True)
        self.means = torch.einsum("spt,sptd->spd", weights, there.double())
        if not bool(torch.isfinite(self.means).all()):
            expected, got = "a token to steer in each text, and finite activations", "none, or NaN"
            raise InputError(explain(where=f"{model.name}, {self.at}", expected=expected, got=got))
        everything = torch.arange(len(pairs)).split(_PAIRS)
        with torch.no_grad():
            self.reference = torch.cat([self.log_p((), part) for part in everything], dim=1)

    @property
    def norm(self) -> float:
        """The mean length of the activation on the tokens to steer."""
        return float(self.rows.norm(dim=-1).mean())

    def log_p(self, edits: Sequence[Edit], chosen: Int[Tensor, " some"]) -> Float[Tensor, "2 some"]:
        """Log π of both answers of some pairs, in nats; the graph is kept where one is wanted."""
        tokens, mask, answer, start, lengths = (
            x[:, chosen].flatten(0, 1)
            for x in (
                self.pairs.tokens, self.pairs.mask, self.pairs.answer, self._held,
                self.pairs.prompts,
            )
        )  # fmt: skip
        longest = int(mask.sum(dim=1).max())
        tokens, mask, answer, start = (x[:, :longest] for x in (tokens, mask, answer, start))
        run = self.model.run(
            {"input_ids": tokens, "attention_mask": mask.long()},
            sites=[self._last],
            edits=edits,
            grad=torch.is_grad_enabled(),
            logits=False,
            start={self._start: start},
            prompt_lengths=lengths,
        )
        said = answer[:, 1:]  # the token before predicts it
        logits = self.model.unembed(run[self._last][:, :-1][said.to(self.model.device)])
        exact = logits if logits.dtype == torch.float64 else logits.float()
        wanted = tokens[:, 1:][said].to(exact.device)
        each = exact.log_softmax(dim=-1).gather(1, wanted[:, None])[:, 0].cpu()
        total = each.new_zeros(len(tokens)).index_add(0, said.nonzero()[:, 0], each)
        return total.unflatten(0, (2, len(chosen)))

    def margins(
        self, edits: Sequence[Edit], chosen: Int[Tensor, " some"]
    ) -> Float[Tensor, " some"]:
        """Δ(y_w) − Δ(y_l) of some pairs, in nats."""
        moved = self.log_p(edits, chosen) - self.reference[:, chosen]
        return moved[0] - moved[1]

    def _read(self) -> tuple[Tensor, Tensor]:
        """The activation at the start and at the site, [2, pair, position, d]."""
        flat, mask = self.pairs.tokens.flatten(0, 1), self.pairs.mask.flatten(0, 1)
        sites = list(dict.fromkeys((self._start, self.at)))
        found: dict[str, list[Tensor]] = {site: [] for site in sites}
        for ids, real in zip(flat.split(2 * _PAIRS), mask.split(2 * _PAIRS), strict=True):
            call = {"input_ids": ids, "attention_mask": real.long()}
            run = self.model.run(call, sites=sites, logits=False)
            for site in sites:
                found[site].append(run[site].detach().cpu())
        start, there = (
            torch.cat(found[site]).unflatten(0, (2, len(self.pairs)))
            for site in (self._start, self.at)
        )
        return start, there

    def _chosen(self, rule: Any) -> Tensor:
        """[2, pair, position] the tokens that `where` chooses."""
        tokens, mask, lengths = (
            x.flatten(0, 1) for x in (self.pairs.tokens, self.pairs.mask, self.pairs.prompts)
        )
        positions = torch.where(mask, mask.long().cumsum(dim=-1) - 1, -1)
        at = Coordinates(positions, lengths, tokens, sinks_in(self.model, rule))
        return where(rule).mask(at).unflatten(0, (2, len(self.pairs)))


def preference_loss(margins: Float[Tensor, " some"], sign: int, beta: float) -> Float[Tensor, ""]:
    """The mean of − log σ(m β margin).

    >>> float(preference_loss(torch.zeros(3), 1, 0.1)), float(torch.tensor(2.0).log())
    (0.6931471824645996, 0.6931471824645996)
    """
    return -torch.nn.functional.logsigmoid(sign * beta * margins).mean()


def _one_site(model: "Model", at: str) -> str:
    names = model.sites.select(at)
    site = model.sites[names[0]]
    flat = site.axes[:2] == ("batch", "position") and len(site.axes) == 3
    if len(names) > 1 or not flat or (site.layer is None and site.role != "embed"):
        expected = "one site [batch, position, d] in the blocks, such as layers.15.resid_post"
        got = f"{len(names)} sites" if len(names) > 1 else f"[{' '.join(site.axes)}]"
        raise SiteError(explain(where=f"{model.name}, {at}", expected=expected, got=got))
    return names[0]
