"""Linear filter: flags a prompt whose activation lies too far along one direction.

    score = ⟨h − m, v⟩ / ‖v‖²           v [d]: from benign to harmful; m: the middle of their means
    flag if score > τ                    so that benign prompts score about −½, harmful ones +½

v is a logistic regression's normal or the difference of the means, both as long as the gap of the
means along them. τ is the largest score of benign calibration texts, none of which is flagged, or
a conformal one, which bounds the share of new benign texts that are flagged (`conformal.py`). No
false alarm among n calibration texts promises on average one in n + 1 of new ones: the first is
the second with α = 1 / (n + 1).

NeuroFilter: Das and Fioretto 2026, arXiv 2601.14660. What we read of it is the abstract and
a description of the method; our readings: the last token stands for a prompt, and the threshold is
set on texts that nothing was fitted on. Its activation velocity over turns is in `turns.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from jaxtyping import Bool, Float
from torch import Tensor

from jackfield.core.config import config, setting, to_json
from jackfield.core.errors import InputError, explain
from jackfield.core.fitted import Method
from jackfield.edits import Cap, Edit
from jackfield.reports import Report, Table
from jackfield.steering.contrast import Pooling, difference
from jackfield.steering.guards.conformal import ConformalThreshold
from jackfield.steering.guards.rates import share_above
from jackfield.steering.guards.reading import checked_prompts, pooled, prompt_scores
from jackfield.steering.guards.scorer import Projection, Scorer, Watcher
from jackfield.steering.guards.turns import Conversations, conversations
from jackfield.steering.logistic_direction import LogisticDirection
from jackfield.steering.steering import Steering

if TYPE_CHECKING:
    from jackfield.model.model import Model

_ROUNDING = 1e-4  # of the gap of the means: the same text in another batch is not flagged


@config
class LinearFilter(Method):
    """A direction between two kinds of prompts, and a threshold on it.

    Attributes:
        direction: "logistic", or "mean" for the difference of means.
        penalty: of the logistic regression's ½‖w‖².
        tokens: what stands for a prompt: its "last" token, or the mean of "all" but sinks.
        alpha: the share of benign prompts that may be flagged (conformal); None takes the largest
            score of the calibration texts.

    >>> from jackfield.testing import tiny_world
    >>> world = tiny_world()
    >>> sides = {"positive": world.tokens, "negative": world.other}
    >>> found = LinearFilter().fit(world.model, **sides, at="layers.1.resid_post")
    >>> found.weight.shape, found.counts
    (torch.Size([32]), (24, 12, 12))
    """

    direction: Literal["logistic", "mean"] = "logistic"
    penalty: float = setting(default=1.0, gt=0)
    tokens: Pooling = "last"
    alpha: float | None = setting(default=None, gt=0, lt=1)

    def fit(
        self,
        model: "Model",
        *,
        positive: Any,
        negative: Any,
        at: str,
        calibration: Any = None,
    ) -> "FittedFilter":
        """Fits direction and threshold.

        Args:
            model: the model to watch.
            positive: prompts to flag: strings, chats, or token ids [text, position].
            negative: benign ones.
            at: a site [batch, position, d] such as layers.15.resid_post.
            calibration: benign prompts that set the threshold. If not given, every second of the
                negative ones does, and is not fitted on.

        Raises:
            InputError: no texts, sides that do not differ, or too few texts for `alpha`.
            ModelError: activations that are not finite.
            SiteError: a site of another shape.
        """
        if calibration is None:
            listed = checked_prompts(model, negative, "negative texts of LinearFilter")
            negative, calibration = listed[::2], listed[1::2]
        plus, minus, benign = (
            pooled(model, texts, at, self.tokens, f"{name} texts of LinearFilter")
            for name, texts in (
                ("positive", positive), ("negative", negative), ("calibration", calibration)
            )
        )  # fmt: skip
        v = self._normal(plus, minus)
        if not bool(v.any()):
            expected = "two sides that differ"
            raise InputError(explain(where=f"LinearFilter, {at}", expected=expected, got="equal"))
        weight = v / (v @ v)
        bias = -float((plus.mean(dim=0) + minus.mean(dim=0)) / 2 @ weight)
        scores = benign @ weight + bias
        return FittedFilter(
            weight=weight.float(),
            bias=bias,
            at=model.sites[at].name,
            threshold=self._threshold(scores) + _ROUNDING,
            benign=scores.float(),
            harmful=(plus @ weight + bias).float(),
            sinks=model.sinks,
            counts=(len(plus), len(minus), len(benign)),
            method=to_json(self),
        )

    def _normal(self, plus: Tensor, minus: Tensor) -> Float[Tensor, "d"]:  # noqa: F821
        if self.direction == "mean":
            return difference(plus, minus)
        return LogisticDirection(penalty=self.penalty).direction(plus, minus)

    def _threshold(self, scores: Float[Tensor, "text"]) -> float:  # noqa: F821
        if self.alpha is None:
            return float(scores.max())
        return ConformalThreshold(alpha=self.alpha).of(scores, "LinearFilter")


@dataclass(frozen=True, eq=False)
class FittedFilter(Steering, Scorer):
    """A direction, and how far along it is too far.

    As a steering it takes away what is too much: strength 1 moves a token that is beyond the
    threshold back onto it, and leaves all others as they are.

    Attributes:
        weight: [d] w, in score per unit of activation.
        bias: b.
        at: the site.
        threshold: τ; higher scores are flagged.
        benign: [text] scores of the calibration texts.
        harmful: [text] scores of the positive texts, on which the direction was fitted.
        sinks: positions that are not read.
        counts: positive, negative and calibration texts.
        method: the settings of `LinearFilter`.
    """

    limit: ClassVar[float] = 1.0

    weight: Float[Tensor, "d"]  # noqa: F821
    bias: float
    at: str
    threshold: float
    benign: Float[Tensor, "text"]  # noqa: F821
    harmful: Float[Tensor, "text"]  # noqa: F821
    sinks: tuple[int, ...]
    counts: tuple[int, int, int]
    method: Mapping[str, Any]

    @property
    def sites(self) -> tuple[str, ...]:
        """The one site that is read."""
        return (self.at,)

    def begin(self, batch: int) -> Watcher:
        """A watcher of new rows."""
        tokens: Pooling = self.method["tokens"]
        return Projection(self.weight, self.at, self.bias, tokens, self.sinks).begin(batch)

    def scores(self, model: "Model", prompts: Any) -> Float[Tensor, "text"]:  # noqa: F821
        """The score of each prompt."""
        return prompt_scores(model, self, prompts)

    def flagged(self, model: "Model", prompts: Any) -> Bool[Tensor, "text"]:  # noqa: F821
        """Which prompts score above the threshold."""
        return self.scores(model, prompts) > self.threshold

    def turns(self, model: "Model", chats: Any, role: str = "user") -> Conversations:
        """How chats move along the direction, turn by turn; see `turns.py`."""
        return conversations(model, chats, self, self.threshold, role)

    def scaled(self, factor: float, where: Any = "~sinks") -> list[Edit]:
        """Moves tokens beyond the threshold `factor` of the way back to it."""
        length = self.weight.norm()
        bound = float((self.threshold - self.bias) / length)
        cap = Cap(self.weight / length, cap=bound, strength=float(factor), at=self.at, where=where)
        return [cap]

    def units(self) -> Mapping[str, float]:
        """None but the share of the way."""
        return {}

    def report(self) -> Report:
        """The threshold, and the scores on both sides of it."""
        caught = float((self.harmful > self.threshold).float().mean())
        plus, minus, calibration = self.counts
        rule = "the largest benign score"
        if self.method["alpha"] is not None:
            rule = f"conformal, at most {self.method['alpha']:.1%} false alarms"
        rows = [
            ["threshold", self.threshold],
            ["mean benign score", float(self.benign.mean())],
            ["largest benign score", float(self.benign.max())],
            ["mean harmful score", float(self.harmful.mean())],
            ["harmful texts above, in the fit", caught],
        ]
        picture = share_above(self.harmful, self.benign)
        summary = (
            f"Flags scores above {self.threshold:.3g} at {self.at} ({rule} of {calibration} "
            f"texts); fitted on {plus} harmful and {minus} benign texts, of the first "
            f"{caught:.0%} are above."
        )
        table = Table(["", "value"], rows, formats={"value": ".3g"})
        return Report("Linear filter", [table, picture], summary=summary)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
        """The config, the direction, the threshold and the scores."""
        tensors = {name: getattr(self, name) for name in ("weight", "benign", "harmful")}
        extra = {name: getattr(self, name) for name in ("bias", "at", "threshold")}
        lists = {"sinks": list(self.sinks), "counts": list(self.counts)}
        return dict(self.method), tensors, {**extra, **lists}

    @classmethod
    def from_state(
        cls, config: dict[str, Any], tensors: Mapping[str, Tensor], extra: dict[str, Any]
    ) -> Self:
        """Rebuilds the filter from `state`."""
        return cls(
            weight=tensors["weight"],
            bias=extra["bias"],
            at=extra["at"],
            threshold=extra["threshold"],
            benign=tensors["benign"],
            harmful=tensors["harmful"],
            sinks=tuple(extra["sinks"]),
            counts=tuple(extra["counts"]),
            method=config,
        )
