"""Ontology questions: can rules over what is read in activations answer what the model cannot?

    Every wumpus is a tumpus. Every lorpus is a dumpus. … Max is a wumpus.
    True or false: Max is a tumpus.

Each question has a chain of made-up kinds that leads from what somebody is, and one that does not;
half of the statements end the first, half the second. Three answer:

    model    log p(" True") − log p(" False") over its median, the same bias for all questions
    rules    what somebody is, read from the last token of the text by probes fitted on other names
             and other chains; then the sentences "Every …" as rules
    told     the same rules from what somebody really is: what is lost by reading

After PrOntoQA (Saparov and He 2023, arXiv 2210.01240), as Helff, Härle et al. 2025 (2510.18184) use
it. The rules are taken from the sentences by their form, not by the model: what is compared is
reasoning, and the probes' reading of one fact.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Literal

import torch

from jackfield.core.config import config, setting
from jackfield.core.errors import InputError, explain
from jackfield.core.study import Result, Study
from jackfield.reports import Report, Table
from jackfield.reports.intervals import wilson
from jackfield.steering.behaviours import next_logits, word_ids
from jackfield.steering.rules.activation_reasoning import ActivationReasoning
from jackfield.steering.rules.concepts import Scorer
from jackfield.steering.rules.reasoning import Reasoning

if TYPE_CHECKING:
    from jackfield.model.model import Model

KINDS = ("wumpus", "tumpus", "lorpus", "dumpus", "yumpus", "zumpus", "gorpus", "rompus")
NAMES = ("Tom", "Ann", "Sam", "Eve", "Ben", "Kim", "Lee", "Amy")  # in the texts that are fitted on
ASKED = ("Max", "Sally", "Rex", "Polly", "Alex", "Stella")  # in the questions
_PROMPTS = 8  # in one forward
Who = Literal["model", "rules", "told"]


@dataclass(frozen=True)
class Question:
    """A question.

    Attributes:
        text: the sentences, the last of which says what `name` is.
        rules: the others, as rules.
        fact, statement: what `name` is, and what is asked.
        hops: sentences between them, of a statement that is true.
        truth: whether it is.
    """

    text: str
    rules: tuple[str, ...]
    name: str
    fact: str
    statement: str
    hops: int
    truth: bool

    @property
    def prompt(self) -> str:
        """As the model is asked."""
        return f"{self.text}\nTrue or false: {self.name} is a {self.statement}.\nAnswer:"


@dataclass(frozen=True)
class Answered:
    """A question's truth, and how it was answered."""

    hops: int
    truth: bool
    odds: float
    rules: bool
    told: bool
    read: bool


