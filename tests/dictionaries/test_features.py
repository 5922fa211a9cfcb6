"""The feature index against what is computed directly, on a tiny model and a dictionary of axes."""

import pytest
import torch
import torch.nn.functional as F

from jackfield.core.errors import InputError, SiteError
from jackfield.dictionaries import SparseDictionary, index_features
from jackfield.dictionaries.effects import direct_effect, effect_by_ablation
from jackfield.streams import Stream

SITE = "layers.1.resid_post"
D, LATENTS = 32, 40


def dictionary(site: str = SITE, radius: float | None = None) -> SparseDictionary:
    """Random directions, except that latent 0 never fires."""
    decoder = F.normalize(torch.randn(LATENTS, D, generator=torch.Generator().manual_seed(4)))
    bias = torch.zeros(LATENTS)
    bias[0] = -1e9
    weights = {
        "encoder": decoder.clone(),
        "encoder_bias": bias,
        "decoder": decoder,
        "decoder_bias": torch.zeros(D),
        "centre": torch.zeros(D),
        "density": torch.zeros(LATENTS),
    }
    bound = () if radius is None else (radius,)
    return SparseDictionary("TopK", {}, weights, site=site, k=5, radius=bound, history=[])


@pytest.fixture
def stream(tiny):
    """Rows of the tiny model on 12 documents of 20 tokens, position 0 left out as a sink is."""
    ids = torch.randint(1, 100, (12, 20), generator=torch.Generator().manual_seed(9))
    x = tiny.run(ids, sites=[SITE], logits=False)[SITE][:, 1:]
    documents = torch.arange(12).repeat_interleave(19)
    positions = torch.arange(1, 20).repeat(12)
    tokens = ids[:, 1:].reshape(-1)
    rows = {"tokens": tokens, "documents": documents, "positions": positions}
    return Stream.from_tensor(x.reshape(-1, D), site=SITE, batch=50, **rows)


@pytest.fixture
def index(stream, tiny):
    return index_features(dictionary(), stream, tiny, examples=4, before=5, after=2)


def test_densities_and_top_rows_are_those_of_the_codes(index, stream):
    batch = stream.collect()
    codes = dictionary().encode(batch[SITE])
    torch.testing.assert_close(index.density, (codes > 0).float().mean(dim=0), check_dtype=False)
    torch.testing.assert_close(index.strongest, codes.amax(dim=0))
    for latent in range(1, LATENTS):
        for example in index.top.of(latent):
            assert float(codes[example.row, latent]) == pytest.approx(example.value)
            assert int(batch.tokens[example.row]) == example.token


def test_the_shown_texts_have_their_tokens_and_activations(index, stream):
    batch = stream.collect()
    codes = dictionary().encode(batch[SITE])
    texts = next(block for block in index.show(3).blocks if block.kind == "tokens")
    best = index.top.of(3)[0]
    first = max(1, best.position - 5)
    rows = range(best.row - (best.position - first), best.row + min(2, 19 - best.position) + 1)
    assert texts.tokens[0] == tuple(str(int(batch.tokens[row])) for row in rows)
    assert texts.values[0] == pytest.approx([float(codes[row, 3]) for row in rows])
    assert max(texts.values[0]) == pytest.approx(best.value)


def test_the_histogram_counts_every_firing(index, stream):
    block = next(block for block in index.show(3).blocks if block.kind == "histogram")
    codes = dictionary().encode(stream.collect()[SITE])
    assert sum(block.counts) == int((codes[:, 3] > 0).sum())
    assert block.edges[-1] >= float(codes[:, 3].max())


def test_rows_outside_do_not_become_examples(stream, tiny):
    batch = stream.collect()
    x = batch[SITE].clone()
    x[17] *= 1e4
    with_sink = Stream.from_tensor(
        x, site=SITE, documents=batch.documents, positions=batch.positions
    )
    index = index_features(dictionary(radius=1e3), with_sink, examples=2)
    assert not (index.top.rows == 17).any()
    assert int(index.top.rows.max()) > 17, "rows keep their numbers"


def test_nearest_are_the_largest_cosines(index):
    directions = index.dictionary.directions
    cosines = (directions @ directions.T).fill_diagonal_(-2)
    for latent in (0, 7):
        nearest = index.nearest(latent, 3)
        assert [other for other, _ in nearest] == cosines[latent].topk(3).indices.tolist()
        assert nearest[0][1] == pytest.approx(float(cosines[latent].max()))


