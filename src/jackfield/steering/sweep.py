"""A sweep over strengths: texts side by side, with what each strength costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from jackfield.core.study import Result
from jackfield.core.where import Rows
from jackfield.edits import Edit
from jackfield.reports import Lines, Report, SideBySide, Table
from jackfield.steering.cost import Fluency, KLCost, fluency, kl_costs

if TYPE_CHECKING:
    from jackfield.model.model import Model


@dataclass(frozen=True)
class SteeredText:
    """What was generated at one strength.

    Attributes:
        direction: "steered", "random", or "unsteered".
        strength: in the unit of the sweep.
        texts: one a prompt.
        kl: KL to the unsteered model on neutral text.
        fluency: of the texts, to the unsteered model.
    """

    direction: str
    strength: float
    texts: tuple[str, ...]
    kl: KLCost
    fluency: Fluency


@dataclass(frozen=True)
class Sweep(Result):
    """Texts at several strengths, unsteered first.

    Attributes:
        prompts: as shown.
        results: unsteered, then the direction at each strength, then a random one of its length.
        report_of_direction: what is known of the direction itself.
        unit: of the strengths.
    """

    prompts: tuple[str, ...]
    results: tuple[SteeredText, ...]
    report_of_direction: Report
    unit: str

    def of(self, direction: str) -> list[SteeredText]:
        """The results of "steered", "random" or "unsteered"."""
        return [each for each in self.results if each.direction == direction]

    def report(self) -> Report:
        """The steered texts side by side, the costs, the control, and the direction."""
        plain = self.of("unsteered")
        blocks = [
            self._texts([*plain, *self.of("steered")], "Steered along the direction."),
            self._table(),
            *self._curves(),
            self._texts([*plain, *self.of("random")], "A random direction of the same length."),
            self.report_of_direction,
        ]
        return Report("Steering", blocks, summary=self._sentence())

    def _sentence(self) -> str:
        steered = self.of("steered")
        least, most = (pick(steered, key=lambda each: each.kl.mean) for pick in (min, max))
        plain = self.of("unsteered")[0].fluency
        return (
            f"Steering (strength in lengths of the {self.unit}) moves the predictions on neutral "
            f"text by {least.kl.mean:.2g} nats a token at {least.strength:+g}, and by "
            f"{most.kl.mean:.2g} at {most.strength:+g}. The texts' NLL is {plain.nll:.2f} nats "
            f"unsteered and {most.fluency.nll:.2f} there, distinct-2 {plain.distinct2:.2f} and "
            f"{most.fluency.distinct2:.2f}."
        )

    def _texts(self, results: Sequence[SteeredText], caption: str) -> SideBySide:
        rows = len(self.prompts)
        return SideBySide(
            [_name(each) for each in results],
            [[each.texts[row] for each in results] for row in range(rows)],
            self.prompts,
            measures={"KL, nats": [[round(each.kl.mean, 3) for each in results]] * rows},
            caption=caption,
        )

    def _table(self) -> Table:
        columns = ["direction", "strength", "KL mean", "KL 95 %", "NLL", "distinct-2"]
        rows = [
            [
                each.direction,
                each.strength,
                each.kl.mean,
                each.kl.p95,
                each.fluency.nll,
                each.fluency.distinct2,
            ]
            for each in self.results
        ]
        return Table(
            columns,
            rows,
            caption=(
                "KL to the unsteered model in nats a token of neutral text; NLL of the generated "
                "texts under the unsteered model in nats a token; distinct-2 is the share of "
                "bigrams that are not repeated."
            ),
            formats=dict.fromkeys(columns[2:], ".3f"),
        )

    def _curves(self) -> list[Lines]:
        """KL over strength, where there are enough strengths for a curve."""
        ordered = {
            name: sorted([*self.of("unsteered"), *self.of(name)], key=lambda each: each.strength)
            for name in ("steered", "random")
        }
        strengths = [each.strength for each in ordered["steered"]]
        if len(strengths) < 4:
            return []
        curves = {name: [each.kl.mean for each in found] for name, found in ordered.items()}
        title = f"strength, lengths of the {self.unit}"
        return [Lines(strengths, curves, x_title=title, y_title="KL, nats a token")]


def swept(
    model: "Model",
    prompts: Any,
    variants: Mapping[tuple[str, float], Sequence[Edit]],
    max_new_tokens: int,
    neutral: Any,
) -> tuple[tuple[str, ...], tuple[SteeredText, ...]]:
    """The prompts as shown, and the result of each variant with the unsteered one first.

    All variants are generated as rows of one batch, each with its own edits: a step of a small
    model costs little more for many rows than for one.
    """
    every: dict[tuple[str, float], Sequence[Edit]] = {("unsteered", 0.0): (), **variants}
    costs = kl_costs(model, list(every.values()), neutral)
    asked, count = _listed(prompts), len(_listed(prompts))
    rows = [range(i * count, (i + 1) * count) for i in range(len(every))]
    edits = [
        replace(edit, where=edit.where & Rows(tuple(held)))
        for held, listed in zip(rows, every.values(), strict=True)
        for edit in listed
    ]
    given = asked.repeat(len(every), 1) if isinstance(asked, Tensor) else asked * len(every)
    made = model.generate(given, edits=edits, max_new_tokens=max_new_tokens)
    results = tuple(
        SteeredText(
            *name,
            tuple(made.texts[i] for i in held),
            cost,
            fluency(model, asked, made.tokens[held]),
        )
        for name, held, cost in zip(every, rows, costs, strict=True)
    )
    return _shown(asked, made.prompts[:count]), results


def _listed(prompts: Any) -> Any:
    """Prompts as a list of them, or token ids [prompt, position]."""
    if isinstance(prompts, Tensor):
        return prompts[None] if prompts.dim() == 1 else prompts
    one = isinstance(prompts, str) or (prompts and isinstance(prompts[0], Mapping))
    return [prompts] if one else list(prompts)


def _shown(prompts: Any, rendered: Sequence[str]) -> tuple[str, ...]:
    """What was asked: the last message of a chat, else the prompt as the model read it."""
    if isinstance(prompts, list) and not isinstance(prompts[0], str):
        return tuple(str(chat[-1]["content"]) for chat in prompts)
    return tuple(rendered)


def _name(each: SteeredText) -> str:
    return "unsteered" if each.direction == "unsteered" else f"{each.direction} {each.strength:+g}"
