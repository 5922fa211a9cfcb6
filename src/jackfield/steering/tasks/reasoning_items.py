"""Reasoning items: short problems of three kinds whose answer is the next token.

    arithmetic   three plus two =                                                      " five"
    induction    two, four, six,                                                       " eight"
    deduction    Every wumpus is a yumpus. Every yumpus is red. Every zumpus is a tumpus. Every
                 tumpus is blue. Max is a wumpus. So Max is                            " red"

Before the first and the last stand a few solved ones, without which the model answers otherwise.
After the inductive, deductive and mathematical tasks of Højer et al. 2025 (arXiv 2504.19483), made
small enough that the default model solves some and not others. The items are our own. No problem
is asked twice, and no sum is solved among its own shots; sums begin with the larger number.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from jackfield.core.errors import InputError, explain
from jackfield.steering.behaviours import word_ids
from jackfield.steering.tasks.last_token import answered

if TYPE_CHECKING:
    from jackfield.model.model import Model

Kind = Literal["arithmetic", "induction", "deduction"]

NUMBERS = tuple("zero one two three four five six seven eight nine ten eleven twelve".split())
_ORDERS = (
    NUMBERS,
    tuple("Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()),
    tuple("January February March April May June July August September October".split()),
    tuple("A B C D E F G H I J K L M N O P".split()),
)
_KINDS = tuple("wumpus yumpus zumpus dumpus rompus numpus tumpus vumpus".split())
_COLOURS = tuple("red blue green white black brown yellow pink".split())
_LARGEST = 8  # number in a sum
_SUMS = tuple(
    (f"{NUMBERS[a]} {sign} {NUMBERS[b]}", NUMBERS[result])
    for a in range(1, _LARGEST + 1)
    for b in range(1, a + 1)
    for sign, result in (("plus", a + b), ("minus", a - b))
    if result < len(NUMBERS)
)
_SHOTS = 4  # solved problems before one that is asked for; half as many of the longer ones
_NAMES = tuple("Max Tom Sam Anna Alex Emma John Mary".split())


@dataclass(frozen=True)
class ReasoningItem:
    """A problem.

    Attributes:
        prompt: a text, or token ids.
        answer: the next token: a word with its space, or a token id.
    """

    prompt: str | tuple[int, ...]
    answer: str | int


def reasoning_items(kind: Kind, count: int, seed: int = 0) -> tuple[ReasoningItem, ...]:
    """Items of one kind, no two of which ask the same: any split of them shares no problem.

    Raises:
        InputError: an unknown kind, or more items than there are problems.

    >>> reasoning_items("induction", 1)[0].answer.startswith(" ")
    True
    """
    if kind not in _MAKERS:
        expected = f"one of {', '.join(_MAKERS)}"
        raise InputError(explain(where="reasoning_items", expected=expected, got=repr(kind)))
    draw = random.Random(seed)
    found: dict[str, ReasoningItem] = {}
    for _ in range(30 * count):
        item, problem = _MAKERS[kind](draw)
        found.setdefault(problem, item)
    if len(found) < count:
        expected, got = f"at most {len(found)} different problems of {kind}", str(count)
        raise InputError(explain(where="reasoning_items", expected=expected, got=got))
    return tuple(found.values())[:count]


def sorted_by_solving(
    model: "Model", items: Sequence[ReasoningItem]
) -> tuple[tuple[ReasoningItem, ...], tuple[ReasoningItem, ...]]:
    """The items that the model solves, and those that it does not: found by asking it.

    Raises:
        InputError: no items, or an answer of several tokens.
    """
    prompts, answers = asked(model, items)
    right = answered(model, prompts, answers).tolist()
    solved = tuple(item for item, hit in zip(items, right, strict=True) if hit)
    return solved, tuple(item for item, hit in zip(items, right, strict=True) if not hit)


def asked(
    model: "Model", items: Sequence[ReasoningItem]
) -> tuple[Sequence[str] | Int[Tensor, "item position"], list[int]]:
    """The prompts as the model takes them, and the answers' token ids.

    Raises:
        InputError: no items, or an answer of several tokens.
    """
    if not items:
        where = f"{model.name}, reasoning items"
        raise InputError(explain(where=where, expected="at least one item", got="none"))
    answers = [int(word_ids(model, [item.answer])) for item in items]
    texts = [item.prompt for item in items if isinstance(item.prompt, str)]
    if len(texts) == len(items):
        return texts, answers
    return torch.tensor([item.prompt for item in items]), answers


def _arithmetic(draw: random.Random) -> tuple[ReasoningItem, str]:
    """An item, and the problem that it asks."""
    *shown, (asked_for, answer) = draw.sample(_SUMS, _SHOTS + 1)
    told = "\n".join(f"{problem} = {result}" for problem, result in shown)
    return ReasoningItem(f"{told}\n{asked_for} =", f" {answer}"), asked_for


def _induction(draw: random.Random) -> tuple[ReasoningItem, str]:
    order, step = draw.choice(_ORDERS), draw.choice((1, 2, -1))
    shown = draw.choice((3, 4)) if abs(step) == 1 else 3
    span = abs(step) * shown
    first = draw.randint(0, len(order) - 1 - span) if step > 0 else draw.randint(
        span, len(order) - 1
    )  # fmt: skip
    *told, answer = (order[first + step * k] for k in range(shown + 1))
    asked_for = ", ".join(told) + ","
    return ReasoningItem(asked_for, f" {answer}"), asked_for


def _deduction(draw: random.Random) -> tuple[ReasoningItem, str]:
    *shown, (asked_for, answer) = (_conclusion(draw) for _ in range(_SHOTS // 2 + 1))
    told = "\n".join(f"{problem} {result}." for problem, result in shown)
    return ReasoningItem(f"{told}\n{asked_for}", f" {answer}"), asked_for


def _conclusion(draw: random.Random) -> tuple[str, str]:
    a, b, c, d = draw.sample(_KINDS, 4)
    right, wrong = draw.sample(_COLOURS, 2)
    name, two_steps = draw.choice(_NAMES), draw.random() < 0.5
    chain = [f"Every {a} is a {b}. Every {b} is {right}."] if two_steps else [
        f"Every {a} is {right}."
    ]  # fmt: skip
    rules = [*chain, f"Every {c} is a {d}. Every {d} is {wrong}." if two_steps else
             f"Every {c} is {wrong}."]  # fmt: skip
    draw.shuffle(rules)
    return f"{' '.join(rules)} {name} is a {a}. So {name} is", right


_MAKERS: dict[str, Callable[[random.Random], tuple[ReasoningItem, str]]] = {
    "arithmetic": _arithmetic,
    "induction": _induction,
    "deduction": _deduction,
}