@config
class OntologyQuestions(Study):
    """Made-up ontologies, answered by a model and by rules over its activations.

    Attributes:
        hops: lengths of the chains.
        questions: of each length; half of them are true.
        fits: texts a kind that the probes are fitted on.
        scorer: of the concepts.
        seed: of the texts.

    >>> OntologyQuestions(hops=(2,), questions=4).made()[0].hops
    2
    """

    hops: tuple[int, ...] = (1, 2, 3)
    questions: int = setting(default=16, ge=2)
    fits: int = setting(default=6, ge=2)
    scorer: Scorer = setting(default="probe", choices=("direction", "probe"))
    seed: int = 0

    def made(self) -> tuple[Question, ...]:
        """The questions.

        Raises:
            InputError: chains for which there are not enough kinds.
        """
        if not self.hops or not all(1 <= each < len(KINDS) // 2 for each in self.hops):
            expected = f"hops from 1 to {len(KINDS) // 2 - 1}"
            where = "OntologyQuestions"
            raise InputError(explain(where=where, expected=expected, got=f"{self.hops}"))
        draw = torch.Generator().manual_seed(self.seed)
        return tuple(
            _question(draw, hops, index % 2 == 0, ASKED)
            for hops in self.hops
            for index in range(self.questions)
        )

    def run(self, model: "Model", at: str) -> "OntologyAnswers":
        """Fits the probes, and asks.

        Args:
            model: a language model with a tokenizer.
            at: the site [batch, position, d] that is read, such as layers.8.resid_post.

        Raises:
            InputError: a model without a tokenizer, or whose odds are not finite.
            SiteError: a site of another shape.
        """
        asked, reasoning = self.made(), self.reasoning(model, at)
        odds = _odds(model, [each.prompt for each in asked])
        answered = [_answered(model, reasoning, *pair) for pair in zip(asked, odds, strict=True)]
        return OntologyAnswers(model.name, reasoning.at, tuple(answered))

    def reasoning(self, model: "Model", at: str) -> Reasoning:
        """The kinds as concepts, read from the last token; it has no rules of use yet."""
        draw = torch.Generator().manual_seed(self.seed + 1)
        texts: dict[str, list[str]] = {kind: [] for kind in KINDS}
        for kind in KINDS:
            while len(texts[kind]) < self.fits:
                drawn = _question(draw, 1 + len(texts[kind]) % 3, True, NAMES, kind)
                texts[kind].append(drawn.text)
        method = ActivationReasoning(
            rules=tuple(f"{kind} -> known" for kind in KINDS), scorer=self.scorer, tokens="last",
            watch="last",
        )  # fmt: skip
        return method.fit(model, concepts=texts, at=at)


@dataclass(frozen=True)
class OntologyAnswers(Result):
    """The answers.

    Attributes:
        model, at: what was asked, and where it was read.
        answers: one a question.
    """

    model: str
    at: str
    answers: tuple[Answered, ...]

    def right(self, who: Who, hops: int | None = None) -> tuple[int, int]:
        """How many answers are right, of how many."""
        bias = median(each.odds for each in self.answers)
        counted = [each for each in self.answers if hops in (None, each.hops)]
        given = [each.odds > bias if who == "model" else getattr(each, who) for each in counted]
        return sum(a == e.truth for a, e in zip(given, counted, strict=True)), len(counted)

    def report(self) -> Report:
        """Shares of right answers with their intervals, by the length of the chain."""
        rows = []
        for hops in (*dict.fromkeys(each.hops for each in self.answers), None):
            for who in ("model", "rules", "told"):
                share = self.right(who, hops)
                rows.append([hops or "all", who, share[1], share[0] / share[1], *wilson(*share)])
        columns = ["hops", "who", "questions", "right", "low (95 %)", "high (95 %)"]
        table = Table(columns, rows, formats=dict.fromkeys(columns[3:], ".2f"))
        return Report("Ontology questions", [table], summary=self._sentence())

    def _sentence(self) -> str:
        shares = []
        for who in ("model", "rules"):
            right, count = self.right(who)
            low, high = wilson(right, count)
            shares.append(f"{right / count:.0%} ({low:.0%} to {high:.0%})")
        read = sum(each.read for each in self.answers) / len(self.answers)
        return (
            f"Of {len(self.answers)} questions {self.model} answers {shares[0]} rightly, rules "
            f"over what is read at {self.at} {shares[1]}; the fact is read rightly in {read:.0%}."
        )


def _question(
    draw: torch.Generator, hops: int, truth: bool, names: Sequence[str], fact: str = ""
) -> Question:
    kinds = [KINDS[i] for i in torch.randperm(len(KINDS), generator=draw)]
    if fact:
        kinds = [fact, *(kind for kind in kinds if kind != fact)]
    chain, other = kinds[: hops + 1], kinds[hops + 1 : 2 * hops + 2]
    pairs = [(a, b) for each in (chain, other) for a, b in pairwise(each)]
    pairs = [pairs[i] for i in torch.randperm(len(pairs), generator=draw)]
    name = names[int(torch.randint(len(names), (), generator=draw))]
    sentences = [f"Every {a} is a {b}." for a, b in pairs]
    text = " ".join([*sentences, f"{name} is a {chain[0]}."])
    rules = tuple(f"{a} -> {b}" for a, b in pairs)
    return Question(text, rules, name, chain[0], (chain if truth else other)[-1], hops, truth)


def _odds(model: "Model", prompts: Sequence[str]) -> list[float]:
    """The log-odds of " True" against " False" after each, in nats."""
    true, false = (word_ids(model, (word,)) for word in (" True", " False"))
    found: list[float] = []
    for start in range(0, len(prompts), _PROMPTS):
        log_p = next_logits(model, prompts[start : start + _PROMPTS]).log_softmax(dim=-1)
        found += (log_p[:, true] - log_p[:, false])[:, 0].tolist()
    if not all(map(torch.isfinite, torch.tensor(found))):
        where = f"{model.name}, OntologyQuestions"
        raise InputError(explain(where=where, expected="finite odds", got="NaN or Inf"))
    return found


def _answered(model: "Model", reasoning: Reasoning, asked: Question, odds: float) -> Answered:
    read = reasoning.with_rules(asked.rules).read(model, [asked.text])
    told = {asked.fact}
    for _ in asked.rules:
        told |= {b for a, b in (rule.split(" -> ") for rule in asked.rules) if a in told}
    seen = read.rows[0].seen
    holds = asked.statement in read.known and read.holds(asked.statement)[0] is True
    return Answered(
        asked.hops, asked.truth, odds, holds, asked.statement in told, seen == (asked.fact,)
    )
