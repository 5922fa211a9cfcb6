import copy

import pytest
import torch
from tests.model.tiny_models import MODELS
from tests.model.tiny_models import tiny as make

import jackfield as jf
from jackfield.core.errors import SiteError
from jackfield.edits import Function
from jackfield.model.readers import linear_readers, matrix, readers, stacked

ROLES = ("attn_in", "z", "mlp_in", "mlp_post")
MIXTURES = ("mixtral", "olmoe", "qwen2_moe", "qwen3_moe", "gpt_oss")  # float32 only


def given(name):
    """An input that the model takes."""
    if name == "vit":
        return torch.randn(2, 3, 16, 16)
    return torch.randint(1, 100, (2, 7), generator=torch.Generator().manual_seed(1))


def last(model, x, edits=()):
    site = f"layers.{model.n_layers - 1}.resid_post"
    return model.run(x, sites=[site], edits=edits)[site]


def silenced(unit):
    """An edit's function that sets one unit of a site, heads side by side, to zero."""

    def silence(x, context):
        flat = x.flatten(-2).clone() if "head" in context.axes else x.clone()
        flat[..., unit] = 0
        return flat.view_as(x)

    return silence


def _is_experts(model, role):
    return role == "mlp_in" and "layers.1.router" in model.sites


@pytest.mark.parametrize("name", [each for each in MODELS if "bert" not in each or each == "bert"])
def test_readers_are_all_that_read_a_site(name):
    """Silencing a unit is the same as clearing its column in every reader, and in no other."""
    dtype, atol = (torch.float32, 1e-4) if name in MIXTURES else (torch.float64, 1e-12)
    model = jf.wrap(make(name, dtype), name=name)
    x = given(name)
    x = x.to(dtype) if x.is_floating_point() else x
    for role in ROLES:
        site = f"layers.1.{role}"
        if site not in model.sites or _is_experts(model, role):
            continue
        edited = last(model, x, [Function(silenced(3), at=site)])
        cleared = jf.wrap(copy.deepcopy(model.module), name=name)
        with torch.no_grad():
            for module in linear_readers(cleared, site).values():
                matrix(module)[:, 3] = 0
        assert not torch.equal(edited, last(model, x)), role
        torch.testing.assert_close(edited, last(cleared, x), atol=atol, rtol=1e-5)


def test_readers_of_a_llama(tiny):
    block = "model.layers.1"
    assert readers(tiny, "layers.1.z") == [f"{block}.self_attn.o_proj"]
    assert readers(tiny, "layers.1.mlp_in") == [f"{block}.mlp.gate_proj", f"{block}.mlp.up_proj"]
    assert readers(tiny, "layers.1.mlp_pre") == [f"{block}.mlp.act_fn"]
    assert readers(tiny, "layers.1.resid_pre") == [f"{block}.input_layernorm"]
    assert readers(tiny, "final_norm") == ["lm_head"]
    assert readers(tiny, f"{block}.mlp.up_proj:in") == [f"{block}.mlp.up_proj"]


def test_stacked_matrices_have_a_column_for_each_input(tiny):
    modules = linear_readers(tiny, "layers.0.mlp_in")
    mlp = tiny.module.model.layers[0].mlp
    assert torch.equal(stacked(modules), torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]))


@pytest.mark.parametrize("site", ["layers.0.mlp_pre", "layers.0.resid_mid", "layers.0.k"])
def test_sites_that_linear_modules_do_not_read_are_refused(tiny, site):
    with pytest.raises(SiteError, match=f"tiny, {site}: expected a site that linear modules read"):
        linear_readers(tiny, site)


def test_a_mixture_of_experts_is_refused():
    model = jf.wrap(make("mixtral"), name="mixtral")
    with pytest.raises(SiteError, match=r"mlp \(MixtralSparseMoeBlock\)"):
        linear_readers(model, "layers.0.mlp_in")


@pytest.mark.parametrize("site", ["logits", "model.layers.0.mlp:out", "embed"])
def test_sites_without_readers_in_a_block_are_refused(tiny, site):
    with pytest.raises(SiteError, match="a site inside a block"):
        readers(tiny, site)
