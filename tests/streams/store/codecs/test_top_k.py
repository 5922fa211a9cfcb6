import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jackfield.core.errors import ConfigError
from jackfield.streams.store.codecs import Kind, TopKRows, top_k

FEW = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 0.5, 1e-40, -3e38])


def back(rows, k):
    codec = TopKRows(k=k)
    return codec.decode(codec.encode(rows), Kind(tuple(rows.shape[1:]), rows.dtype))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(FEW, min_size=7, max_size=7), min_size=1, max_size=4), st.integers(1, 7))
def test_the_first_of_the_largest_are_kept(values, k):
    """As NumPy's stable sort says, with many ties."""
    rows = torch.tensor(values)
    order = np.argsort(-np.abs(rows.numpy()), axis=1, kind="stable")
    codec = TopKRows(k=k)
    parts = codec.encode(rows)
    assert np.array_equal(parts["places"].numpy(), np.sort(order[:, :k], axis=1))
    dropped = np.take_along_axis(np.abs(rows.numpy()), order[:, k:], axis=1)
    assert codec.bound(rows).tolist() == dropped.max(axis=1, initial=0).tolist()
    error = (back(rows, k).double() - rows.double()).abs().amax(dim=1)
    assert torch.equal(error, codec.bound(rows))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_codes_of_a_dictionary_are_exact(dtype):
    generator = torch.Generator().manual_seed(0)
    codes = torch.zeros(30, 5000, dtype=dtype)
    for row, active in enumerate(range(30)):  # from none to 29 latents
        places = torch.randperm(5000, generator=generator)[:active]
        codes[row, places] = torch.rand(active, generator=generator).to(dtype) + 1
    assert torch.equal(back(codes, 29), codes)
    assert not TopKRows(k=29).bound(codes).any()
    assert TopKRows(k=28).bound(codes).count_nonzero() == 1


def test_places_take_two_bytes_up_to_32_768_numbers():
    for width, dtype in ((32_768, torch.int16), (32_769, torch.int32)):
        rows = torch.zeros(2, width)
        rows[0, -1], rows[1, 0] = 3, -2
        parts = TopKRows(k=1).encode(rows)
        assert parts["places"].dtype == dtype
        assert parts["places"].tolist() == [[width - 1], [0]]
        assert torch.equal(back(rows, 1), rows)


def test_heads_share_the_k():
    rows = torch.tensor([[[1.0, 5.0], [4.0, 3.0]], [[9.0, 8.0], [1.0, 2.0]]])
    expected = [[[0.0, 5.0], [4.0, 0.0]], [[9.0, 8.0], [0.0, 0.0]]]
    assert back(rows, 2).tolist() == expected


def test_slices_make_no_difference(monkeypatch):
    rows = torch.randn(50, 40, generator=torch.Generator().manual_seed(0)).bfloat16()
    whole, bound = TopKRows(k=5).encode(rows), TopKRows(k=5).bound(rows)
    monkeypatch.setattr(top_k, "_AT_ONCE", 130)  # 3 rows
    sliced = TopKRows(k=5).encode(rows)
    assert all(torch.equal(whole[name], sliced[name]) for name in whole)
    assert torch.equal(bound, TopKRows(k=5).bound(rows))


def test_what_is_not_finite_is_kept_first():
    rows = torch.tensor([[9.0, torch.inf, 1.0, -torch.nan], [9.0, -torch.inf, 1.0, 3e38]])
    assert back(rows, 1).isnan().tolist() == [[False, False, False, True], [False] * 4]
    assert back(rows, 1)[1].tolist() == [0, -torch.inf, 0, 0]
    assert back(rows, 2)[0, :3].tolist() == [0, torch.inf, 0]


def test_k_is_at_most_the_width():
    TopKRows(k=6).check(Kind((2, 3), torch.float32))
    with pytest.raises(ConfigError, match="k of at most 6, the numbers of a row, got 7"):
        TopKRows(k=7).check(Kind((2, 3), torch.float32))


@pytest.mark.parametrize("place", [-1, 4])
def test_a_place_outside_of_the_row_is_refused(place):
    parts = {"places": torch.tensor([[place]], dtype=torch.int16), "values": torch.ones(1, 1)}
    with pytest.raises(ValueError, match="outside of a row of 4 numbers"):
        TopKRows(k=1).decode(parts, Kind((4,), torch.float32))
