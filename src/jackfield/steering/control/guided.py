"""Guided controller: a small network decides, prompt by prompt, how much to steer and where.

    h_l + c · σ(s) σ(w_l) · v_l        s, w_1 … w_L: the decider's, from layers up to k
                                       v_l: given directions, at layers after k

It reads early layers and acts on later ones in the same pass, so the first token already obeys.
Trained on prompts that are to be steered and prompts that are to be left alone:

    objective "task":      BCE(s) + mean_steer softplus(−odds) + mean_leave KL(steered ‖ plain)
                           + sparse · mean σ(w)         odds of `words` against `against`
    objective "decision":  BCE(s) + 0.1 · mean |σ(w) − ½| + 0.001 · mean σ(w)

Guiding Giants: Hegazy et al. 2025 (arXiv 2505.20309), whose code has the second: the layer weights
get no gradient from what they are for, and go to ½. Further departures: theirs reads the last
layers, whose values come when it is too late to act, scales by s itself, and has a hidden layer of
1024; its base is one refusal direction at all layers, ours is any directions; ours decides on the
prompt's last token, once, and steers all tokens but the sinks.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

from jaxtyping import Bool, Float
from torch import Tensor

from jackfield.core.config import config, setting, to_json
from jackfield.core.errors import SiteError, explain
from jackfield.core.fitted import Method
from jackfield.core.progress import Progress
from jackfield.edits import Edit
from jackfield.reports import Lines, Report, Table
from jackfield.steering.control.decider import Decider, Guided
from jackfield.steering.control.training import Prompts, read_last, trained
from jackfield.steering.steering import Steering
from jackfield.steering.steering_vector import SteeringVector

if TYPE_CHECKING:
    from jackfield.model.model import Model

Objective = Literal["task", "decision"]


@config
class GuidedController(Method):
    """A network that reads a prompt and gives a scale and a weight for each direction.

    Attributes:
        objective: "task" trains the weights by what steering does; "decision" is the paper's.
        strength: c, how much of a direction an amount of 1 adds, in its own length.
        hidden: units of the hidden layer.
        steps: of AdamW.
        rate: step size.
        batch: prompts of each side in a step.
        sparse: price of a layer's weight, with "task".
        seed: of the start and of the batches.

    >>> from jackfield.steering import MeanDifference
    >>> from jackfield.testing import tiny_world
    >>> world = tiny_world()
    >>> sides = {"positive": world.tokens, "negative": world.other}
    >>> base = MeanDifference().fit(world.model, **sides, at="layers.1.resid_post")
    >>> found = GuidedController(objective="decision").fit(
    ...     world.model,
    ...     directions=base,
    ...     steer=world.tokens,
    ...     leave=world.other,
    ...     reads="layers.0.resid_post",
    ... )
    >>> bool(found.scales(world.model, world.tokens).min() > 0.8)
    True
    """

    objective: Objective = "task"
    strength: float = setting(default=1.0, gt=0)
    hidden: int = setting(default=64, ge=1)
    steps: int = setting(default=60, ge=1)
    rate: float = setting(default=1e-2, gt=0)
    batch: int = setting(default=8, ge=1)
    sparse: float = setting(default=0.01, ge=0)
    seed: int = 0

    def fit(
        self,
        model: "Model",
        *,
        directions: SteeringVector | Iterable[SteeringVector],
        steer: Any,
        leave: Any,
        reads: str | Sequence[str],
        words: Sequence[str | int] = (),
        against: Sequence[str | int] = (),
        progress: bool = False,
    ) -> "GuidedSteering":
        """Trains the decider; the model's weights stay as they are.

        Args:
            model: the model to steer.
            directions: what is added where it acts; one, or one a site.
            steer: prompts that are to be steered: strings, chats, or token ids [text, position].
            leave: prompts that are to be left alone.
            reads: sites [batch, position, d] that are read, before all that is acted on.
            words: with "task", words of one token or token ids that steering is to make likely.
            against: words that it is to make unlikely.
            progress: show a live line.

        Raises:
            InputError: no prompts, no words of one token, or numbers that are not finite.
            SiteError: no direction, or one that acts before all is read.
        """
        base = (directions,) if isinstance(directions, SteeringVector) else tuple(directions)
        sites = _before(model, model.sites.select(reads), base)
        prompts = Prompts.read(model, steer, leave, sites)
        start = Decider.drawn(prompts.features, self.hidden, len(base), self.seed)
        with Progress("training", total=self.steps, unit="steps", enabled=progress) as shown:
            decider, losses = trained(
                self, model, prompts, start, base, words, against, lambda: shown.update(1)
            )
        return GuidedSteering(
            decider=decider,
            vectors={each.at: each.vector for each in base},
            reads=sites,
            method=to_json(self),
            model=model.name,
            counts=prompts.counts,
            accuracy=prompts.accuracy(decider),
            weights=prompts.weights(decider),
            losses=losses,
        )


@dataclass(frozen=True, eq=False)
class GuidedSteering(Steering):
    """Directions that are added as much as a decider says.

    A raw strength of 1 is what it was trained with. A KL is measured on `prompts`, of which only
    those that it steers move; give prompts that it does.

    Attributes:
        decider: the network.
        vectors: {site: [d] what is added}.
        reads: the sites that are read.
        method: the settings of `GuidedController`.
        model: the name of the model.
        counts: prompts to steer, and to leave.
        accuracy: the share of these that it decides rightly, at a scale of ½.
        weights: the mean σ(w_l) over the prompts to steer, by place.
        losses: at each step.
    """

    decider: Decider
    vectors: Mapping[str, Tensor]
    reads: tuple[str, ...]
    method: Mapping[str, Any]
    model: str
    counts: tuple[int, int]
    accuracy: float
    weights: tuple[float, ...]
    losses: tuple[float, ...]

    def scaled(self, factor: float, where: Any = "~sinks") -> list[Edit]:
        """The directions behind the decider."""
        strength = float(factor) * self.method["strength"]
        held = self.decider.tensors()
        return [
            Guided(vector, place, **held, strength=strength, at=at, where=where, reads=self.reads)
            for place, (at, vector) in enumerate(self.vectors.items())
        ]

    def units(self) -> Mapping[str, float]:
        """None but the raw unit: as trained."""
        return {}

    def scales(self, model: "Model", prompts: Any) -> Float[Tensor, " prompt"]:
        """σ(s) of each prompt: 1 steers it whole, 0 leaves it alone."""
        return self.decider.logits(read_last(model, prompts, self.reads)[1])[0].sigmoid()

    def steers(self, model: "Model", prompts: Any) -> Bool[Tensor, " prompt"]:
        """Which prompts it steers by more than half."""
        return self.scales(model, prompts) > 0.5

    def report(self) -> Report:
        """How it decides, and where it acts."""
        rows = [[at, w] for at, w in zip(self.vectors, self.weights, strict=True)]
        steps = list(range(len(self.losses)))
        blocks = [
            Table(["site", "mean weight on prompts to steer"], rows),
            Lines(steps, {"loss": list(self.losses)}, x_title="step", y_title="loss"),
        ]
        summary = (
            f"Reads {', '.join(self.reads)} of {self.model} and decides {self.accuracy:.0%} of the "
            f"{sum(self.counts)} prompts it was trained on rightly."
        )
        return Report("Guided steering", blocks, summary=summary)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
        """The config, the network and the directions, and how it decides."""
        tensors = {f"decider.{name}": x for name, x in self.decider.tensors().items()}
        tensors |= {f"vector.{at}": vector for at, vector in self.vectors.items()}
        names = ("reads", "model", "counts", "accuracy", "weights", "losses")
        extra = {name: getattr(self, name) for name in names}
        return dict(self.method), tensors, {**extra, "sites": list(self.vectors)}

    @classmethod
    def from_state(
        cls, config: dict[str, Any], tensors: Mapping[str, Tensor], extra: dict[str, Any]
    ) -> Self:
        """Rebuilds the controller from `state`."""
        start = "decider."
        held = {k.removeprefix(start): x for k, x in tensors.items() if k.startswith(start)}
        return cls(
            decider=Decider.of(held),
            vectors={at: tensors[f"vector.{at}"] for at in extra["sites"]},
            reads=tuple(extra["reads"]),
            method=config,
            model=extra["model"],
            counts=(extra["counts"][0], extra["counts"][1]),
            accuracy=extra["accuracy"],
            weights=tuple(extra["weights"]),
            losses=tuple(extra["losses"]),
        )


def _before(
    model: "Model", reads: Sequence[str], base: Sequence[SteeringVector]
) -> tuple[str, ...]:
    """The sites read, if there are any, each before all that is acted on, at a site each."""
    sites = [model.sites[each.at].name for each in base]
    if len(set(sites)) < len(sites):
        twice = next(name for name in sites if sites.count(name) > 1)
        where, expected = f"{model.name}, GuidedController", "one direction a site"
        raise SiteError(explain(where=where, expected=expected, got=f"several at {twice}"))
    order = {site.name: index for index, site in enumerate(model.sites)}
    acts = [order[name] for name in sites]
    late = [name for name in reads if acts and order[name] >= min(acts)]
    if not acts or not reads or late:
        expected = "directions that act after all sites that are read"
        got = f"{', '.join(late)} read too late" if late else "none"
        raise SiteError(
            explain(where=f"{model.name}, GuidedController", expected=expected, got=got)
        )
    return tuple(reads)
