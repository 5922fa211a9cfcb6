"""The tap inside attention, against eager attention of transformers and against its own parts."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

import jackfield as jf
from jackfield import edits as E
from jackfield.core.errors import SiteError
from jackfield.model.attention import Call, check_rebuilt, mix, rebuild_scores, softmax, tapped

SIZES = {
    "vocab_size": 101,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 3,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "pad_token_id": 0,
}


def made(kind: str) -> nn.Module:
    """A tiny model whose attention has something that plain attention has not."""
    import transformers as t

    torch.manual_seed(0)
    gemma = {**SIZES, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 4}
    few = {name: size for name, size in SIZES.items() if name != "num_key_value_heads"}
    build = {
        "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**SIZES)),
        "mistral": lambda: t.MistralForCausalLM(t.MistralConfig(**SIZES, sliding_window=4)),
        "gemma2": lambda: t.Gemma2ForCausalLM(
            t.Gemma2Config(**gemma, attn_logit_softcapping=1.0, attn_implementation="eager")
        ),
        "gemma3": lambda: t.Gemma3ForCausalLM(t.Gemma3TextConfig(**gemma)),
        "qwen3": lambda: t.Qwen3ForCausalLM(t.Qwen3Config(**SIZES, head_dim=16)),
        "gpt2": lambda: t.GPT2LMHeadModel(
            t.GPT2Config(vocab_size=101, n_embd=32, n_head=4, n_layer=3, initializer_range=0.2)
        ),
        "neox": lambda: t.GPTNeoXForCausalLM(t.GPTNeoXConfig(**few)),
        "bert": lambda: t.BertModel(t.BertConfig(**few), add_pooling_layer=False),
    }
    return build[kind]().eval()


KINDS = ("llama", "mistral", "gemma2", "gemma3", "qwen3", "gpt2", "neox", "bert")


def padded(side: str) -> dict[str, Tensor]:
    tokens = torch.randint(1, 100, (2, 9), generator=torch.Generator().manual_seed(5))
    mask = torch.ones_like(tokens)
    mask[0, slice(0, 3) if side == "left" else slice(6, 9)] = 0
    return {"input_ids": tokens * mask, "attention_mask": mask}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", KINDS)
class TestPattern:
    def test_it_is_the_attention_that_transformers_writes_out(self, kind, side):
        module, call = made(kind), padded(side)
        model = jf.wrap(module)
        run = model.run(call, sites=["layers.*.pattern"])
        implementation = module.config._attn_implementation
        module.set_attn_implementation("eager")
        with torch.no_grad():
            expected = module(**model.inputs(call).call, output_attentions=True).attentions
        assert kind == "gemma2" or implementation == "sdpa"
        real = call["attention_mask"].bool()[:, None, :, None]
        for got, seen in zip(run.stack("layers.*.pattern"), expected, strict=True):
            assert torch.allclose(got * real, seen * real, atol=1e-5)

    def test_rows_sum_to_one_and_padding_attends_to_nothing_or_is_not_attended_to(self, kind, side):
        call = padded(side)
        pattern = jf.wrap(made(kind)).run(call, sites=["layers.1.pattern"])["layers.1.pattern"]
        real = call["attention_mask"].bool()
        sums = pattern.sum(-1).transpose(1, 2)
        assert torch.allclose(sums[real], torch.ones_like(sums[real]), atol=1e-5)
        unseen = pattern.masked_fill(~real[:, None, :, None], 0)
        assert not unseen.masked_fill(real[:, None, None, :], 0).any()
        assert not pattern.isnan().any()

    def test_it_times_v_is_z(self, kind, side):
        run = jf.wrap(made(kind)).run(
            padded(side), sites=["layers.1.pattern", "layers.1.v", "layers.1.z"]
        )
        v = run["layers.1.v"]
        v = v.repeat_interleave(4 // v.shape[2], dim=2)
        z = torch.einsum("bhqk,bkhd->bqhd", run["layers.1.pattern"], v)
        real = run.mask[:, :, None, None]
        assert torch.allclose(z * real, run["layers.1.z"] * real, atol=1e-5)

    def test_it_is_the_softmax_of_the_scores(self, kind, side):
        run = jf.wrap(made(kind)).run(padded(side), sites=["layers.1.scores", "layers.1.pattern"])
        scores, pattern = run["layers.1.scores"], run["layers.1.pattern"]
        soft = torch.softmax(scores, -1).nan_to_num(0.0)
        assert torch.allclose(pattern, soft, atol=1e-6)

    def test_writing_it_back_gives_the_first_logits(self, kind, side):
        model, call = jf.wrap(made(kind)), padded(side)
        clean = model.run(call, sites=["layers.2.resid_post"])
        real = call["attention_mask"].bool()
        for role in ("pattern", "scores"):
            edits = [E.Scale(1.0, at=f"layers.*.{role}")]
            again = model.run(call, sites=["layers.2.resid_post"], edits=edits)
            difference = again["layers.2.resid_post"] - clean["layers.2.resid_post"]
            assert difference[real].abs().max() < 1e-4

    def test_writing_it_is_writing_z(self, kind, side):
        """A pattern that keeps only the token itself makes z that token's own v."""
        model, call = jf.wrap(made(kind)), padded(side)
        real = call["attention_mask"].bool()

        def itself(x, context):
            return torch.eye(x.shape[-1]).expand_as(x)

        run = model.run(
            call,
            sites=["layers.1.z", "layers.1.v"],
            edits=[E.Function(itself, at="layers.1.pattern")],
        )
        v = run["layers.1.v"]
        v = v.repeat_interleave(4 // v.shape[2], dim=2)
        assert torch.allclose(run["layers.1.z"][real], v[real], atol=1e-6)


def test_reading_the_pattern_keeps_the_models_own_kernel(tiny, tokens):
    calls = []
    fused = torch.nn.functional.scaled_dot_product_attention

    def counted(*args, **kwargs):
        calls.append(1)
        return fused(*args, **kwargs)

    torch.nn.functional.scaled_dot_product_attention = counted
    try:
        tiny.run(tokens, sites=["layers.1.pattern", "layers.*.z"])
        assert len(calls) == 3
        tiny.run(tokens, edits=[E.Scale(0.5, at="layers.1.pattern")])
        assert len(calls) == 5  # the edited layer alone is computed explicitly
    finally:
        torch.nn.functional.scaled_dot_product_attention = fused


def test_a_model_whose_kernel_does_something_else_is_found_out(tiny, tokens, monkeypatch):
    plain = torch.nn.functional.scaled_dot_product_attention

    def other(*args, **kwargs):
        return plain(*args, **kwargs) * 1.01

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", other)
    tiny.run(tokens, sites=["layers.1.z", "layers.1.q"])
    with pytest.raises(SiteError, match="a rebuilt pattern whose z is within"):
        tiny.run(tokens, sites=["layers.1.pattern"])


def test_names_configs_and_mask_functions_stay_as_they_are(tiny, tokens):
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    def state():
        return (
            tiny.module.config._attn_implementation,
            dict(ALL_ATTENTION_FUNCTIONS.items()),
            dict(ALL_MASK_ATTENTION_FUNCTIONS.items()),
        )

    before = state()
    with tiny.editing([E.ZeroOut(at="layers.1.pattern"), E.Scale(2.0, at="layers.0.k")]):
        assert state() == before
        tiny.module(tokens)
    assert state() == before


def test_the_interface_is_the_first_one_after_the_last_tap(tiny, tokens):
    first = AttentionInterface.get_interface
    with tap_of_nothing(tiny):
        wrapped = AttentionInterface.get_interface
        assert wrapped is not first
        tiny.run(tokens, sites=["layers.1.z"])
        assert AttentionInterface.get_interface is wrapped
    assert AttentionInterface.get_interface is first
    with pytest.raises(ZeroDivisionError), tap_of_nothing(tiny):
        raise ZeroDivisionError
    assert AttentionInterface.get_interface is first


def tap_of_nothing(model):
    def straight_on(inner, call):
        return inner(call.module, call.query, call.key, call.value, call.mask, **call.options)

    return tapped({model.module.model.layers[0].self_attn: straight_on})


def test_other_models_pass_by_a_tap(tiny, tiny64, tokens):
    with torch.no_grad():
        clean = tiny64.module(tokens).logits
    with tiny.editing([E.ZeroOut(at="layers.*.z")]), torch.no_grad():
        assert torch.equal(tiny64.module(tokens).logits, clean)
        tiny.module(tokens)


def test_taps_of_one_module_nest_with_the_first_outermost(tiny, tokens):
    """The inner edit sees what the outer one left of q, the outer one what the inner left of z."""
    v = torch.randn(8)
    outer, inner = E.Scale(2.0, at="layers.1.z"), E.Add(v, at="layers.1.z")
    with tiny.editing([outer]), tiny.editing([inner]), torch.no_grad():
        nested = tiny.module(tokens).logits
    assert torch.equal(nested, tiny.run(tokens, edits=[inner, outer]).logits)


def call_of(mask=None, queries=3, keys=3, **options) -> Call:
    torch.manual_seed(0)
    shape = (2, 4, queries, 8)
    key, value = torch.randn(2, 2, keys, 8), torch.randn(2, 2, keys, 8)
    return Call(SimpleNamespace(is_causal=True), torch.randn(shape), key, value, mask, options)


def fused(call: Call) -> Tensor:
    """What torch's kernel gives, laid out as attention functions return it."""
    key, value = (x.repeat_interleave(2, dim=1) for x in (call.key, call.value))
    causal = call.mask is None and call.query.shape[2] > 1
    out = torch.nn.functional.scaled_dot_product_attention(
        call.query, key, value, attn_mask=call.mask, is_causal=causal
    )
    return out.transpose(1, 2)


BOOLS = torch.ones(2, 1, 3, 5, dtype=torch.bool).tril(2)
BOOLS[0, :, :, 0] = False
FLOATS = torch.zeros(2, 1, 3, 5).masked_fill(~BOOLS, torch.finfo(torch.float32).min)


@pytest.mark.parametrize(
    "call",
    [
        call_of(),
        call_of(queries=1, keys=5),
        call_of(queries=3, keys=5),  # torch aligns the triangle at the top left
        call_of(mask=BOOLS, keys=5),
        call_of(mask=FLOATS, keys=5),
        call_of(mask=FLOATS.masked_fill(~BOOLS, -torch.inf), keys=5),
        call_of(mask=torch.randn(2, 4, 3, 5), keys=5),
    ],
    ids=["causal", "one query", "cached", "bool", "float", "infinite", "bias"],
)
def test_the_rebuilt_pattern_gives_the_kernels_z(call):
    pattern = softmax(rebuild_scores(call, "here"), call)
    assert torch.allclose(mix(pattern, call), fused(call), atol=1e-6)
    check_rebuilt(pattern, fused(call), call, None, "here")


def test_a_query_that_may_attend_to_nothing_has_a_row_of_zeros():
    mask = BOOLS.clone()
    mask[1, :, 1] = False
    call = call_of(mask=mask, keys=5)
    pattern = softmax(rebuild_scores(call, "here"), call)
    assert not pattern[1, :, 1].any()
    assert torch.allclose(pattern[0].sum(-1), torch.ones(4, 3))


def test_a_sink_takes_its_share():
    call = call_of(s_aux=torch.tensor([0.0, 1.0, -1.0, 30.0]))
    scores = rebuild_scores(call, "here")
    pattern = softmax(scores, call)
    expected = scores.exp() / (
        scores.exp().sum(-1, keepdim=True) + call.options["s_aux"].exp().reshape(1, 4, 1, 1)
    )
    assert torch.allclose(pattern, expected, atol=1e-6)
    assert pattern[:, 3].max() < 1e-6


def test_a_soft_cap_and_a_scale_are_applied_in_their_order():
    call = call_of(softcap=0.5, scaling=0.7)
    scores = rebuild_scores(call, "here")
    key = call.key.repeat_interleave(2, dim=1)
    expected = 0.5 * torch.tanh(call.query @ key.transpose(-1, -2) * 0.7 / 0.5)
    seen = torch.ones(3, 3, dtype=torch.bool).tril()
    assert torch.allclose(scores[:, :, seen], expected[:, :, seen], atol=1e-6)
    assert scores[:, :, ~seen].isneginf().all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (call_of(new_option=3), "got new_option"),
        (call_of(dropout=0.1), r"got dropout=0\.1"),
        (call_of(mask=torch.ones(2, 5, dtype=torch.bool), keys=5), "a mask .batch, head, query"),
        (call_of(mask=SimpleNamespace(), keys=5), "a mask .batch, head, query"),
        (call_of(sliding_window=2), "a mask that has the sliding window"),
    ],
    ids=["unknown", "dropout", "flat mask", "block mask", "window"],
)
def test_what_is_not_understood_fails_closed(call, message):
    with pytest.raises(SiteError, match=message):
        rebuild_scores(call, "here")


