from itertools import combinations

import pytest
import torch
from torch import nn

import jackfield as jf
from jackfield.core.errors import ConfigError, EditError, InputError, SiteError
from jackfield.edits import Context, KeepTopK
from jackfield.sparsity import WINA
from jackfield.streams import Stream

SITES = ("layers.*.attn_in", "layers.*.z", "layers.*.mlp_in", "layers.*.mlp_post")


def one_layer(W):
    """A model of one linear layer without a bias."""
    layer = nn.Linear(W.shape[1], W.shape[0], bias=False).to(W.dtype)
    layer.weight.data = W
    return jf.wrap(nn.Sequential(layer), name="one layer")


def orthogonal(lengths, out=20):
    """A matrix [out, d] whose columns are orthogonal and as long as said."""
    left, _ = torch.linalg.qr(torch.randn(out, len(lengths), dtype=torch.float64))
    return left * lengths


def error(W, x, edit):
    return (W @ (x - edit.apply(x[None], Context("x"))[0])).pow(2).sum()


def test_the_error_of_orthogonal_columns_is_what_the_norms_say():
    lengths = torch.rand(12, dtype=torch.float64) + 0.1
    W, x = orthogonal(lengths), torch.randn(12, dtype=torch.float64)
    edit = KeepTopK(5, lengths, at="x")
    dropped = edit.apply(x[None], Context("x"))[0] == 0
    assert error(W, x, edit).item() == pytest.approx(
        (x[dropped] ** 2 * lengths[dropped] ** 2).sum().item(), rel=1e-12
    )


@pytest.mark.parametrize("seed", range(5))
def test_no_choice_of_k_units_is_better_where_columns_are_orthogonal(seed):
    torch.manual_seed(seed)
    lengths = torch.rand(8, dtype=torch.float64) * 3
    W, x = orthogonal(lengths), torch.randn(8, dtype=torch.float64)
    fitted = WINA(sparsity=5 / 8, sites=("0:in",)).fit(one_layer(W))
    errors = [(W[:, list(gone)] @ x[list(gone)]).pow(2).sum() for gone in combinations(range(8), 5)]
    assert error(W, x, fitted.edits(where="all")[0]) <= min(errors) * (1 + 1e-6)


def test_with_cross_terms_the_norms_do_not_tell_the_error():
    """The control: the identity is one of orthogonal columns only."""
    W = torch.randn(20, 1, dtype=torch.float64) + 0.1 * torch.randn(20, 12, dtype=torch.float64)
    rows = Stream.from_tensor(torch.randn(50, 12) + 2, site="0:in")
    (rule,) = WINA(sites=("0:in",)).fit(one_layer(W), rows).rules.values()
    assert rule.error > 2 * rule.by_norms
    W = orthogonal(W.norm(dim=0))
    (rule,) = WINA(sites=("0:in",)).fit(one_layer(W), rows).rules.values()
    assert rule.error == pytest.approx(rule.by_norms, rel=1e-5)


def test_it_finds_the_units_that_matter_and_teal_does_not():
    """Planted: ten units are small and read by long columns; they carry most of the output."""
    planted = torch.randperm(64)[:10]
    lengths, sizes = torch.ones(64), torch.ones(64)
    lengths[planted], sizes[planted] = 100.0, 0.2
    W = orthogonal(lengths.double(), out=80)
    x = torch.randn(200, 64) * sizes
    rows = Stream.from_tensor(x, site="0:in")
    found = {}
    for weights in (True, False):
        fitted = WINA(sparsity=0.75, sites=("0:in",), weights=weights).fit(one_layer(W), rows)
        kept = fitted.edits(where="all")[0].apply(x, Context("0:in")) != 0
        found[weights] = kept[:, planted].double().mean().item(), fitted.rules["0:in"].error
    assert found[True][0] > 0.9
    assert found[True][1] < 0.02
    assert found[False][0] < 0.15
    assert found[False][1] > 0.5


