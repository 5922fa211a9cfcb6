"""Windows: the tokens around the top rows, whatever the order and batches of the stream."""

import math

import torch

from jackfield.dictionaries.windows import Windows
from jackfield.streams import Stream, TopExamples

ROWS = 60


def corpus_like(batch: int = 7) -> tuple[Stream, dict[tuple[int, int], int]]:
    """Three documents of 20 rows, of which some positions are missing, as sinks are."""
    generator = torch.Generator().manual_seed(0)
    documents = torch.arange(3).repeat_interleave(20)
    positions = torch.arange(1, 21).repeat(3)
    kept = positions != 7
    values = torch.rand(int(kept.sum()), 4, generator=generator)
    tokens = torch.arange(len(documents)) + 500
    stream = Stream.from_tensor(
        values,
        site="codes",
        batch=batch,
        tokens=tokens[kept],
        documents=documents[kept],
        positions=positions[kept],
    )
    places = zip(documents[kept].tolist(), positions[kept].tolist(), strict=True)
    return stream, {place: row for row, place in enumerate(places)}


def test_windows_hold_the_neighbours_of_each_top_row():
    stream, row_at = corpus_like()
    batch = stream.collect()
    top = stream.into(TopExamples("codes", k=3))
    windows = stream.into(Windows("codes", top, before=3, after=2))
    for unit in range(4):
        for number, example in enumerate(top.of(unit)):
            around = range(example.position - 3, example.position + 3)
            wanted = [(example.document, p) for p in around if (example.document, p) in row_at]
            rows = [row_at[place] for place in wanted]
            found = [token for token in windows.of(unit, number) if not token.is_gap]
            assert [token.position for token in found] == [place[1] for place in wanted]
            assert [token.id for token in found] == batch.tokens[rows].tolist()
            torch.testing.assert_close(
                torch.tensor([token.value for token in found]), batch["codes"][rows, unit]
            )


def test_a_missing_token_is_a_gap():
    stream, _ = corpus_like()
    top = stream.into(TopExamples("codes", k=1))
    top.positions[0, 0], top.documents[0, 0] = 8, 1
    window = stream.into(Windows("codes", top, before=3, after=1)).of(0, 0)
    assert [token.position for token in window] == [5, 6, 7, 8, 9]
    assert [token.is_gap for token in window] == [False, False, True, False, False]


def test_batches_and_order_make_no_difference():
    one, _ = corpus_like(batch=60)
    top = one.into(TopExamples("codes", k=3))
    expected = one.into(Windows("codes", top, before=4, after=4))
    for other in (corpus_like(batch=1)[0], one.shuffle(seed=3)):
        found = other.into(Windows("codes", top, before=4, after=4))
        assert torch.equal(found.tokens, expected.tokens)
        assert torch.equal(found.values.nan_to_num(-1), expected.values.nan_to_num(-1))


def test_empty_slots_stay_empty():
    x = torch.tensor([[1.0, 0.0], [2.0, 0.0]])
    top = Stream.from_tensor(x).into(TopExamples("x", k=3, above=0.0))
    windows = Stream.from_tensor(x).into(Windows("x", top, before=1, after=1))
    assert windows.of(1, 0) == []
    assert windows.of(0, 2) == []
    (token,) = windows.of(0, 0)  # rows that are not tokens: each its own document
    assert (token.id, token.position, token.value) == (None, 0, 2.0)
    assert math.isnan(windows.values[0, 0, 0])
