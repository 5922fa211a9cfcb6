"""Answers: texts that a model is to say, each perhaps after a prompt, and which tokens count.

    prompt tokens | answer tokens | padding         the loss is on the answer's tokens only

A prompt and its answer are tokenised one by one, so that the prompt's ids are those that the model
will be given, and no token lies on the border. What is to be said ends where the text ends: write
the end of a turn into it if that is to be learned, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from jackfield.core.errors import InputError, explain
from jackfield.core.where import Coordinates, Where
from jackfield.steering.learned_tokens import check_prompted, narrowed

if TYPE_CHECKING:
    from jackfield.model.model import Model


@dataclass(frozen=True)
class Answers:
    """Rows of tokens, padded on the right.

    Attributes:
        tokens: [text, position] ids.
        mask: [text, position] True on tokens, False on padding.
        lengths: [text] tokens of the prompt; of the whole text where there is none.
        said: [text, position] True on the tokens that are to be said: those of the answer, or of a
            text without a prompt all but the first, which nothing predicts.
    """

    tokens: Int[Tensor, "text position"]
    mask: Bool[Tensor, "text position"]
    lengths: Int[Tensor, "text"]  # noqa: F821
    said: Bool[Tensor, "text position"]

    def __len__(self) -> int:
        return len(self.tokens)

    def same_as(self, other: "Answers") -> bool:
        """Whether both are the same texts in the same order."""
        return self.tokens.shape == other.tokens.shape and torch.equal(self.tokens, other.tokens)

    def chosen(self, rule: Where, sinks: tuple[int, ...]) -> Bool[Tensor, "text position"]:
        """Which tokens a rule means."""
        places = (self.mask.long().cumsum(dim=1) - 1).masked_fill(~self.mask, -1)
        return rule.mask(Coordinates(places, self.lengths, self.tokens, sinks))


def first_and_last(count: int) -> tuple[int, ...]:
    """The first and the last `count` positions of a prompt, as a `where`.

    >>> first_and_last(2)
    (0, 1, -2, -1)
    """
    return (*range(count), *range(-count, 0))


def edited_tokens(model: "Model", rule: Any, prompts: Any) -> Where:
    """The tokens that are edited while an edit is learned: those of a rule that are no sinks.

    Raises:
        InputError: the rule asks where the prompt ends, and there are no prompts.
    """
    check_prompted(model, rule, prompted=prompts is not None)
    return narrowed(rule, "~sinks")


def answers(model: "Model", texts: Any, prompts: Any = None, *, side: str = "positive") -> Answers:
    """Encodes texts to say.

    Args:
        model: a language model.
        texts: strings, or token ids [text, position].
        prompts: as many strings, chats, or token ids [text, position]; None for none.
        side: what the texts are, for messages.

    Raises:
        InputError: no texts, one without a token to say, or not as many prompts.
    """
    label = f"{model.name}, {side} texts"
    listed = [texts] if isinstance(texts, str) else texts
    if not len(listed):
        raise InputError(explain(where=label, expected="at least one", got="none"))
    if prompts is None:
        return _alone(model, listed, label)
    before = [prompts] if isinstance(prompts, str) else prompts
    if len(before) != len(listed):
        expected = f"one prompt for each of the {len(listed)}"
        raise InputError(explain(where=label, expected=expected, got=f"{len(before)}"))
    made = model.inputs(before, answer=True)
    assert made.tokens is not None
    assert made.mask is not None
    heads = [ids[real] for ids, real in zip(made.tokens.cpu(), made.mask.cpu(), strict=True)]
    tails = [_ids(model, text) for text in listed]
    _check_said([len(tail) for tail in tails], label)
    return _rows(heads, tails)


def _alone(model: "Model", texts: Sequence[Any], label: str) -> Answers:
    """Texts without prompts."""
    made = model.inputs(texts)
    assert made.tokens is not None
    assert made.mask is not None
    mask = made.mask.cpu()
    lengths = mask.sum(dim=1)
    said = mask & (mask.cumsum(dim=1) > 1)
    _check_said(said.sum(dim=1).tolist(), label)
    return Answers(made.tokens.cpu(), mask, lengths, said)


def _rows(heads: Sequence[Tensor], tails: Sequence[Tensor]) -> Answers:
    longest = max(len(head) + len(tail) for head, tail in zip(heads, tails, strict=True))
    tokens = torch.zeros(len(heads), longest, dtype=torch.long)
    mask, said = torch.zeros(2, len(heads), longest, dtype=torch.bool)
    for row, (head, tail) in enumerate(zip(heads, tails, strict=True)):
        stop = len(head) + len(tail)
        tokens[row, :stop] = torch.cat([head, tail])
        mask[row, :stop], said[row, len(head) : stop] = True, True
    return Answers(tokens, mask, torch.tensor([len(head) for head in heads]), said)


def _ids(model: "Model", text: Any) -> Tensor:
    if isinstance(text, Tensor):
        return text.cpu().long()
    return torch.tensor(model.tokenizer(text, add_special_tokens=False)["input_ids"]).long()


def _check_said(counts: Sequence[int], label: str) -> None:
    empty = next((row for row, count in enumerate(counts) if not count), None)
    if empty is not None:
        got = f"none in text {empty}"
        raise InputError(explain(where=label, expected="a token to say in each text", got=got))
