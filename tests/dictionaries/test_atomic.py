"""Atomic scores: the inner product by hand, the guarantee itself, planted atoms and noise."""

import pytest
import torch

from jackfield.core.errors import InputError
from jackfield.dictionaries import PCA, KMeans, TopK
from jackfield.dictionaries.atomic import atomic_scores, coherence, stability, whitener
from jackfield.streams import Stream


@pytest.fixture(scope="module")
def x():
    draw = torch.Generator().manual_seed(1)
    mixing = torch.randn(6, 6, generator=draw, dtype=torch.float64)
    return torch.randn(500, 6, generator=draw, dtype=torch.float64) @ mixing + 3


def test_after_the_whitener_cosines_are_those_of_the_inverse_second_moment(x):
    A = whitener(Stream.from_tensor(x, batch=37), "x")
    S = torch.linalg.inv(x.T @ x / len(x))
    u, v = torch.randn(2, 6, dtype=torch.float64)
    expected = (u @ S @ v) / ((u @ S @ u) * (v @ S @ v)).sqrt()
    found = torch.cosine_similarity(u @ A, v @ A, dim=0)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close((x @ A).T @ (x @ A) / len(x), torch.eye(6).double())


def test_scores_do_not_change_with_the_units_of_the_activations(x):
    pairs = []
    for scale in (1.0, 50.0):
        reference, held_out = (
            Stream.from_tensor(scale * x[:300]),
            Stream.from_tensor(scale * x[300:]),
        )
        sae = KMeans(latents=8).fit(reference)
        pairs.append(atomic_scores(sae, reference, held_out))
    torch.testing.assert_close(pairs[0].coherence, pairs[1].coherence, rtol=1e-4, atol=1e-4)
    assert pairs[0].faithfulness == pytest.approx(pairs[1].faithfulness, rel=1e-4)


def test_stability_by_brute_force():
    draw = torch.Generator().manual_seed(2)
    mu, rows = 0.4 * torch.rand(40, generator=draw), torch.randint(1, 6, (60,), generator=draw)
    found = stability(mu, torch.bincount(rows, minlength=8))
    best = 0.0
    for step in range(1, 1001):
        K = int(rows.sort().values[-(-step * 60 // 1000) - 1])
        if float(mu.sort().values[-(-step * 40 // 1000) - 1]) < 1 / (2 * K - 1):
            best = step / 1000
    assert 0 < best < 1
    assert found == pytest.approx(best, abs=1e-9)


def test_what_the_guarantee_says_is_so():
    """Below 1 / (2K − 1) no other K directions give the same row; all supports are tried."""
    directions = torch.nn.functional.normalize(torch.eye(5, dtype=torch.float64) + 0.05, dim=1)
    K = 2
    assert coherence(directions).max() < 1 / (2 * K - 1)
    row = 2 * directions[0] + directions[3]
    fits = []
    for support in torch.combinations(torch.arange(5), K):
        code = torch.linalg.lstsq(directions[support].T, row[:, None]).solution
        if (directions[support].T @ code - row[:, None]).norm() < 1e-9:
            fits.append(support.tolist())
    assert fits == [[0, 3]]


def scores(planted: bool):
    """Of a TopK autoencoder on rows with one of 12 orthogonal directions each, or on noise."""
    draw = torch.Generator().manual_seed(3)
    x = 0.05 * torch.randn(6000, 12, generator=draw)
    if planted:
        chosen = torch.randint(12, (6000,), generator=draw)
        x += torch.eye(12)[chosen] * (1 + torch.rand(6000, 1, generator=draw))
    reference, held_out = Stream.from_tensor(x[:5000]), Stream.from_tensor(x[5000:])
    method = TopK(latents=12, k=1, rows=60_000, batch=250, dead_after=2000)
    return atomic_scores(method.fit(reference, progress=False), reference, held_out)


def test_planted_atoms_are_faithful_and_stable_and_noise_is_not_faithful():
    found, control = scores(planted=True), scores(planted=False)
    assert found.faithfulness > 0.9
    assert found.stability > 0.9
    assert found.uniqueness > 0.9
    assert control.faithfulness < 0.5
    assert int(found.active.sum()) == 1000
    assert "R²" in repr(found)


def test_the_same_rows_too_few_rows_and_one_latent_are_refused(x):
    reference, held_out = Stream.from_tensor(x[:300]), Stream.from_tensor(x[300:])
    pca = PCA(latents=3).fit(reference)
    with pytest.raises(InputError, match="the same stream twice"):
        atomic_scores(pca, reference, Stream.from_tensor(x[:300]))
    with pytest.raises(InputError, match="span all 6 dimensions, got 4"):
        atomic_scores(pca, Stream.from_tensor(x[:4]), held_out)
    with pytest.raises(InputError, match="two latents"):
        atomic_scores(PCA(latents=1).fit(reference), reference, held_out)
