"""Orders of a store: every row once, ranks' shares are the whole, any position is found again."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jackfield.core.errors import InputError
from jackfield.streams import Stream
from jackfield.streams.store import order
from jackfield.streams.store.order import Share, block_rows

ROWS = 1003


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    number = torch.arange(ROWS)
    stream = Stream.from_tensor(
        {"n": number, "x": torch.randn(ROWS, 6)}, batch=90, documents=number // 20
    )
    return stream.write(tmp_path_factory.mktemp("order") / "acts", commit_rows=130)


def numbers(stream):
    return torch.cat([batch["n"] for batch in stream])


@pytest.fixture
def small_windows(monkeypatch):
    """Windows of a few blocks, as stores that are larger than memory have them."""
    monkeypatch.setattr(order, "_BLOCKS", 8)
    monkeypatch.setattr(order, "_BLOCK_BYTES", 16)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_the_shares_are_the_whole(store, shuffle, world, small_windows):
    shares = [
        store.stream("n", batch=37, shuffle=shuffle, rank=rank, world=world)
        for rank in range(world)
    ]
    found = [numbers(share) for share in shares]
    assert [len(each) for each in found] == [share.rows for share in shares]
    assert torch.equal(torch.cat(found).sort().values, torch.arange(ROWS))
    assert max(map(len, found)) - min(map(len, found)) <= 2 * 16  # nobody waits long for another


@settings(max_examples=25, deadline=None)
@given(start=st.integers(0, ROWS + 5), batch=st.integers(1, 200), shuffle=st.booleans())
def test_any_position_is_found_again(store, start, batch, shuffle):
    stream = store.stream("n", batch=batch, shuffle=shuffle, seed=3, epoch=2)
    whole = numbers(stream)
    rest = list(stream.skip(start))
    assert torch.equal(numbers(rest) if rest else whole[:0], whole[start:])


def test_a_position_inside_any_window_is_found_again(store, small_windows):
    stream = store.stream("n", batch=50, shuffle=True)
    whole = numbers(stream)
    for start in range(0, ROWS, 61):
        assert torch.equal(numbers(stream.skip(start)), whole[start:])


def test_skipping_reads_nothing_of_what_it_skips(store, monkeypatch):
    read = []
    plain = type(store).gather
    monkeypatch.setattr(
        type(store),
        "gather",
        lambda self, ids, *rest: read.append(len(ids)) or plain(self, ids, *rest),
    )
    list(store.stream("n", batch=100).skip(900))
    assert sum(read) == ROWS - 900


def test_each_seed_and_epoch_has_its_own_order(store):
    orders = {
        (seed, epoch): tuple(
            numbers(store.stream("n", shuffle=True, seed=seed, epoch=epoch)).tolist()
        )
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len(set(orders.values())) == 4
    again = numbers(store.stream("n", batch=8, shuffle=True, seed=0, epoch=1))
    assert tuple(again.tolist()) != orders[0, 0]


def test_batches_are_whole(store, small_windows):
    for shuffle in (False, True):
        sizes = [len(batch) for batch in store.stream(batch=64, shuffle=shuffle)]
        assert sizes == [64] * (ROWS // 64) + [ROWS % 64]


def test_batches_outlive_the_window_they_came_from(store, small_windows):
    """A window's memory is used again; a batch must not change under its owner."""
    stream = store.stream(batch=16, shuffle=True)
    kept = list(stream)
    for batch in kept:
        assert torch.equal(batch["x"], store["x"][batch["n"]])


def test_neighbours_on_disk_come_apart(store):
    """Shuffled, a document's rows fall into batches as if dealt by chance."""
    big = Stream.from_tensor({"d": torch.arange(60_000) // 100}).write(
        f"{store.path}-big", commit_rows=9_000
    )
    shares = []
    for batch in big.stream(batch=1000, shuffle=True):
        counts = batch["d"].bincount(minlength=600).double()
        shares.append(counts.square().sum() / 1000)
    # Dealt by chance a batch has 1000 / 600 rows of a document: Σ counts² / 1000 = 2.7. In order
    # on disk it is 100. Blocks of 16 rows in one window of all rows leave it by chance.
    assert torch.stack(shares).mean() < 3.5


@pytest.mark.parametrize(
    ("widths", "packed", "rows"),
    [([8192], 1, 16), ([1152], 1, 64), ([1152], 100, 100), ([1152] * 30, 1, 16)],
)
def test_blocks_fit_the_width_of_rows(widths, packed, rows):
    assert block_rows(widths, packed) == rows


def test_a_rank_that_is_not_there(store):
    with pytest.raises(InputError, match="rank from 0 to world - 1 = 1, got rank = 2"):
        store.stream(rank=2, world=2)
    with pytest.raises(InputError, match="world"):
        store.stream(world=0)


def test_a_share_can_be_empty():
    share = Share(rows=3, block=16, seed=0, epoch=0, rank=1, world=2)
    assert share.count == 0
