"""Hiding a part of a picture: how much does a classifier see of the hiding itself?

Squares or segments of each picture are hidden, more and more of them, in three ways: by layer
masking (`layer_masking.py`), by grey and by black paint. A classifier that only misses what is
hidden changes its answer late, and becomes less sure; one that sees the paint changes it early.

    agreement     share of the pictures whose class is that of the whole picture
    rank          of the whole picture's class, 1 where it is still the first
    entropy       of the class probabilities [nats]; little at a wrong answer: sure of the paint
    probability   of the whole picture's class

Balasubramanian and Feizi 2022 (arXiv 2211.14646), §4. Departures: any pictures, so the whole
picture's class stands for the label; squares and segments are drawn at random; the segments are
ours, of the kind of SLIC: k-means over colour and place.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import interpolate

from jackfield.circuits.layer_masking import layer_mask
from jackfield.core.config import config, setting
from jackfield.core.errors import InputError, ModelError, explain
from jackfield.core.progress import Progress
from jackfield.core.study import Result, Study
from jackfield.edits import Edit
from jackfield.reports import Lines, Report, Table
from jackfield.reports.intervals import bootstrap_weights, tails

if TYPE_CHECKING:
    from jackfield.model.model import Model

METHODS = ("layer", "grey", "black")
_MEASURES = ("agreement", "rank", "entropy", "probability")
_COARSE = 56  # places on a side of the grid on which segments are found
_ROUNDS = 8  # of k-means


@config
class InputMasking(Study):
    """Compares layer masking with grey and black paint.

    Attributes:
        shape: what is hidden at a time: "squares" of a grid, or "segments" of like colour.
        parts: squares or segments of a picture.
        fractions: shares of the area that are hidden, at least.
        draws: of what is hidden, for each picture and share.
        grey: the value of grey in each channel, as the model is given it: after normalisation.
        black: the value of black; of pictures normalised as for ImageNet.
        seed: of the draws.

    >>> from jackfield.model.load import wrap
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> study = InputMasking(parts=16, fractions=(0.0, 0.5), draws=1)
    >>> study.run(wrap(net, name="net"), torch.rand(2, 3, 32, 32)).agreement[:, 0]
    tensor([1., 1., 1.], dtype=torch.float64)
    """

    shape: Literal["squares", "segments"] = "squares"
    parts: int = setting(default=49, ge=2)
    fractions: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    draws: int = setting(default=2, ge=1)
    grey: tuple[float, ...] = (0.0, 0.0, 0.0)
    black: tuple[float, ...] = (-2.118, -2.036, -1.804)
    seed: int = 0

    def run(
        self,
        model: "Model",
        pictures: Float[Tensor, "picture channel height width"],
        *,
        progress: bool = False,
    ) -> "MaskedAnswers":
        """Hides parts of the pictures and asks the model each time.

        Args:
            model: pictures [picture, channel, height, width] → logits [picture, class].
            pictures: as the model is given them.
            progress: show a live line.

        Raises:
            InputError: no pictures, or of a shape or with numbers that are none.
            ModelError: logits that are not numbers, or not [picture, class].
        """
        self._check(pictures)
        generator = torch.Generator().manual_seed(self.seed)
        rows = []
        with Progress("masking", total=len(pictures), unit="pictures", enabled=progress) as shown:
            for picture in pictures:
                parts = self._parts(picture)
                drawn = [[self._seen(parts, share, generator) for _ in range(self.draws)]
                         for share in self.fractions]  # fmt: skip
                seen = torch.stack([each for draws in drawn for each in draws])[:, None]
                rows.append(self._asked(model, picture[None], seen))
                shown.update(1)
        shape = (len(METHODS), len(self.fractions), self.draws, len(_MEASURES))
        values = torch.stack([row.reshape(shape) for row in rows])  # [picture, method, …]
        return MaskedAnswers(
            values.mean(3).permute(3, 1, 2, 0), self.fractions, self.shape, model.name
        )

    def _asked(self, model: "Model", picture: Tensor, seen: Tensor) -> Tensor:
        """[method, draw, measure] of one picture, with [draw, 1, height, width] seen."""
        whole = _probabilities(model, picture, [])
        painted = {
            name: picture.where(seen, torch.tensor(paint).to(picture)[None, :, None, None])
            for name, paint in (("grey", self.grey), ("black", self.black))
        }
        given = {"layer": picture.expand(len(seen), -1, -1, -1), **painted}
        masked = layer_mask(model, seen.to(picture))
        asked = [
            _probabilities(model, given[name], masked if name == "layer" else [])
            for name in METHODS
        ]
        return torch.stack([_measured(each, int(whole.argmax())) for each in asked])

    def _parts(self, picture: Tensor) -> Tensor:
        """[height, width] the number of the part that each place belongs to."""
        height, width = picture.shape[1:]
        side = max(1, round(self.parts**0.5))
        rows, columns = (torch.arange(n) * side // n for n in (height, width))
        squares = rows[:, None] * side + columns
        return squares if self.shape == "squares" else _segments(picture, squares)

    def _seen(
        self, parts: Tensor, share: float, generator: torch.Generator
    ) -> Bool[Tensor, "height width"]:
        """Hides parts, in a random order, until that share is hidden."""
        names, sizes = parts.unique(return_counts=True)
        order = torch.randperm(len(names), generator=generator)
        before = sizes[order].cumsum(0) - sizes[order]
        return ~torch.isin(parts, names[order][before < share * parts.numel()])

    def _check(self, pictures: Tensor) -> None:
        channels = pictures.shape[1] if pictures.dim() == 4 and pictures.numel() else None
        painted = channels in (len(self.grey), None) and channels in (len(self.black), None)
        if channels is None or not painted or not torch.isfinite(pictures).all():
            expected = f"numbers [picture, channel={len(self.grey)}, height, width]"
            got = str(list(pictures.shape))
            raise InputError(explain(where="InputMasking, pictures", expected=expected, got=got))
        if not all(0 <= share <= 1 for share in self.fractions) or not self.fractions:
            expected, got = "shares from 0 to 1", str(self.fractions)
            raise InputError(explain(where="InputMasking, fractions", expected=expected, got=got))


@dataclass(frozen=True, eq=False)
class MaskedAnswers(Result):
    """What the classifier said.

    Attributes:
        values: [measure, method, fraction, picture] means over the draws; the measures are
            agreement, rank, entropy [nats] and probability, the methods layer, grey and black.
        fractions: shares of the area that were hidden.
        shape: what was hidden at a time.
        model: its name.
    """

    values: Float[Tensor, "measure method fraction picture"]
    fractions: tuple[float, ...]
    shape: str
    model: str

    @property
    def agreement(self) -> Float[Tensor, "method fraction"]:
        """Share of the answers that are those of the whole picture."""
        return self.values[0].mean(-1)

    def interval(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """(low, high), each [measure, method, fraction]: bootstrap over the pictures."""
        count = self.values.shape[-1]
        means = self.values.double() @ bootstrap_weights(count).T
        low, high = tails(means.movedim(-1, 0), level)
        return low, high

    def report(self) -> Report:
        """Curves of the measures over the hidden share, and all figures."""
        low, high = self.interval()
        mean = self.values.mean(-1)
        curves = [
            Lines(
                self.fractions,
                dict(zip(METHODS, mean[i], strict=True)),
                bands={name: (low[i, j], high[i, j]) for j, name in enumerate(METHODS)},
                x_title="share of the picture that is hidden",
                y_title=measure,
            )
            for i, measure in enumerate(_MEASURES)
        ]
        rows = [
            [name, share, *(float(x[i, j, k]) for i in range(4) for x in (mean, low, high))]
            for j, name in enumerate(METHODS)
            for k, share in enumerate(self.fractions)
        ]
        heads = [head for each in _MEASURES for head in (each, f"{each} (low)", f"{each} (high)")]
        table = Table(["method", "hidden", *heads], rows, caption="Means over pictures, 95 %.")
        return Report("A part of the picture hidden", [*curves, table], summary=self.sentence())

    def sentence(self) -> str:
        """The agreement of the three, averaged over the shares."""
        means = self.agreement.mean(-1).tolist()
        said = ", ".join(f"{name} {each:.2f}" for name, each in zip(METHODS, means, strict=True))
        count = self.values.shape[-1]
        return (
            f"Answers as to the whole picture, mean over the hidden shares: {said} "
            f"({count} picture{'s' * (count > 1)}, {self.shape}, {self.model})."
        )


def _probabilities(model: "Model", pictures: Tensor, edits: list[Edit]) -> Tensor:
    """[picture, class] in float64."""
    logits = model.run(pictures, edits=edits).output
    if not isinstance(logits, Tensor) or logits.dim() != 2 or not torch.isfinite(logits).all():
        expected = "finite logits [picture, class]"
        got = str(list(logits.shape)) if isinstance(logits, Tensor) else type(logits).__name__
        raise ModelError(explain(where=f"{model.name}, InputMasking", expected=expected, got=got))
    return logits.double().softmax(-1)


def _measured(found: Tensor, said: int) -> Float[Tensor, "row measure"]:
    own = found[:, [said]]
    rank = (found > own).sum(-1) + 1
    entropy = torch.special.entr(found).sum(-1)
    agrees = (found.argmax(-1) == said).double()
    return torch.stack([agrees, rank.double(), entropy, own[:, 0]], dim=-1)


def _segments(picture: Tensor, squares: Tensor) -> Tensor:
    """Parts of like colour that lie together: k-means from the squares on, on a coarse grid."""
    small = interpolate(picture[None].double(), (_COARSE, _COARSE), mode="area")[0]
    start = interpolate(squares[None, None].double(), (_COARSE, _COARSE), mode="nearest")
    colour = (small - small.mean()) / small.std().clamp(min=1e-9)
    place = torch.linspace(0, 1, _COARSE).double() * math.sqrt(int(squares.max()) + 1)
    grid = torch.stack(torch.meshgrid(place, place, indexing="ij"))
    x = torch.cat([colour, grid]).flatten(1).T  # [place, colour and coordinates]
    part = start.flatten().long()
    for _ in range(_ROUNDS):
        centres = torch.stack([x[part == each].mean(0) for each in part.unique()])
        part = torch.cdist(x, centres).argmin(1)
    found = part.reshape(1, 1, _COARSE, _COARSE).double()
    return interpolate(found, squares.shape, mode="nearest")[0, 0].long()
