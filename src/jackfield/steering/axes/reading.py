"""Reading groups of texts at a site: one vector a text."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from jackfield.core.errors import InputError, SiteError, explain
from jackfield.steering.contrast import Pooling, read_contrast

if TYPE_CHECKING:
    from jackfield.model.model import Model


@dataclass(frozen=True)
class Groups:
    """What was read of some groups of texts.

    Attributes:
        site: its name.
        rows: of each group [text, d] float64.
        norm: mean length of the activation on the tokens read.
        tokens_read: how many.
    """

    site: str
    rows: tuple[Float[Tensor, "text d"], ...]
    norm: float
    tokens_read: int


def read_groups(
    model: "Model", groups: Sequence[Any], at: str, *, tokens: Pooling, where: Any, progress: bool
) -> Groups:
    """Reads two or more groups of texts at one site.

    Args:
        model: the model to read.
        groups: of each the texts, chats, or token ids [text, position].
        at: the site.
        tokens: what stands for a text: the mean of its tokens ("all") or its last one ("last").
        where: which tokens may be read.
        progress: show a live line.

    Raises:
        InputError: fewer than two groups, an empty one, or numbers that are not finite.
        SiteError: several sites, or one of another shape.
    """
    sizes = [len(each) for each in groups]
    if len(groups) < 2 or not min(sizes):
        got = f"groups of {', '.join(map(str, sizes)) or 'nothing'}"
        expected = "two groups of texts or more, none of them empty"
        raise InputError(explain(where=f"{model.name}, {at}", expected=expected, got=got))
    site = one_site(model, at)
    read = read_contrast(model, joined(groups[1:]), groups[0], site, tokens=tokens, where=where,
                         progress=progress)  # fmt: skip
    rest, first = read.sides(site)
    rows = (first, *rest.split(sizes[1:]))
    return Groups(site, rows, read.norm(site), read.tokens_read)


def one_site(model: "Model", at: str) -> str:
    """The name of the one site that `at` means.

    Raises:
        SiteError: it means several.
    """
    names = model.sites.select(at)
    if len(names) > 1:
        got = f"{at}, which are {len(names)}"
        raise SiteError(explain(where=f"{model.name}, {at}", expected="one site", got=got))
    return names[0]


def joined(groups: Sequence[Any]) -> Any:
    """The texts of all groups, in order; token ids as one tensor."""
    if all(isinstance(each, Tensor) for each in groups):
        return torch.cat(list(groups))
    return list(chain.from_iterable(groups))
