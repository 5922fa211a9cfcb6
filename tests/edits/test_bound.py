import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jackfield.core.errors import EditError
from jackfield.edits import Clamp, Context, KeepTopK, Threshold

HERE = Context("x")
ROW = st.lists(st.integers(-3, 3), min_size=6, max_size=6)  # few values, so that ties are common


@given(row=ROW, low=st.none() | st.floats(-2, 0), high=st.none() | st.floats(0, 2))
def test_clamp_bounds_each_unit_and_keeps_those_inside(row, low, high):
    if low is None and high is None:
        return
    x = torch.tensor(row).float()
    out = Clamp(low, high, at="x").apply(x, HERE)
    bounds = (-torch.inf if low is None else low, torch.inf if high is None else high)
    expected = [min(max(float(each), bounds[0]), bounds[1]) for each in x]
    assert torch.allclose(out, torch.tensor(expected))
    inside = (x >= bounds[0]) & (x <= bounds[1])
    assert torch.equal(out[inside], x[inside])


def test_clamp_needs_a_bound():
    with pytest.raises(EditError, match="a minimum or maximum, got neither"):
        Clamp(at="x").apply(torch.zeros(2), HERE)


@given(row=ROW, k=st.integers(0, 8))
def test_keep_top_k_keeps_exactly_k_and_the_lower_index_of_a_tie(row, k):
    x = torch.tensor([row]).float() + 0.5  # no zeros: what is zero afterwards was dropped
    out = KeepTopK(k, at="x").apply(x, HERE)
    order = sorted(range(6), key=lambda i: (-abs(float(x[0, i])), i))
    expected = torch.zeros(1, 6)
    expected[0, order[:k]] = x[0, order[:k]]
    assert torch.equal(out, expected)


def test_among_many_equals_the_first_are_kept():
    x = torch.ones(3, 5000)
    x[1] = -1
    out = KeepTopK(70, at="x").apply(x, HERE)
    assert torch.equal(out[:, :70], x[:, :70])
    assert not out[:, 70:].any()


def test_keep_top_k_of_all_is_the_same_tensor():
    x = torch.randn(2, 4)
    assert KeepTopK(4, at="x").apply(x, HERE) is x


def test_keep_top_k_counts_each_token_for_itself():
    x = torch.tensor([[[1.0, 5.0], [7.0, 6.0]]])
    assert KeepTopK(1, at="x").apply(x, HERE).tolist() == [[[0.0, 5.0], [7.0, 0.0]]]


def test_several_axes_share_the_units_where_they_are_taken_together():
    x = torch.tensor([[[[1.0, 5.0], [7.0, 6.0]]]])  # [batch, position, head, d_head]
    weights = torch.tensor([[9.0, 1.0], [1.0, 1.0]])
    assert KeepTopK(2, at="x", together=2).apply(x, HERE).tolist() == [[[[0, 0], [7, 6]]]]
    assert KeepTopK(2, weights, at="x", together=2).apply(x, HERE).tolist() == [[[[1, 0], [7, 0]]]]
    assert KeepTopK(4, at="x", together=2).apply(x, HERE) is x


def test_weights_change_the_score_and_not_the_value():
    x, weights = torch.tensor([[3.0, -2.0, 1.0]]), torch.tensor([0.1, 1.0, 1.0])
    assert KeepTopK(1, weights, at="x").apply(x, HERE).tolist() == [[0.0, -2.0, 0.0]]
    assert Threshold(0.5, weights, at="x").apply(x, HERE).tolist() == [[0.0, -2.0, 1.0]]


def test_fewer_than_none_is_refused():
    with pytest.raises(EditError, match="KeepTopK: expected k >= 0, got -1"):
        KeepTopK(-1, at="x").apply(torch.zeros(1, 4), HERE)


@given(row=ROW, threshold=st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0, 3.0]))
def test_threshold_keeps_what_exceeds_it(row, threshold):
    x = torch.tensor(row).float()
    expected = [value if abs(value) > threshold else 0.0 for value in x.tolist()]
    assert Threshold(threshold, at="x").apply(x, HERE).tolist() == expected


@pytest.mark.parametrize("edit", [KeepTopK(2, at="x"), Threshold(1.0, at="x")], ids=["k", "t"])
def test_the_gradient_passes_to_what_was_kept(edit):
    x = torch.tensor([0.5, -2.0, 1.5, 0.1], requires_grad=True)
    edit.apply(x, HERE).sum().backward()
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 0.0]
