"""NMF: monotone, never negative, as good as scikit-learn's; planted parts and their control."""

from itertools import pairwise

import pytest
import torch

from jackfield.core.errors import ConfigError, InputError
from jackfield.dictionaries import NMF, fvu
from jackfield.streams import Stream


def planted(parts: int = 5, d: int = 15, rows: int = 300):
    """Rows that are sums of parts with three units each, amounts mostly 0."""
    draw = torch.Generator().manual_seed(5)
    D = torch.nn.functional.normalize(torch.eye(parts).repeat_interleave(d // parts, dim=1))
    amounts = torch.rand(rows, parts, generator=draw) * (
        torch.rand(rows, parts, generator=draw) < 0.5
    )
    return amounts @ D, D, draw


def recovered(x: torch.Tensor, D: torch.Tensor) -> float:
    found = NMF(latents=len(D), tolerance=1e-5).fit(Stream.from_tensor(x)).directions
    return float((D @ found.T).amax(dim=1).mean())


def test_planted_parts_are_found_and_in_noise_they_are_not():
    x, D, draw = planted()
    assert recovered(x + 0.01 * torch.rand(x.shape, generator=draw), D) > 0.98
    assert recovered(torch.rand(x.shape, generator=draw), D) < 0.85


def test_codes_and_directions_are_never_negative_and_the_error_never_rises():
    x = torch.rand(200, 12, generator=torch.Generator().manual_seed(6))
    nmf = NMF(latents=5, passes=30, tolerance=0).fit(Stream.from_tensor(x))
    assert (nmf.directions >= 0).all()
    assert (nmf.encode(x) >= 0).all()
    errors = [point["error"] for point in nmf.history]
    assert all(b <= a * (1 + 1e-6) for a, b in pairwise(errors))
    assert errors[-1] < 0.9 * errors[0]


def test_it_is_as_good_as_scikit_learns():
    from sklearn import decomposition

    x = torch.rand(200, 12, generator=torch.Generator().manual_seed(6))
    ours = NMF(latents=5, passes=200, tolerance=1e-6).fit(Stream.from_tensor(x))
    model = decomposition.NMF(5, init="nndsvda", max_iter=2000, tol=1e-6)
    rebuilt = model.fit_transform(x.numpy()) @ model.components_
    assert ours.figures["FVU"] < 1.05 * fvu(x, torch.from_numpy(rebuilt))


def test_negative_rows_and_too_many_latents_are_refused():
    x = torch.rand(20, 4)
    x[3, 1] = -0.5
    with pytest.raises(InputError, match=r"never negative, got -0.5.*SNMF"):
        NMF(latents=2).fit(Stream.from_tensor(x))
    with pytest.raises(ConfigError, match="latents <= 20"):
        NMF(latents=21).fit(Stream.from_tensor(x.abs()))
