"""k-means: its fixed point, scikit-learn's answer from the same start, planted clusters."""

from itertools import pairwise

import pytest
import torch

from jackfield.core.errors import ConfigError
from jackfield.dictionaries import KMeans
from jackfield.dictionaries.kmeans import plus_plus
from jackfield.streams import Stream


@pytest.fixture(scope="module")
def x():
    return 3 * torch.randn(400, 6, generator=torch.Generator().manual_seed(1)) + 50


def test_every_row_becomes_the_mean_of_its_cluster_and_one_latent_fires(x):
    kmeans = KMeans(latents=7, passes=300, tolerance=0).fit(Stream.from_tensor(x))
    assert ((kmeans.encode(x) != 0).sum(dim=1) == 1).all()
    rebuilt = kmeans.reconstruct(x)
    for latent in range(7):
        own = kmeans.encode(x)[:, latent] != 0
        expected = x[own].mean(dim=0).expand_as(x[own])
        torch.testing.assert_close(rebuilt[own], expected, rtol=1e-5, atol=1e-4)


def test_the_error_never_rises_and_batches_do_not_matter(x):
    whole, parts = (KMeans(latents=7).fit(Stream.from_tensor(x, batch=n)) for n in (400, 13))
    errors = [point["error"] for point in whole.history]
    assert all(b <= a * (1 + 1e-12) for a, b in pairwise(errors))
    assert len(errors) > 3
    torch.testing.assert_close(whole.encoder, parts.encoder)


def test_from_the_same_start_it_ends_where_scikit_learn_does(x):
    from sklearn.cluster import KMeans as Theirs

    ours = KMeans(latents=7, passes=300, tolerance=0).fit(Stream.from_tensor(x))
    start = plus_plus(x.double(), 7, seed=0).numpy()
    theirs = Theirs(7, init=start, n_init=1, tol=0, max_iter=300).fit(x.double().numpy())
    centroids = torch.from_numpy(theirs.cluster_centers_).float()
    torch.testing.assert_close(ours.encoder + ours.centre, centroids, rtol=1e-4, atol=1e-4)


def unexplained(apart: float) -> float:
    draw = torch.Generator().manual_seed(4)
    centres = apart * torch.randn(6, 10, generator=draw)
    rows = centres[torch.randint(6, (600,), generator=draw)]
    x = rows + torch.randn(600, 10, generator=draw)
    return KMeans(latents=6, seed=1).fit(Stream.from_tensor(x)).figures["FVU"]


def test_planted_clusters_are_found_and_in_noise_there_are_none():
    assert unexplained(10.0) < 0.02
    assert unexplained(0.0) > 0.7


def test_more_latents_than_rows_are_refused(x):
    with pytest.raises(ConfigError, match="latents <= 400"):
        KMeans(latents=401).fit(Stream.from_tensor(x))