def test_with_columns_of_one_length_it_is_teal():
    """The control: what the norms do not tell apart they do not change."""
    model = one_layer(orthogonal(torch.full((16,), 3.0, dtype=torch.float64)))
    x = torch.randn(40, 16)
    wina, teal = (
        WINA(sites=("0:in",), weights=weights)
        .fit(model)
        .edits(where="all")[0]
        .apply(x, Context("x"))
        for weights in (True, False)
    )
    assert torch.equal(wina, teal)


def test_norms_are_those_of_all_readers_together(tiny):
    rules = WINA().fit(tiny).rules
    block = tiny.module.model.layers[1]
    qkv = [block.self_attn.q_proj, block.self_attn.k_proj, block.self_attn.v_proj]
    expected = torch.cat([each.weight for each in qkv]).detach().pow(2).sum(dim=0).sqrt()
    torch.testing.assert_close(rules["layers.1.attn_in"].norms, expected)
    expected = block.self_attn.o_proj.weight.detach().norm(dim=0).view(4, 8)
    torch.testing.assert_close(rules["layers.1.z"].norms, expected)
    assert rules["layers.1.mlp_in"].readers == (
        "model.layers.1.mlp.gate_proj",
        "model.layers.1.mlp.up_proj",
    )


def test_z_is_ranked_over_all_heads_as_its_reader_sees_it(tiny, tokens):
    """The same as the edit at the output projection's input, which knows no heads."""
    named = WINA(sites=("layers.1.z",)).fit(tiny).edits(where="all")
    raw = WINA(sites=("model.layers.1.self_attn.o_proj:in",)).fit(tiny).edits(where="all")
    expected = tiny.run(tokens, edits=raw).logits
    torch.testing.assert_close(tiny.run(tokens, edits=named).logits, expected)
    z = tiny.run(tokens, sites=["layers.1.z"], edits=named)["layers.1.z"]
    kept = (z != 0).sum(dim=(-1, -2))
    assert (kept == 16).all()
    assert (z != 0).sum(dim=-1).float().std() > 0  # and not as many in each head


def test_it_keeps_k_units_where_it_acts_and_all_elsewhere(tiny, tokens):
    fitted = WINA(sparsity=0.7, sites=("layers.*.mlp_post",)).fit(tiny)
    run = tiny.run(tokens, sites=["layers.2.mlp_post"], edits=fitted.edits(where=[0, 1]))
    kept = (run["layers.2.mlp_post"] != 0).sum(dim=-1)
    assert kept.tolist() == [[14, 14, 48, 48, 48, 48, 48]] * 2  # ⌊48 · 0.3⌋


@pytest.mark.parametrize("weights", [True, False])
def test_no_sparsity_leaves_the_logits_as_they_are(tiny, tokens, weights):
    stream = tiny_stream(tiny, tokens)
    before = tiny.run(tokens).logits
    for rule in ("topk", "threshold"):
        fitted = WINA(sparsity=0.0, rule=rule, weights=weights).fit(tiny, stream)
        assert torch.equal(tiny.run(tokens, edits=fitted.edits()).logits, before)
        assert fitted.saved == 0


def tiny_stream(model, tokens):
    run = model.run(tokens, sites=list(SITES))
    return Stream.from_tensor({site: run[site].flatten(0, 1) for site in run.sites}, batch=5)


@pytest.mark.parametrize("sparsity", [0.25, 0.5, 0.9])
def test_thresholds_leave_out_the_share_that_was_asked_for(tiny, sparsity):
    tokens = torch.randint(1, 100, (8, 40))
    stream = tiny_stream(tiny, tokens)
    fitted = WINA(sparsity=sparsity, rule="threshold").fit(tiny, stream)
    for site, rule in fitted.rules.items():
        assert rule.kept == pytest.approx(1 - sparsity, abs=0.01), site
        x = stream.collect()[site]
        kept = fitted.rules[site].edit(site).apply(x, Context(site)) != 0
        assert kept.double().mean().item() == pytest.approx(rule.kept, abs=1e-9)
    assert len(set(kept.flatten(1).sum(dim=1).tolist())) > 1  # not as many on each token


