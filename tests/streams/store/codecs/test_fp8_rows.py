import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jackfield.streams.store.codecs import Fp8Rows, Int8Rows, Kind

FLOATS = [torch.float32, torch.bfloat16, torch.float16]
ROW = st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1, max_size=20)

# All values of e4m3 from 0 up, by its definition: 8 subnormal ones, then 8 in each binade; the last
# of the last binade is NaN.
SUBNORMAL = [m * 2.0**-9 for m in range(8)]
GRID = np.array(
    SUBNORMAL + [(1 + m / 8) * 2.0**e for e in range(-6, 9) for m in range(8)][:-1],
)


def back(rows, codec=None):
    codec = codec or Fp8Rows()
    return codec.decode(codec.encode(rows), Kind(tuple(rows.shape[1:]), rows.dtype))


def error(rows, codec=None):
    return (back(rows, codec).double() - rows.double()).abs()


@settings(max_examples=200, deadline=None)
@given(ROW, st.sampled_from(FLOATS))
def test_any_finite_row_stays_within_its_bound(row, dtype):
    limit = torch.finfo(dtype).max
    rows = torch.tensor([row]).clamp(-limit, limit).to(dtype)
    assert bool((error(rows).amax(dim=1) <= Fp8Rows().bound(rows)).all())


def test_the_values_are_the_nearest_of_e4m3():
    assert GRID[-1] == 448
    rows = torch.randn(50, 4, 16, generator=torch.Generator().manual_seed(0)) ** 3
    wide = rows.double().numpy()
    steps = np.abs(wide) / (np.abs(wide).max(axis=(1, 2), keepdims=True) / 448)
    nearest = GRID[np.abs(steps[..., None] - GRID).argmin(axis=-1)] * np.sign(wide)
    assert np.array_equal(Fp8Rows().encode(rows)["values"].double().numpy(), nearest)


def test_small_values_keep_a_sixteenth_of_themselves():
    rows = torch.logspace(-12, 3, 400, base=2)[None]
    scale = 8 / 448
    allowed = torch.maximum(rows * 2**-4, torch.tensor(2**-10 * scale)) * 1.0001
    assert bool((error(rows) <= allowed).all())
    small = rows < 8 / 254
    assert bool((back(rows, Int8Rows())[small] == 0).all())  # where int8 has nothing left
    assert bool((error(rows)[small] < rows[small] / 4).all())


def test_the_bound_is_reached_and_is_16_scales():
    rows = torch.tensor([[448.0, 272.0, 1.0], [44.8, 1.0, 0.0]])
    bound = Fp8Rows().bound(rows)
    assert error(rows)[0].max() == 16
    assert bool((bound >= torch.tensor([16, 1.6])).all())
    assert bool((bound < torch.tensor([16, 1.6]) * 1.0001).all())


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_the_largest_numbers_do_not_overflow(dtype):
    limit = torch.finfo(dtype).max
    rows = torch.tensor([[limit, -limit, limit / 3]], dtype=torch.float64).to(dtype)
    assert bool(back(rows).isfinite().all())
    assert bool((error(rows).amax(dim=1) <= Fp8Rows().bound(rows)).all())


def test_zeros_are_exact_and_a_row_that_is_not_finite_is_all_nan():
    rows = torch.tensor([[0.0, 0.0], [1.0, torch.nan], [torch.inf, 1.0], [2.0, 1.0]])
    found = back(rows)
    assert found[0].tolist() == [0.0, 0.0]
    assert bool(found[1:3].isnan().all())
    assert bool(found[3].isfinite().all())
    assert not Fp8Rows().encode(rows)["values"][1:3].float().any()  # the scale says it, once
