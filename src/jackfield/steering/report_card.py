"""Report card: what a fitted steering does, what it costs, and whether to believe it.

    effect      shift of the word odds [prompt] at a KL, beside random directions of the same KL
                and beside a plain instruction in the prompt
    slope       of each prompt's odds over strengths, in nats a dose; the share of prompts with a
                slope below 0 is steered backwards
    ΔNLL        on neutral text
    gate        is generated text still fluent? (`gate.py`)
    side effect shift of an unrelated behaviour at the same dose
    tokens      which were read, and which are steered

A score that rises because the text breaks is not a success, and the verdict says so. Slopes and
backwards shares after Tan et al. 2024 (arXiv 2407.12404), with KL in the place of a multiplier; a
prompt as the baseline after Wu et al. 2025 (AxBench, 2501.17148).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from jackfield.core.config import config, setting
from jackfield.core.errors import InputError, explain
from jackfield.core.study import Result, Study
from jackfield.reports import Bars, Lines, Report, SideBySide, Table, Tokens
from jackfield.reports.intervals import mean_interval
from jackfield.steering.behaviours import Behaviour
from jackfield.steering.gate import Gate, gate, nll_shift
from jackfield.steering.matched import Comparison, Effect
from jackfield.steering.sentences import NEUTRAL
from jackfield.steering.steering import Steering
from jackfield.steering.unsteered import chosen_tokens

if TYPE_CHECKING:
    from jackfield.model.model import Model

_SHOWN = 3  # neutral texts whose steered tokens are shown


@config
class ReportCard(Study):
    """Everything that should be known of a steering before it is used.

    Attributes:
        kl: mean KL to the unsteered model on neutral text, in nats a token.
        randoms: random directions it is compared with.
        doses: shares of the dose at which slopes are measured; 0 and 1 are added. Shares below 0
            are left out for a method that goes part of the way to somewhere.
        texts: how many prompts are generated from, for the gate.
        new_tokens: of each text.
        seed: of the random directions and the bootstrap.

    >>> ReportCard(doses=(-1.0, 0.5)).doses
    (-1.0, 0.5)
    """

    kl: float = setting(default=0.3, gt=0)
    randoms: int = setting(default=2, ge=1)
    doses: tuple[float, ...] = (-1.0, -0.5, 0.5)
    texts: int = setting(default=6, ge=1)
    new_tokens: int = setting(default=40, ge=2)
    seed: int = 0

    def run(
        self,
        model: "Model",
        steerings: Steering | Iterable[Steering],
        behaviour: Behaviour,
        *,
        other: Behaviour | None = None,
        neutral: Any = NEUTRAL,
        where: Any = "~sinks",
    ) -> "Card":
        """Measures a steering; of several, all effects, and the rest of the best.

        Args:
            model: the model to steer.
            steerings: one, or several to choose from, such as directions of different layers.
            behaviour: what it is to change.
            other: an unrelated behaviour, for side effects.
            neutral: texts on which the cost is measured.
            where: which tokens are steered.

        Raises:
            InputError: no steerings, one that moves nothing, or a behaviour that cannot be
                measured.
        """
        listed = [steerings] if isinstance(steerings, Steering) else list(steerings)
        if not listed:
            label = f"{model.name}, ReportCard"
            raise InputError(explain(where=label, expected="at least one steering", got="none"))
        compared = Comparison(
            model, behaviour, kl=self.kl, randoms=self.randoms, seed=self.seed, neutral=neutral,
            where=where,
        )  # fmt: skip
        effects = tuple(compared.effect(each, each.report().title) for each in listed)
        index = max(range(len(effects)), key=lambda i: effects[i].mean)
        return self._card(compared, listed[index], effects, effects[index], other)

    def _card(
        self,
        at: Comparison,
        best: Steering,
        effects: tuple[Effect, ...],
        effect: Effect,
        other: Behaviour | None,
    ) -> "Card":
        edits = best.scaled(effect.factor, at.where)
        doses, curve = _curve(at, best, effect, self.doses)
        side = None if other is None else other.odds(at.model, edits) - other.odds(at.model)
        return Card(
            behaviour=at.behaviour.name,
            kl=self.kl,
            effects=effects,
            best=effect,
            told=_told(at),
            doses=doses,
            curve=curve,
            nll=nll_shift(at.model, edits, at.neutral),
            gate=gate(at.model, at.behaviour.prompts[: self.texts], edits, self.new_tokens),
            side=None if other is None else other.name,
            side_shifts=side,
            steered=_steered(at),
            method=best.report(),
        )


@dataclass(frozen=True)
class Card(Result):
    """What was measured.

    Attributes:
        behaviour: its name.
        kl: that was asked for.
        effects: of every steering.
        best: the largest of them; the rest is about it.
        told: [prompt] shift by an instruction in the prompt; None where there is none.
        doses: shares of its dose.
        curve: [dose, prompt] the odds, in nats.
        nll: ΔNLL on neutral text, nats a token.
        gate: of generated text.
        side: the unrelated behaviour's name, and `side_shifts` [prompt] of it, in nats.
        steered: of some neutral texts the tokens, and which are steered.
        method: the steering's own report, with the tokens that it was read from.
    """

    behaviour: str
    kl: float
    effects: tuple[Effect, ...]
    best: Effect
    told: Float[Tensor, " prompt"] | None
    doses: tuple[float, ...]
    curve: Float[Tensor, "dose prompt"]
    nll: float
    gate: Gate
    side: str | None
    side_shifts: Float[Tensor, " other"] | None
    steered: tuple[tuple[tuple[str, ...], tuple[bool, ...]], ...]
    method: Report

    @property
    def slopes(self) -> Float[Tensor, " prompt"]:
        """Least-squares slope of each prompt's odds over the doses, in nats a dose."""
        x = torch.tensor(self.doses, dtype=self.curve.dtype)
        x = x - x.mean()
        return (x[:, None] * self.curve).sum(dim=0) / x.square().sum()

    @property
    def backwards(self) -> float:
        """The share of prompts with a slope below 0."""
        return float((self.slopes < 0).double().mean())

    @property
    def verdict(self) -> str:
        """It steers, breaks the text, does as a random direction does, or does nothing."""
        if self.best.interval[0] <= 0:
            return "does not move it"
        if self.best.mean <= self.best.random_size:
            return "no more than random"
        return "breaks the text" if self.gate.broken else "steers"

    def report(self) -> Report:
        """The verdict, the effects beside their controls, the costs, the texts, the tokens."""
        return Report(
            f"Report card: {self.behaviour}",
            [
                self._bars(),
                *([self._table()] if len(self.effects) > 1 else []),
                self._measures(),
                *self._curves(),
                self._texts(),
                self._tokens(),
                self.method,
            ],
            summary=self._sentence(),
        )

    def _sentence(self) -> str:
        best, (low, high) = self.best, self.best.interval
        moved = (
            f"by {best.mean:+.2f} nats (95 % interval {low:.2f} to {high:.2f}) at a KL of "
            f"{best.kl:.2g}, random directions of that KL by at most {best.random_size:.2f}"
        )
        told = "" if self.told is None else f", an instruction by {float(self.told.mean()):+.2f}"
        broken = ", ".join(self.gate.broken)
        opening = {
            "steers": "It steers",
            "breaks the text": f"Not a success: the text breaks ({broken}), though the odds move",
            "no more than random": "Not a success: a random direction does as much",
            "does not move it": "Not a success: the odds do not move as they should",
        }[self.verdict]
        return (
            f"{opening}: {best.name} at {best.site} moves {self.behaviour} {moved}{told}; "
            f"{self.backwards:.0%} of the prompts are steered backwards."
        )

    def _bars(self) -> Bars:
        rows = [("steered", _tensor(self.best.shifts))]
        rows += [(f"random {i}", _tensor(each)) for i, each in enumerate(self.best.random)]
        if self.told is not None:
            rows.append(("instruction", self.told))
        if self.side_shifts is not None:
            rows.append((f"steered, on {self.side}", self.side_shifts))
        return Bars(
            [name for name, _ in rows],
            [float(each.mean()) for _, each in rows],
            [mean_interval(each, self.best.seed) for _, each in rows],
            value_title="shift of the odds, nats",
        )

    def _table(self) -> Table:
        columns = ["steering", "site", "KL", "shift", "low (95 %)", "high (95 %)", "random"]
        rows = [[e.name, e.site, e.kl, e.mean, *e.interval, e.random_size] for e in self.effects]
        return Table(columns, rows, formats=dict.fromkeys(columns[2:], ".2f"))

    def _measures(self) -> Table:
        slopes = self.slopes
        side = None if self.side_shifts is None else float(self.side_shifts.mean())
        rows: list[list[Any]] = [
            ["strength, raw", None, self.best.factor],
            ["KL, mean and 95th percentile", self.best.kl, self.best.kl_p95],
            ["slope, mean and standard deviation", float(slopes.mean()), float(slopes.std())],
            ["share steered backwards", None, self.backwards],
            ["ΔNLL on neutral text", None, self.nll],
            ["distinct-2, unsteered and steered", *self.gate.means("distinct2")],
            ["zlib ratio, unsteered and steered", *self.gate.means("zlib_ratio")],
            ["NLL of generated text, unsteered and steered", *self.gate.means("nll")],
            ["generated texts, and those that count", len(self.gate.plain), self.gate.counted],
            [f"side effect on {self.side or 'another behaviour (not measured)'}", None, side],
        ]
        return Table(["measure", "first", "value"], rows)

    def _curves(self) -> list[Lines]:
        if len(self.doses) < 3:
            return []
        low, mean, high = self.curve.quantile(
            torch.tensor([0.1, 0.5, 0.9], dtype=self.curve.dtype), dim=1
        )
        return [
            Lines(
                list(self.doses),
                {"odds": mean},
                {"odds": (low, high)},
                x_title="share of the dose",
                y_title="odds, nats",
                caption="The median prompt, and eight tenths of them.",
            )
        ]

    def _texts(self) -> SideBySide:
        both = zip(self.gate.plain, self.gate.steered, strict=True)
        rows = [[plain.text, steered.text] for plain, steered in both]
        names = ["unsteered", "steered"]
        return SideBySide(names, rows, self.gate.prompts, caption="Generated text.")

    def _tokens(self) -> Tokens:
        return Tokens(
            [tokens for tokens, _ in self.steered],
            [[1.0 if on else math.nan for on in flags] for _, flags in self.steered],
            [""] * len(self.steered),
            value_name="steered",
            caption="Tokens that are steered; grey ones are not.",
        )


