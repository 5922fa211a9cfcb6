"""Concepts: a score for each token that says how strongly it shows a concept, and a threshold.

    score = w·h                       w of length 1: mean difference, or a logistic probe
    score = Σ_k λ_k z_k(h)            z: the latents that differ most, λ_k = 1 − ln k / ln (K + 1)

Fitted on texts with the concept and texts without it. A text shows it if its largest score
("local") or its mean score ("global") reaches the threshold, which is that of the best balanced
accuracy, ½ (true positive rate + true negative rate), in the middle between two scores.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from jackfield.core.errors import InputError, explain
from jackfield.core.where import where as rule_of
from jackfield.steering.contrast import Pooling, difference
from jackfield.steering.logistic_direction import LogisticDirection
from jackfield.steering.rules.reason import Coder, Scope, features
from jackfield.steering.steering_vector import SteeringVector
from jackfield.steering.unsteered import chosen_tokens

if TYPE_CHECKING:
    from jackfield.model.model import Model

Scorer = Literal["direction", "probe", "latents"]
_TEXTS = 16  # in one forward


@dataclass(frozen=True, eq=False)
class Concept:
    """A concept that can be seen.

    Attributes:
        weight: [width] on the activation, or on the codes.
        threshold: of the score.
        direction: [d] of length 1.
        accuracy: balanced, on the texts it was fitted on.
        counts: texts with it and without it.
    """

    weight: Float[Tensor, " width"]
    threshold: float
    direction: Float[Tensor, " d"]
    accuracy: float
    counts: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Learner:
    """How concepts are learned from texts.

    Attributes:
        model: the model that reads.
        site: where.
        scorer: what a score is made of.
        scope: at a token, or in the mean.
        tokens: what stands for a text while the weight is found.
        watch: which tokens are read, of those that are no sinks.
        coder: what makes codes, of the scorer "latents"; None of the others.
        latents: how many make a concept; `kept` how many of a token count.
    """

    model: "Model"
    site: str
    scorer: Scorer
    scope: Scope
    tokens: Pooling
    watch: Any
    coder: Coder | None
    latents: int
    kept: int

    def concepts(
        self, texts: Mapping[str, Any], negative: Any, given: Mapping[str, Any]
    ) -> dict[str, Concept]:
        """Learns all of them; the texts of the others are among those without one.

        Raises:
            InputError: no texts of a kind, sides that do not differ, or numbers not finite.
        """
        held = {name: self._read(each, f"texts of {name}") for name, each in texts.items()}
        rest = self._read(negative, "negative texts") if negative is not None else {}
        return {
            name: self._concept(name, own, self._without(name, held, rest), given.get(name))
            for name, own in held.items()
        }

    def _without(
        self, name: str, held: Mapping[str, dict[Any, Tensor]], rest: dict[Any, Tensor]
    ) -> list[Tensor]:
        """The texts that are not among a concept's own."""
        sides = [rest, *(each for other, each in held.items() if other != name)]
        return [rows for side in sides for key, rows in side.items() if key not in held[name]]

    def _concept(
        self, name: str, own: dict[Any, Tensor], without: list[Tensor], given: Any
    ) -> Concept:
        where = f"{self.model.name}, concept {name}"
        if not without:
            expected = "texts without it, in another concept or as negative=…"
            raise InputError(explain(where=where, expected=expected, got="none"))
        sides = list(own.values()), without
        if given is None:
            weight, direction = self._weight(*sides, where)
        else:
            weight = direction = self._given(given, without[0].shape[-1], where)
        plus, minus = (torch.stack([self._shown(x, weight) for x in side]) for side in sides)
        threshold, accuracy = best_threshold(plus, minus)
        return Concept(weight, threshold, direction, accuracy, (len(plus), len(minus)))

    def _weight(self, plus: list[Tensor], minus: list[Tensor], where: str) -> tuple[Tensor, Tensor]:
        """The weight of the score, and the direction to steer along."""
        sides = [self._pooled(side) for side in (plus, minus)]
        gap = difference(*sides)
        if not bool(gap.any()):
            raise InputError(explain(where=where, expected="sides that differ", got="equal sides"))
        if self.coder is not None:
            return _of_latents(gap, self.coder, self.latents)
        found = LogisticDirection().direction(*sides) if self.scorer == "probe" else gap
        unit = normalize(found, dim=0).float()
        return unit, unit

    def _given(self, given: SteeringVector | Tensor, width: int, where: str) -> Tensor:
        """A direction of the user's own."""
        vector, site = given, self.site
        if isinstance(given, SteeringVector):
            vector, site = given.vector, given.at
        assert isinstance(vector, Tensor)
        if site != self.site or vector.shape != (width,):
            expected, got = (
                f"a direction [{width}] at {self.site}",
                f"{list(vector.shape)} at {site}",
            )
            raise InputError(explain(where=where, expected=expected, got=got))
        return normalize(vector.float(), dim=0)

    def _pooled(self, side: list[Tensor]) -> Float[Tensor, "text width"]:
        rows = [x if self.coder is None else self.coder.encode(x).detach().cpu() for x in side]
        pooled = [x.double().mean(dim=0) if self.tokens == "all" else x[-1].double() for x in rows]
        return torch.stack(pooled)

    def _shown(self, x: Float[Tensor, "token d"], weight: Tensor) -> Float[Tensor, ""]:
        """The score of a text."""
        scores = features(x, self.coder, self.kept).detach() @ weight
        return scores.amax() if self.scope == "local" else scores.mean()

    def _read(self, texts: Any, what: str) -> dict[Any, Float[Tensor, "token d"]]:
        """The activations on the watched tokens of each text."""
        where = f"{self.model.name}, {what}"
        listed = [texts] if isinstance(texts, str) else texts
        if not len(listed):
            raise InputError(explain(where=where, expected="at least one", got="none"))
        found: dict[Any, Tensor] = {}
        for start in range(0, len(listed), _TEXTS):
            part = listed[start : start + _TEXTS]
            run = self.model.run(part, sites=[self.site], logits=False)
            chosen = chosen_tokens(self.model, run, rule_of(self.watch) & "~sinks")
            for text, x, rows in zip(part, run[self.site].cpu(), chosen.cpu(), strict=True):
                if not bool(rows.any()):
                    expected, got = "a token to read", "none in a text"
                    raise InputError(explain(where=where, expected=expected, got=got))
                found[_key(text)] = x[rows].float()
        if not all(bool(torch.isfinite(x).all()) for x in found.values()):
            raise InputError(explain(where=where, expected="finite activations", got="NaN or Inf"))
        return found


