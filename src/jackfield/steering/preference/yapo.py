"""YaPO: as BiPO, but what is learned is a vector in the code of a sparse autoencoder.

    z = enc(x),   x ← x + dec(relu(z + m v)) − dec(z),   v [latent], 0 to begin with

Latents that fire on none of the pairs' tokens get no gradient and stay at exactly 0, so v is
sparse without a penalty, and its largest entries say which features make the difference.

YaPO, 2026, arXiv 2601.08441, and its code. Departures: those of `bipo.py`, a unit being here the
mean of the codes that are not 0; tokens of any norm are steered, as sinks are left out anyway.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self, cast

import torch
from jaxtyping import Float
from torch import Tensor

from jackfield.core.config import config, to_json
from jackfield.core.errors import InputError, explain
from jackfield.core.fitted import Fitted
from jackfield.edits import Edit
from jackfield.reports import Bars, Report, Table
from jackfield.steering.learned_tokens import narrowed
from jackfield.steering.nested import packed, unpacked
from jackfield.steering.preference.course import Course
from jackfield.steering.preference.in_code import InCode
from jackfield.steering.preference.learning import PreferenceMethod, learn
from jackfield.steering.preference.objective import PreferenceObjective
from jackfield.steering.preference.pairs import preference_pairs
from jackfield.steering.steering import Steering

if TYPE_CHECKING:
    from jackfield.model.model import Model

_SHOWN = 10  # latents in a report
_WEIGHTS = ("encoder", "encoder_bias", "centre", "decoder", "threshold", "k")


class SparseAutoencoder(Protocol):
    """A dictionary that writes and reads one site; see `jackfield.dictionaries`."""

    @property
    def site(self) -> str:
        """Where it was fitted, and where it acts."""

    @property
    def sources(self) -> tuple[str, ...]:
        """The sites that `encode` reads, side by side."""

    def encode(self, x: Float[Tensor, "row d"]) -> Float[Tensor, "row latent"]:
        """The codes of rows."""

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
        """(config, tensors, extra), to be saved."""


@config
class YaPO(PreferenceMethod):
    """A vector in the code of a sparse autoencoder that raises preferred answers.

    Attributes:
        beta, epochs, batch, rate, decay, held_out, patience, where, seed: of the descent; see
            `PreferenceMethod`. One unit is the mean of the codes that are not 0.

    >>> from jackfield.dictionaries import TopK
    >>> from jackfield.testing import tiny_world
    >>> world = tiny_world()
    >>> sae = TopK(latents=48, k=4, rows=600, batch=64).fit(world.stream(), progress=False)
    >>> sides = {"positive": world.tokens, "negative": world.other}
    >>> found = YaPO(epochs=2).fit(world.model, **sides, dictionary=sae)
    >>> found.vector.shape
    torch.Size([48])
    """

    def fit(
        self,
        model: "Model",
        *,
        positive: Any,
        negative: Any,
        dictionary: SparseAutoencoder,
        prompts: Any = None,
        progress: bool = False,
    ) -> "PreferenceCode":
        """Learns the vector.

        Args:
            model: a language model; its weights stay as they are.
            positive: answers to prefer: strings, or rows of token ids.
            negative: as many to avoid; answer i of both sides is to prompt i.
            dictionary: a fitted sparse autoencoder of a site [batch, position, d].
            prompts: as for `BiPO`.
            progress: show a live line.

        Raises:
            InputError: as `BiPO`; a dictionary of another kind or width, or one that is silent.
            SiteError: a dictionary of a site that the model has not, or of another shape.
        """
        weights = _weights(dictionary)
        pairs = preference_pairs(model, positive, negative, prompts)
        objective = PreferenceObjective(model, pairs, dictionary.site, self.where)
        codes = dictionary.encode(objective.rows)
        fires = codes != 0
        if not bool(fires.any()):
            where = f"{model.name}, {dictionary.site}"
            expected = "a dictionary that fires on the pairs"
            raise InputError(explain(where=where, expected=expected, got="no code but 0"))
        scale = codes[fires].mean()

        def steer(u: Tensor, sign: float) -> list[Edit]:
            vector = u * scale.to(u)
            at = dictionary.site
            return [InCode(**weights, vector=vector, strength=float(sign), at=at, where=self.where)]

        found = learn(self, objective, steer, torch.zeros_like(codes[0]), progress=progress)
        return PreferenceCode(
            dictionary=dictionary,
            vector=(found.u * scale).cpu(),
            fires=fires.double().mean(dim=0).float().cpu(),
            course=Course.of(found),
            method={"name": type(self).__name__, **to_json(self)},
            model=model.name,
        )


@dataclass(frozen=True, eq=False)
class PreferenceCode(Steering):
    """A vector in a code, learned from preferences.

    Attributes:
        dictionary: whose code it is.
        vector: [latent] in units of the code; 1 and −1 are the strengths that it was learned at.
        fires: [latent] on which share of the pairs' tokens each latent fires.
        course: how the descent went.
        method: the name and the settings of the method that fitted it.
        model: the name of the model.
    """

    dictionary: SparseAutoencoder
    vector: Float[Tensor, " latent"]
    fires: Float[Tensor, " latent"]
    course: Course
    method: Mapping[str, Any]
    model: str

    def scaled(self, factor: float, where: Any = "~sinks") -> list[Edit]:
        """Adds `factor` times the vector in the code, on those tokens that it was learned on."""
        weights, at = _weights(self.dictionary), self.dictionary.site
        rule = narrowed(self.method["where"], where)
        return [InCode(**weights, vector=self.vector, strength=float(factor), at=at, where=rule)]

    def units(self) -> Mapping[str, float]:
        """None but the raw unit: what it changes depends on the token."""
        return {}

    def report(self) -> Report:
        """The curves, the largest entries, and how far the vector decides between the answers."""
        top = self.vector.abs().argsort(descending=True, stable=True)[:_SHOWN]
        used = int((self.vector != 0).sum())
        rows = [[int(f), float(self.vector[f]), float(self.fires[f])] for f in top]
        name, latents = self.method["name"], len(self.vector)
        summary = (
            f"{name} at {self.dictionary.site} of {self.model} moves {used} of {latents} latents. "
            f"{self.course.sentence()}"
        )
        blocks = [
            self.course.curves(),
            Bars([f"latent {f}" for f, *_ in rows], [v for _, v, _ in rows], value_title="v"),
            Table(["latent", "v", "fires on the pairs"], rows),
            Table(["measure", "value"], self.course.rows()),
        ]
        return Report(f"Preferences in code ({name})", blocks, summary=summary)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
        """The config, the vector, and the dictionary."""
        tensors, dictionary = packed(cast(Any, self.dictionary), "dictionary")
        extra = {"model": self.model, "course": asdict(self.course), "dictionary": dictionary}
        return dict(self.method), {"vector": self.vector, "fires": self.fires, **tensors}, extra

    @classmethod
    def from_state(
        cls, config: dict[str, Any], tensors: Mapping[str, Tensor], extra: dict[str, Any]
    ) -> Self:
        """Rebuilds the steering and its dictionary from `state`."""
        return cls(
            dictionary=unpacked(tensors, extra["dictionary"], "dictionary", Fitted),
            vector=tensors["vector"],
            fires=tensors["fires"],
            course=Course.from_json(extra["course"]),
            method=config,
            model=extra["model"],
        )


def _weights(dictionary: SparseAutoencoder) -> dict[str, Any]:
    """The encoder, the decoder and the rule.

    Raises:
        InputError: a dictionary without them, or one that reads other sites than it writes.
    """
    missing = [name for name in _WEIGHTS if not hasattr(dictionary, name)]
    if missing or dictionary.sources != (dictionary.site,):
        got = f"{type(dictionary).__name__} without {', '.join(missing)}" if missing else (
            f"one that reads {', '.join(dictionary.sources)}"
        )  # fmt: skip
        expected = "a sparse autoencoder of one site"
        raise InputError(explain(where=f"YaPO, {dictionary.site}", expected=expected, got=got))
    return {name: getattr(dictionary, name) for name in _WEIGHTS}
