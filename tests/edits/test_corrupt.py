import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jackfield.core.errors import EditError
from jackfield.edits import Context, FakeQuantize, Noise

HERE = Context("x")


def steps(x, bits, symmetric):
    """The size of a step of each token, by the definition."""
    if symmetric:
        return x.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 1)
    return (x.amax(-1, keepdim=True) - x.amin(-1, keepdim=True)) / (2**bits - 1)


@given(
    seed=st.integers(0, 99),
    bits=st.integers(2, 12),
    symmetric=st.booleans(),
    size=st.sampled_from([1e-3, 1.0, 1e4]),
    shift=st.sampled_from([0.0, 3.0]),
)
def test_the_error_is_at_most_half_a_step_and_the_levels_are_few(
    seed, bits, symmetric, size, shift
):
    x = (torch.randn(4, 33, generator=torch.Generator().manual_seed(seed)) + shift) * size
    out = FakeQuantize(bits=bits, symmetric=symmetric, at="x").apply(x, HERE)
    step = steps(x, bits, symmetric)
    assert ((out - x).abs() <= 0.5 * step * (1 + 1e-3) + 1e-6 * size).all()
    assert all(len(row.unique()) <= 2**bits for row in (out / step).round())


def test_few_bits_do_change_the_values():
    x = torch.randn(4, 33)
    assert not torch.allclose(FakeQuantize(bits=2, at="x").apply(x, HERE), x, atol=0.1)


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_token_of_one_value_keeps_it(symmetric):
    x = torch.tensor([[0.0, 0.0, 0.0], [2.5, 2.5, 2.5]])
    assert torch.equal(FakeQuantize(bits=4, symmetric=symmetric, at="x").apply(x, HERE), x)


def test_zero_stays_zero_in_the_symmetric_grid():
    x = torch.tensor([[0.0, 1.0, -3.0]])
    assert FakeQuantize(bits=3, at="x").apply(x, HERE)[0, 0] == 0


def test_the_gradient_passes_straight_through():
    x = torch.randn(4, 8, requires_grad=True)
    weight = torch.randn(4, 8)
    (FakeQuantize(bits=3, at="x").apply(x, HERE) * weight).sum().backward()
    assert torch.equal(x.grad, weight)


@pytest.mark.parametrize("bits", [1, 17, 0, -3])
def test_bits_outside_the_range_are_refused(bits):
    with pytest.raises(EditError, match="FakeQuantize: expected 2 to 16 bits"):
        FakeQuantize(bits=bits, at="x").apply(torch.ones(2, 2), HERE)


def noise(x, site="x", **settings):
    return Noise(at=site, **settings).apply(x, Context(site)) - x


def test_noise_has_its_standard_deviation_and_no_mean():
    made = noise(torch.zeros(200, 500), std=0.5)
    assert abs(float(made.std()) - 0.5) < 0.01
    assert abs(float(made.mean())) < 0.01


def test_relative_noise_counts_in_root_mean_squares_of_the_token():
    sizes = torch.tensor([0.01, 1.0, 100.0])
    x = sizes[:, None] * torch.randn(3, 5000)
    made = noise(x, std=0.1, relative=True)
    assert torch.allclose(made.std(-1) / sizes, torch.full((3,), 0.1), rtol=0.1)


def test_the_same_seed_gives_the_same_noise_and_each_site_its_own():
    x = torch.zeros(3, 8)
    assert torch.equal(noise(x, std=1.0), noise(x, std=1.0))
    assert not torch.equal(noise(x, std=1.0), noise(x, std=1.0, seed=1))
    assert not torch.equal(noise(x, std=1.0), noise(x, std=1.0, site="y"))


def test_noise_goes_on_within_a_sequence():
    x, place, edit = torch.zeros(3, 8), Context("x"), Noise(1.0, at="x")
    assert not torch.equal(edit.apply(x, place), edit.apply(x, place))
    place.state.clear()
    assert torch.equal(edit.apply(x, place), noise(x, std=1.0))


def test_no_noise_is_bit_equal():
    x = torch.randn(3, 8)
    assert torch.equal(Noise(0.0, at="x").apply(x, HERE), x)
