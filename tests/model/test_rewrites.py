"""Rewrites: the same logits from other weights, in a copy; the given model stays as it was."""

import pytest
import torch
from tests.model.tiny_models import tiny as tiny_of

import jackfield as jf
from jackfield.core.errors import BusyError, ModelError
from jackfield.model.rewrites import FoldNormGain, Rewrite

FAMILIES = ("llama", "llama_tied", "mistral", "qwen2", "qwen3", "smollm3", "gpt2")


def other_gains(module, seed=3):
    """Gains and biases of norms, and biases of linear layers, far from 1 and 0."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.5 * torch.randn(parameter.shape, generator=draw))
    return module


def made(name, dtype=torch.float32):
    return jf.wrap(other_gains(tiny_of(name, dtype)), name=name)


class Halved(Rewrite):
    """Not a rewrite: the logits are half as large."""

    def apply(self, state, model):
        return {**state, "lm_head.weight": state["lm_head.weight"] / 2}


class Nothing(Rewrite):
    def apply(self, state, model):
        return dict(state)


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_stay(name, tokens):
    assert FoldNormGain().check(made(name), tokens) < 1e-4
    assert FoldNormGain().check(made(name, torch.float64), tokens) < 1e-11


def test_the_check_sees_what_is_not_equal(tokens):
    model = made("llama")
    logits = model.run(tokens).logits
    assert Halved().check(model, tokens) == pytest.approx(float(logits.abs().max()) / 2, rel=1e-5)
    assert Nothing().check(model, tokens) == 0


def test_the_check_leaves_padding_out(tokens):
    ids = {"input_ids": tokens, "attention_mask": torch.tensor([[1] * 7, [1] * 4 + [0] * 3])}
    model = made("llama")
    whole = model.run(ids).logits.abs().amax(dim=-1)
    real = max(float(whole[0].max()), float(whole[1, :4].max()))
    assert Halved().check(model, ids) == pytest.approx(real / 2, rel=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_gain_is_one_and_every_bias_zero(name):
    module = FoldNormGain().rewritten(made(name)).module
    norms = {n: p for n, p in module.named_parameters() if "norm" in n or "ln_" in n}
    folded = {n: p for n, p in norms.items() if "q_norm" not in n and "k_norm" not in n}
    assert len([n for n in folded if n.endswith("weight")]) == 2 * 3 + 1
    for n, p in folded.items():
        assert torch.equal(p, torch.ones_like(p) if n.endswith("weight") else torch.zeros_like(p))


@pytest.mark.parametrize("name", ["llama_tied", "gpt2"])
def test_the_given_model_is_not_touched(name, tokens):
    model = made(name)
    before = {n: p.clone() for n, p in model.module.state_dict().items()}
    places = {n: p.data_ptr() for n, p in model.module.named_parameters()}
    logits = model.run(tokens).logits
    state = model.module.state_dict()
    FoldNormGain().apply(state, model)
    copy = FoldNormGain().rewritten(model)
    with torch.no_grad():
        for parameter in copy.module.parameters():
            parameter.zero_()
    after = model.module.state_dict()
    assert after.keys() == before.keys() == state.keys()
    assert all(
        torch.equal(after[n], before[n]) and state[n].shape == before[n].shape for n in after
    )
    assert {n: p.data_ptr() for n, p in model.module.named_parameters()} == places
    assert torch.equal(model.run(tokens).logits, logits)
    assert copy.name == f"{name} (FoldNormGain)"
    assert copy.provenance["rewrite"] == "FoldNormGain"


@pytest.mark.parametrize("name", ["llama_tied", "gpt2"])
def test_tied_weights_come_apart_in_the_copy_alone(name):
    model = made(name)
    copy = FoldNormGain().rewritten(model)
    head, table = copy.module.lm_head.weight, copy.embedding.weight
    gain = dict(model.module.named_parameters())[
        "transformer.ln_f.weight" if name == "gpt2" else "model.norm.weight"
    ]
    assert torch.equal(table, model.embedding.weight)
    assert torch.equal(head, model.embedding.weight * gain)
    assert not copy.config.tie_word_embeddings
    assert model.config.tie_word_embeddings
    assert model.module.lm_head.weight is model.embedding.weight
    still = Nothing().rewritten(model)
    assert still.module.lm_head.weight is still.embedding.weight
    assert still.config.tie_word_embeddings


def test_a_saved_copy_loads_to_the_same_logits(tmp_path, tokens):
    copy = FoldNormGain().rewritten(made("llama_tied"))
    copy.module.save_pretrained(tmp_path)
    again = jf.load(str(tmp_path))
    assert torch.equal(again.run(tokens).logits, copy.run(tokens).logits)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_only_what_the_norms_give_changes(name, tokens):
    """attn_in, mlp_in and final_norm lose gain and bias; the residual stream and heads do not."""
    model = made(name, torch.float64)
    roles = [
        "resid_pre",
        "resid_mid",
        "resid_post",
        "attn_out",
        "mlp_out",
        "q",
        "v",
        "z",
        "mlp_post",
    ]
    normed = {
        "attn_in": ("ln_1", "input_layernorm"),
        "mlp_in": ("ln_2", "post_attention_layernorm"),
    }
    sites = [f"layers.*.{role}" for role in (*roles, *normed)]
    old = model.run(tokens, sites=[*sites, "final_norm"])
    new = FoldNormGain().rewritten(model).run(tokens, sites=[*sites, "final_norm"])
    for site in old.sites:
        role = site.rpartition(".")[2]
        if role in roles:
            assert torch.allclose(new[site], old[site], atol=1e-11), site
            continue
        last = model.module.transformer.ln_f if name == "gpt2" else model.module.model.norm
        norm = last if role == "final_norm" else None
        for each in normed.get(role, ()):
            norm = norm or getattr(model.blocks[int(site.split(".")[1])], each, None)
        bias = getattr(norm, "bias", 0)
        assert torch.allclose(new[site] * norm.weight + bias, old[site], atol=1e-11), site
        assert not torch.allclose(new[site], old[site], atol=0.1), site


@pytest.mark.parametrize("name", ["gemma", "gemma2", "gpt_neox", "olmo2", "mixtral", "bert"])
def test_other_families_are_refused(name):
    with pytest.raises(ModelError, match="llama and gpt2"):
        FoldNormGain().rewritten(jf.wrap(tiny_of(name), name=name))


def test_modules_without_a_family_are_refused():
    with pytest.raises(ModelError, match="llama and gpt2"):
        FoldNormGain().rewritten(jf.wrap(torch.nn.Linear(3, 3)))


def test_quantized_and_absent_weights_are_refused():
    model = made("llama")
    up = model.blocks[1].mlp.up_proj
    up.weight = torch.nn.Parameter(up.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.up_proj, got torch\.int8"):
        FoldNormGain().rewritten(model)
    with pytest.raises(ModelError, match="in memory"):
        FoldNormGain().rewritten(jf.wrap(made("llama").module.to("meta")))


def test_a_model_under_edits_is_refused(tokens):
    model = made("llama")
    edit = jf.edits.Scale(2.0, at="layers.1.resid_post")
    with model.editing([edit]):
        with pytest.raises(BusyError, match="hooks"):
            FoldNormGain().rewritten(model)
        model.module(tokens)
    assert FoldNormGain().check(model, tokens) < 1e-4


def test_half_precision_rounds_anew(tokens):
    model = made("llama", torch.bfloat16)
    apart = FoldNormGain().check(model, tokens)
    assert 0 < apart < 0.05 * float(model.run(tokens).logits.abs().max())


@pytest.mark.slow
def test_on_a_real_model(smollm2, capsys):
    apart = FoldNormGain().check(smollm2, "The capital of France is Paris, and of Italy")
    with capsys.disabled():
        print(f"\nFoldNormGain on smollm2, float32: largest difference of a logit {apart:.2e}")
    assert apart < 1e-3
