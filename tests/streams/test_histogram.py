import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jackfield.core.errors import InputError
from jackfield.streams import Histogram, Stream


def poured(x, batch=4096, **options):
    return Stream.from_tensor(x, batch=batch).into(Histogram("x", **options))


VALUES = st.lists(
    st.floats(-1e6, 1e6, allow_nan=False, width=32) | st.sampled_from([0.0, 1.0, -1e-6, 1e-6]),
    min_size=1,
    max_size=60,
)


@settings(max_examples=80, deadline=None)
@given(VALUES, st.integers(1, 20), st.integers(4, 40))
def test_counts_equal_numpy_on_the_same_edges(values, batch, bins):
    x = torch.tensor(values, dtype=torch.float64)[:, None]
    histogram = poured(x, batch, bins=bins)
    edges = histogram.edges(0).numpy()
    # numpy closes its last bin on the right; ours are all open there
    truth = np.searchsorted(edges, x[:, 0].numpy(), side="right") - 1
    assert histogram.counts[0].tolist() == np.bincount(truth, minlength=bins).tolist()
    assert histogram.counts.sum() == len(values)


@settings(max_examples=80, deadline=None)
@given(VALUES, st.integers(1, 20), st.randoms(use_true_random=False))
def test_batches_and_order_do_not_matter(values, batch, random):
    shuffled = list(values)
    random.shuffle(shuffled)
    one = poured(torch.tensor(values)[:, None], bins=8)
    other = poured(torch.tensor(shuffled)[:, None], batch, bins=8)
    assert torch.equal(one.counts, other.counts)
    assert torch.equal(one.edges(0), other.edges(0))


@settings(max_examples=80, deadline=None)
@given(VALUES, st.integers(1, 60))
def test_merged_parts_are_the_whole(values, cut):
    x = torch.tensor(values)[:, None]
    parts = [part for part in (x[:cut], x[cut:]) if len(part)]
    merged = Histogram("x", bins=8)
    for part in parts:
        merged.merge(poured(part, bins=8))
    whole = poured(x, bins=8)
    assert torch.equal(merged.counts, whole.counts)
    assert torch.equal(merged.edges(0), whole.edges(0))
    assert merged.rows == len(values)


@pytest.mark.parametrize("bins", [4, 7, 64])
def test_at_least_half_of_the_bins_are_in_use(bins):
    x = torch.rand(4000, 20) * torch.logspace(-6, 6, 20) + torch.linspace(-9, 9, 20)
    counts = poured(x.double(), 100, bins=bins).counts
    used = [int(row.nonzero().max() - row.nonzero().min()) + 1 for row in counts]
    assert min(used) * 2 > bins


def test_quantiles_are_right_to_half_a_bin():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(10_000, 3, generator=generator) * torch.tensor([1.0, 1e-3, 1e4])
    histogram = poured(x, 333, bins=1024)
    for q in (0.0, 0.01, 0.5, 0.99, 1.0):
        truth = np.quantile(x.double().numpy(), q, axis=0, method="lower")
        for unit in range(3):
            edges = histogram.edges(unit)
            half = float(edges[1] - edges[0]) / 2
            assert abs(float(histogram.quantile(q)[unit]) - truth[unit]) <= half * (1 + 1e-9)


def test_density_counts_what_is_above():
    x = torch.zeros(100, 2)
    x[:7, 0] = torch.linspace(0.5, 3, 7)
    histogram = poured(x, 9, bins=8, above=0.0)
    assert histogram.density.tolist() == pytest.approx([0.07, 0.0])
    assert histogram.counts.sum(dim=1).tolist() == [7, 0]
    assert histogram.quantile(0.5).isnan().tolist() == [False, True]


def test_a_constant_has_one_bin():
    histogram = poured(torch.full((50, 1), 0.001, dtype=torch.float64), 7, bins=8)
    assert sorted(histogram.counts[0].tolist())[-1] == 50
    assert float(histogram.quantile(0.5)) == pytest.approx(0.001, rel=1e-9)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: Histogram("x", bins=3), "at least 4"),
        (lambda: poured(torch.tensor([[1.0], [float("inf")]])), "Histogram at x.*1 of 2 rows"),
        (lambda: poured(torch.ones(2, 1)).quantile(1.5), r"q in \[0, 1\]"),
        (lambda: poured(torch.ones(2, 1)).merge(poured(torch.ones(2, 1), bins=9)), "bins=64"),
        (lambda: poured(torch.ones(2, 1)).merge(poured(torch.ones(2, 2))), "1 units in every"),
    ],
    ids=["bins", "inf", "quantile", "merge", "units"],
)
def test_bad_input(act, message):
    with pytest.raises(InputError, match=message):
        act()