def test_the_error_is_that_of_the_modules_themselves(tiny, tokens):
    stream = tiny_stream(tiny, tokens)
    fitted = WINA(sparsity=0.6).fit(tiny, stream)
    site = "layers.1.mlp_in"
    x = stream.collect()[site]
    kept = fitted.rules[site].edit(site).apply(x, Context(site))
    mlp = tiny.module.model.layers[1].mlp
    outputs = [torch.cat([mlp.gate_proj(v), mlp.up_proj(v)], dim=-1) for v in (x, kept)]
    expected = (outputs[0] - outputs[1]).pow(2).sum() / outputs[0].pow(2).sum()
    assert fitted.rules[site].error == pytest.approx(expected.item(), rel=1e-4)


def test_generation_with_a_cache_is_the_same_as_without(tiny, tokens):
    edits = WINA(sparsity=0.4).fit(tiny).edits()
    made = tiny.generate(tokens, edits=edits, max_new_tokens=5)
    row = tokens
    for _ in range(5):
        new = tiny.run(row, edits=edits).logits[:, -1:].argmax(dim=-1)
        row = torch.cat([row, new], dim=1)
    assert torch.equal(made.tokens[:, -5:], row[:, -5:])


def test_the_gradient_passes_to_what_was_kept(tiny, tokens):
    site = "layers.1.mlp_post"
    edits = WINA(sites=(site,)).fit(tiny).edits(where="all")
    run = tiny.run(tokens, sites=[site], edits=edits, grad=True)
    gradient = run.gradients(run.logits.pow(2).sum())[site]
    assert gradient.abs().sum() > 0


def test_thresholds_need_a_stream(tiny):
    with pytest.raises(ConfigError, match="a stream to take the threshold from"):
        WINA(rule="threshold").fit(tiny)


def test_sites_that_no_linear_module_reads_are_refused(tiny):
    with pytest.raises(SiteError, match=r"layers\.0\.resid_post: expected a site that linear"):
        WINA(sites=("layers.0.resid_post",)).fit(tiny)
    with pytest.raises(SiteError, match="a layer from 0 to 2"):
        WINA(sites=("layers.9.mlp_in",)).fit(tiny)


def test_a_stream_without_the_sites_is_refused(tiny):
    stream = Stream.from_tensor(torch.randn(4, 32), site="layers.0.mlp_in")
    with pytest.raises(SiteError, match=r"layers\.1\.mlp_in"):
        WINA(sites=("layers.1.mlp_in",)).fit(tiny, stream)


@pytest.mark.parametrize("rule", ["topk", "threshold"])
def test_rows_of_another_width_and_bad_numbers_are_refused(tiny, rule):
    site = "layers.0.mlp_post"
    wina = WINA(sites=(site,), rule=rule)
    with pytest.raises(InputError, match=rf"{site}: expected rows of 48 units, .* got \[32\]"):
        wina.fit(tiny, Stream.from_tensor(torch.randn(4, 32), site=site))
    rows = torch.randn(4, 48)
    rows[2, 7] = torch.nan
    with pytest.raises(InputError, match=f"{site}: expected finite activations"):
        wina.fit(tiny, Stream.from_tensor(rows, site=site))


def test_bad_weights_are_refused(tiny):
    tiny.module.model.layers[2].mlp.up_proj.weight.data[0, 0] = torch.inf
    with pytest.raises(InputError, match=r"layers\.2\.mlp\.up_proj: expected finite weights"):
        WINA().fit(tiny)


def test_edits_of_another_model_name_the_site(tiny, tokens):
    edits = WINA(sites=("layers.*.mlp_post",)).fit(tiny).edits(where="all")
    with pytest.raises(EditError, match=r"layers\.0\.mlp_in, KeepTopK"):
        edits[0].apply(torch.randn(1, 2, 32), Context("layers.0.mlp_in"))
