import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jackfield.core.errors import EditError
from jackfield.edits import Cap, Context, Project

HERE = Context("x")
SEEDS = st.integers(0, 999)


def numbers(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(seed=SEEDS, count=st.integers(1, 7))
def test_onto_and_out_of_make_the_whole_and_stand_at_right_angles(seed, count):
    rows, x = numbers(seed, count, 6), numbers(seed + 1, 2, 3, 6)
    onto = Project(rows, onto=True, at="x").apply(x, HERE)
    out = Project(rows, at="x").apply(x, HERE)
    assert torch.allclose(onto + out, x)
    assert torch.allclose(out @ rows.T, torch.zeros(2, 3, count, dtype=x.dtype), atol=1e-9)
    assert torch.allclose((onto * out).sum(-1), torch.zeros(2, 3, dtype=x.dtype), atol=1e-9)


@given(seed=SEEDS, onto=st.booleans())
def test_twice_is_once(seed, onto):
    edit, x = Project(numbers(seed, 2, 6), onto=onto, at="x"), numbers(seed + 1, 4, 6)
    once = edit.apply(x, HERE)
    assert torch.allclose(edit.apply(once, HERE), once)


@given(seed=SEEDS)
def test_only_the_span_matters(seed):
    rows, x = numbers(seed, 2, 6), numbers(seed + 1, 4, 6)
    mixed = torch.stack([3 * rows[0], rows[0] - rows[1], rows[1], torch.zeros(6).double()])
    expected = Project(rows, at="x").apply(x, HERE)
    assert torch.allclose(Project(mixed, at="x").apply(x, HERE), expected)


def test_the_projection_is_that_of_least_squares():
    rows, x = numbers(0, 2, 6), numbers(1, 5, 6)
    coefficients = torch.linalg.lstsq(rows.T, x.T).solution
    assert torch.allclose(
        Project(rows, onto=True, at="x").apply(x, HERE), (rows.T @ coefficients).T
    )


def test_directions_in_low_precision_span_no_more_than_they_are():
    v = torch.randn(64).bfloat16()
    both = torch.stack([v, 2 * v])
    x = torch.randn(3, 64).bfloat16()
    expected = Project(v, at="x").apply(x, HERE)
    assert torch.allclose(Project(both, at="x").apply(x, HERE), expected, atol=0.05)


def test_the_gradient_is_the_projection_itself_and_reaches_the_directions():
    rows = torch.nn.Parameter(numbers(0, 1, 4))
    x = numbers(1, 4).requires_grad_()
    weight = numbers(2, 4)
    (Project(rows, at="x").apply(x[None], HERE) @ weight).sum().backward()
    unit = (rows / rows.norm()).detach()[0]
    assert torch.allclose(x.grad, weight - (weight @ unit) * unit)

    def value(each):
        u = each[0] / each[0].norm()
        return weight @ (x.detach() - (x.detach() @ u) * u)

    expected = torch.autograd.functional.jacobian(value, rows.detach())
    assert torch.allclose(rows.grad, expected, atol=1e-9)


def test_no_direction_is_refused():
    with pytest.raises(EditError, match="directions: expected a non-zero vector, got zeros"):
        Project(torch.zeros(2, 4), at="x").apply(torch.zeros(1, 4), HERE)
    with pytest.raises(EditError, match=r"Cap\.direction: expected a non-zero vector"):
        Cap(torch.zeros(4), cap=1.0, at="x").apply(torch.zeros(1, 4), HERE)


BOUND = st.none() | st.floats(-2, 2)


@given(seed=SEEDS, floor=BOUND, cap=BOUND, length=st.floats(0.1, 9))
def test_cap_bounds_the_projection_and_moves_along_the_direction_only(seed, floor, cap, length):
    if (floor is None and cap is None) or (None not in (floor, cap) and floor > cap):
        return
    x, unit = numbers(seed, 8, 6), numbers(seed + 1, 6)
    unit = unit / unit.norm()
    out = Cap(length * unit, floor=floor, cap=cap, at="x").apply(x, HERE)
    along, low, high = x @ unit, floor, cap
    expected = along.clamp(low, high)
    assert torch.allclose(out @ unit, expected, atol=1e-9)
    across = torch.eye(6, dtype=x.dtype) - torch.outer(unit, unit)
    assert torch.allclose(out @ across, x @ across, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_cap_leaves_tokens_inside_the_bounds_as_they_were(dtype):
    x, direction = torch.randn(100, 16).to(dtype), torch.randn(16)
    out = Cap(direction, floor=-0.5, cap=0.5, at="x").apply(x, HERE)
    along = x @ (direction / direction.norm()).to(dtype)
    inside = (along >= -0.5) & (along <= 0.5)
    assert 0 < inside.sum() < 100
    assert torch.equal(out[inside], x[inside])
    assert (out[~inside] != x[~inside]).any(-1).all()


def test_cap_needs_a_bound():
    with pytest.raises(EditError, match="a floor or a cap, got neither"):
        Cap(torch.ones(4), at="x").apply(torch.zeros(1, 4), HERE)
