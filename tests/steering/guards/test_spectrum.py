"""Spectra against plain covariances; pure noise against Marchenko–Pastur; spikes against BBP."""

import numpy as np
import pytest
import torch

from jackfield.steering.guards.spectrum import (
    NoiseSpectrum,
    Windows,
    descriptors,
    eigenvalues,
    marchenko_pastur_edges,
    marchenko_pastur_quantiles,
    names_of,
    noise_spectrum,
    spectra,
)

SIZE, WIDTH = 32, 256


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1000 + seed))


def test_eigenvalues_are_those_of_the_covariance_of_each_window():
    x = noise(40, 12)
    found = spectra(x, 9)
    assert found.shape == (32, 8)
    for start, values in enumerate(found):
        cov = np.cov(x[start : start + 9].double().numpy(), rowvar=False) * 8 / 12
        expected = np.linalg.eigvalsh(cov)[::-1][:8]
        np.testing.assert_allclose(values.numpy(), expected, atol=1e-9)


def test_windows_brought_up_to_date_are_windows_made_anew():
    x, rows = noise(3, 50, 16), torch.rand(50, 3, generator=torch.Generator().manual_seed(1)) < 0.7
    windows = Windows(3, 8, 16)
    taken = [[], [], []]
    for token in range(50):
        windows.push(x[:, token], rows[token])
        for row in rows[token].nonzero().flatten().tolist():
            taken[row].append(x[row, token])
        assert windows.full.tolist() == [len(each) >= 8 for each in taken]
        for row in windows.full.nonzero().flatten().tolist() if token % 7 == 0 else ():
            got = eigenvalues(windows.products[row], 16)
            expected = spectra(torch.stack(taken[row][-8:]), 8)[0]
            torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("ratio", [0.05, 0.3, 0.9])
def test_quantiles_are_those_of_the_density(ratio):
    low, high = marchenko_pastur_edges(ratio)
    bounds = marchenko_pastur_quantiles(ratio, torch.tensor([0.1, 0.5, 0.8]))
    x = torch.linspace(low, high, 200_001, dtype=torch.float64)
    density = ((high - x) * (x - low)).clamp(min=0).sqrt() / (2 * torch.pi * ratio * x)
    assert float(torch.trapezoid(density, x)) == pytest.approx(1, abs=1e-4)
    assert float(torch.trapezoid(density * x, x)) == pytest.approx(1, abs=1e-4)  # its mean
    shares = [float(torch.trapezoid(density[x <= b], x[x <= b])) for b in bounds]
    assert shares == pytest.approx([0.1, 0.5, 0.8], abs=2e-3)


def test_pure_noise_is_what_marchenko_and_pastur_say():
    found = noise_spectrum(noise(64, SIZE, WIDTH))
    ratio = (SIZE - 1) / WIDTH
    assert found.ratio == pytest.approx(ratio, rel=0.05)
    assert found.edge == pytest.approx(marchenko_pastur_edges(ratio)[1], rel=0.1)
    told = descriptors(spectra(noise(400, WIDTH, seed=5), SIZE), found, 3)
    mean = dict(zip(names_of(3), told.mean(dim=0).tolist(), strict=True))
    assert mean["outliers"] < 0.01
    assert mean["divergence"] < 0.15
    assert mean["log energy"] == pytest.approx(0, abs=0.05)


def test_permutation_gives_the_noise_of_units_that_are_not_alike():
    """A heavy spike, and units of unequal size: shuffling in time leaves only the sizes."""
    sizes = torch.linspace(0.2, 3, WIDTH)
    spike = 5 * noise(64, SIZE, 1, seed=2) * torch.nn.functional.normalize(noise(WIDTH), dim=0)
    pure = noise(64, SIZE, WIDTH, seed=3) * sizes
    flat = noise_spectrum(pure)
    spiked = noise_spectrum(pure + spike)
    assert spiked.ratio == pytest.approx(flat.ratio, rel=0.1)
    assert spiked.edge == pytest.approx(flat.edge, rel=0.1)
    effective = float(sizes.square().sum() ** 2 / sizes.pow(4).sum())
    assert flat.ratio == pytest.approx((SIZE - 1) / effective, rel=0.1)
    assert flat.edge > 1.05 * marchenko_pastur_edges((SIZE - 1) / WIDTH)[1]


@pytest.mark.parametrize(("times", "seen"), [(0.4, False), (3.0, True)])
def test_a_spike_shows_above_the_bbp_threshold_and_not_below(times, seen):
    """Spike ℓ on unit noise shows above √(d/n), and then at (1 + ℓ)(1 + (d/n)/ℓ) · n/d."""
    aspect = WIDTH / (SIZE - 1)
    size = times * aspect**0.5
    axis = torch.nn.functional.normalize(noise(WIDTH, seed=7), dim=0)
    windows = noise(100, SIZE, WIDTH, seed=8)
    windows = windows + size**0.5 * noise(100, SIZE, 1, seed=9) * axis
    values = torch.stack([spectra(each, SIZE)[0] for each in windows])
    edge = noise_spectrum(noise(64, SIZE, WIDTH)).edge
    above = (values[:, 0] / values.mean(dim=1) > edge).double().mean()
    assert above > 0.9 if seen else above < 0.25
    if seen:
        expected = (1 + size) * (1 + aspect / size) / aspect * (SIZE - 1) / (SIZE - 1)
        assert float(values[:, 0].mean()) == pytest.approx(expected, rel=0.1)


def test_descriptors_by_hand():
    values = torch.tensor([[4.0, 2.0, 1.0, 1.0]], dtype=torch.float64)
    told = descriptors(values, NoiseSpectrum(0.5, 1.5), 2)[0]
    mean = dict(zip(names_of(2), told.tolist(), strict=True))
    assert mean["log energy"] == pytest.approx(np.log(2))
    assert mean["log λ1"] == pytest.approx(np.log(2))
    assert mean["log λ2"] == pytest.approx(0)
    assert mean["log λ1/λ2"] == pytest.approx(np.log(2))
    assert mean["log λ2/λ3"] == pytest.approx(np.log(2))
    shares = np.array([0.5, 0.25, 0.125, 0.125])
    assert mean["entropy"] == pytest.approx(-(shares * np.log(shares)).sum() / np.log(4))
    assert mean["outliers"] == pytest.approx(0.5)


def test_equal_tokens_give_numbers():
    told = descriptors(spectra(torch.ones(20, 8), 6), NoiseSpectrum(0.5, 1.5), 2)
    assert torch.isfinite(told).all()
