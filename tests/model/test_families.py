"""The role table: every entry has a model, every line is read, every known trap is a test."""

import pytest
import torch
from tests.model.tiny_models import MODELS, tiny, tiny_gemma3_with_pictures
from torch import Tensor, nn

import jackfield as jf
from jackfield.core.errors import SiteError
from jackfield.edits import Add, Replace, Scale, ZeroOut
from jackfield.model.equations import names_in, parse
from jackfield.model.families import family_of
from jackfield.model.model import Model
from jackfield.model.role_table import FAMILIES
from jackfield.model.sites import AXES, ROLE_ORDER
from jackfield.model.views import view

TAPPED = {"q", "k", "v", "scores", "pattern"}
# What each tiny model lacks of the sites inside a block, and why (read it as documentation).
EXPERTS_FUSED = {"mlp_pre", "mlp_post"}  # one tensor holds all experts: no module to hook
NO_INTERFACE = TAPPED  # attention is written out in the module: nothing to wrap
NO_MIDDLE = {"resid_mid"}  # parallel: attention and MLP read the same stream
ABSENT = {
    **dict.fromkeys(("mixtral", "olmoe", "qwen3_moe", "gpt_oss"), EXPERTS_FUSED),
    **dict.fromkeys(("gpt_neo", "bloom", "mpt", "falcon_sequential"), NO_INTERFACE),
    **dict.fromkeys(
        ("gptj", "falcon", "falcon_new", "falcon_new_one_norm"), NO_INTERFACE | NO_MIDDLE
    ),
    **dict.fromkeys(
        ("gpt_neox", "phi", "phi_qk_norm", "cohere", "cohere2", "stablelm_parallel"), NO_MIDDLE
    ),
}
WHOLE = set(ROLE_ORDER) - {"router", "router_topk"}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(2, 90, (2, 7), generator=torch.Generator().manual_seed(1))


def wrapped(name: str, dtype: torch.dtype = torch.float32) -> Model:
    return jf.wrap(tiny(name, dtype), name=name)


# The table ------------------------------------------------------------------------------------


def test_every_entry_has_a_tiny_model():
    tried = [family_of(tiny(name).config) for name in MODELS]
    assert {family.name for family in FAMILIES} == {family.name for family in tried if family}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_line_is_a_place_and_an_equation(family):
    for role, line in family.roles.items():
        assert role in AXES, line
        assert role in family.places or role in family.equations, line
    for place in family.places.values():
        text, _, via = place.partition(" via ")
        spot, _, seen = text.partition(" ")
        assert spot.endswith((":in", ":out")), place
        assert not via or via in family.places, place
        view(seen)
    for equation in family.equations.values():
        for part in equation.split("|"):
            parse(part)
            assert names_in(part)[0] - {"self_attn.scaling"} <= {*AXES}, equation


@pytest.mark.parametrize("name", [name for name in MODELS if name != "qwen2_moe"])
def test_what_a_family_lacks_is_absent_and_no_more(name):
    model = wrapped(name)
    roles = set(model.sites.roles())
    assert set(ROLE_ORDER) & roles >= WHOLE - ABSENT.get(name, set())
    assert not roles & ABSENT.get(name, set())
    for role in ABSENT.get(name, set()):
        with pytest.raises(SiteError, match=role):
            model.sites[f"layers.0.{role}"]


def test_blocks_of_one_model_may_differ():
    sites = wrapped("qwen2_moe").sites
    assert sites.select("layers.*.mlp_post") == ["layers.1.mlp_post"]
    assert sites.select("layers.*.router") == ["layers.0.router", "layers.2.router"]


def test_a_config_chooses_among_the_entries_of_a_type():
    names = {name: family_of(tiny(name).config).name for name in MODELS if "falcon" in name}
    assert names == {
        "falcon": "falcon",
        "falcon_new": "falcon_two_norms",
        "falcon_new_one_norm": "falcon_one_norm",
        "falcon_sequential": "falcon_sequential",
    }


def test_a_base_model_without_a_head_has_no_logits():
    assert "logits" not in wrapped("bert_base").sites
    assert wrapped("vit").sites["logits"].axes == ("batch", "label")