def _curve(
    at: Comparison, best: Steering, effect: Effect, shares: Sequence[float]
) -> tuple[tuple[float, ...], Tensor]:
    """The odds at shares of the dose, in ascending order."""
    both = best.limit == math.inf
    doses = sorted({0.0, 1.0, *(share for share in shares if both or 0 <= share <= 1)})
    known = {0.0: at.plain, 1.0: at.plain + _tensor(effect.shifts)}
    odds = [
        known[share]
        if share in known
        else at.behaviour.odds(at.model, best.scaled(share * effect.factor, at.where))
        for share in doses
    ]
    return tuple(doses), torch.stack(odds)


def _tensor(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _told(at: Comparison) -> Tensor | None:
    """The shift of the odds by an instruction."""
    asked = at.behaviour.asked
    if not asked or isinstance(at.behaviour.prompts, Tensor):
        return None
    return at.behaviour.odds(at.model, prompts=at.behaviour.told(asked)) - at.plain


def _steered(at: Comparison) -> tuple[tuple[tuple[str, ...], tuple[bool, ...]], ...]:
    """Some neutral texts, and which of their tokens `where` means."""
    found = []
    for i in range(min(_SHOWN, len(at.neutral))):
        run = at.model.run(at.neutral[i : i + 1], sites=["embed"], logits=False)
        assert run.tokens is not None
        strings = tuple(at.model.token_strings(run.tokens[0].cpu()))
        flags = chosen_tokens(at.model, run, at.where)[0].tolist()
        found.append((strings, tuple(flags)))
    return tuple(found)
