"""ICA: independent sources are unmixed, Gaussian ones are not; against scikit-learn's."""

import pytest
import torch

from jackfield.core.errors import ConfigError
from jackfield.dictionaries import ICA, PCA
from jackfield.streams import Stream


def mixed(kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of five sources, and their directions [source, d]."""
    draw = torch.Generator().manual_seed(3)
    sources = torch.randn(4000, 5, generator=draw, dtype=torch.float64)
    if kind == "heavy":
        sources = sources**3
    elif kind == "flat":
        sources = torch.special.ndtr(sources)
    directions = torch.randn(5, 8, generator=draw, dtype=torch.float64)
    return (sources / sources.std(dim=0)) @ directions + 5, directions


def recovered(found: torch.Tensor, directions: torch.Tensor) -> float:
    unit = torch.nn.functional.normalize(directions.to(found))
    return float((unit @ found.T).abs().amax(dim=1).mean())


@pytest.mark.parametrize("kind", ["heavy", "flat"])
def test_planted_sources_are_found_where_pca_finds_none(kind):
    x, directions = mixed(kind)
    stream = Stream.from_tensor(x)
    ica = ICA(latents=5).fit(stream)
    assert recovered(ica.directions, directions) > 0.99
    assert recovered(PCA(latents=5).fit(stream).directions, directions) < 0.9
    assert ica.history[-1]["turn"] < ICA().tolerance


def test_in_gaussian_rows_they_are_not_found():
    x, directions = mixed("gaussian")
    assert recovered(ICA(latents=5).fit(Stream.from_tensor(x)).directions, directions) < 0.95


def test_codes_are_white():
    x, _ = mixed("heavy")
    ica = ICA(latents=3, reach=None).fit(Stream.from_tensor(x))
    torch.testing.assert_close(ica.encode(x).T.corrcoef(), torch.eye(3), rtol=0, atol=1e-3)


def test_it_is_the_whole_array_algorithm():
    from sklearn.decomposition import FastICA

    x, _ = mixed("heavy")
    ours = ICA(latents=5, reach=None, tolerance=1e-9).fit(Stream.from_tensor(x, batch=333))
    theirs = FastICA(5, whiten="unit-variance", random_state=0, tol=1e-6, max_iter=500)
    theirs.fit(x.numpy())
    mixing = torch.nn.functional.normalize(torch.from_numpy(theirs.mixing_.T).float())
    cosines = (mixing @ ours.directions.T).abs().amax(dim=1)
    torch.testing.assert_close(cosines, torch.ones(5), rtol=0, atol=1e-5)


def test_more_latents_than_the_rank_are_refused():
    x, _ = mixed("heavy")
    with pytest.raises(ConfigError, match="latents <= 5, the rank of the rows"):
        ICA(latents=6).fit(Stream.from_tensor(x))
