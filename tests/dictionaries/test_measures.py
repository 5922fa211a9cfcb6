"""FVU in closed form, and the streamed figures against whole-array ones."""

import pytest
import torch
import torch.nn.functional as F

from jackfield.core.errors import InputError, SiteError
from jackfield.dictionaries import SparseDictionary, coherence, fvu
from jackfield.streams import Stream

D, LATENTS = 8, 20


@pytest.fixture
def x():
    return torch.randn(300, D, dtype=torch.float64) * torch.arange(1, D + 1) + 100.0


@pytest.fixture
def sae():
    decoder = F.normalize(torch.randn(LATENTS, D))
    weights = {
        "encoder": decoder.clone(),
        "encoder_bias": torch.full((LATENTS,), -1.0),
        "decoder": decoder,
        "decoder_bias": torch.full((D,), 100.0),
        "centre": torch.full((D,), 100.0),
        "density": torch.zeros(LATENTS),
    }
    return SparseDictionary("TopK", {}, weights, site="x", k=3, radius=(200.0,), history=[])


def test_fvu_of_the_identity_is_0_and_of_the_mean_1(x):
    assert fvu(x, x) == 0
    assert fvu(x, x.mean(dim=0).expand_as(x)) == pytest.approx(1, abs=1e-12)


def test_fvu_ignores_scale_and_shift(x):
    x_hat = x + torch.randn_like(x)
    assert fvu(7 * x - 3000, 7 * x_hat - 3000) == pytest.approx(fvu(x, x_hat), rel=1e-9)


def test_quality_equals_the_whole_array(sae, x):
    x = x.float()
    codes = sae.encode(x)
    for batch in (300, 77, 1):
        quality = sae.measure(Stream.from_tensor(x, batch=batch))
        assert quality.fvu == pytest.approx(fvu(x, sae.decode(codes)), rel=1e-6)
        assert quality.l0 == pytest.approx(float((codes > 0).sum(dim=1).double().mean()))
        assert quality.dead == pytest.approx(float((codes == 0).all(dim=0).double().mean()))
        assert torch.equal(quality.density, (codes > 0).double().mean(dim=0))
        assert (quality.rows, quality.outside) == (300, 0)


def test_quality_leaves_out_rows_that_are_outside(sae, x):
    x = x.float()
    clean = sae.measure(Stream.from_tensor(x))
    x = torch.cat([x, torch.full((2, D), 1e5)])
    with_sinks = sae.measure(Stream.from_tensor(x))
    assert with_sinks.outside == 2
    assert with_sinks.fvu == pytest.approx(clean.fvu, rel=1e-12)


def test_quality_refuses_nan_and_strange_sites(sae, x):
    x = x.float()
    with pytest.raises(SiteError, match="expected one of y"):
        sae.measure(Stream.from_tensor(x, site="y"))
    with pytest.raises(InputError, match=r"rows \[row, d\] with 8 columns"):
        sae.measure(Stream.from_tensor(x[:, :5]))


def test_quality_of_nothing_inside_is_an_error(sae):
    with pytest.raises(InputError, match="rows"):
        sae.measure(Stream.from_tensor(torch.full((3, D), 1e6)))


def test_cosine_and_relative_bias_are_those_of_the_whole_array(sae, x):
    x = x.float()
    x_hat = sae.decode(sae.encode(x)).double()
    for batch in (300, 77):
        quality = sae.measure(Stream.from_tensor(x, batch=batch))
        whole = torch.cosine_similarity(x_hat, x.double(), dim=1).mean()
        assert quality.cosine == pytest.approx(float(whole), rel=1e-6)
        bias = x_hat.square().sum() / (x_hat * x.double()).sum()
        assert quality.relative_bias == pytest.approx(float(bias), rel=1e-6)


@pytest.mark.parametrize("shrunk", [1.0, 0.5])
def test_a_reconstruction_that_is_shrunk_has_that_bias_and_the_cosine_1(shrunk):
    eye = torch.eye(4)
    weights = {
        "encoder": shrunk * torch.cat([eye, -eye]),
        "encoder_bias": torch.zeros(8),
        "decoder": torch.cat([eye, -eye]),
        "decoder_bias": torch.zeros(4),
        "centre": torch.zeros(4),
        "density": torch.zeros(8),
        "threshold": torch.zeros(8),
    }
    half = SparseDictionary("ReLU", {}, weights, site="x", history=[])
    quality = half.measure(Stream.from_tensor(torch.randn(50, 4)))
    assert quality.relative_bias == pytest.approx(shrunk, rel=1e-6)
    assert quality.cosine == pytest.approx(1, abs=1e-6)
    assert quality.fvu == pytest.approx((1 - shrunk) ** 2, rel=0.1, abs=1e-9)


def test_coherence_is_the_largest_cosine_with_another(monkeypatch):
    x = torch.randn(30, 6)
    cosines = (F.normalize(x) @ F.normalize(x).T).abs() - 2 * torch.eye(30)
    for size in (1024, 7):
        monkeypatch.setattr("jackfield.dictionaries.measures._AT_ONCE", size)
        torch.testing.assert_close(coherence(x), cosines.amax(dim=1))
    assert coherence(torch.eye(5)).max() == 0
