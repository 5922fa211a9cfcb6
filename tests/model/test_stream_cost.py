"""What a pass will take, against what it took."""

import itertools
import json

import pytest
import torch

import jackfield as jf
from jackfield.core.errors import InputError
from jackfield.model import stream_cost
from jackfield.model.stream_cost import StreamCost

SITES = ["layers.0.z", "layers.1.resid_post"]
TEXTS = [" ".join(f"w{(i * j) % 90 + 5}" for j in range(1 + i % 13)) for i in range(400)]
WORDS = sum(len(text.split()) for text in TEXTS)


@pytest.fixture(autouse=True)
def _without_sinks(talker):
    talker.__dict__["sinks"] = ()


@pytest.fixture
def hurried(monkeypatch):
    """A clock on which each document takes a second."""
    clock = itertools.count()
    monkeypatch.setattr(stream_cost.time, "monotonic", lambda: next(clock))


@pytest.mark.parametrize("pack", [False, True])
def test_rows_and_bytes_are_those_of_the_pass(pack, talker):
    stream = talker.stream(TEXTS, SITES, where=slice(1, None), pack=pack, context=15)
    cost = stream.cost()
    batch = stream.collect()
    assert (cost.rows, cost.exact, cost.share) == (len(batch), True, 1.0)
    assert cost.bytes == sum(batch[site].numel() * 4 for site in SITES)
    assert cost.row_bytes == {SITES[0]: 4 * 8 * 4, SITES[1]: 32 * 4}
    assert cost.tokens >= WORDS
    half = stream.cost(dtype=torch.bfloat16)
    assert (half.bytes, half.dtype) == (cost.bytes // 2, "bfloat16")
    assert talker.stream(TEXTS, SITES, dtype=torch.float16).cost().dtype == "float16"


def test_a_most_ends_the_counting(talker):
    def endless():
        return itertools.cycle(TEXTS[1:])

    cost = talker.stream(endless, SITES, max_tokens=100, batch_tokens=20).cost()
    assert (cost.rows, cost.exact) == (100, True)


def test_few_forwards_are_enough(talker):
    calls = []
    talker.module.register_forward_pre_hook(lambda *_: calls.append(1))
    talker.stream(TEXTS, SITES, batch_tokens=20).cost()
    assert len(calls) == 4


class TestEstimates:
    def test_by_documents(self, talker, hurried):
        cost = talker.stream(TEXTS, SITES).cost(seconds=100)
        assert not cost.exact
        assert cost.share == pytest.approx(0.25, abs=0.01)
        assert cost.rows == pytest.approx(WORDS, rel=0.1)
        assert cost.tokens == pytest.approx(WORDS, rel=0.1)

    def test_of_a_span(self, talker, hurried):
        cost = talker.stream(TEXTS, SITES).span(200).cost(seconds=100)
        assert cost.share == pytest.approx(0.5, abs=0.01)
        assert cost.rows == pytest.approx(WORDS / 2, rel=0.1)

    def test_by_bytes(self, talker, hurried, tmp_path):
        path = tmp_path / "a.jsonl"
        path.write_text("\n".join(json.dumps({"text": text}) for text in TEXTS))
        cost = talker.stream(jf.corpus(path), SITES).cost(seconds=100)
        assert cost.share == pytest.approx(0.25, abs=0.03)
        assert cost.rows == pytest.approx(WORDS, rel=0.15)

    def test_of_a_limited_one(self, talker, hurried):
        stream = talker.stream(jf.corpus(lambda: iter(TEXTS), limit=200), SITES)
        assert stream.cost(seconds=100).rows == pytest.approx(WORDS / 2, rel=0.1)

    def test_no_more_than_asked_for(self, talker, hurried):
        cost = talker.stream(TEXTS, SITES, max_tokens=1000).cost(seconds=100)
        assert (cost.rows, cost.exact) == (1000, False)

    def test_where_the_length_is_not_known_it_is_the_least(self, talker, hurried):
        cost = talker.stream(lambda: iter(TEXTS), SITES).cost(seconds=100)
        assert (cost.exact, cost.share) == (False, None)
        assert cost.rows == sum(len(text.split()) for text in TEXTS[:100])
        assert str(cost).startswith(f"at least {cost.rows} rows × 2 sites")


def test_nothing_to_read(talker):
    with pytest.raises(InputError, match=r"stream\.cost: expected rows"):
        talker.stream(TEXTS, SITES, where=[60]).cost()


def test_it_prints_itself():
    cost = StreamCost(
        rows=1_234_567,
        tokens=1_234_567,
        row_bytes=dict.fromkeys(map(str, range(30)), 1152),
        dtype="bfloat16",
        tokens_per_second=540.4,
        exact=True,
        share=1.0,
    )
    text = "1,234,567 rows × 30 sites, 42.7 GB as bfloat16, about 38 min at 540 tokens/s"
    assert str(cost) == text
