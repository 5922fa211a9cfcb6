"""Steering by features: exact dictionaries, planted latents, the error kept, the random filter."""

import pytest
import torch

from jackfield.core.errors import InputError, JackfieldError, SiteError
from jackfield.dictionaries.sparse_dictionary import SparseDictionary
from jackfield.steering import MeanDifference
from jackfield.steering.features import (
    FeatureSteering,
    LangFIR,
    RandomFilteredDifference,
    random_texts,
    read_codes,
)
from jackfield.testing.worlds import tiny_llama

AT = "layers.1.resid_post"
D = 32


def texts(count: int, seed: int, low: int = 1, high: int = 100) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(low, high, (count, 9), generator=draw)


LOW, HIGH = texts(12, 1, high=50), texts(12, 2, low=50)
SIDES = {"positive": LOW, "negative": HIGH}


def both_ways(dtype=torch.float64, site=AT):
    """A dictionary without an error: latent i is max(x_i, 0), latent 32 + i is max(−x_i, 0)."""
    eye = torch.eye(D, dtype=dtype)
    ends, zero = torch.cat([eye, -eye]), torch.zeros(2 * D, dtype=dtype)
    weights = {
        "encoder": ends, "encoder_bias": zero, "centre": zero[:D], "decoder": ends,
        "decoder_bias": zero[:D], "threshold": zero, "density": zero,
    }  # fmt: skip
    return SparseDictionary("made", {}, weights, site=site, history=[])


def lossy(dtype=torch.float64):
    """A random dictionary of 20 latents with k = 4: it misses most of the activation."""
    draw = torch.Generator().manual_seed(3)
    decoder = torch.randn(20, D, generator=draw, dtype=dtype)
    decoder = decoder / decoder.norm(dim=1, keepdim=True)
    weights = {
        "encoder": decoder, "encoder_bias": torch.zeros(20, dtype=dtype),
        "centre": torch.randn(D, generator=draw, dtype=dtype) * 0.1, "decoder": decoder,
        "decoder_bias": torch.ones(D, dtype=dtype), "density": torch.zeros(20, dtype=dtype),
    }  # fmt: skip
    return SparseDictionary("made", {}, weights, site=AT, k=4, history=[])


def planted(model, marked: int):
    """Silent blocks; ids below `marked` have +3 in unit 7 of the embedding, all others −1."""
    with torch.no_grad():
        for block in model.module.model.layers:
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
        unit = model.module.model.embed_tokens.weight[:, 7]
        unit.fill_(-1.0)
        unit[:marked] = 3.0


# Codes of texts -------------------------------------------------------------------------------


def test_codes_are_averaged_over_the_tokens_of_a_text(tiny64):
    sae = lossy()
    found = read_codes(tiny64, sae, LOW, where="all")
    x = tiny64.run(LOW, sites=[AT])[AT]
    z = sae.encode(x.flatten(0, 1)).unflatten(0, x.shape[:2])
    torch.testing.assert_close(found.means, z.mean(dim=1))
    torch.testing.assert_close(found.firing, (z > 0).double().mean(dim=1))
    assert found.tokens == LOW.numel()
    last = read_codes(tiny64, sae, LOW, where="all", tokens="last")
    torch.testing.assert_close(last.means, z[:, -1])


def test_a_chosen_position_alone_is_read(tiny64):
    sae = lossy()
    x = tiny64.run(LOW, sites=[AT])[AT]
    torch.testing.assert_close(
        read_codes(tiny64, sae, LOW, where=3).means, sae.encode(x[:, 3].contiguous())
    )