def test_an_option_without_a_value_is_no_option():
    rebuild_scores(call_of(new_option=None, dropout=0.0, sliding_window=3), "here")


def test_a_kernel_that_does_something_else_is_found_out():
    call = call_of()
    pattern = softmax(rebuild_scores(call, "here"), call)
    for wrong in (fused(call) * 1.001, fused(call).masked_fill(torch.ones(1).bool(), torch.nan)):
        with pytest.raises(
            SiteError, match=r"a rebuilt pattern whose z is within .* q, k, v and z"
        ):
            check_rebuilt(pattern, wrong, call, None, "here")


def test_padding_is_not_part_of_the_check():
    call = call_of()
    pattern = softmax(rebuild_scores(call, "here"), call)
    real = torch.tensor([[True, True, False], [True, True, True]])
    z = fused(call).clone()
    z[0, 2] = torch.nan
    check_rebuilt(pattern, z, call, real, "here")


def test_gradients_inside_are_finite_where_padding_attends_to_nothing(talker):
    names = ["layers.1.scores", "layers.1.pattern", "layers.0.resid_post"]
    both = talker.run(["w7 w8 w9 w10", "w11 w12"], sites=names, padding="left", grad=True)
    alone = talker.run("w11 w12", sites=names, grad=True)
    got = both.gradients(both.logits[:, -1, 5].sin().sum())
    expected = alone.gradients(alone.logits[:, -1, 5].sin().sum())
    assert all(gradient.isfinite().all() for gradient in got.values())
    assert torch.allclose(got[names[0]][1, :, 2:, 2:], expected[names[0]][0], atol=1e-6)
    assert torch.allclose(got[names[1]][1, :, 2:, 2:], expected[names[1]][0], atol=1e-6)
    assert torch.allclose(got[names[2]][1, 2:], expected[names[2]][0], atol=1e-6)


def test_dropout_in_training_is_refused_only_inside(tiny, tokens):
    for block in tiny.module.model.layers:
        block.self_attn.attention_dropout = 0.1
    tiny.module.train()
    tiny.run(tokens, sites=["layers.1.z", "layers.1.q"])
    with pytest.raises(SiteError, match="without dropout"):
        tiny.run(tokens, sites=["layers.1.pattern"])
    with pytest.raises(SiteError, match="without dropout"):
        tiny.run(tokens, edits=[E.Scale(1.0, at="layers.1.scores")])


def test_grouped_heads_share_their_keys(tiny, tokens):
    """Two query heads read one KV head: an edit of it moves those two and no others."""
    clean = tiny.run(tokens, sites=["layers.1.z"])["layers.1.z"]
    edit = E.Scale(3.0, at="layers.1.v[head=1]")
    edited = tiny.run(tokens, sites=["layers.1.z"], edits=[edit])["layers.1.z"]
    assert torch.equal(edited[:, :, :2], clean[:, :, :2])
    assert torch.allclose(edited[:, :, 2:], 3.0 * clean[:, :, 2:], atol=1e-5)
