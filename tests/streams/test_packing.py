import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jackfield.core.errors import InputError
from jackfield.streams import packed_batches, padded_batches

BOS, EOS, PAD = 1, 2, 0

LENGTHS = st.lists(st.integers(0, 40), min_size=1, max_size=40)


def documents(lengths):
    """Documents (ids 10, 11, …) whose tokens are all different, from 100."""
    start, made = 100, []
    for number, length in enumerate(lengths):
        made.append((10 + number, list(range(start, start + length))))
        start += length
    return made


def read_back(batches):
    """document -> tokens by position, after checking that each comes once."""
    found = {}
    for batch in batches:
        own = batch.document >= 0
        assert torch.equal(own, batch.doc_position >= 0)
        assert (batch.attention_mask[own] == 1).all()
        columns = (batch.document[own], batch.doc_position[own], batch.input_ids[own])
        for document, position, token in zip(*(c.tolist() for c in columns), strict=True):
            assert position not in found.setdefault(document, {})
            found[document][position] = token
    return {document: [token for _, token in sorted(at.items())] for document, at in found.items()}


def same(first, second):
    return len(first) == len(second) and all(
        torch.equal(getattr(a, name), getattr(b, name))
        for a, b in zip(first, second, strict=True)
        for name in ("input_ids", "attention_mask", "position_ids", "document", "doc_position")
    )


@settings(max_examples=60, deadline=None)
@given(
    lengths=LENGTHS,
    context=st.integers(2, 20),
    batch_tokens=st.integers(1, 80),
    window=st.integers(1, 10),
    bos=st.sampled_from([None, BOS]),
)
def test_padded_loses_and_doubles_nothing(lengths, context, batch_tokens, window, bos):
    given_documents = documents(lengths)
    options = {"context": context, "batch_tokens": batch_tokens, "window": window, "bos": bos}
    batches = list(padded_batches(given_documents, **options))
    assert read_back(batches) == {name: tokens for name, tokens in given_documents if tokens}
    assert same(batches, list(padded_batches(given_documents, **options)))
    for batch in batches:
        assert batch.input_ids.shape[1] <= context
        assert len(batch) == 1 or batch.input_ids.numel() <= batch_tokens
        assert (batch.attention_mask.diff(dim=1) <= 0).all()  # padding only on the right
        where = torch.arange(batch.input_ids.shape[1]) * batch.attention_mask
        assert torch.equal(batch.position_ids, where)
        if bos is not None:
            assert (batch.input_ids[:, 0] == BOS).all()


@settings(max_examples=60, deadline=None)
@given(
    lengths=LENGTHS,
    context=st.integers(2, 20),
    batch_tokens=st.integers(1, 80),
    eos=st.sampled_from([None, EOS]),
    bos=st.sampled_from([None, BOS]),
)
def test_packed_loses_and_doubles_nothing(lengths, context, batch_tokens, eos, bos):
    given_documents = documents(lengths)
    options = {"context": context, "batch_tokens": batch_tokens, "eos": eos, "bos": bos}
    batches = list(packed_batches(given_documents, **options))
    assert read_back(batches) == {name: tokens for name, tokens in given_documents if tokens}
    assert same(batches, list(packed_batches(given_documents, **options)))
    for batch in batches:
        assert batch.input_ids.shape[1] == context or batch is batches[-1]
        assert len(batch) == 1 or batch.input_ids.numel() <= batch_tokens
    assert sum(int((batch.attention_mask == 0).sum()) for batch in batches) < context
    # Order is the documents' own: their positions follow one another over rows and batches.
    ids = torch.cat([batch.document[batch.document >= 0] for batch in batches] or [torch.zeros(0)])
    assert (ids.diff() >= 0).all()


def test_padding_waste_is_small_on_lengths_that_vary_much():
    lengths = torch.randint(5, 400, (2000,), generator=torch.Generator().manual_seed(0)).tolist()
    batches = list(padded_batches(documents(lengths), context=256, batch_tokens=2048))
    positions = sum(batch.input_ids.numel() for batch in batches)
    real = sum(int(batch.attention_mask.sum()) for batch in batches)
    assert 1 - real / positions < 0.08
    assert positions / len(batches) > 0.85 * 2048  # and the batches are full


def test_waste_is_the_share_of_padding():
    (batch,) = padded_batches([(0, [5, 6, 7, 8]), (1, [9, 10])], context=4, batch_tokens=8)
    assert batch.input_ids.tolist() == [[5, 6, 7, 8], [9, 10, 0, 0]]
    assert batch.waste == pytest.approx(2 / 8)


def test_packed_rows_know_their_documents():
    batches = packed_batches(
        [(7, [11, 12]), (8, [13, 14, 15, 16])], context=5, batch_tokens=10, eos=EOS, pad=PAD
    )
    (batch,) = batches
    assert batch.input_ids.tolist() == [[11, 12, EOS, 13, 14], [15, 16, EOS, PAD, PAD]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert batch.document.tolist() == [[7, 7, -1, 8, 8], [8, 8, -1, -1, -1]]
    assert batch.doc_position.tolist() == [[0, 1, -1, 0, 1], [2, 3, -1, -1, -1]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 1], [0, 1, 2, 0, 0]]


def test_begin_tokens_are_put_only_where_they_are_missing():
    tokens = [BOS, 11, 12, 13, 14]
    (batch,) = padded_batches([(0, tokens)], context=3, batch_tokens=9, bos=BOS, pad=PAD)
    assert batch.input_ids.tolist() == [[BOS, 11, 12], [BOS, 13, 14]]
    assert batch.document.tolist() == [[0, 0, 0], [-1, 0, 0]]
    assert batch.doc_position.tolist() == [[0, 1, 2], [-1, 3, 4]]


def test_a_window_waits_for_enough_tokens():
    """One window of many documents, though each alone would be enough for `window`."""
    short = documents([1] * 40)
    batches = list(padded_batches(short, context=8, batch_tokens=10, window=1))
    assert [len(batch) for batch in batches] == [10, 10, 10, 10]


@pytest.mark.parametrize("make", [padded_batches, packed_batches])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context": 0}, "packing: context"),
        ({"batch_tokens": 0}, "packing: batch_tokens"),
        ({"context": 1, "bos": BOS}, "room for the begin token"),
    ],
    ids=["context", "batch_tokens", "bos"],
)
def test_bad_sizes(make, options, message):
    with pytest.raises(InputError, match=message):
        list(make([(0, [5])], **options))
