"""Dictionaries whose answers are known."""

from collections.abc import Callable

import pytest
import torch

from jackfield.dictionaries import SparseDictionary


def dictionary_of(
    directions: torch.Tensor,
    *,
    encoder: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    site: str = "x",
    radius: tuple[float, ...] = (),
) -> SparseDictionary:
    """z = relu(x · encoder), x̂ = z · directions + bias."""
    latents, d = directions.shape
    weights = {
        "encoder": directions if encoder is None else encoder,
        "encoder_bias": torch.zeros(latents),
        "centre": torch.zeros(d),
        "decoder": directions,
        "decoder_bias": torch.zeros(d) if bias is None else bias,
        "density": torch.zeros(latents),
        "threshold": torch.zeros(latents),
    }
    return SparseDictionary("planted", {}, weights, site=site, radius=radius, history=[])


@pytest.fixture
def make() -> Callable[..., SparseDictionary]:
    return dictionary_of


@pytest.fixture
def identity(make):
    """A dictionary of both signs of every unit: x̂ = x."""

    def of(d: int, site: str, **options: object) -> SparseDictionary:
        eye = torch.eye(d)
        return make(torch.cat([eye, -eye]), site=site, **options)

    return of
