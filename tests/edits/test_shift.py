import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jackfield.core.errors import EditError
from jackfield.edits import Add, Affine, Context, Scale

HERE = Context("x")


@given(seed=st.integers(0, 99), strength=st.floats(-8, 8))
def test_add_undoes_itself_and_adds_up(seed, strength):
    x, v = (
        torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(seed)).double().split([1, 1])
    )
    v = v[0, 0]
    there = Add(v, strength=strength, at="x").apply(x, HERE)
    assert torch.allclose(there - x, (strength * v).expand_as(x))
    assert torch.allclose(Add(v, strength=-strength, at="x").apply(there, HERE), x)


def test_add_of_nothing_is_bit_equal():
    x = torch.randn(3, 5)
    assert torch.equal(Add(torch.randn(5), strength=0.0, at="x").apply(x, HERE), x)


def test_add_broadcasts_from_the_right():
    x = torch.zeros(2, 3, 5)
    by_position = torch.arange(3.0)[:, None].expand(3, 5)
    assert torch.equal(Add(by_position, at="x").apply(x, HERE), by_position.expand(2, 3, 5))


@pytest.mark.parametrize("factor", [-2.0, torch.tensor(-2.0), torch.full((5,), -2.0)], ids=str)
def test_scale_by_a_number_or_a_number_a_unit(factor):
    x = torch.randn(2, 3, 5)
    assert torch.equal(Scale(factor, at="x").apply(x, HERE), -2.0 * x)


def test_scale_by_one_is_bit_equal():
    x = torch.randn(2, 3, 5).bfloat16()
    assert torch.equal(Scale(1.0, at="x").apply(x, HERE), x)


def test_affine_is_a_matrix_on_column_vectors():
    matrix, bias, x = torch.randn(4, 4), torch.randn(4), torch.randn(2, 3, 4)
    out = Affine(matrix, bias, at="x").apply(x, HERE)
    assert torch.allclose(out[1, 2], matrix @ x[1, 2] + bias, atol=1e-6)


def test_affine_of_the_identity_is_bit_equal():
    x = torch.randn(2, 3, 16)
    assert torch.equal(Affine(torch.eye(16), torch.zeros(16), at="x").apply(x, HERE), x)


def test_affine_of_another_shape_is_refused():
    with pytest.raises(EditError, match=r"x, Affine: expected a matrix \[4, 4\], got \[4, 3\]"):
        Affine(torch.randn(4, 3), torch.zeros(4), at="x").apply(torch.randn(2, 4), HERE)
    with pytest.raises(EditError, match=r"got \[3\]"):
        Affine(torch.eye(4), torch.zeros(3), at="x").apply(torch.randn(2, 4), HERE)