def test_a_tower_inside_a_wrapper_is_found(ids):
    model = jf.wrap(tiny_gemma3_with_pictures())
    plain = model.module(input_ids=ids).logits
    assert torch.equal(model.run(ids).logits, plain)


# The traps ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "gemma2", "mpt", "vit"])
def test_a_write_of_resid_mid_takes_the_skip_path_too(name, ids):
    """Against a plain hook that adds Δ to what attention adds to the stream."""
    model = wrapped(name)
    given = ids if name != "vit" else torch.randn(2, 3, 16, 16)
    delta = torch.randn(32)
    site = model.sites["layers.1.attn_out"].point
    module = model.module.get_submodule(site.path)

    def add(module: nn.Module, args: tuple, out: object) -> object:
        return out + delta if isinstance(out, Tensor) else (out[0] + delta, *out[1:])

    with module.register_forward_hook(add):
        expected = model.run(given).logits
    got = model.run(given, edits=[Add(delta, at="layers.1.resid_mid")]).logits
    torch.testing.assert_close(got, expected)
    at_norm = model.sites["layers.1.resid_mid"].point
    wrong = model.run(given, edits=[Add(delta, at=f"{at_norm.path}:in")]).logits
    assert (wrong - expected).abs().max() > 1e-3  # the trap: another output, and no error


def test_a_replace_of_resid_mid_in_low_precision_says_that_it_is_inexact(ids):
    model = wrapped("llama", torch.bfloat16)
    value = torch.randn(2, 7, 32, dtype=torch.bfloat16)
    site = "layers.1.resid_mid"
    run = model.run(ids, [site], [Replace(value, at=site)])
    assert any("exact up to rounding" in note for note in run.notes)
    torch.testing.assert_close(run[site], value, rtol=0.02, atol=0.1)


@pytest.mark.parametrize("name", ["mixtral", "olmoe", "qwen3_moe", "gpt_oss"])
def test_a_write_of_router_logits_chooses_the_experts_anew(name, ids):
    model = wrapped(name)
    boost = torch.tensor([0.0, 0.0, 50.0, 0.0])
    sites = ["layers.1.router", "layers.1.router_topk", "layers.1.mlp_out"]
    base = model.run(ids, sites)
    run = model.run(ids, sites, [Add(boost, at="layers.1.router")])
    assert (run["layers.1.router_topk"][..., 0] == 2).all()
    assert not (base["layers.1.router_topk"][..., 0] == 2).all()
    assert (run["layers.1.mlp_out"] - base["layers.1.mlp_out"]).abs().max() > 1e-3
    # The trap: the block ignores the logits that the router returns.
    path = model.sites["layers.1.router"].point.path

    def ignored(module: nn.Module, args: tuple, out: tuple) -> tuple:
        return out[0] + boost, *out[1:]

    with model.module.get_submodule(path).register_forward_hook(ignored):
        assert torch.equal(model.run(ids).logits, base.logits)


def test_the_routers_choice_can_only_be_read(ids):
    model = wrapped("mixtral")
    assert model.sites["layers.0.router_topk"].capabilities == ("read", "exact")
    with pytest.raises(SiteError, match="Write router instead"):
        model.run(ids, edits=[Scale(1.0, at="layers.0.router_topk")])
    run = model.run(ids, ["layers.0.router", "layers.0.router_topk"], grad=True)
    assert list(run.gradients(run.logits.sum())) == ["layers.0.router"]


@pytest.mark.parametrize("name", ["falcon", "falcon_new"])
def test_an_addition_in_place_after_the_hook_does_not_reach_mlp_out(name, ids):
    model = wrapped(name)
    plain: list[Tensor] = []
    block = model.blocks[1]
    with torch.no_grad(), block.mlp.register_forward_hook(lambda m, a, out: plain.append(out)):
        model.module(ids)
    run = model.run(ids, ["layers.1.mlp_post", "layers.1.mlp_out", "layers.1.attn_out"])
    expected = block.mlp.dense_4h_to_h(run["layers.1.mlp_post"])
    assert torch.equal(run["layers.1.mlp_out"], expected)
    # The trap: what a plain hook keeps has become the sum.
    torch.testing.assert_close(plain[0], expected + run["layers.1.attn_out"])


