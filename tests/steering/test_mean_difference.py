"""The direction against planted truths, by-hand means, and a random split as the control."""

import pytest
import torch

import jackfield as jf
from jackfield.core.config import from_json, to_json
from jackfield.core.errors import InputError, SiteError
from jackfield.steering import JOYFUL, SORROWFUL, MeanDifference, read_contrast

AT = "layers.1.resid_post"


def texts(count: int, seed: int) -> torch.Tensor:
    return torch.randint(1, 100, (count, 9), generator=torch.Generator().manual_seed(seed))


def by_hand(model: jf.Model, tokens: torch.Tensor, places: slice | int) -> torch.Tensor:
    x = model.run(tokens, sites=[AT])[AT]
    x = x[:, places] if isinstance(places, slice) else x[:, [places]]
    return x.mean(dim=1).mean(dim=0)


@pytest.mark.parametrize(("tokens", "places"), [("all", slice(1, None)), ("last", 8)])
def test_the_vector_is_the_difference_of_the_means(tiny64, monkeypatch, tokens, places):
    monkeypatch.setattr(type(tiny64), "sinks", (0,))
    plus, minus = texts(20, 1), texts(17, 2)
    fitted = MeanDifference(tokens=tokens).fit(tiny64, positive=plus, negative=minus, at=AT)
    expected = by_hand(tiny64, plus, places) - by_hand(tiny64, minus, places)
    torch.testing.assert_close(fitted.vector, expected.float())
    assert fitted.counts == (20, 17)
    assert fitted.tokens_read == 37 * (8 if tokens == "all" else 1)


def test_texts_count_alike_whatever_their_length_and_padding_is_not_read(smollm2):
    at = "layers.3.resid_post"
    plus, minus = ["A glad and very long story indeed.", "Joy."], ["Grief.", "A sad one."]
    fitted = MeanDifference().fit(smollm2, positive=plus, negative=minus, at=at)
    means = [smollm2.run(text, sites=[at])[at][0, 1:].mean(dim=0) for text in plus + minus]
    expected = (means[0] + means[1] - means[2] - means[3]) / 2
    torch.testing.assert_close(fitted.vector, expected, atol=1e-3, rtol=1e-3)
    assert "sink at position 0 was not read" in fitted.report().summary


def with_a_planted_direction(model: jf.Model) -> torch.Tensor:
    """Silent blocks, so that the stream is the embedding; ids below 50 carry a direction."""
    direction = torch.randn(32, generator=torch.Generator().manual_seed(5))
    direction = 3 * direction / direction.norm()
    with torch.no_grad():
        for block in model.module.model.layers:
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
        model.module.model.embed_tokens.weight[:50] += direction.to(model.dtype)
    return direction


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_planted_direction_is_recovered(tiny, dtype):
    model = jf.wrap(tiny.module.to(dtype), name="tiny")
    direction = with_a_planted_direction(model)
    plus, minus = texts(24, 3) % 50, texts(24, 4) % 50 + 50
    fitted = MeanDifference().fit(model, positive=plus, negative=minus, at=AT)
    assert fitted.vector.dtype == torch.float32
    assert float(torch.cosine_similarity(fitted.vector, direction, dim=0)) > 0.98
    assert float(fitted.vector.norm()) == pytest.approx(3, rel=0.1)
    assert fitted.d_prime > 5
    assert fitted.cosine > 0.95


def test_a_random_split_separates_nothing(tiny64):
    """In the sample even this would separate; held out it must not."""
    rows = texts(48, 6)
    fitted = MeanDifference(splits=50).fit(tiny64, positive=rows[:24], negative=rows[24:], at=AT)
    assert abs(fitted.d_prime) < 0.8
    assert abs(fitted.cosine) < 0.35
    unit = fitted.vector.double() / fitted.vector.norm()
    x = tiny64.run(rows, sites=[AT])[AT].mean(dim=1) @ unit
    inside = (x[:24].mean() - x[24:].mean()) / ((x[:24].var() + x[24:].var()) / 2).sqrt()
    assert float(inside) > abs(fitted.d_prime) + 0.5