def test_sinks_are_neither_read_nor_steered(tiny64, monkeypatch):
    monkeypatch.setattr(type(tiny64), "sinks", (0,))
    sae = lossy()
    x = tiny64.run(LOW, sites=[AT])[AT][:, 1:]
    z = sae.encode(x.flatten(0, 1)).unflatten(0, x.shape[:2])
    torch.testing.assert_close(read_codes(tiny64, sae, LOW).means, z.mean(dim=1))
    for act in ("add", "set"):
        found = FeatureSteering(act=act).fit(tiny64, **SIDES, dictionary=sae)
        y, plain = (tiny64.run(LOW, sites=[AT], edits=e)[AT] for e in (found.edits(), ()))
        moved = (y != plain).any(dim=-1)
        assert not moved[:, 0].any()
        assert moved[:, 1:].all()


# Feature steering -----------------------------------------------------------------------------


def test_all_latents_of_an_exact_dictionary_are_the_mean_difference(tiny64):
    found = FeatureSteering(features=2 * D).fit(tiny64, **SIDES, dictionary=both_ways())
    mean = MeanDifference().fit(tiny64, **SIDES, at=AT)
    torch.testing.assert_close(found.vector, mean.vector)
    assert found.units() == pytest.approx(mean.units())


def test_a_part_of_an_inexact_dictionary_is_what_its_decoder_says(tiny64):
    sae = lossy()
    found = FeatureSteering(features=20).fit(tiny64, **SIDES, dictionary=sae)
    means = [read_codes(tiny64, sae, side).means.mean(dim=0) for side in (LOW, HIGH)]
    gap = sae.decode(means[0][None])[0] - sae.decode(means[1][None])[0]
    torch.testing.assert_close(found.vector, gap.float())


@pytest.mark.parametrize("score", ["difference", "d_prime"])
def test_a_planted_latent_is_found(tiny64, score):
    planted(tiny64, 50)
    found = FeatureSteering(features=2, score=score).fit(tiny64, **SIDES, dictionary=both_ways())
    assert set(found.latents) == {7, D + 7}
    assert dict(zip(found.latents, found.weights.tolist(), strict=True)) == {
        7: pytest.approx(3.0), D + 7: pytest.approx(-1.0),
    }  # fmt: skip
    assert dict(zip(found.latents, found.values.tolist(), strict=True))[D + 7] == 0


def test_d_prime_prefers_what_is_sure_to_what_is_large(tiny64):
    """Unit 7 differs by 4 on every token, unit 9 by far more, but on one text in four only."""
    planted(tiny64, 50)
    with torch.no_grad():
        tiny64.module.model.embed_tokens.weight[2, 9] = 400.0
    some = LOW.masked_fill(LOW == 2, 3)
    some[::4] = 2
    sides = {"positive": some, "negative": HIGH, "dictionary": both_ways()}
    assert FeatureSteering(features=1).fit(tiny64, **sides).latents == (9,)
    assert FeatureSteering(features=1, score="d_prime").fit(tiny64, **sides).latents == (7,)


def test_setting_keeps_the_error_of_the_dictionary(tiny64):
    """x' = x + dec(z') − dec(z), with the chosen latents at their values, at full strength."""
    sae = lossy()
    found = FeatureSteering(features=3, act="set").fit(tiny64, **SIDES, dictionary=sae)
    x = tiny64.run(HIGH, sites=[AT])[AT].flatten(0, 1)
    z = sae.encode(x)
    wanted = z.clone()
    wanted[:, list(found.latents)] = found.values.double()
    expected = x + sae.decode(wanted) - sae.decode(z)
    edited = tiny64.run(HIGH, sites=[AT], edits=found.edits(where="all"))[AT].flatten(0, 1)
    torch.testing.assert_close(edited, expected)
    half = tiny64.run(HIGH, sites=[AT], edits=found.edits(0.5, where="all"))[AT].flatten(0, 1)
    torch.testing.assert_close(half, (x + expected) / 2)


def test_setting_has_no_length_of_its_own(tiny64):
    found = FeatureSteering(features=3, act="set").fit(tiny64, **SIDES, dictionary=lossy())
    assert found.units() == {}
    with pytest.raises(InputError, match="one of the units raw, kl"):
        found.edits("norm:0.3")


