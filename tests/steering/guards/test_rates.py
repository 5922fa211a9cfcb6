"""Intervals against known values, and against simulation."""

import pytest
import torch

from jackfield.steering.guards import Auroc, Rate


@pytest.mark.parametrize(
    ("count", "of", "low", "high"),
    # Brown, Cai and DasGupta's and textbook values of Wilson's interval
    [
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (5, 10, 0.2366, 0.7634),
        (81, 263, 0.2553, 0.3662),
    ],
)
def test_wilson(count, of, low, high):
    assert Rate(count, of).interval == pytest.approx((low, high), abs=2e-4)


def test_auroc_counts_pairs():
    plus, minus = torch.tensor([3.0, 1.0, 2.0]), torch.tensor([0.0, 2.0])
    assert Auroc.of(plus, minus).value == pytest.approx((2 + 1 + 1.5) / 6)


def test_auroc_has_a_width_where_all_are_told_apart():
    found = Auroc.of(torch.ones(10), torch.zeros(10))
    assert found.value == 1 == found.high
    assert 0.6 < found.low < 0.9


def test_the_interval_covers():
    draw = torch.Generator().manual_seed(0)
    truth = float(torch.special.ndtr(torch.tensor(1.0 / 2**0.5)))
    found = [
        Auroc.of(1 + torch.randn(20, generator=draw), torch.randn(30, generator=draw))
        for _ in range(400)
    ]
    covered = sum(each.low <= truth <= each.high for each in found) / len(found)
    assert 0.9 < covered < 0.99
