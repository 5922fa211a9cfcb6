"""Preference pairs as tokens: a prompt, the answer to prefer, the answer to avoid.

Prompt and answer are tokenised apart and put together, so that the answer's first token is known
exactly; where a tokenizer would merge across the border, it does not here. Without prompts a text
is all answer but its first token, which nothing predicts; of a chat the last message is the answer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from jackfield.core.errors import InputError, explain
from jackfield.model.inputs import pad

if TYPE_CHECKING:
    from jackfield.model.model import Model


@dataclass(frozen=True)
class Pairs:
    """Both answers of some prompts, padded on the right.

    Attributes:
        tokens: [2, pair, position] ids; first the preferred answers, then the others.
        mask: [2, pair, position] True on real tokens.
        answer: [2, pair, position] True on tokens of the answer.
        prompts: [2, pair] how many tokens come before the answer.
        prompted: whether they are prompts, and not the first tokens of whole texts.
    """

    tokens: Int[Tensor, "2 pair position"]
    mask: Bool[Tensor, "2 pair position"]
    answer: Bool[Tensor, "2 pair position"]
    prompts: Int[Tensor, "2 pair"]
    prompted: bool

    def __len__(self) -> int:
        return self.tokens.shape[1]


def preference_pairs(model: "Model", positive: Any, negative: Any, prompts: Any = None) -> Pairs:
    """Tokenises pairs.

    Args:
        model: gives the tokenizer.
        positive: answers to prefer: strings, or rows of token ids.
        negative: as many to avoid; answer i of both sides is to prompt i.
        prompts: as many: strings, chats, or rows of token ids; None if the answers are whole texts
            or chats.

    Raises:
        InputError: no pairs, sides or prompts of different number, or an answer without a token.
    """
    where = f"{model.name}, preference pairs"
    positive, negative, prompts = (
        [given] if isinstance(given, str) else given for given in (positive, negative, prompts)
    )
    counts = [len(positive), len(negative), *([] if prompts is None else [len(prompts)])]
    if len(set(counts)) > 1 or not counts[0]:
        expected = "as many answers to avoid as to prefer, and a prompt for each, at least one"
        raise InputError(
            explain(where=where, expected=expected, got=" and ".join(map(str, counts)))
        )
    rows, lengths = [], []
    for side in (positive, negative):
        for index, text in enumerate(side):
            before, after = _parts(model, text, None if prompts is None else prompts[index])
            if not after:
                got = f"none in pair {index}"
                raise InputError(explain(where=where, expected="a token to answer with", got=got))
            rows.append(before + after)
            lengths.append(len(before))
    ids, mask = pad(rows, side="right", value=0)
    started = torch.tensor(lengths)
    answer = mask & (torch.arange(ids.shape[1]) >= started[:, None])
    ids, mask, answer, started = (
        x.unflatten(0, (2, counts[0])) for x in (ids, mask, answer, started)
    )
    prompted = prompts is not None or all(map(_is_chat, [*positive, *negative]))
    return Pairs(ids, mask, answer, started, prompted)


def _parts(model: "Model", text: Any, prompt: Any) -> tuple[list[int], list[int]]:
    """The ids of a prompt and of its answer."""
    if prompt is None and _is_chat(text):
        prompt, text = text[:-1], text[-1]["content"]
    if prompt is None:
        ids = _ids(model, text)
        return ids[:1], ids[1:]
    if isinstance(text, str):
        answer = model.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
    else:
        answer = torch.as_tensor(text).tolist()
    return _ids(model, prompt), answer


def _is_chat(given: Any) -> bool:
    return isinstance(given, Sequence) and bool(given) and isinstance(given[0], Mapping)


def _ids(model: "Model", given: Any) -> list[int]:
    """The ids of one text, of one chat up to where its answer begins, or of a row of ids."""
    row = torch.as_tensor(given) if _is_row(given) else given
    tokens = model.inputs(row, answer=True).tokens
    assert tokens is not None
    ids: list[int] = tokens[0].tolist()
    return ids


def _is_row(given: Any) -> bool:
    return isinstance(given, Sequence) and bool(given) and isinstance(given[0], int)