@pytest.mark.parametrize("act", ["add", "set"])
def test_strength_0_changes_no_bit_and_a_kl_is_met(tiny64, act):
    found = FeatureSteering(features=3, act=act).fit(tiny64, **SIDES, dictionary=lossy())
    plain = tiny64.run(HIGH).logits
    assert torch.equal(tiny64.run(HIGH, edits=found.edits(0.0, where="all")).logits, plain)
    assert found.dose(tiny64, "kl:0.05", HIGH).cost.mean == pytest.approx(0.05, rel=0.1)


def test_named_latents_are_taken_as_they_are(tiny64):
    found = FeatureSteering(features=1).fit(tiny64, **SIDES, dictionary=lossy(), latents=[5, 2])
    assert found.latents == (5, 2)
    means = read_codes(tiny64, lossy(), LOW).means.mean(dim=0)
    torch.testing.assert_close(found.values, means[[5, 2]].float())


def test_ablation_silences_the_latents_alone(tiny64):
    planted(tiny64, 50)
    found = FeatureSteering(features=2).fit(tiny64, **SIDES, dictionary=both_ways())
    x, y = (
        tiny64.run(LOW, sites=[AT], edits=edits)[AT] for edits in ((), found.ablate(where="all"))
    )
    assert float(y[..., 7].abs().max()) == 0
    others = [unit for unit in range(D) if unit != 7]
    assert torch.equal(x[..., others], y[..., others])


# LangFIR and the random filter ----------------------------------------------------------------


def test_the_filter_finds_the_latent_of_a_planted_language(tiny64):
    """Ids below 10 are the language: 9 in 101 random tokens; other latents fire on both."""
    planted(tiny64, 10)
    language = texts(20, 5, high=10)
    given = {"texts": language, "dictionary": both_ways()}
    found = LangFIR(fires=0.5, random_fires=0.2).fit(tiny64, **given)
    assert found.latents == (7,)
    assert found.figures["fires on the texts"] == (1.0,)
    assert found.figures["fires on random tokens"][0] == pytest.approx(9 / 101, abs=0.03)
    unfiltered = LangFIR(fires=0.5, random_fires=1.0).fit(tiny64, **given)
    assert len(unfiltered.latents) > 10


def test_the_vector_is_the_mean_code_times_the_direction(tiny64):
    planted(tiny64, 10)
    method = LangFIR(fires=0.9, random_fires=0.2)
    found = method.fit(tiny64, texts=texts(20, 5, high=10), dictionary=both_ways())
    expected = torch.zeros(D)
    expected[7] = 3.0
    torch.testing.assert_close(found.vector, expected)


def test_the_units_of_the_filter_are_those_of_the_texts_alone(tiny64):
    """Random tokens are far longer here than the language's."""
    planted(tiny64, 10)
    with torch.no_grad():
        tiny64.module.model.embed_tokens.weight[10:, 9] = 50.0
    language = texts(20, 5, high=10)
    method = LangFIR(fires=0.9, random_fires=0.2, where="all")
    found = method.fit(tiny64, texts=language, dictionary=both_ways())
    x = tiny64.run(language, sites=[AT])[AT]
    assert found.residual_norm == pytest.approx(float(x.norm(dim=-1).mean()), rel=1e-5)
    unit = found.vector.double() / found.vector.double().norm()
    assert found.sigma == pytest.approx(float((x.mean(dim=1) @ unit).std()), rel=1e-5, abs=1e-6)


def test_random_texts_have_no_language(tiny64):
    planted(tiny64, 10)
    chance = random_texts(tiny64, 50, 24, seed=9)
    with pytest.raises(InputError, match=r"a latent on 60% of the texts' tokens.*Lower `fires`"):
        LangFIR(fires=0.6, random_fires=0.3).fit(tiny64, texts=chance, dictionary=both_ways())