def test_effect_by_ablation_equals_the_runs_by_hand(tiny):
    sae, latent, texts = dictionary(), 6, [[5, 9, 2, 44], [7, 7]]
    effect = effect_by_ablation(sae, latent, tiny, texts)
    expected = torch.zeros(101)
    for text in texts:
        run = tiny.run(torch.tensor([text]), sites=[SITE])
        x = run[SITE].clone()
        x[0, -1] -= sae.encode(x[0])[-1, latent] * sae.directions[latent]
        changed = tiny.run(torch.tensor([text]), start={"layers.2.resid_pre": x})
        gain = run.logits[0, -1].softmax(-1) - changed.logits[0, -1].softmax(-1)
        expected += gain / len(texts)
    torch.testing.assert_close(effect, expected, rtol=1e-4, atol=1e-6)
    assert effect.abs().max() > 1e-3
    assert float(effect.sum()) == pytest.approx(0, abs=1e-5)


def test_direct_effect_is_the_models_norm_and_head(tiny):
    sae = dictionary()
    direction = sae.directions[6]
    normed = direction / direction.square().mean().sqrt() * tiny.module.model.norm.weight
    logits = tiny.module.lm_head(normed)
    expected = logits - logits.mean()
    torch.testing.assert_close(direct_effect(sae, 6, tiny), expected, rtol=1e-3, atol=1e-4)
    with pytest.raises(InputError, match="a site in the residual stream"):
        direct_effect(dictionary("layers.1.mlp_post"), 6, tiny)


def test_promoted_shows_the_ends_of_the_direct_effect(index, tiny):
    bars = index.promoted(6)
    effect = direct_effect(index.dictionary, 6, tiny)
    assert bars.labels[0] == str(int(effect.argmax()))
    assert bars.labels[-1] == str(int(effect.argmin()))
    assert bars.values[0] == pytest.approx(float(effect.max()))


def test_a_latent_that_never_fires_says_so(index):
    assert "never fired" in index.show(0).summary
    assert index.density[0] == 0
    with pytest.raises(InputError, match="texts that it fires on"):
        index.effects(0)


def test_interesting_follows_its_rule():
    """Latents 0 to 5 fire on: nothing; everything; one word; three words; digits; a rare word."""
    words = ["the", "so", "thus", "hence", "12", "7", "34", "own", "x", "y"]
    ids = torch.arange(10).repeat(400)  # 4000 rows, each word 400 times
    codes = torch.zeros(4000, 6)
    codes[:, 1] = 1.0
    spread = torch.linspace(1, 2, 40)
    chosen = {2: [0], 3: [1, 2, 3], 4: [4, 5, 6], 5: [7, 8, 9]}
    for latent, tokens in chosen.items():
        fires = torch.isin(ids, torch.tensor(tokens)).nonzero().flatten()[:40]
        codes[fires, latent] = spread * (1 + latent / 10)

    class Words:
        def token_strings(self, ids):
            return [f" {words[int(i)]}" for i in ids]

    weights = {
        "encoder": torch.eye(6),
        "encoder_bias": torch.zeros(6),
        "decoder": torch.eye(6),
        "decoder_bias": torch.zeros(6),
        "centre": torch.zeros(6),
        "density": torch.zeros(6),
    }
    axes = SparseDictionary("TopK", {}, weights, site="mlp", k=6, history=[])
    stream = Stream.from_tensor(codes, site="mlp", tokens=ids)  # each row its own document
    index = index_features(axes, stream, Words(), examples=6)
    first = index.interesting(2)
    assert set(first) == {3, 5}, "what shares a meaning comes first"
    assert index.interesting(4)[:2] == first
    assert set(index.interesting(9)) == {2, 3, 4, 5}, "not the silent one, nor that of everything"
    assert index.interesting(4) == index_features(axes, stream, Words(), examples=6).interesting(4)


def test_without_a_model_tokens_are_ids(stream):
    index = index_features(dictionary(), stream, examples=2)
    report = index.show(3)
    assert [block.kind for block in report.blocks] == ["tokens", "histogram", "table"]
    assert str(index.top.of(3)[0].token) in report.text
    with pytest.raises(InputError, match="a model: index_features"):
        index.effects(3)


def test_rows_that_are_not_tokens_can_be_indexed():
    x = torch.randn(50, D)
    index = index_features(dictionary("hidden"), Stream.from_tensor(x, site="hidden"), examples=2)
    assert index.show(3).text
    assert index.interesting(3) == index.interesting(3)


def test_strange_latents_and_sites_are_refused(index, stream):
    with pytest.raises(InputError, match="a latent from 0 to 39, got 40"):
        index.show(40)
    with pytest.raises(SiteError, match=r"expected one of layers\.1\.resid_post"):
        index_features(dictionary("layers.0.resid_post"), stream)


def test_show_is_a_report_that_saves(index, tmp_path):
    page = index.show(3).save(tmp_path / "feature.html").read_text()
    assert "Feature 3" in page
