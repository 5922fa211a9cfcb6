"""IOI: the indirect-object battery, "When John and Mary went to the store, John gave a drink to".

The answer is the name that stands once (IO); the other (S) stands twice. Each clean prompt has a
corrupted twin that differs in one token, so that positions correspond:

    "name"      another name in IO's place:  … John and Anna …, John gave …   wrong: Anna
    "swapped"   IO's name in S2's place:     … John and Mary …, Mary gave …   wrong: John
    "abc"       a third name in S2's place:  … John and Mary …, Tom gave …    wrong: John

"name" finds the way of the name itself; "swapped" and "abc" the way of the information which of
two names is the repeated one. Wang et al. 2022 (arXiv 2211.00593), whose templates these resemble.
Departure: their ABC replaces all three names; here two of them stay, so that one token differs.

Names, places and objects are used only if they are one token in the model's tokenizer.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from jackfield.circuits.metrics import LogitDifference, is_one_token, token_id
from jackfield.core.battery import Battery
from jackfield.core.config import config, setting
from jackfield.core.errors import InputError, explain
from jackfield.core.study import Result
from jackfield.reports import Report, Table

if TYPE_CHECKING:
    from jackfield.model.model import Model

TEMPLATES = (
    "When {A} and {B} went to the {place}, {S} gave a {object} to",
    "After {A} and {B} went to the {place}, {S} gave a {object} to",
    "Then, {A} and {B} went to the {place}. {S} gave a {object} to",
    "While {A} and {B} were working at the {place}, {S} gave a {object} to",
    "When {A} and {B} got a {object} at the {place}, {S} decided to give it to",
    "Friends {A} and {B} found a {object} at the {place}. {S} gave it to",
)
NAMES = tuple(
    "Mary John Anna Tom James Sarah David Emily Peter Laura Michael Alice Robert Emma Paul Julia "
    "Mark Rachel Daniel Helen George Jane Henry Kate Simon Lucy Adam Claire Brian Susan Kevin Amy "
    "Jack Rose Sam Grace Max Jessica Ben Lisa".split()
)
PLACES = tuple("store garden school hospital office station house market library park".split())
OBJECTS = tuple("drink ring book letter gift ball computer basket cup card".split())

_BATCH = 32


@dataclass(frozen=True)
class IOIExample:
    """One pair of prompts.

    Attributes:
        clean, corrupted: the prompts, of the same number of tokens.
        answer, wrong: the continuations to compare, each one token with its space.
        labels: [position] the tokens, with IO, S1, S2, place and object in the place of the words
            that vary over examples.
    """

    clean: str
    corrupted: str
    answer: str
    wrong: str
    labels: tuple[str, ...]


@config
class IOI(Battery):
    """Indirect-object prompts from one template, aligned token by token.

    Attributes:
        corrupt: how the twin differs; see the head of this file.
        order: "baba" (S before IO, as in John and Mary … John) or "abba" (IO before S).
        template: index into `TEMPLATES`. One at a time, so that positions mean the same in all.

    >>> from jackfield.testing import tiny_llama
    >>> model = tiny_llama(texts=[*TEMPLATES, " " + " ".join([*NAMES, *PLACES, *OBJECTS])])
    >>> (example,) = IOI(corrupt="swapped").examples(model, 1)
    >>> example.clean.count(example.answer), example.corrupted.count(example.answer)
    (1, 2)
    """

    corrupt: Literal["name", "swapped", "abc"] = "name"
    order: Literal["baba", "abba"] = "baba"
    template: int = setting(default=0, ge=0, lt=len(TEMPLATES))

    def examples(self, model: "Model", n: int, seed: int = 0) -> list[IOIExample]:
        """`n` pairs; the same seed gives the same ones.

        Raises:
            InputError: the tokenizer has too few of the names as single tokens.
        """
        words = [_single(model, each) for each in (NAMES, PLACES, OBJECTS)]
        draw = random.Random(seed)
        return [self._example(model, draw, *words) for _ in range(n)]

    def _example(
        self,
        model: "Model",
        draw: random.Random,
        names: Sequence[str],
        places: Sequence[str],
        objects: Sequence[str],
    ) -> IOIExample:
        io, subject, third = draw.sample(names, 3)
        place, thing = draw.choice(places), draw.choice(objects)
        first, second = (subject, io) if self.order == "baba" else (io, subject)
        last = {"name": subject, "swapped": io, "abc": third}[self.corrupt]
        swap = {io: third} if self.corrupt == "name" else {}
        clean = self._prompt(first, second, subject, place, thing)
        return IOIExample(
            clean=clean,
            corrupted=self._prompt(
                swap.get(first, first), swap.get(second, second), last, place, thing
            ),
            answer=f" {io}",
            wrong=f" {third}" if self.corrupt == "name" else f" {subject}",
            labels=_labels(model, clean, io=io, subject=subject, place=place, thing=thing),
        )

    def _prompt(self, first: str, second: str, subject: str, place: str, thing: str) -> str:
        text = TEMPLATES[self.template]
        return text.format(A=first, B=second, S=subject, place=place, object=thing)

    @staticmethod
    def as_pairs(examples: Sequence[IOIExample]) -> dict[str, Any]:
        """The examples as arguments of `patch`: clean, corrupted, metric and labels."""
        return {
            "clean": [each.clean for each in examples],
            "corrupted": [each.corrupted for each in examples],
            "metric": LogitDifference(
                [each.answer for each in examples], [each.wrong for each in examples]
            ),
            "labels": examples[0].labels,
        }

    def measure(self, model: "Model", examples: Sequence[IOIExample]) -> "IOIAccuracy":
        """How often the model itself prefers the answer on the clean prompts."""
        right = torch.tensor([token_id(model, each.answer) for each in examples])
        wrong = torch.tensor([token_id(model, each.wrong) for each in examples])
        logits = torch.cat(
            [
                model.run([e.clean for e in examples[i : i + _BATCH]], padding="left").logits[:, -1]
                for i in range(0, len(examples), _BATCH)
            ]
        ).float().cpu()  # fmt: skip
        rows = torch.arange(len(examples))
        difference = logits[rows, right] - logits[rows, wrong]
        return IOIAccuracy(
            model=model.name,
            differences=tuple(difference.tolist()),
            probabilities=tuple(logits.softmax(dim=-1)[rows, right].tolist()),
            first=tuple((logits.argmax(dim=-1) == right).tolist()),
        )


@dataclass(frozen=True)
class IOIAccuracy(Result):
    """The model's own performance, one value an example.

    Attributes:
        model: its name.
        differences: logit(answer) − logit(wrong).
        probabilities: of the answer.
        first: whether the answer is the likeliest token of all.
    """

    model: str
    differences: tuple[float, ...]
    probabilities: tuple[float, ...]
    first: tuple[bool, ...]

    @property
    def accuracy(self) -> float:
        """The share of examples in which the answer beats the wrong name."""
        return sum(each > 0 for each in self.differences) / len(self.differences)

    def report(self) -> Report:
        """A table of shares with their 95 % intervals, and one sentence."""
        count = len(self.differences)
        rows = [
            ["answer above wrong name", self.accuracy, *_wilson(self.accuracy, count)],
            ["answer likeliest of all", share := sum(self.first) / count, *_wilson(share, count)],
            ["probability of the answer", *_mean_interval(self.probabilities)],
            ["logit difference", *_mean_interval(self.differences)],
        ]
        summary = f"{self.model} prefers the indirect object in {self.accuracy:.0%} of {count}."
        return Report(
            "Indirect object",
            [Table(["measure", "value", "low (95 %)", "high (95 %)"], rows)],
            summary=summary,
        )


def _single(model: "Model", words: Sequence[str]) -> list[str]:
    found = [word for word in words if is_one_token(model, f" {word}")]
    if len(found) < 3:
        raise InputError(
            explain(
                where=f"{model.name}, IOI",
                expected=f"at least 3 words of one token among {', '.join(words[:3])} …",
                got=str(len(found)),
            )
        )
    return found


def _labels(
    model: "Model", clean: str, *, io: str, subject: str, place: str, thing: str
) -> tuple[str, ...]:
    tokens = model.token_strings(model.tokenizer(clean)["input_ids"])
    roles = {f" {io}": "IO", f" {place}": "place", f" {thing}": "object"}
    seen = 0
    for index, token in enumerate(tokens):
        if token == f" {subject}":
            seen += 1
            tokens[index] = f"S{seen}"
        else:
            tokens[index] = roles.get(token, token)
    return tuple(tokens)


def _wilson(share: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927)."""
    z = 1.96
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * (share * (1 - share) / count + z * z / (4 * count**2)) ** 0.5 / (1 + z * z / count)
    return max(0.0, centre - half), min(1.0, centre + half)


def _mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The mean and its 95 % interval by bootstrap over the examples."""
    held = torch.tensor(values, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(len(held), (1000, len(held)), generator=generator)
    tails = torch.tensor([0.025, 0.975], dtype=torch.float64)
    low, high = held[drawn].mean(dim=1).quantile(tails).tolist()
    return float(held.mean()), low, high
