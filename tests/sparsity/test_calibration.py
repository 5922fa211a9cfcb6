import math

import pytest
import torch

from jackfield.sparsity import SiteRule
from jackfield.sparsity.calibration import Deviations, ScoreQuantiles
from jackfield.streams import Stream

ROWS = torch.randn(500, 6, generator=torch.Generator().manual_seed(0)).double() ** 3
NORMS = torch.tensor([1.0, 2.0, 0.1, 5.0, 1.0, 1.0])


def rule(**changes):
    return SiteRule(**{"width": 6, "outputs": 4, "readers": ("a", "b"), "k": 3, **changes})


@pytest.mark.parametrize("norms", [None, NORMS])
@pytest.mark.parametrize("q", [0.01, 0.5, 0.93])
@pytest.mark.parametrize("batch", [500, 7])
def test_quantiles_are_those_of_all_scores(norms, q, batch):
    stream = Stream.from_tensor(ROWS, site="x", batch=batch)
    found = stream.into(ScoreQuantiles({"x": rule(norms=norms)}, q))["x"]
    scores = ROWS.abs() * (1 if norms is None else norms)
    expected = sorted(scores.flatten().tolist())[math.ceil(q * 3000) - 1]
    assert expected <= found * (1 + 1e-6)  # the scores are counted in float32
    assert found <= expected * 1.003
    assert (scores <= found).double().mean() >= q


def test_the_quantile_of_nothing_is_zero_and_zeros_count():
    sparse = torch.where(torch.arange(6) < 4, 0.0, ROWS)
    stream = Stream.from_tensor(sparse, site="x")
    assert stream.into(ScoreQuantiles({"x": rule()}, 0.0))["x"] == 0
    assert stream.into(ScoreQuantiles({"x": rule()}, 0.5))["x"] < 1e-15


@pytest.mark.parametrize("batch", [500, 7])
def test_deviations_are_what_the_missing_units_would_have_added(batch):
    W = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    stream = Stream.from_tensor(ROWS, site="x", batch=batch)
    found = stream.into(Deviations({"x": rule(threshold=0.4, norms=NORMS)}, {"x": W}))["x"]
    gone = torch.where(ROWS.abs() * NORMS > 0.4, 0, ROWS)
    whole = (ROWS @ W.double().T).pow(2).sum()
    assert found.error == pytest.approx(
        ((gone @ W.double().T).pow(2).sum() / whole).item(), rel=1e-5
    )
    by_norms = (gone.pow(2) * W.double().pow(2).sum(dim=0)).sum() / whole
    assert found.by_norms == pytest.approx(by_norms.item(), rel=1e-5)
    assert found.kept == pytest.approx((gone == 0).double().mean().item())


def test_rows_of_zeros_have_no_error():
    stream = Stream.from_tensor(torch.zeros(5, 6), site="x")
    found = stream.into(Deviations({"x": rule()}, {"x": torch.randn(4, 6)}))["x"]
    assert (found.error, found.by_norms, found.kept) == (0, 0, 0)