def test_an_addition_in_place_does_not_reach_the_users_tensor(ids):
    value = torch.randn(2, 7, 32)
    kept = value.clone()
    wrapped("falcon").run(ids, edits=[Replace(value, at="layers.1.mlp_out")])
    assert torch.equal(value, kept)


@pytest.mark.parametrize("name", ["olmo", "olmoe"])
def test_clipping_in_place_does_not_reach_v_proj(name, ids):
    model = wrapped(name)
    run = model.run(ids, ["layers.0.attn_in", "layers.0.v_proj", "layers.0.v"], grad=True)
    expected = model.blocks[0].self_attn.v_proj(run["layers.0.attn_in"]).unflatten(-1, (2, 8))
    assert torch.equal(run["layers.0.v_proj"], expected)
    assert torch.equal(run["layers.0.v"], expected.clamp(-0.5, 0.5))
    gradient = run.gradients(run.logits.square().sum())["layers.0.v_proj"]
    assert (gradient[expected.abs() > 0.5] == 0).all()
    assert (gradient[expected.abs() < 0.5] != 0).any()


@pytest.mark.parametrize("name", ["opt", "opt_post_norm"])
def test_an_mlp_that_flattens_batch_and_position_is_seen_with_both(name, ids):
    run = wrapped(name).run(ids, ["layers.1.mlp_in", "layers.1.mlp_post", "layers.1.mlp_out"])
    assert run["layers.1.mlp_out"].shape == (2, 7, 32)
    assert run["layers.1.mlp_post"].shape == (2, 7, 48)
    edit = Add(torch.ones(32), at="layers.1.mlp_out", where=[3])
    there = wrapped(name).run(ids, ["layers.1.mlp_out"], [edit])
    changed = (there["layers.1.mlp_out"] - run["layers.1.mlp_out"])[..., 0]
    assert changed.round().tolist() == [[0, 0, 0, 1, 0, 0, 0]] * 2


def test_an_ffn_whose_output_holds_the_residual_is_not_mlp_out(ids):
    model = wrapped("mpt")
    seen: list[Tensor] = []
    with model.blocks[1].ffn.register_forward_hook(lambda m, a, out: seen.append(out)):
        run = model.run(ids, ["layers.1.resid_mid", "layers.1.mlp_out", "layers.1.resid_post"])
    torch.testing.assert_close(run["layers.1.resid_mid"] + run["layers.1.mlp_out"], seen[0])
    assert torch.equal(seen[0], run["layers.1.resid_post"])


@pytest.mark.parametrize("name", ["bert", "distilbert", "opt_post_norm"])
def test_in_a_post_norm_block_the_sum_is_not_the_stream(name, ids):
    model = wrapped(name)
    assert model.family.topology == "post-norm"
    run = model.run(ids, "layers.1.*")
    total = run["layers.1.resid_mid"] + run["layers.1.mlp_out"]
    assert (total - run["layers.1.resid_post"]).abs().max() > 0.1
    norm = {"bert": "output.LayerNorm", "distilbert": "output_layer_norm"}.get(
        name, "final_layer_norm"
    )
    torch.testing.assert_close(
        model.blocks[1].get_submodule(norm)(total), run["layers.1.resid_post"]
    )


def test_a_parallel_block_shares_its_norm_but_not_the_writes(ids):
    model = wrapped("phi")
    sites = ["layers.1.attn_in", "layers.1.mlp_in"]
    base = model.run(ids, sites)
    assert torch.equal(base[sites[0]], base[sites[1]])
    run = model.run(ids, sites, [Add(torch.ones(32), at=sites[0])])
    assert torch.equal(run[sites[1]], base[sites[1]])
    assert torch.equal(run[sites[0]], base[sites[0]] + 1)


def test_positions_begin_after_the_padding_in_roberta(ids):
    model = wrapped("roberta")
    assert torch.equal(model.run(ids).logits, model.module(ids).logits)


