"""ThresholdSAE: tied in the atomic product, exact where the theorem says so, planted atoms."""

import pytest
import torch
from tests.dictionaries.plain import Stopping

from jackfield.core.config import to_json
from jackfield.dictionaries import ThresholdSAE
from jackfield.dictionaries.atomic import whitener
from jackfield.streams import Stream

SMALL = ThresholdSAE(latents=24, rows=2048, batch=128, dead_after=500)


@pytest.fixture(scope="module")
def x():
    draw = torch.Generator().manual_seed(1)
    return torch.randn(1000, 12, generator=draw) @ torch.randn(12, 12, generator=draw) + 2


def test_codes_are_the_atomic_products_above_the_threshold(x):
    stream = Stream.from_tensor(x)
    sae = SMALL.fit(stream, progress=False)
    A = whitener(stream, "x")
    S, D = A @ A, sae.directions.double()
    lengths = (D @ S * D).sum(dim=1).sqrt()  # in the atomic product; codes are in units of x
    p = x.double() @ S @ D.T / lengths
    codes = torch.where(p > SMALL.threshold * 12**0.5, p / lengths, 0.0)
    assert (codes > 0).any(dim=0).sum() > 12
    torch.testing.assert_close(sae.encode(x).double(), codes, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(sae.directions.norm(dim=1), torch.ones(24))


def test_a_higher_threshold_lets_fewer_fire(x):
    stream = Stream.from_tensor(x)
    low, high = (
        ThresholdSAE(**{**to_json(SMALL), "threshold": tau}).fit(stream, progress=False)
        for tau in (0.1, 0.4)
    )
    assert low.measure(stream).l0 > 2 * high.measure(stream).l0


def recovered(planted: bool) -> float:
    """Mean best cosine of 16 planted atoms of 16 dimensions, two a row."""
    draw = torch.Generator().manual_seed(3)
    atoms = torch.nn.functional.normalize(torch.randn(16, 16, generator=draw))
    x = torch.randn(8000, 16, generator=draw)
    if planted:
        chosen = torch.rand(8000, 16, generator=draw).topk(2).indices
        amounts = 1 + torch.rand(8000, 2, generator=draw)
        x = torch.zeros(8000, 16).scatter(1, chosen, amounts) @ atoms + 0.02 * x
    method = ThresholdSAE(latents=32, threshold=0.3, rows=150_000, batch=500, dead_after=4000)
    found = method.fit(Stream.from_tensor(x), progress=False).directions
    return float((atoms @ found.T).amax(dim=1).mean())


def test_planted_atoms_are_found_and_in_noise_they_are_not():
    assert recovered(planted=True) > 0.95
    assert recovered(planted=False) < 0.8


def test_a_run_that_stopped_goes_on_to_the_same_bits(x, tmp_path):
    whole = SMALL.fit(Stream.from_tensor(x, batch=100), progress=False)
    stopping = Stopping(Stream.from_tensor(x, batch=100), 35, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        SMALL.fit(stopping, progress=False, checkpoint=tmp_path / "kept")
    again = SMALL.fit(
        Stream.from_tensor(x, batch=100), progress=False, checkpoint=tmp_path / "kept"
    )
    assert torch.equal(again.decoder, whole.decoder)
    assert again.history == whole.history
