"""Made: where foreign weights become a dictionary of ours, and which of ours may leave."""

from typing import Any

import torch

from jackfield.core.errors import InputError, explain
from jackfield.dictionaries.formats.lengths import Weights, folded
from jackfield.dictionaries.sparse_dictionary import SparseDictionary


def dictionary(
    name: str,
    weights: Weights,
    sites: tuple[str, str],
    settings: dict[str, Any],
    *,
    k: int | None = None,
    ranks_by_length: bool = False,
) -> SparseDictionary:
    """The dictionary of foreign weights.

    Args:
        name: of the method, as ours is called.
        weights: as in `SparseDictionary`, decoder rows of any length. Without "density" the
            densities are NaN, which is to say unknown.
        sites: what is read and what is rebuilt.
        settings: what to keep of the file's settings.
        k: for the rule of the k largest.
        ranks_by_length: see `folded`.
    """
    given = folded(weights, ranks_by_length=ranks_by_length)
    unknown = torch.full_like(given["encoder_bias"], torch.nan)
    return SparseDictionary(
        name,
        settings,
        {"density": unknown} | given,
        site=sites[1],
        sources=(sites[0],),
        k=k,
        history=[],
    )


def check_one_source(dictionary: SparseDictionary, where: str) -> bool:
    """Whether it is a transcoder.

    Raises:
        InputError: it reads several sites, or has a linear part and rebuilds what it reads.
    """
    transcoder = dictionary.sources != (dictionary.site,)
    if len(dictionary.sources) != 1 or (dictionary.skip is not None and not transcoder):
        expected = "an autoencoder, or a transcoder that reads one site"
        sources = ", ".join(dictionary.sources)
        got = f"{dictionary.name} that reads {sources} and rebuilds {dictionary.site}"
        raise InputError(explain(where=where, expected=expected, got=got))
    return transcoder
