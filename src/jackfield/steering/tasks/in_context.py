"""In-context tasks: what is asked for is shown by examples only, and the answer is one token.

    Q: hot
    A: cold            demonstrations, one a shot

    Q: big
    A:                 the question                        answer: " small"

A task is a list of pairs of words; a template says how a pair is written. Three kinds of prompts
come of them: with demonstrations, with demonstrations whose answers have changed places (the same
words, each with a wrong answer), and without any (zero-shot). After Todd et al. 2023 (arXiv
2310.15213), whose tasks these resemble; the word lists are our own.

Which answers are one token depends on the tokenizer and is found at run; the rest is left out.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jackfield.core.errors import InputError, did_you_mean, explain
from jackfield.steering.tasks.in_context_words import WORDS

if TYPE_CHECKING:
    from jackfield.model.model import Model

Pairs = Sequence[tuple[str, str]]

_TRIES = 200  # draws of demonstrations until their answers can change places


@dataclass(frozen=True)
class Template:
    r"""How a pair is written.

    Attributes:
        name: one word.
        pair: with {x} and, at the end behind a space, {y}.
        between: what stands between two pairs.

    >>> Template("arrow", "{x} -> {y}").prompt([("hot", "cold")], "big")
    'hot -> cold\nbig ->'
    """

    name: str
    pair: str
    between: str = "\n"

    def prompt(self, shown: Pairs, x: str) -> str:
        """The demonstrations and the question, up to its answer."""
        asked = self.pair.removesuffix(" {y}").format(x=x)
        return self.between.join([*(self.pair.format(x=a, y=b) for a, b in shown), asked])


TEMPLATES: dict[str, Template] = {
    each.name: each
    for each in (
        Template("qa", "Q: {x}\nA: {y}", "\n\n"),
        Template("arrow", "{x} -> {y}"),
        Template("colon", "{x}: {y}"),
        Template("io", "Input: {x}\nOutput: {y}", "\n\n"),
    )
}


@dataclass(frozen=True)
class Prompts:
    """Questions of one task in one template.

    Attributes:
        shown: with demonstrations.
        shuffled: with the same demonstrations, their answers in other places, all of them wrong.
        bare: without demonstrations.
        answers: the token id of each answer.
        words: the questions' own words.
    """

    shown: tuple[str, ...]
    shuffled: tuple[str, ...]
    bare: tuple[str, ...]
    answers: tuple[int, ...]
    words: tuple[str, ...]


@dataclass(frozen=True)
class InContextTask:
    """Pairs of words with one relation.

    Attributes:
        name: of the task.
        pairs: (question, answer); the answer's leading space is added by the template.

    >>> IN_CONTEXT["antonym"].pairs[0]
    ('hot', 'cold')
    """

    name: str
    pairs: tuple[tuple[str, str], ...] = field(repr=False)

    def usable(self, model: "Model") -> tuple[tuple[str, str], ...]:
        """The pairs whose answer is one token to the model."""
        return tuple(pair for pair in self.pairs if _one_token(model, pair[1]) is not None)

    def halves(self, model: "Model", seed: int = 0) -> tuple[Pairs, Pairs]:
        """The usable pairs in two random halves: to fit on, and to test on."""
        pairs = list(self.usable(model))
        random.Random(seed).shuffle(pairs)
        return pairs[: len(pairs) // 2], pairs[len(pairs) // 2 :]

    def prompts(
        self,
        model: "Model",
        template: str | Template,
        *,
        shots: int = 5,
        seed: int = 0,
        asked: Pairs | None = None,
        shown: Pairs | None = None,
    ) -> Prompts:
        """Questions in a template.

        Args:
            model: its tokenizer decides which answers are one token.
            template: one of `TEMPLATES`, by its name, or another.
            shots: demonstrations a prompt, drawn anew for each, never the question itself.
            seed: of the draws.
            asked: the pairs that are asked for; all usable ones if not given.
            shown: the pairs that demonstrations are drawn from; likewise.

        Raises:
            InputError: an unknown template, an answer of several tokens, too few pairs, or so few
                answers that demonstrations cannot all be given a wrong one.
        """
        form = template if isinstance(template, Template) else _template(template)
        asked, pool = (self.usable(model) if given is None else given for given in (asked, shown))
        if not asked or len({*pool}) <= shots or shots < 2:
            got = f"{len(pool)} pairs for {shots}, {len(asked)} to ask"
            expected = "2 or more shots, more pairs than shots, and a pair to ask for"
            raise InputError(
                explain(where=f"{model.name}, {self.name}", expected=expected, got=got)
            )
        draw = random.Random(seed)
        drawn = [self._drawn([p for p in pool if p != pair], shots, draw) for pair in asked]
        demonstrations, turned = zip(*drawn, strict=True)
        words = tuple(x for x, _ in asked)
        return Prompts(
            tuple(form.prompt(d, x) for d, x in zip(demonstrations, words, strict=True)),
            tuple(form.prompt(d, x) for d, x in zip(turned, words, strict=True)),
            tuple(form.prompt((), x) for x in words),
            tuple(self._answer(model, y) for _, y in asked),
            words,
        )

    def _drawn(self, pool: Pairs, shots: int, draw: random.Random) -> tuple[Pairs, Pairs]:
        """Demonstrations, and the same with wrong answers."""
        for _ in range(_TRIES):
            shown = draw.sample(pool, shots)
            if turned := _turned(shown):
                return shown, turned
        got = f"{len({y for _, y in pool})} answers for {shots} demonstrations"
        expected = "answers that can change places so that each is wrong"
        hint = "No answer may stand in more than half of them: take more pairs, or an even number."
        raise InputError(explain(where=self.name, expected=expected, got=got, hint=hint))

    def _answer(self, model: "Model", word: str) -> int:
        found = _one_token(model, word)
        if found is None:
            where = f"{model.name}, {self.name}"
            raise InputError(explain(where=where, expected="an answer of one token", got=word))
        return found


def _template(name: str) -> Template:
    if name not in TEMPLATES:
        expected, hint = f"one of {', '.join(TEMPLATES)}", did_you_mean(name, TEMPLATES)
        raise InputError(explain(where="template", expected=expected, got=name, hint=hint))
    return TEMPLATES[name]


def _one_token(model: "Model", word: str) -> int | None:
    ids = model.tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
    known = len(ids) == 1 and ids[0] != model.tokenizer.unk_token_id
    return ids[0] if known else None


def _turned(pairs: Pairs) -> Pairs | None:
    """Each question with the answer of the next, or of the one so far on that all are wrong."""
    questions, answers = zip(*pairs, strict=True)
    for turn in range(1, len(pairs)):
        other = [*answers[turn:], *answers[:turn]]
        if all(own != given for own, given in zip(answers, other, strict=True)):
            return list(zip(questions, other, strict=True))
    return None


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    cut = (each.partition(":") for each in text.split())
    return tuple((x, y) for x, _, y in cut)


IN_CONTEXT: dict[str, InContextTask] = {
    name: InContextTask(name, _pairs(text)) for name, text in WORDS.items()
}