def best_threshold(plus: Float[Tensor, " n"], minus: Float[Tensor, " m"]) -> tuple[float, float]:
    """The threshold of the best balanced accuracy, and that accuracy.

    Of all thresholds in the middle between two scores; of equals that with the widest gap. Scores
    that are all alike tell nothing: then it lies above them, and the accuracy is ½.
    """
    ordered = torch.cat([plus, minus]).double().unique()
    if len(ordered) < 2:
        return float(ordered[0]) + 1.0, 0.5
    middles, gaps = (ordered[1:] + ordered[:-1]) / 2, ordered[1:] - ordered[:-1]
    found, missed = (
        (side.double()[None] >= middles[:, None]).double().mean(dim=1) for side in (plus, minus)
    )
    accuracy = (found + 1 - missed) / 2
    index = int(torch.where(accuracy == accuracy.max(), gaps, -1.0).argmax())
    return float(middles[index]), float(accuracy[index])


def decay(count: int) -> Float[Tensor, " count"]:
    """λ_k = 1 − ln k / ln (K + 1), for k from 1 to K.

    >>> decay(3)
    tensor([1.0000, 0.5000, 0.2075])
    """
    places = torch.arange(1, count + 1).float()
    return 1 - places.log() / torch.tensor(count + 1.0).log()


def _of_latents(gap: Tensor, coder: Coder, count: int) -> tuple[Tensor, Tensor]:
    """The latents that gain most, the first the heaviest; those that gain nothing are left out."""
    top = gap.topk(min(count, len(gap)))
    chosen = top.indices[top.values > 0]
    weight = torch.zeros(len(gap)).index_copy(0, chosen, decay(len(chosen)))
    rows = normalize(coder.directions.detach().float().cpu()[chosen], dim=1)
    return weight, normalize(decay(len(chosen)) @ rows, dim=0)


def _key(text: Any) -> Any:
    if isinstance(text, Tensor):
        return tuple(text.tolist())
    return text if isinstance(text, str) else repr(text)
