import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jackfield.streams.store.codecs import Int8Rows, Kind

FLOATS = [torch.float32, torch.bfloat16, torch.float16]
ROW = st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1, max_size=20)


def back(rows):
    codec = Int8Rows()
    return codec.decode(codec.encode(rows), Kind(tuple(rows.shape[1:]), rows.dtype))


def error(rows):
    return (back(rows).double() - rows.double()).abs().flatten(1).amax(dim=1)


@settings(max_examples=200, deadline=None)
@given(ROW, st.sampled_from(FLOATS))
def test_any_finite_row_stays_within_its_bound(row, dtype):
    limit = torch.finfo(dtype).max
    rows = torch.tensor([row]).clamp(-limit, limit).to(dtype)
    assert bool((error(rows) <= Int8Rows().bound(rows)).all())


def test_the_values_are_the_nearest_steps():
    rows = torch.randn(50, 4, 16, generator=torch.Generator().manual_seed(0))
    wide = rows.double().numpy()
    scale = np.abs(wide).max(axis=(1, 2)) / 127
    parts = Int8Rows().encode(rows)
    assert np.array_equal(parts["values"].numpy(), np.rint(wide / scale[:, None, None]))
    np.testing.assert_allclose(parts["scale"].numpy(), scale, rtol=1e-7)


def test_the_bound_is_reached_and_little_more_than_half_a_scale():
    rows = torch.tensor([[127.0, 0.5, -3.5, 7.0], [12.7, 0.1, 0.25, 0.0]])
    bound = Int8Rows().bound(rows)
    assert error(rows)[0] == 0.5
    assert bool((bound >= torch.tensor([0.5, 0.05])).all())
    assert bool((bound < torch.tensor([0.5, 0.05]) * 1.0002).all())
    assert bool((Int8Rows().bound(rows.bfloat16()) < 2.01 * torch.tensor([0.5, 0.05])).all())


def test_halves_between_two_steps_stay_within_the_bound():
    """There the roundings of float32 add to half a scale."""
    largest = torch.rand(2000, 1, generator=torch.Generator().manual_seed(0)) + 1
    halves = largest / 127 * (torch.arange(127) + 0.5)
    rows = torch.cat([largest, halves, halves.nextafter(largest)], dim=1)
    excess = (error(rows) - Int8Rows().encode(rows)["scale"].double() / 2) / largest[:, 0]
    assert excess.max() > 2.0**-24
    assert bool((error(rows) <= Int8Rows().bound(rows)).all())


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_the_largest_numbers_do_not_overflow_and_the_smallest_have_a_scale(dtype):
    limits = torch.finfo(dtype)
    ends = torch.tensor([[limits.max, -limits.max, limits.max / 3]], dtype=torch.float64).to(dtype)
    assert bool(back(ends).isfinite().all())
    small = torch.tensor([[limits.tiny * limits.eps, 0.0]], dtype=torch.float64).to(dtype)
    assert small[0, 0] > 0
    for rows in (ends, small):
        assert bool((error(rows) <= Int8Rows().bound(rows)).all())


def test_zeros_are_exact_and_a_row_that_is_not_finite_is_all_nan():
    rows = torch.tensor([[0.0, 0.0], [1.0, torch.nan], [torch.inf, 1.0], [-torch.inf, 0.0], [2, 1]])
    found = back(rows)
    assert found[0].tolist() == [0.0, 0.0]
    assert bool(found[1:4].isnan().all())
    assert bool(found[4].isfinite().all())
    assert Int8Rows().bound(rows)[:4].tolist() == [0.0, torch.inf, torch.inf, torch.inf]


def test_a_byte_a_number_and_four_a_row():
    parts = Int8Rows().parts(Kind((12, 64), torch.bfloat16))
    assert sum(kind.row_bytes for kind in parts.values()) == 12 * 64 + 4
