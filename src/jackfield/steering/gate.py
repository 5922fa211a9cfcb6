"""The fluency gate: is steered text still text?

Steered texts are let through if on average, beside the unsteered texts of the same prompts,

    distinct-2 ≥ 0.7            it does not go round in circles
    zlib ratio ≥ 0.45           compressed bytes ÷ bytes: nor does it say the same in other words
    NLL ≤ NLL unsteered + 1.5   nats a token under the unsteered model: nor is it word salad

A lexicon score is highest where the text is broken, so no score is reported without this. The
bounds are from measurements on SmolLM2. A small model repeats itself unsteered, too: prompts whose
unsteered text keeps not the first two bounds are left out, unless that leaves none.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool
from torch import Tensor

from jackfield.edits import Edit
from jackfield.steering.cost import fluency
from jackfield.steering.unsteered import chosen_tokens

if TYPE_CHECKING:
    from jackfield.model.generation import Generation
    from jackfield.model.model import Model

DISTINCT, ZLIB, NLL = 0.7, 0.45, 1.5
_TEXTS = 8  # in one forward


@dataclass(frozen=True)
class GatedText:
    """What was generated from a prompt.

    Attributes:
        text: without the prompt.
        distinct2: the share of bigrams that are not repeated; NaN of a single token.
        zlib_ratio: compressed bytes ÷ bytes.
        nll: nats a token, under the unsteered model.
    """

    text: str
    distinct2: float
    zlib_ratio: float
    nll: float

    @property
    def varied(self) -> bool:
        """Whether it keeps the bounds that need no other text."""
        return self.distinct2 >= DISTINCT and self.zlib_ratio >= ZLIB


@dataclass(frozen=True)
class Gate:
    """What the gate saw.

    Attributes:
        prompts: as the model read them.
        plain, steered: what was generated from each.
    """

    prompts: tuple[str, ...]
    plain: tuple[GatedText, ...]
    steered: tuple[GatedText, ...]

    @property
    def counted(self) -> int:
        """How many prompts count."""
        return len(self._pairs())

    def means(self, measure: str) -> tuple[float, float]:
        """Means of "distinct2", "zlib_ratio" or "nll", unsteered and steered, where it counts."""
        pairs = self._pairs()
        return (
            fmean(getattr(plain, measure) for plain, _ in pairs),
            fmean(getattr(steered, measure) for _, steered in pairs),
        )

    @property
    def broken(self) -> tuple[str, ...]:
        """The bounds that the steered texts do not keep; none if they pass."""
        plain, steered = self.means("nll")
        kept = {
            "distinct-2": self.means("distinct2")[1] >= DISTINCT,
            "zlib ratio": self.means("zlib_ratio")[1] >= ZLIB,
            "NLL": steered <= plain + NLL,
        }
        return tuple(name for name, holds in kept.items() if not holds)

    def _pairs(self) -> list[tuple[GatedText, GatedText]]:
        every = list(zip(self.plain, self.steered, strict=True))
        return [pair for pair in every if pair[0].varied] or every


def gate(model: "Model", prompts: Any, edits: Sequence[Edit], max_new_tokens: int = 40) -> Gate:
    """Generates from prompts, unsteered and steered, and measures both.

    Args:
        model: the model to steer.
        prompts: several, as `model.generate` takes them.
        edits: what steers it.
        max_new_tokens: of each text; the likeliest token is taken.
    """
    made = [
        model.generate(prompts, edits=each, max_new_tokens=max_new_tokens) for each in ((), edits)
    ]
    plain, steered = (
        tuple(_gated(model, prompts[i : i + 1], each, i) for i in range(len(each.texts)))
        for each in made
    )
    return Gate(tuple(made[0].prompts), plain, steered)


def zlib_ratio(text: str) -> float:
    """Compressed bytes ÷ bytes of a text; 1 for an empty one.

    >>> zlib_ratio("again and " * 50) < 0.1
    True
    """
    raw = text.encode()
    return min(1.0, len(zlib.compress(raw, 9)) / len(raw)) if raw else 1.0


@torch.no_grad()
def nll_shift(model: "Model", edits: Sequence[Edit], texts: Any) -> float:
    """NLL steered − NLL unsteered of given texts, in nats a token; from sinks nothing is counted.

    Args:
        model: a language model.
        edits: what steers it.
        texts: texts, or token ids [text, position].
    """
    total, count = 0.0, 0
    for start in range(0, len(texts), _TEXTS):
        part = texts[start : start + _TEXTS]
        (plain, read), (steered, _) = (_said(model, part, each) for each in ((), edits))
        total += float((plain - steered)[read].sum())
        count += int(read.sum())
    return total / count


def _gated(model: "Model", prompt: Any, made: "Generation", row: int) -> GatedText:
    found = fluency(model, prompt, made.tokens[row : row + 1])
    text = made.texts[row]
    return GatedText(text, found.distinct2, zlib_ratio(text), found.nll)


def _said(model: "Model", texts: Any, edits: Sequence[Edit]) -> tuple[Tensor, Bool[Tensor, "b t"]]:
    """Log p of each next token, and which of them count."""
    run = model.run(texts, edits=edits)
    assert run.tokens is not None
    assert run.mask is not None
    log_p = run.logits[:, :-1].float().log_softmax(dim=-1)
    said = log_p.gather(-1, run.tokens[:, 1:, None])[..., 0]
    return said.cpu(), (chosen_tokens(model, run, "~sinks")[:, :-1] & run.mask[:, 1:]).cpu()
