import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jackfield.core.errors import InputError
from jackfield.streams import Stream, TopExamples


def by_hand(x, documents, k, above, *, per_document):
    """Rows and values of each unit by sorting in Python: the slow truth."""
    found = []
    for unit in range(x.shape[1]):
        ranked = sorted((-float(value), row) for row, value in enumerate(x[:, unit]))
        kept, seen = [], set()
        for negative, row in ranked:
            document = int(documents[row])
            if -negative > above and not (per_document and document in seen):
                kept.append((row, -negative))
                seen.add(document)
        found.append(kept[:k])
    return found


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    rows=st.integers(1, 60),
    batch=st.integers(1, 30),
    k=st.integers(1, 8),
    per_document=st.booleans(),
    above=st.sampled_from([float("-inf"), 0.0]),
)
def test_equal_to_sorting_whatever_the_batches(seed, rows, batch, k, per_document, above):
    """Values are drawn from few, so that equal ones are common: the earlier row is kept."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-3, 4, (rows, 5), generator=generator) / 2
    documents = torch.randint(0, 7, (rows,), generator=generator)
    tokens, positions = torch.arange(rows) + 100, torch.arange(rows) + 200
    stream = Stream.from_tensor(
        x, batch=batch, documents=documents, tokens=tokens, positions=positions
    )
    top = stream.into(TopExamples("x", k=k, per_document=per_document, above=above))
    truth = by_hand(x, documents, k, above, per_document=per_document)
    for unit in range(5):
        found = top.of(unit)
        assert [(example.row, example.value) for example in found] == truth[unit]
        for example in found:
            assert example.document == documents[example.row]
            assert (example.token, example.position) == (example.row + 100, example.row + 200)


def test_planted_rows_are_found_and_noise_is_not():
    """Three rows along a direction that nothing else has; a random direction finds others."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5000, 32, generator=generator)
    direction = torch.zeros(2, 32)
    direction[0, 3] = 1.0
    direction[1] = torch.randn(32, generator=generator)
    planted = [17, 2048, 4999]
    x[planted, 3] = torch.tensor([20.0, 30.0, 25.0])
    top = Stream.from_tensor(x, batch=512).into(TopExamples("x", k=3, of=direction))
    assert top.rows[0].tolist() == [2048, 4999, 17]
    assert not set(top.rows[1].tolist()) & set(planted)


def test_units_of_a_function():
    x = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    norm = Stream.from_tensor(x, batch=9).into(
        TopExamples("x", k=1, of=lambda rows: rows.norm(dim=1, keepdim=True))
    )
    assert norm.rows.tolist() == [[int(x.norm(dim=1).argmax())]]


def test_rare_units_have_fewer_slots_filled():
    x = torch.zeros(10, 2)
    x[4, 0] = 1.0
    top = Stream.from_tensor(x, batch=3).into(TopExamples("x", k=3, above=0.0))
    assert top.counts.tolist() == [1, 0]
    assert top.of(0)[0].row == 4
    assert top.of(1) == []
    assert top.rows[0].tolist() == [4, -1, -1]
    assert top.values[1].tolist() == [float("-inf")] * 3


def test_without_tokens_examples_have_none():
    top = Stream.from_tensor(torch.ones(2, 1)).into(TopExamples("x", k=1))
    assert top.tokens is None
    assert top.of(0)[0].token is None


def test_low_precision_values_are_ranked():
    x = torch.tensor([[1.0], [-2.0], [3.0]], dtype=torch.bfloat16)
    top = Stream.from_tensor(x).into(TopExamples("x", k=3))
    assert top.rows.tolist() == [[2, 0, 1]]


def test_nan_is_named():
    x = torch.ones(4, 2)
    x[2, 1] = float("nan")
    with pytest.raises(InputError, match=r"TopExamples at x.*1 of 4 rows, first at document 2"):
        Stream.from_tensor(x).into(TopExamples("x"))


def test_directions_of_the_wrong_width():
    stream = Stream.from_tensor(torch.ones(4, 2))
    with pytest.raises(InputError, match=r"directions \[unit, d\].*shape \[5, 3\]"):
        stream.into(TopExamples("x", of=torch.ones(5, 3)))


def test_a_function_that_loses_rows():
    stream = Stream.from_tensor(torch.ones(4, 2))
    with pytest.raises(InputError, match=r"gives \[row, unit\] for 4 rows, got shape \[2\]"):
        stream.into(TopExamples("x", of=lambda rows: rows.sum(dim=0)))


def test_k_of_nothing():
    with pytest.raises(InputError, match="TopExamples: k"):
        TopExamples("x", k=0)
