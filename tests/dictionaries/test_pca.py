"""PCA: against the SVD of all rows, its optimality, a planted plane and its control."""

import pytest
import torch

from jackfield.core.errors import ConfigError
from jackfield.dictionaries import PCA, KMeans
from jackfield.streams import Stream


@pytest.fixture(scope="module")
def x():
    draw = torch.Generator().manual_seed(1)
    return torch.randn(300, 10, generator=draw) @ torch.randn(10, 10, generator=draw) + 1000


def test_it_is_the_singular_vectors_of_all_rows_whatever_the_batches(x):
    centred = (x.double() - x.double().mean(dim=0)).float()
    U, S, V = torch.linalg.svd(centred, full_matrices=False)
    for batch in (7, 300):
        pca = PCA(latents=4).fit(Stream.from_tensor(x, batch=batch))
        assert ((pca.directions * V[:4]).sum(dim=1).abs() > 1 - 1e-5).all()
        torch.testing.assert_close(pca.encode(x).abs(), (U * S)[:, :4].abs(), rtol=1e-3, atol=2e-3)
        expected = float(S[4:].square().sum() / S.square().sum())
        assert pca.figures["FVU"] == pytest.approx(expected, rel=1e-3)
        assert pca.figures["variance explained"] == pytest.approx(1 - expected, rel=1e-4)


def test_all_latents_rebuild_the_rows_and_codes_do_not_correlate(x):
    pca = PCA(latents=10).fit(Stream.from_tensor(x))
    torch.testing.assert_close(pca.reconstruct(x), x, rtol=0, atol=2e-3)
    correlation = pca.encode(x).T.corrcoef()
    torch.testing.assert_close(correlation, torch.eye(10), rtol=0, atol=1e-3)


def test_no_linear_dictionary_of_so_many_latents_is_better(x):
    stream = Stream.from_tensor(x)
    centroids = KMeans(latents=4).fit(stream)  # they lie in a space of 3 dimensions about the mean
    assert PCA(latents=3).fit(stream).figures["FVU"] < centroids.figures["FVU"]


def planted_share(strength: float) -> float:
    """How much of a planted plane is among the first two directions."""
    draw = torch.Generator().manual_seed(2)
    plane = torch.linalg.qr(torch.randn(12, 2, generator=draw)).Q
    noise = torch.randn(2000, 12, generator=draw)
    x = noise + strength * torch.randn(2000, 2, generator=draw) @ plane.T
    found = PCA(latents=2).fit(Stream.from_tensor(x)).directions
    return float((found @ plane).square().sum() / 2)


def test_a_planted_plane_is_found_and_in_noise_it_is_not():
    assert planted_share(5.0) > 0.99
    assert planted_share(0.0) < 0.6


def test_more_latents_than_dimensions_are_refused(x):
    with pytest.raises(ConfigError, match="latents <= 10"):
        PCA(latents=11).fit(Stream.from_tensor(x))
