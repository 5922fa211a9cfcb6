"""Intervals against scipy's, and against what a level means."""

import pytest
import torch
from scipy import stats

from jackfield.reports.intervals import (
    bootstrap_weights,
    mean_interval,
    mean_intervals,
    share_interval,
    tails,
    wilson,
)


def test_the_bootstrap_agrees_with_scipys():
    values = torch.randn(40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    theirs = stats.bootstrap(
        (values.numpy(),), lambda x, axis: x.mean(axis), method="percentile", rng=1
    ).confidence_interval
    assert mean_interval(values) == pytest.approx(tuple(theirs), abs=0.03)


def test_many_means_at_once_are_the_same_as_each_alone():
    values = torch.randn(12, 3, generator=torch.Generator().manual_seed(1))
    found = mean_intervals(values, seed=4)
    for part, ends in zip(values.T, found, strict=True):
        assert mean_interval(part, seed=4) == pytest.approx(tuple(ends.tolist()))


def test_about_95_of_100_intervals_hold_the_truth():
    draw = torch.Generator().manual_seed(2)
    ends = [mean_interval(torch.randn(30, generator=draw), seed=i) for i in range(400)]
    assert 0.90 < sum(low < 0 < high for low, high in ends) / 400 < 0.98


def test_a_single_example_has_no_interval():
    assert mean_intervals(torch.ones(1, 2)).isnan().all()


def test_weights_are_shares_of_draws_with_replacement():
    weights = bootstrap_weights(7, draws=50, seed=3)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(50, dtype=torch.float64))
    assert torch.equal((weights * 7).round() / 7, weights)
    assert (weights > 1.5 / 7).any()


def test_the_level_sets_the_ends():
    low, high = tails(torch.arange(101.0), level=0.5)
    assert (float(low), float(high)) == (25.0, 75.0)


@pytest.mark.parametrize(("hits", "count"), [(0, 9), (3, 10), (50, 50)])
def test_shares_are_wilsons(hits, count):
    theirs = stats.binomtest(hits, count).proportion_ci(method="wilson")
    ours = share_interval([True] * hits + [False] * (count - hits))
    assert ours == pytest.approx((theirs.low, theirs.high), abs=1e-6)


def test_at_wilsons_ends_the_share_is_196_standard_errors_away():
    for right, count in ((0, 5), (3, 7), (40, 48)):
        for end in wilson(right, count):
            apart = (right / count - end) ** 2
            assert apart == pytest.approx(1.959964**2 * end * (1 - end) / count, abs=1e-9)
