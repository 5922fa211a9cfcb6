import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jackfield.core.errors import InputError
from jackfield.streams import Moments, Stream


def normal(rows, *shape, mean=0.0, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(rows, *shape, generator=generator, dtype=torch.float64) + mean).to(dtype)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 200), st.integers(1, 64), st.integers(1, 5))
def test_equal_to_numpy_on_the_whole_array(rows, batch, width):
    x = normal(rows, width)
    moments = Stream.from_tensor(x, batch=batch).into(Moments("x"))
    whole = x.double().numpy()
    np.testing.assert_allclose(moments.mean, whole.mean(0), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(moments.variance, whole.var(0), rtol=1e-10, atol=1e-14)
    covariance = np.cov(whole.T, bias=True).reshape(width, width)
    np.testing.assert_allclose(moments.covariance, covariance, rtol=1e-10, atol=1e-14)
    assert moments.rows == rows


def test_a_large_mean_costs_no_digits():
    """Mean 1e6, deviation 1: the sum of squares would leave about 4 digits of float64."""
    x = normal(20_000, 3, mean=1e6, dtype=torch.float64)
    moments = Stream.from_tensor(x, batch=777).into(Moments("x"))
    np.testing.assert_allclose(moments.variance, x.numpy().var(0), rtol=1e-10)
    exact = np.cov((x - 1e6).numpy().T, bias=True)  # computed about the mean
    np.testing.assert_allclose(moments.covariance, exact, rtol=1e-9, atol=1e-9)


def test_merge_of_parts_is_the_whole():
    x = normal(1000, 4, mean=50.0)
    whole = Stream.from_tensor(x).into(Moments("x"))
    parts = [Stream.from_tensor(part).into(Moments("x")) for part in x.split([1, 99, 900])]
    before = parts[1].mean.clone()
    merged = Moments("x").merge(parts[0]).merge(parts[1]).merge(parts[2])
    torch.testing.assert_close(merged.mean, whole.mean, rtol=1e-13, atol=0)
    torch.testing.assert_close(merged.covariance, whole.covariance, rtol=1e-11, atol=1e-13)
    assert merged.rows == 1000
    assert torch.equal(parts[1].mean, before)


def test_rows_with_axes_keep_them():
    x = normal(50, 2, 3)
    moments = Stream.from_tensor(x, batch=7).into(Moments("x"))
    np.testing.assert_allclose(moments.mean, x.double().numpy().mean(0), rtol=1e-10)
    np.testing.assert_allclose(moments.std, x.double().numpy().std(0), rtol=1e-10)
    flat = np.cov(x.double().numpy().reshape(50, 6).T, bias=True)
    np.testing.assert_allclose(moments.covariance, flat, rtol=1e-10, atol=1e-14)


def test_without_covariance_the_variance_is_the_same():
    x = normal(300, 5, mean=3.0)
    full, thin = Stream.from_tensor(x, batch=32).into(Moments("x"), Moments("x", covariance=False))
    torch.testing.assert_close(full.variance, thin.variance, rtol=1e-12, atol=0)
    with pytest.raises(InputError, match=r"covariance=False"):
        thin.covariance  # noqa: B018
    with pytest.raises(InputError, match="on both sides"):
        full.merge(thin)


def test_low_precision_rows_are_summed_in_float64():
    x = normal(4096, 2, mean=8.0, dtype=torch.bfloat16)
    moments = Stream.from_tensor(x, batch=100).into(Moments("x"))
    np.testing.assert_allclose(moments.mean, x.double().numpy().mean(0), rtol=1e-13)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_row_that_is_not_finite_is_named(bad):
    x = normal(10, 3)
    x[7, 1] = bad
    stream = Stream.from_tensor(x, "layers.3.z", batch=4, positions=torch.arange(10) * 2)
    message = r"layers\.3\.z.*1 of 4 rows, first at document 7, position 14"
    with pytest.raises(InputError, match=message):
        stream.into(Moments("layers.3.z"))
    moments = stream.into(Moments("layers.3.z", skip_nonfinite=True))
    kept = x[[0, 1, 2, 3, 4, 5, 6, 8, 9]]
    assert (moments.rows, moments.skipped) == (9, 1)
    np.testing.assert_allclose(moments.variance, kept.double().numpy().var(0), rtol=1e-12)
    assert "1 skipped" in repr(moments)


def test_nothing_but_bad_rows_is_an_error():
    with pytest.raises(InputError, match="3 with NaN or Inf"):
        Stream.from_tensor(torch.full((3, 2), float("nan"))).into(Moments("x", skip_nonfinite=True))


def test_rows_of_another_shape_are_refused():
    moments = Stream.from_tensor(normal(5, 3)).into(Moments("x"))
    with pytest.raises(InputError, match=r"rows of shape \[3\], got \[4\]"):
        Stream.from_tensor(normal(5, 4)).into(moments)
