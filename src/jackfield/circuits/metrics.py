"""Metrics: one number for each prompt from the logits of its last token.

    LogitDifference(answer, wrong)   logit(answer) − logit(wrong)           in logits
    Probability(answer)              softmax(logits)[answer]                0 to 1
    KL()                             KL(clean ‖ patched)                    in nats
    Custom(function)                 any function [..., pair, vocab] → [..., pair]

Answers are strings of exactly one token, or token ids; one for all pairs, or one a pair. The
logit difference is the usual choice: it is linear in the last residual stream up to the final
norm, and does not move when all logits do (Heimersheim and Nanda 2024, arXiv 2404.15255).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from jackfield.core.errors import InputError, explain

if TYPE_CHECKING:
    from jackfield.model.model import Model

Answer = str | int | Sequence[str | int]
Measure = Callable[[Tensor], Tensor]


class Metric(ABC):
    """What is measured of the answer.

    Attributes:
        name: as an axis or a sentence calls it, with its unit.
        smallest_gap: a difference between the clean and the corrupted prompt below this is noise,
            and effects are not expressed as shares of it.
    """

    name: str
    smallest_gap: float

    @abstractmethod
    def prepare(self, model: "Model", clean: Float[Tensor, "pair vocab"]) -> Measure:
        """The metric for these pairs: a function of logits [..., pair, vocab] → [..., pair].

        Args:
            model: its tokenizer turns answers into ids.
            clean: the logits of the clean prompts.

        Raises:
            InputError: an answer is not one token, or there are not as many as pairs.
        """


@dataclass(frozen=True)
class LogitDifference(Metric):
    """`logit(answer) − logit(wrong)`, in logits.

    Attributes:
        answer: what the clean prompt should continue with, one for all pairs or one a pair.
        wrong: what it should not.
    """

    answer: Answer
    wrong: Answer
    smallest_gap: float = 0.1
    name: str = field(default="logit difference", init=False)

    def prepare(self, model: "Model", clean: Float[Tensor, "pair vocab"]) -> Measure:
        right = answer_ids(model, self.answer, len(clean))
        wrong = answer_ids(model, self.wrong, len(clean))
        return lambda logits: _pick(logits, right) - _pick(logits, wrong)


@dataclass(frozen=True)
class Probability(Metric):
    """The probability of the answer.

    Attributes:
        answer: one for all pairs or one a pair.
    """

    answer: Answer
    smallest_gap: float = 0.01
    name: str = field(default="probability of the answer", init=False)

    def prepare(self, model: "Model", clean: Float[Tensor, "pair vocab"]) -> Measure:
        ids = answer_ids(model, self.answer, len(clean))
        return lambda logits: _pick(logits.float().softmax(dim=-1), ids)


@dataclass(frozen=True)
class KL(Metric):
    """`KL(clean ‖ patched)` over the whole vocabulary, in nats: 0 where the clean run is back."""

    smallest_gap: float = 0.01
    name: str = field(default="KL from the clean run in nats", init=False)

    def prepare(self, model: "Model", clean: Float[Tensor, "pair vocab"]) -> Measure:
        wanted = clean.float().log_softmax(dim=-1)

        def measure(logits: Tensor) -> Tensor:
            return (wanted.exp() * (wanted - logits.float().log_softmax(dim=-1))).sum(dim=-1)

        return measure


@dataclass(frozen=True)
class Custom(Metric):
    """Any function of the logits.

    Attributes:
        function: [..., pair, vocab] → [..., pair].
        smallest_gap: see `Metric`; in the function's own unit.
        name: as a report calls it.
    """

    function: Callable[[Tensor], Tensor]
    smallest_gap: float = 1e-3
    name: str = "metric"

    def prepare(self, model: "Model", clean: Float[Tensor, "pair vocab"]) -> Measure:
        got = self.function(clean)
        if not isinstance(got, Tensor) or got.shape != clean.shape[:-1]:
            shape = list(got.shape) if isinstance(got, Tensor) else type(got).__name__
            raise InputError(
                explain(
                    where=f"metric '{self.name}'",
                    expected=f"[..., pair] = {list(clean.shape[:-1])} from [..., pair, vocab]",
                    got=str(shape),
                )
            )
        return self.function


def answer_ids(model: "Model", answer: Answer, pairs: int) -> Int[Tensor, "pair"]:  # noqa: F821
    """The token ids of an answer, one a pair.

    Raises:
        InputError: an answer is not one token, or there are not as many as pairs.
    """
    listed = [answer] if isinstance(answer, (str, int)) else list(answer)
    if len(listed) == 1:
        listed = listed * pairs
    if len(listed) != pairs:
        raise InputError(
            explain(where="metric", expected=f"one answer, or {pairs}", got=str(len(listed)))
        )
    ids = [each if isinstance(each, int) else token_id(model, each) for each in listed]
    return torch.tensor(ids)


def token_id(model: "Model", text: str) -> int:
    """The id of a text that is exactly one token.

    Raises:
        InputError: it is several, or the model has no tokenizer; says what is nearest.
    """
    where = f"{model.name}, answer {text!r}"
    if model.tokenizer is None:
        raise InputError(explain(where=where, expected="a token id", got="text, and no tokenizer"))
    ids = list(model.tokenizer(text, add_special_tokens=False)["input_ids"])
    if len(ids) == 1:
        return ids[0]
    pieces = model.token_strings(ids)
    near = [t for t in (f" {text.strip()}", text.strip()) if is_one_token(model, t)]
    hint = f"Did you mean {near[0]!r}?" if near else f"Its first token is {pieces[:1]}."
    raise InputError(explain(where=where, expected="one token", got=str(pieces), hint=hint))


def is_one_token(model: "Model", text: str) -> bool:
    """Whether the model's tokenizer makes one token of the text."""
    return model.tokenizer is not None and (
        len(model.tokenizer(text, add_special_tokens=False)["input_ids"]) == 1
    )


def _pick(values: Tensor, ids: Tensor) -> Tensor:
    """values[..., pair, ids[pair]]."""
    index = ids.to(values.device).expand(values.shape[:-1])[..., None]
    return values.gather(-1, index)[..., 0]
