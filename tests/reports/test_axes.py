import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jackfield.reports.axes import Axis, thinned

# Nothing that is drawn is nearer to zero.
FINITE = st.floats(-1e12, 1e12, allow_nan=False).filter(lambda x: x == 0 or abs(x) > 1e-30)


@given(st.lists(FINITE, min_size=1, max_size=5))
def test_every_value_has_its_place_and_ticks_lie_within(values):
    axis = Axis.over(values)
    assert all(-1e-9 <= axis.place(value) <= 1 + 1e-9 for value in values)
    assert all(-1e-6 <= axis.place(tick) <= 1 + 1e-6 for tick in axis.ticks())
    assert len(axis.ticks()) <= 8


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1e-15, [0, 2e-16, 4e-16, 6e-16, 8e-16, 1e-15]),
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (3, 47, [10, 20, 30, 40]),
        (-2, 2, [-2, -1, 0, 1, 2]),
    ],
)
def test_ticks_are_round(low, high, ticks):
    assert Axis(low, high).ticks() == pytest.approx(ticks, abs=0)


def test_logarithmic_axis():
    axis = Axis.over([1, 0, -5, 10_000], log=True)
    assert axis.place(100) == pytest.approx(0.5)
    assert math.isnan(axis.place(0))
    assert axis.ticks() == pytest.approx([1, 10, 100, 1000, 10_000])


def test_rounded_axis_ends_at_ticks():
    axis = Axis(0.18, 0.93).rounded()
    assert (axis.low, axis.high) == pytest.approx((0, 1))
    assert Axis(1, 3, log=True).rounded() == Axis(1, 3, log=True)


def test_axis_without_values():
    assert Axis.over([]).ticks()
    assert Axis.over([math.nan, 0], log=True).ticks()


def test_thinning_keeps_every_spike():
    xs, ys = np.arange(10_000.0), np.zeros(10_000)
    ys[1234], ys[7777] = 5, -5
    kept = thinned(xs, ys, 200)
    assert len(kept) <= 201
    assert {(1234.0, 5.0), (7777.0, -5.0)} <= set(kept)
    assert [x for x, _ in kept] == sorted(x for x, _ in kept)
