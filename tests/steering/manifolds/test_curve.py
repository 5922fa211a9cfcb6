"""The curve against SciPy and dense search: values, derivatives, nearest places, ways round."""

from math import pi

import pytest
import torch
from scipy.interpolate import CubicSpline

from jackfield.core.errors import InputError
from jackfield.steering.manifolds import Curve

POINTS = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).double()


@pytest.mark.parametrize("cyclic", [False, True])
@pytest.mark.parametrize("derivative", [0, 1, 2])
def test_values_and_derivatives_are_those_of_scipy(cyclic, derivative):
    curve = Curve.through(POINTS, cyclic=cyclic)
    closed = torch.cat([POINTS, POINTS[:1]]) if cyclic else POINTS
    kind = "periodic" if cyclic else "natural"
    expected = CubicSpline(range(len(closed)), closed.numpy(), bc_type=kind)
    u = torch.linspace(0.01, curve.length - 0.01, 40).double()
    found = curve.at(u, derivative)
    torch.testing.assert_close(found, torch.from_numpy(expected(u.numpy(), derivative)))


@pytest.mark.parametrize("cyclic", [False, True])
def test_the_nearest_place_is_that_of_a_dense_search(cyclic):
    curve = Curve.through(POINTS, cyclic=cyclic)
    z = 2 * torch.randn(200, 3, generator=torch.Generator().manual_seed(1)).double()
    u = torch.linspace(0, curve.length, 200_001).double()
    dense = torch.stack([(curve.at(u) - row).norm(dim=1).min() for row in z])
    torch.testing.assert_close(curve.distance(z), dense, atol=1e-6, rtol=1e-6)
    assert bool((curve.distance(z) <= dense + 1e-12).all())


def test_its_own_points_are_at_their_index():
    curve = Curve.through(POINTS, cyclic=True)
    torch.testing.assert_close(curve.nearest(POINTS), torch.arange(6).double(), atol=1e-6, rtol=0)


def test_the_way_round_is_the_shorter_one():
    cycle, line = (Curve.through(torch.randn(7, 2), cyclic=each) for each in (True, False))
    starts = torch.tensor([6.0, 1.0, 0.0])
    assert cycle.way(starts, 1.0).tolist() == [2.0, 0.0, 1.0]
    assert line.way(starts, 1.0).tolist() == [-5.0, 0.0, 1.0]


def test_the_arc_of_a_circle():
    angles = 2 * pi * torch.arange(12).double() / 12
    circle = Curve.through(torch.stack([angles.cos(), angles.sin()], dim=1), cyclic=True)
    assert circle.arc(1.0, 4.0, points=400) == pytest.approx(pi / 2, rel=1e-3)
    assert circle.arc(10.0, 1.0, points=400) == pytest.approx(pi / 2, rel=1e-3)


def test_an_open_curve_ends_where_it_ends():
    curve = Curve.through(POINTS, cyclic=False)
    torch.testing.assert_close(curve.at(torch.tensor([-3.0, 99.0]).double()), POINTS[[0, -1]])


def test_two_points_are_no_curve():
    with pytest.raises(InputError, match="at least three points"):
        Curve.through(POINTS[:2], cyclic=False)
