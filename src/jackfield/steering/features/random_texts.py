"""Random tokens: sequences of ids drawn evenly from the vocabulary, which say nothing.

What a model does on them it does on any text, so it is no sign of a language or a topic (LangFIR,
arXiv 2604.03532).
"""

from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from torch import Tensor

from jackfield.core.errors import InputError, explain

if TYPE_CHECKING:
    from jackfield.model.model import Model


def random_texts(
    model: "Model", count: int, length: int, seed: int
) -> Int[Tensor, "text position"]:
    """Random token ids, special tokens left out.

    Args:
        model: gives the vocabulary.
        count: sequences.
        length: tokens in each.
        seed: of the draw.

    Raises:
        InputError: a model without a vocabulary.
    """
    size = getattr(model.config, "vocab_size", None)
    if not size:
        expected = "a model that reads token ids"
        raise InputError(
            explain(where=f"{model.name}, random tokens", expected=expected, got="none")
        )
    ids = torch.arange(size if model.tokenizer is None else min(size, len(model.tokenizer)))
    special = [] if model.tokenizer is None else model.tokenizer.all_special_ids
    plain = ids[~torch.isin(ids, torch.tensor(special, dtype=ids.dtype))]
    draw = torch.Generator().manual_seed(seed)
    return plain[torch.randint(len(plain), (count, length), generator=draw)]
