import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jackfield.core.errors import InputError, SiteError
from jackfield.streams import Stream


def numbered(count, batch=4096):
    """A stream whose values, tokens, documents and positions all tell the row's number."""
    number = torch.arange(count)
    return Stream.from_tensor(
        {"x": number[:, None].float(), "y": -number.float()},
        batch=batch,
        tokens=number + 1,
        documents=number + 2,
        positions=number + 3,
    )


def numbers(stream):
    """The numbers of the rows, after checking that every part of each batch agrees."""
    found = []
    for batch in stream:
        row = batch.positions - 3
        assert torch.equal(batch.tokens, row + 1)
        assert torch.equal(batch.documents, row + 2)
        for site in batch.sites:
            sign = -1 if site == "y" else 1
            assert torch.equal(batch[site].flatten(), sign * row.float())
        found += row.tolist()
    return found


@given(st.integers(1, 50), st.integers(1, 12), st.integers(1, 12), st.integers(1, 60))
def test_helpers_keep_rows_whole_and_in_order(count, batch, rebatch, take):
    stream = numbered(count, batch).rebatch(rebatch).take(take)
    assert numbers(stream) == list(range(min(count, take)))
    assert stream.rows == min(count, take)


def test_rebatch_gives_one_size():
    assert [len(batch) for batch in numbered(11, 4).rebatch(3)] == [3, 3, 3, 2]
    assert [len(batch) for batch in numbered(11, 2).rebatch(5)] == [5, 5, 1]


def test_take_does_not_ask_for_a_batch_too_many():
    asked = []

    class Watched(Stream):
        sites = ("x",)
        rows = None
        provenance = {}  # noqa: RUF012

        def batches(self, start=0):
            for batch in numbered(12, 4).select("x"):
                asked.append(1)
                yield batch

    assert numbers(Watched().take(8)) == list(range(8))
    assert len(asked) == 2


@given(st.integers(1, 80), st.integers(1, 30), st.integers(1, 100), st.integers(0, 3))
def test_shuffle_permutes_and_repeats_itself(count, batch, buffer, seed):
    stream = numbered(count, batch).shuffle(seed, buffer)
    first = numbers(stream)
    assert sorted(first) == list(range(count))
    assert numbers(stream) == first
    assert stream.rows == count


def test_shuffle_with_another_seed_is_another_order():
    assert numbers(numbered(200).shuffle(0)) != numbers(numbered(200).shuffle(1))


def test_a_shuffle_that_holds_everything_is_uniform():
    """The first row out is each of 4 rows about as often: chi-square of 400 seeds, 3 degrees."""
    firsts = torch.tensor([numbers(numbered(4, 2).shuffle(seed))[0] for seed in range(400)])
    counts = torch.bincount(firsts, minlength=4)
    assert ((counts - 100) ** 2 / 100).sum() < 16.3  # the 0.999 quantile


def test_a_small_buffer_mixes_as_far_as_it_reaches():
    moved = torch.tensor(numbers(numbered(5000, 50).shuffle(0, 500))) - torch.arange(5000)
    assert 200 < moved.abs().float().mean() < 1000


def test_shuffle_does_not_write_into_the_arrays():
    x = torch.arange(100.0)[:, None]
    list(Stream.from_tensor(x, batch=10).shuffle(0, 20))
    assert torch.equal(x, torch.arange(100.0)[:, None])


def test_select_keeps_the_labels():
    stream = numbered(9, 4).select("y")
    assert stream.sites == ("y",)
    assert numbers(stream) == list(range(9))


def test_select_of_a_missing_site():
    with pytest.raises(SiteError, match=r"select.*'z'"):
        numbered(3).select("z")


def test_provenance_tells_the_content_and_what_was_done():
    x = torch.arange(6.0).reshape(3, 2)
    same = Stream.from_tensor(x.clone(), batch=1)
    assert Stream.from_tensor(x).provenance == same.provenance
    assert Stream.from_tensor(x.T).provenance != same.provenance
    assert Stream.from_tensor(x + 1).provenance != same.provenance
    assert same.rebatch(2).provenance == same.provenance
    steps = (same.take(2), same.shuffle(1), same.shuffle(2), same.select("x"), same)
    assert len({str(stream.provenance) for stream in steps}) == 5


def test_bfloat16_arrays_have_a_fingerprint():
    x = torch.ones(3, 2, dtype=torch.bfloat16)
    assert Stream.from_tensor(x).provenance != Stream.from_tensor(x.half()).provenance


@pytest.mark.parametrize("array", [torch.zeros(0, 3), torch.tensor(1.0)], ids=["empty", "scalar"])
def test_from_tensor_needs_rows(array):
    with pytest.raises(InputError, match="at least one row"):
        Stream.from_tensor(array)


def test_from_tensor_needs_as_many_rows_everywhere():
    with pytest.raises(InputError, match=r"2 rows everywhere.*'b': 3"):
        Stream.from_tensor({"a": torch.zeros(2, 1), "b": torch.zeros(3, 1)})


@pytest.mark.parametrize("count", [0, -1, 1.5, True])
def test_counts_are_whole_and_positive(count):
    with pytest.raises(InputError, match=r"an int >= 1"):
        numbered(3).take(count)
