"""Worlds and planted truths: they are what they say, and their controls hold nothing."""

import pytest
import torch

from jackfield.core.errors import InputError
from jackfield.testing import (
    planted_dictionary,
    planted_direction,
    tiny_llama,
    tiny_tokenizer,
    tiny_world,
)
from jackfield.testing.worlds import spread


def test_a_tiny_model_is_the_same_whatever_the_global_random_numbers_are():
    torch.manual_seed(1)
    first = tiny_llama().module.state_dict()
    torch.manual_seed(2)
    again = tiny_llama().module.state_dict()
    other = tiny_llama(seed=1).module.state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_a_tiny_tokenizer_knows_words_with_their_space():
    tokenizer = tiny_tokenizer(["When Mary, left"])
    ids = tokenizer(" Mary")["input_ids"]
    assert len(ids) == 1
    assert tokenizer.decode(ids) == " Mary"
    text = "When Mary, left"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer(" unheard")["input_ids"] == [tokenizer.unk_token_id]


def test_a_world_streams_the_activations_of_its_texts():
    world = tiny_world(texts=5, length=4)
    rows = world.stream().collect()[world.site]
    expected = world.model.run(world.tokens, sites=[world.site])[world.site]
    assert torch.equal(rows, expected.flatten(0, 1))
    assert torch.equal(rows, world.rebatched(3).stream().collect()[world.site])
    assert {len(batch) for batch in world.rebatched(3).stream()} == {3, 2}


def test_other_worlds_differ_in_what_they_say_only():
    world = tiny_world(texts=3)
    strided = next(iter(world.spread().stream()))[world.site]
    assert not strided.is_contiguous()
    assert torch.equal(strided, next(iter(world.stream()))[world.site])
    assert world.poisoned().stream().collect()[world.site].isnan().any()
    with pytest.raises(InputError, match="empty"):
        world.emptied().stream().collect()


@pytest.mark.parametrize("shape", [(6,), (4, 6), (2, 3, 4)])
def test_spread_keeps_the_numbers(shape):
    x = torch.randn(shape)
    assert torch.equal(spread(x), x)
    assert not spread(x).is_contiguous()


def test_a_planted_dictionary_is_found_by_itself_and_not_by_chance():
    truth = planted_dictionary(rows=500)
    assert ((truth.codes > 0).sum(dim=1) == 2).all()
    assert truth.recovered(truth.directions).min() > 0.999
    assert truth.recovered(torch.randn(24, 16)).mean() < 0.8


def test_the_control_has_the_covariance_and_no_sparse_codes():
    truth = planted_dictionary(rows=3000, d=16)
    control = truth.control()
    apart = (control.T.cov() - truth.x.T.cov()).norm() / truth.x.T.cov().norm()
    assert apart < 0.1
    seen = [x @ truth.directions.T for x in (truth.x, control)]
    kurtosis = [(((x - x.mean(0)) / x.std(0)) ** 4).mean() for x in seen]
    assert abs(kurtosis[1] - 3) < 0.1
    assert kurtosis[0] > 3.5


def test_no_seed_of_a_method_begins_at_the_answer():
    truth = planted_dictionary(rows=10)
    begun = torch.randn(24, 16, generator=torch.Generator().manual_seed(0))
    assert truth.recovered(begun).max() < 0.95


@pytest.mark.parametrize(("strength", "found"), [(4.0, True), (0.0, False)])
def test_a_planted_direction_separates_and_its_control_does_not(strength, found):
    positive, negative, direction = planted_direction(rows=1000, strength=strength)
    gap = float((positive.mean(0) - negative.mean(0)) @ direction)
    assert gap == pytest.approx(strength, abs=0.2)
    assert (float((positive @ direction > 0).float().mean()) > 0.95) == found