@pytest.mark.parametrize(
    "name", ["llama", "mistral", "gemma2", "gpt_oss", "gpt2", "bert", "cohere2", "gpt_bigcode"]
)
def test_the_pattern_is_what_transformers_eager_attention_gives(name, ids):
    """Masks of all kinds, sliding windows, soft caps, sinks, grouped heads, padding."""
    model = wrapped(name)
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    batch = {"input_ids": ids, "attention_mask": mask}
    run = model.run(batch, "layers.*.pattern")
    model.module.set_attn_implementation("eager")
    call = {**model.inputs(batch).call, "output_attentions": True}
    for layer, expected in enumerate(model.module(**call).attentions):
        got = run[f"layers.{layer}.pattern"]
        torch.testing.assert_close(got[0], expected[0])
        torch.testing.assert_close(got[1][:, 3:, 3:], expected[1][:, 3:, 3:])
        if name != "bert":
            assert (got[1][:, :3] == 0).all()  # a padded query attends to nothing


# Heads, ties, gradients -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "values"), [("llama", "v"), ("phi3", "v_proj"), ("falcon_new", "v_proj")]
)
def test_a_kv_head_serves_its_own_query_heads(name, values, ids):
    model = wrapped(name)
    z, site = "layers.1.z", f"layers.1.{values}[head=1]"
    changed = (model.run(ids, [z], [ZeroOut(at=site)])[z] != model.run(ids, [z])[z]).flatten(2)
    by_head = changed.unflatten(-1, (4, 8)).any(-1)
    assert not by_head[..., :2].any()
    assert by_head[..., 2:].all()


def test_one_key_and_value_serve_all_heads_in_multi_query_attention(ids):
    run = wrapped("falcon").run(ids, ["layers.0.q_proj", "layers.0.k_proj", "layers.0.v_proj"])
    assert run["layers.0.q_proj"].shape == (2, 7, 4, 8)
    assert run["layers.0.k_proj"].shape == run["layers.0.v_proj"].shape == (2, 7, 1, 8)


def test_a_head_is_written_through_its_own_columns(ids):
    model = wrapped("llama")
    delta, out = torch.randn(8), "layers.1.attn_out"
    run = model.run(ids, [out], [Add(delta, at="layers.1.z[head=3]")])
    weight = model.blocks[1].self_attn.o_proj.weight[:, 24:32]
    torch.testing.assert_close(
        run[out] - model.run(ids, [out])[out], (weight @ delta).expand(2, 7, -1)
    )


def test_tied_weights_are_used_and_left_alone(ids):
    model = wrapped("llama_tied")
    module = model.module
    assert module.lm_head.weight is module.model.embed_tokens.weight
    weight = module.lm_head.weight.clone()
    run = model.run(ids, ["final_norm"], [Scale(2.0, at="layers.1.mlp_out")])
    torch.testing.assert_close(run.logits, run["final_norm"] @ weight.T)
    assert torch.equal(module.lm_head.weight, weight)


@pytest.mark.parametrize("name", ["llama", "bert", "phi", "falcon", "gpt2"])
def test_gradients_are_those_of_a_graph_built_by_plain_hooks(name, ids):
    """Each hooked tensor is cut loose with a zero added, whose gradient is the site's."""
    model = wrapped(name)
    sites = ["layers.1.attn_in", "layers.1.attn_out", "layers.1.mlp_in", "layers.1.mlp_post"]
    zeros, handles = {}, []
    for site in sites:
        point = model.sites[site].point
        zeros[site] = torch.zeros(model.run(ids, [site])[site].shape, requires_grad=True)
        module = model.module.get_submodule(point.path)
        handles.append(_adding(module, point.side, zeros[site]))
    model.module(ids).logits.square().sum().backward()
    for handle in handles:
        handle.remove()
    run = model.run(ids, sites, grad=True)
    gradients = run.gradients(run.logits.square().sum())
    for site in sites:
        scale = float(zeros[site].grad.abs().max())
        torch.testing.assert_close(gradients[site], zeros[site].grad, rtol=1e-4, atol=1e-5 * scale)


def _adding(module: nn.Module, side: str, zero: Tensor) -> object:
    def after(module: nn.Module, args: tuple, out: object) -> object:
        return out + zero if isinstance(out, Tensor) else (out[0] + zero, *out[1:])

    def before(module: nn.Module, args: tuple, kwargs: dict) -> tuple:
        if args:
            return (args[0] + zero, *args[1:]), kwargs
        name = next(iter(kwargs))
        return args, {**kwargs, name: kwargs[name] + zero}

    if side == "out":
        return module.register_forward_hook(after)
    return module.register_forward_pre_hook(before, with_kwargs=True)
