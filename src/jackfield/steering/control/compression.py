"""Compressed reasoning: how far can answers be shortened by steering before they become wrong?

    v = mean over pairs of (h of the concise answer − h of the verbose one), last token, one layer
    γ = √(2ε / vᵀFv)            the strength of a KL of ε nats, as `Strength` finds it ("kl:ε")

The study takes any steering, here `MeanDifference(tokens="last")` on the pairs. The sign is found
by trying both: that which makes answers shorter at equal accuracy. For each ε and sign it
gives, over problems, tokens to the end of the answer, exact match, and answers cut off,
with 95 % intervals of the paired difference to the unsteered answers; beside it a random direction
at the same KL and both signs.

ASC: Azizi et al. 2025 (arXiv 2507.04742). As there, v is added at the prompt's last token and at
each new one. The vector that is learned by a contrastive energy (the later version) is not here.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from jackfield.core.config import config, setting
from jackfield.core.errors import InputError, explain
from jackfield.core.progress import Progress
from jackfield.core.study import Result, Study
from jackfield.edits import Edit
from jackfield.reports import Report, Table
from jackfield.reports.intervals import mean_interval
from jackfield.steering.control.small_sums import Problem
from jackfield.steering.cost import until_end
from jackfield.steering.matched import random_directions, sites_of
from jackfield.steering.sentences import NEUTRAL
from jackfield.steering.steering import Steering

if TYPE_CHECKING:
    from jackfield.model.model import Model

_PROBLEMS = 24  # in one batch
_NUMBER = re.compile(r"(?:(?<!\d)-)?\d+(?:,\d{3})*(?:\.\d+)?")


@config
class CompressedReasoning(Study):
    """Length and accuracy of answers at several KLs and both signs.

    Attributes:
        kls: ε, mean KL to the unsteered model on neutral text, in nats a token.
        max_new_tokens: of an answer; longer ones are cut off, and counted.
        where: which tokens are steered; a prompt's last token counts as generated.
        seed: of the random direction and of the bootstrap.

    >>> CompressedReasoning(kls=(0.1,)).max_new_tokens
    80
    """

    kls: tuple[float, ...] = (0.1, 0.3)
    max_new_tokens: int = setting(default=80, ge=1)
    where: str = "generated"
    seed: int = 0

    def run(
        self,
        model: "Model",
        steering: Steering,
        problems: Sequence[Problem],
        *,
        neutral: Any = NEUTRAL,
        progress: bool = False,
    ) -> "Compression":
        """Answers all problems unsteered, and at each KL and sign.

        Args:
            model: a language model.
            steering: what is to shorten its answers.
            problems: with their answers; none of them should have been fitted on.
            neutral: texts on which the KL is measured, at all tokens but sinks.
            progress: show a live line.

        Raises:
            InputError: no problems, no KL, or a KL out of reach.
        """
        if not problems or not self.kls:
            got, label = (
                f"{len(problems)} and {len(self.kls)}",
                f"{model.name}, CompressedReasoning",
            )
            raise InputError(explain(where=label, expected="problems and KLs", got=got))
        control = random_directions(model, sites_of(model, steering), seed=self.seed, texts=neutral)
        tries = [
            (name, each, kl, sign)
            for name, each in (("steering", steering), ("random", control))
            for kl in self.kls
            for sign in (1, -1)
        ]
        answers = []
        with Progress("answering", total=1 + len(tries), unit="runs", enabled=progress) as shown:
            plain = self._answered(model, problems, "unsteered", 0.0, 0.0, [])
            shown.update(1)
            for name, each, kl, sign in tries:
                dose = each.dose(model, f"kl:{sign * kl}", neutral)
                edits = each.scaled(dose.factor, self.where)
                answers.append(
                    self._answered(model, problems, name, dose.factor, dose.cost.mean, edits)
                )
                shown.update(1)
        return Compression(model.name, plain, tuple(answers), self.max_new_tokens, self.seed)

    def _answered(
        self,
        model: "Model",
        problems: Sequence[Problem],
        name: str,
        factor: float,
        kl: float,
        edits: list[Edit],
    ) -> "Answers":
        texts: list[str] = []
        lengths: list[int] = []
        cut: list[bool] = []
        for start in range(0, len(problems), _PROBLEMS):
            prompts = [each.prompt for each in problems[start : start + _PROBLEMS]]
            made = model.generate(
                torch.stack(prompts) if isinstance(prompts[0], Tensor) else prompts,
                edits=edits,
                max_new_tokens=self.max_new_tokens,
            )
            real = until_end(model, made.tokens)
            texts += made.texts
            lengths += real.sum(dim=1).tolist()
            cut += real.all(dim=1).tolist()
        right = [said(text, each.answer) for text, each in zip(texts, problems, strict=True)]
        return Answers(name, factor, kl, tuple(lengths), tuple(right), tuple(cut), tuple(texts))


def said(text: str, answer: str) -> bool:
    """Whether a text comes to an answer: its last number, or words that it says.

    >>> said("3 + 4 = 7. So, the answer is 7.", "7"), said("7 apples, or 8?", "7")
    (True, False)
    >>> said("I do not know.", "no"), said("No.", "no"), said("Pages 3-7", "7")
    (False, True, True)
    """
    if not _NUMBER.fullmatch(answer):
        return re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", text, re.IGNORECASE) is not None
    numbers = [each.replace(",", "") for each in _NUMBER.findall(text)]
    return bool(numbers) and float(numbers[-1]) == float(answer.replace(",", ""))


@dataclass(frozen=True)
class Answers:
    """The answers to all problems under one steering.

    Attributes:
        name: "unsteered", "steering" or "random".
        factor: the strength, in the steering's own unit.
        kl: its cost on neutral text, in nats a token.
        tokens: [problem] to the end of the answer, or to where it was cut off.
        right: [problem] whether it comes to the right answer.
        cut: [problem] whether it was cut off.
        texts: [problem].
    """

    name: str
    factor: float
    kl: float
    tokens: tuple[int, ...]
    right: tuple[bool, ...]
    cut: tuple[bool, ...]
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Change:
    """A mean difference to the unsteered answers, and its 95 % interval over problems."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Compression(Result):
    """What became of the answers.

    Attributes:
        model: its name.
        plain: the unsteered answers.
        steered: those at each KL and sign, of the steering and of the random direction.
        max_new_tokens: where answers were cut off.
        seed: of the bootstrap.
    """

    model: str
    plain: Answers
    steered: tuple[Answers, ...]
    max_new_tokens: int
    seed: int

    def longer(self, answers: Answers) -> Change:
        """By how many tokens the answers are longer; negative is shorter."""
        return self._paired(answers.tokens, self.plain.tokens)

    def better(self, answers: Answers) -> Change:
        """By what share of the problems more are right."""
        return self._paired(answers.right, self.plain.right)

    @property
    def best(self) -> Answers | None:
        """The shortest of those whose answers are shorter at equal accuracy; None if none is.

        Shorter: the interval of the difference lies below 0. Equal accuracy: as many are right, or
        the interval of the difference reaches 0.
        """
        kept = [
            each
            for each in self.steered
            if each.name == "steering"
            if self.longer(each).high < 0
            if self.better(each).high >= 0
        ]
        return min(kept, key=lambda each: fmean(each.tokens), default=None)

    def report(self) -> Report:
        """Length, accuracy and cost of each."""
        columns = ["", "strength", "KL", "tokens", "longer by", "low (95 %)", "high (95 %)",
                   "right", "more right by", "low (95 %) ", "high (95 %) ", "cut off"]  # fmt: skip
        formats = dict.fromkeys(columns[1:3], ".3g") | dict.fromkeys(columns[3:7], ".1f")
        formats |= dict.fromkeys(columns[7:], ".2f")
        rows = [self._row(each) for each in (self.plain, *self.steered)]
        title = "Compressed reasoning"
        return Report(title, [Table(columns, rows, formats=formats)], summary=self._sentence())

    def _row(self, each: Answers) -> list[Any]:
        longer, better = self.longer(each), self.better(each)
        return [
            each.name, each.factor, each.kl, fmean(each.tokens), longer.mean, longer.low,
            longer.high, fmean(each.right), better.mean, better.low, better.high, fmean(each.cut),
        ]  # fmt: skip

    def _sentence(self) -> str:
        count, plain = len(self.plain.tokens), fmean(self.plain.tokens)
        start = (
            f"{count} problems, {plain:.1f} tokens an answer unsteered and "
            f"{fmean(self.plain.right):.0%} right."
        )
        best = self.best
        if best is None:
            return f"{start} No strength makes them shorter at equal accuracy."
        longer, better = self.longer(best), self.better(best)
        return (
            f"{start} At {best.factor:+.3g} (KL {best.kl:.2g}) answers take {longer.mean:+.1f} "
            f"tokens ({longer.low:+.1f} to {longer.high:+.1f}) and {better.mean:+.0%} "
            f"({better.low:+.0%} to {better.high:+.0%}) are right."
        )

    def _paired(self, left: Sequence[float], right: Sequence[float]) -> Change:
        apart = torch.tensor(left, dtype=torch.float64) - torch.tensor(right, dtype=torch.float64)
        return Change(float(apart.mean()), *mean_interval(apart, self.seed))
