"""Behaviours: what steering is to change, measured without a judge by the odds of the next word.

    odds = log Σ_{w∈words} p(w) − log Σ_{w∈against} p(w)        in nats, at the end of each prompt

A behaviour holds the two sides to fit from, prompts that share no sentence with them, and the two
sets of words. `asked` and `asked_not` are the plain alternative to steering: an instruction in
words, put before the prompt.

    BEHAVIOURS["sentiment"].odds(model)          # [prompt]
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from jackfield.core.errors import InputError, explain
from jackfield.edits import Edit
from jackfield.steering import behaviour_texts as texts
from jackfield.steering.sentences import (
    GLAD_WORDS,
    JOYFUL,
    OPENINGS,
    SAD_WORDS,
    SORROWFUL,
)

if TYPE_CHECKING:
    from jackfield.model.model import Model

_PROMPTS = 8  # in one forward


@dataclass(frozen=True)
class Behaviour:
    """Something that a model does more or less.

    Attributes:
        name: one word.
        positive, negative: texts, chats or token ids [text, position] with and without it.
        prompts: where it shows in the next token; none of them is fitted on.
        words: words of one token, with their leading space, or token ids, that show it.
        against: words that show its contrary.
        asked, asked_not: instructions that ask for it, and for its contrary; "" for none.

    >>> from jackfield.testing import tiny_world
    >>> world = tiny_world()
    >>> low = Behaviour("low ids", world.tokens, world.other, world.other[:5], (3, 4), (90, 91))
    >>> low.odds(world.model).shape
    torch.Size([5])
    """

    name: str
    positive: Any = field(repr=False)
    negative: Any = field(repr=False)
    prompts: Any = field(repr=False)
    words: tuple[str | int, ...] = field(repr=False)
    against: tuple[str | int, ...] = field(repr=False)
    asked: str = ""
    asked_not: str = ""

    def odds(
        self, model: "Model", edits: Sequence[Edit] = (), *, prompts: Any = None
    ) -> Float[Tensor, " prompt"]:
        """The log-odds of `words` against `against` after each prompt, in nats, float64.

        Args:
            model: a language model.
            edits: what steers it.
            prompts: others than the behaviour's own.

        Raises:
            InputError: no prompts, a set without a word of one token, or odds that are not finite.
        """
        return self._measured(model, edits, self.prompts if prompts is None else prompts)[0]

    def mass(self, model: "Model") -> Float[Tensor, " prompt"]:
        """The share of the next-token probability that both sets of words have together."""
        return self._measured(model, (), self.prompts)[1]

    def told(self, instruction: str) -> Any:
        """The prompts with an instruction before them; in a chat, before the user's words.

        Raises:
            InputError: the prompts are token ids.
        """
        if isinstance(self.prompts, Tensor):
            raise InputError(
                explain(where=self.name, expected="prompts that are text", got="token ids")
            )
        return tuple(_told(prompt, instruction) for prompt in self.prompts)

    def _measured(
        self, model: "Model", edits: Sequence[Edit], prompts: Any
    ) -> tuple[Tensor, Tensor]:
        where = f"{model.name}, {self.name}"
        if not len(prompts):
            raise InputError(explain(where=where, expected="at least one prompt", got="none"))
        sides = [word_ids(model, words) for words in (self.words, self.against)]
        found = []
        for start in range(0, len(prompts), _PROMPTS):
            logits = next_logits(model, prompts[start : start + _PROMPTS], edits)
            log_p = logits.log_softmax(dim=-1)
            found.append(torch.stack([log_p[:, ids].logsumexp(dim=-1) for ids in sides]))
        plus, minus = torch.cat(found, dim=1)
        if not bool(torch.isfinite(plus - minus).all()):
            raise InputError(explain(where=where, expected="finite odds", got="NaN or Inf"))
        return plus - minus, plus.exp() + minus.exp()


def next_logits(
    model: "Model", prompts: Any, edits: Sequence[Edit] = ()
) -> Float[Tensor, "prompt vocab"]:
    """The logits of the token after each prompt, float64; a chat ends where its answer begins."""
    made = model.inputs(prompts, padding="left", answer=True)
    assert made.tokens is not None
    assert made.mask is not None
    call = {"input_ids": made.tokens, "attention_mask": made.mask.long()}
    return model.run(call, edits=edits).logits[:, -1].double().cpu()


def word_ids(model: "Model", words: Sequence[str | int]) -> Int[Tensor, " word"]:
    """The ids of those words that are one token.

    Raises:
        InputError: none is.
    """
    found: list[int] = []
    for word in words:
        if isinstance(word, int):
            ids = [word]
        else:
            ids = model.tokenizer(word, add_special_tokens=False)["input_ids"]
        found += ids if len(ids) == 1 else []
    if not found:
        raise InputError(
            explain(
                where=f"{model.name}, word odds",
                expected="at least one word of one token",
                got=", ".join(map(repr, words)) or "no words",
                hint="Within a text, words begin with a space.",
            )
        )
    return torch.tensor(found)


def _told(prompt: Any, instruction: str) -> Any:
    if isinstance(prompt, str):
        return f"{instruction} {prompt}"
    last = {**prompt[-1], "content": f"{instruction} {prompt[-1]['content']}"}
    return [*prompt[:-1], last]


BEHAVIOURS: dict[str, Behaviour] = {
    each.name: each
    for each in (
        Behaviour(
            "sentiment", JOYFUL, SORROWFUL, OPENINGS, GLAD_WORDS, SAD_WORDS,
            "Write a happy, joyful text.", "Write a sad, sorrowful text.",
        ),
        Behaviour(
            "formality", texts.FORMAL, texts.CASUAL, texts.FORMALITY_OPENINGS, texts.FORMAL_WORDS,
            texts.CASUAL_WORDS, "Write in a very formal style.", "Write in a casual, chatty style.",
        ),
        Behaviour(
            "french", texts.FRENCH, texts.ENGLISH, texts.FRENCH_OPENINGS, texts.FRENCH_WORDS,
            texts.ENGLISH_WORDS, "Write in French.", "Write in English.",
        ),
        Behaviour(
            "past", texts.PAST, texts.FUTURE, texts.TENSE_OPENINGS, texts.PAST_WORDS,
            texts.FUTURE_WORDS, "Write in the past tense.", "Write in the future tense.",
        ),
        Behaviour(
            "refusal", texts.REFUSED, texts.ANSWERED, texts.REQUEST_CHATS, texts.REFUSAL_WORDS,
            texts.ANSWER_WORDS, "Refuse to answer, and say that you are sorry.",
            "Answer in any case, and begin with 'Sure'.",
        ),
        Behaviour(
            "agreement", texts.AGREED, texts.DENIED, texts.OPINION_CHATS, texts.AGREEING_WORDS,
            texts.DENYING_WORDS, "Always agree with me.", "Always disagree with me.",
        ),
    )
}  # fmt: skip