def test_the_same_seed_gives_the_same_bits(tiny):
    method = MeanDifference(seed=7)
    one, two = (
        method.fit(tiny, positive=texts(9, 1), negative=texts(9, 2), at=AT) for _ in range(2)
    )
    assert torch.equal(one.vector, two.vector)
    assert (one.d_prime, one.cosine) == (two.d_prime, two.cosine)
    assert method == MeanDifference(seed=7)


def test_batches_do_not_change_the_fit(tiny64, monkeypatch):
    from jackfield.steering import contrast

    given = {"positive": texts(20, 1), "negative": texts(20, 2), "at": AT}
    whole = MeanDifference().fit(tiny64, **given)
    monkeypatch.setattr(contrast, "_TOKENS", 30)
    cut = MeanDifference().fit(tiny64, **given)
    torch.testing.assert_close(whole.vector, cut.vector)
    for one, other in zip(whole.shown, cut.shown, strict=True):
        assert (one.side, one.tokens, one.read) == (other.side, other.tokens, other.read)
        assert one.projections == pytest.approx(other.projections)


def test_texts_of_any_length_keep_their_place(smollm2, monkeypatch):
    from jackfield.steering import contrast

    monkeypatch.setattr(contrast, "_TOKENS", 20)
    at = "layers.1.resid_post"
    given = ["Joy is a thing of beauty.", "Rain, and then more rain.", "No!", "A very long story."]
    plus, minus = read_contrast(smollm2, given, given[::-1], at).sides(at)
    torch.testing.assert_close(plus, minus.flip(0), atol=1e-4, rtol=1e-4)
    for row, text in zip(plus, given, strict=True):
        alone = smollm2.run(text, sites=[at])[at][0, 1:].double().mean(dim=0)
        torch.testing.assert_close(row, alone, atol=1e-4, rtol=1e-4)


def test_one_pair_is_enough_for_a_direction_and_says_what_it_lacks(smollm2):
    fitted = MeanDifference().fit(
        smollm2, positive="I feel at peace.", negative="I am furious.", at="layers.2.resid_post"
    )
    assert fitted.d_prime is None
    assert "Too few texts" in fitted.report().summary


def test_the_built_in_sentences_are_pairs_of_a_separable_kind(smollm2):
    fitted = MeanDifference().fit(
        smollm2, positive=JOYFUL, negative=SORROWFUL, at="layers.18.resid_post"
    )
    assert fitted.counts == (32, 32)
    assert fitted.d_prime > 3
    assert fitted.cosine > 0.7


def test_positions_may_be_chosen_by_number(tiny64):
    method = MeanDifference(where=(2, 3))
    fitted = method.fit(tiny64, positive=texts(5, 1), negative=texts(5, 2), at=AT)
    places = slice(2, 4)
    expected = by_hand(tiny64, texts(5, 1), places) - by_hand(tiny64, texts(5, 2), places)
    torch.testing.assert_close(fitted.vector, expected.float())
    assert from_json(MeanDifference, to_json(method)) == method


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"positive": texts(0, 1)}, InputError, "positive texts: expected at least one"),
        ({"negative": texts(4, 1)}, InputError, "sides whose means differ"),
        ({"at": "layers.*.resid_post"}, SiteError, "one site"),
        ({"at": "layers.1.z"}, SiteError, r"\[batch, position, d\] in the blocks"),
        ({"at": "final_norm"}, SiteError, "in the blocks"),
        ({"positive": texts(4, 1)[:, :1]}, InputError, "none in text 0 of 1 tokens"),
    ],
)
def test_what_cannot_be_fitted_is_refused(tiny, monkeypatch, options, error, message):
    monkeypatch.setattr(type(tiny), "sinks", (0,))
    given = {"positive": texts(4, 1), "negative": texts(4, 2), "at": AT} | options
    with pytest.raises(error, match=message):
        MeanDifference().fit(tiny, **given)


def test_broken_activations_are_refused(tiny):
    with torch.no_grad():
        tiny.module.model.layers[0].mlp.down_proj.weight[3, 4] = float("nan")
    with pytest.raises(InputError, match="finite activations"):
        MeanDifference().fit(tiny, positive=texts(4, 1), negative=texts(4, 2), at=AT)