def test_random_tokens_are_seeded_and_never_special():
    model = tiny_llama(texts=["one two three four"])
    drawn = random_texts(model, 40, 10, seed=0)
    assert set(drawn.flatten().tolist()) == set(range(2, len(model.tokenizer)))
    assert torch.equal(drawn, random_texts(model, 40, 10, seed=0))
    assert not torch.equal(drawn, random_texts(model, 40, 10, seed=1))


def test_the_filtered_difference_is_orthogonal_to_what_random_tokens_vary_along(tiny64):
    method = RandomFilteredDifference(components=5, random=40, where="all")
    found = method.fit(tiny64, **SIDES, at=AT)
    rows = tiny64.run(random_texts(tiny64, 40, 24, 0), sites=[AT])[AT].flatten(0, 1)
    values, vectors = torch.linalg.eigh(torch.cov(rows.T))
    basis = vectors[:, -5:]
    mean = MeanDifference(where="all").fit(tiny64, **SIDES, at=AT).vector.double()
    torch.testing.assert_close(
        found.vector.double(), mean - basis @ (basis.T @ mean), atol=1e-5, rtol=1e-4
    )
    assert float((basis.T @ found.vector.double()).abs().max()) < 1e-5 * float(mean.norm())
    assert values[-1] > values[0]


def test_the_filter_takes_out_a_planted_nuisance(tiny64):
    """The sides also differ in unit 9, along which random tokens vary most; unit 7 is left."""
    planted(tiny64, 50)
    with torch.no_grad():
        embedding = tiny64.module.model.embed_tokens.weight
        embedding[:, 9] = torch.linspace(60.0, -60.0, 101, dtype=torch.float64)
    mean = MeanDifference().fit(tiny64, **SIDES, at=AT).vector
    found = RandomFilteredDifference(components=1).fit(tiny64, **SIDES, at=AT).vector
    assert int(mean.abs().argmax()) == 9
    assert int(found.abs().argmax()) == 7


# Bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"negative": LOW}, "sides whose codes differ, got equal mean codes"),
        ({"negative": HIGH[:0]}, "at least one text, got none"),
        ({"latents": [1, 99]}, "latents from 0 to 19, each once, got 1, 99"),
        ({"latents": [1, 1]}, "latents from 0 to 19, each once, got 1, 1"),
        ({"latents": []}, "latents from 0 to 19, each once, got none"),
    ],
)
def test_features_refuse(tiny64, change, message):
    with pytest.raises(InputError, match=message):
        FeatureSteering().fit(tiny64, **{**SIDES, "dictionary": lossy(), **change})


def test_d_prime_of_single_texts_is_refused(tiny64):
    with pytest.raises(InputError, match="two texts a side, for d′"):
        FeatureSteering(score="d_prime").fit(
            tiny64, positive=LOW[:1], negative=HIGH[:1], dictionary=lossy()
        )


def test_a_text_without_a_token_to_read_is_refused(tiny64):
    with pytest.raises(InputError, match="a token to read, got none in text 0"):
        read_codes(tiny64, lossy(), LOW, where=50)


def test_a_dictionary_of_another_model_is_refused():
    wide = tiny_llama(d_model=64)
    with pytest.raises(InputError, match="with 32 columns"):
        FeatureSteering().fit(wide, **SIDES, dictionary=lossy(torch.float32))
    with pytest.raises(JackfieldError, match="layers"):
        FeatureSteering().fit(tiny_llama(layers=1), **SIDES, dictionary=lossy(torch.float32))


def test_the_random_filter_refuses(tiny64):
    with pytest.raises(InputError, match="fewer components than the 1536 random tokens and the 32"):
        RandomFilteredDifference(components=32, where="all").fit(tiny64, **SIDES, at=AT)
    with pytest.raises(SiteError, match="one site"):
        RandomFilteredDifference().fit(tiny64, **SIDES, at="layers.*.resid_post")
    with pytest.raises(InputError, match="sides whose means differ"):
        RandomFilteredDifference().fit(tiny64, positive=LOW, negative=LOW, at=AT)
