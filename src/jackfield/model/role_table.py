"""The role table: where each family keeps each site, and what it equals. Data; see `families.py`.

Roles that are not listed are absent: a site is declared only where its equation holds. The
attention's inside (q, k, v, scores, pattern, z) is declared for every family that calls the
attention interface; the others declare z at the input of the output projection.

Reading an entry: `join` and `split` put heads side by side and take them apart; `rotary` turns by
position (nothing at position 0); "q_norm?" is a module that some models of the family lack.
"""

from jackfield.model.families import Family

# Sub-tables ----------------------------------------------------------------------------------

_SEPARATE = {
    "q_proj": "self_attn.q_proj:out heads = split(self_attn.q_proj(attn_in))",
    "k_proj": "self_attn.k_proj:out heads = split(self_attn.k_proj(attn_in))",
    "v_proj": "self_attn.v_proj:out heads = split(self_attn.v_proj(attn_in))",
    "q": "= rotary(self_attn.q_norm?(q_proj))",
    "k": "= rotary(self_attn.k_norm?(k_proj))",
    "v": "= v_proj",
}
_GATED = {
    "mlp_pre": "mlp.gate_proj:out = mlp.gate_proj(mlp_in)",
    "mlp_post": "mlp.down_proj:in = mlp.act_fn(mlp_pre) * mlp.up_proj(mlp_in)",
    "mlp_out": "mlp:out = mlp.down_proj(mlp_post)",
}
_SEQUENTIAL = {"resid_post": "= resid_mid + mlp_out"}
_PARALLEL = {"resid_post": "= resid_pre + attn_out + mlp_out"}

# Decoders, one after the other ---------------------------------------------------------------

_LLAMA = {
    "attn_in": "self_attn:in = input_layernorm(resid_pre)",
    **_SEPARATE,
    "attn_out": "self_attn:out = self_attn.o_proj(join(z))",
    "resid_mid": "post_attention_layernorm:in via attn_out = resid_pre + attn_out",
    "mlp_in": "mlp:in = post_attention_layernorm(resid_mid)",
    **_GATED,
    **_SEQUENTIAL,
}
_OLMO = {
    **_LLAMA,
    "q_proj": "self_attn.q_proj:out heads clone = split(self_attn.q_proj(attn_in))",
    "k_proj": "self_attn.k_proj:out heads clone = split(self_attn.k_proj(attn_in))",
    "v_proj": "self_attn.v_proj:out heads clone = split(self_attn.v_proj(attn_in))",
    "q": "= rotary(clip(q_proj))",
    "k": "= rotary(clip(k_proj))",
    "v": "= clip(v_proj)",
}
_JOINT_NORM = {
    "q": "= rotary(clip(split(self_attn.q_norm(join(q_proj)))))",
    "k": "= rotary(clip(split(self_attn.k_norm(join(k_proj)))))",
}
_OLMO2 = {
    **_LLAMA,
    **_JOINT_NORM,
    "attn_in": "self_attn:in = resid_pre",
    "attn_out": "post_attention_layernorm:out = "
    "post_attention_layernorm(self_attn.o_proj(join(z)))",
    "resid_mid": "mlp:in via attn_out = resid_pre + attn_out",
    "mlp_in": "mlp:in = resid_mid",
    "mlp_out": "post_feedforward_layernorm:out = "
    "post_feedforward_layernorm(mlp.down_proj(mlp_post))",
}
# In a mixture the experts are fused, so that mlp_pre and mlp_post exist in its plain blocks only.
_SPARSE = {
    **_LLAMA,
    "router": "mlp.gate:out router = mlp.gate(mlp_in)",
    "router_topk": "mlp.gate:out router_choice = choice(router)",
    "mlp_out": "mlp:out = mlp.down_proj(mlp_post) | mlp(mlp_in)",
}
_GPT_OSS = {
    **{role: line for role, line in _LLAMA.items() if role not in ("mlp_pre", "mlp_post")},
    "router": "mlp.router:out router_late = mlp.router(mlp_in)",
    "router_topk": "mlp.router:out router_choice = choice(router)",
    "mlp_out": "mlp:out = mlp(mlp_in)",
}
_GEMMA2 = {
    **_LLAMA,
    "attn_out": "post_attention_layernorm:out = "
    "post_attention_layernorm(self_attn.o_proj(join(z)))",
    "resid_mid": "pre_feedforward_layernorm:in via attn_out = resid_pre + attn_out",
    "mlp_in": "mlp:in = pre_feedforward_layernorm(resid_mid)",
    "mlp_out": "post_feedforward_layernorm:out = "
    "post_feedforward_layernorm(mlp.down_proj(mlp_post))",
}
_PHI3 = {
    **_LLAMA,
    "q_proj": "self_attn.qkv_proj:out joined:0",
    "k_proj": "self_attn.qkv_proj:out joined:1",
    "v_proj": "self_attn.qkv_proj:out joined:2",
    "q": "= rotary(q_proj)",
    "k": "= rotary(k_proj)",
    "attn_out": "resid_attn_dropout:out = self_attn.o_proj(join(z))",
    "mlp_pre": "mlp.gate_up_proj:out halves:0 = half0(mlp.gate_up_proj(mlp_in))",
    "mlp_post": "mlp.down_proj:in = mlp.activation_fn(mlp_pre) * half1(mlp.gate_up_proj(mlp_in))",
    "mlp_out": "resid_mlp_dropout:out = mlp.down_proj(mlp_post)",
}
_STARCODER2 = {
    **_LLAMA,
    "mlp_pre": "mlp.c_fc:out = mlp.c_fc(mlp_in)",
    "mlp_post": "mlp.c_proj:in = mlp.act(mlp_pre)",
    "mlp_out": "mlp:out = mlp.c_proj(mlp_post)",
}
_GPT2 = {
    "attn_in": "attn:in = ln_1(resid_pre)",
    "q_proj": "attn.c_attn:out joined:0",
    "k_proj": "attn.c_attn:out joined:1",
    "v_proj": "attn.c_attn:out joined:2",
    "q": "= q_proj",
    "k": "= k_proj",
    "v": "= v_proj",
    "attn_out": "attn:out = attn.c_proj(join(z))",
    "resid_mid": "ln_2:in via attn_out = resid_pre + attn_out",
    "mlp_in": "mlp:in = ln_2(resid_mid)",
    "mlp_pre": "mlp.c_fc:out = mlp.c_fc(mlp_in)",
    "mlp_post": "mlp.c_proj:in = mlp.act(mlp_pre)",
    "mlp_out": "mlp:out = mlp.c_proj(mlp_post)",
    **_SEQUENTIAL,
}
_GPT_BIGCODE_HEADS = {
    **_GPT2,
    "q_proj": "attn.c_attn:out grouped:0",
    "k_proj": "attn.c_attn:out grouped:1",
    "v_proj": "attn.c_attn:out grouped:2",
}
_GPT_NEO = {
    **{role: line for role, line in _GPT2.items() if role not in ("q", "k", "v")},
    "q_proj": "attn.attention.q_proj:out heads = split(attn.attention.q_proj(attn_in))",
    "k_proj": "attn.attention.k_proj:out heads = split(attn.attention.k_proj(attn_in))",
    "v_proj": "attn.attention.v_proj:out heads = split(attn.attention.v_proj(attn_in))",
    "z": "attn.attention.out_proj:in heads",
    "attn_out": "attn:out = attn.attention.out_proj(join(z))",
}
_NEOX_SEQUENTIAL = {
    "attn_in": "attention:in = input_layernorm(resid_pre)",
    "q_proj": "attention.query_key_value:out grouped:0",
    "k_proj": "attention.query_key_value:out grouped:1",
    "v_proj": "attention.query_key_value:out grouped:2",
    "q": "= rotary(q_proj)",
    "k": "= rotary(k_proj)",
    "v": "= v_proj",
    "attn_out": "post_attention_dropout:out = attention.dense(join(z))",
    "resid_mid": "post_attention_layernorm:in via attn_out = resid_pre + attn_out",
    "mlp_in": "mlp:in = post_attention_layernorm(resid_mid)",
    "mlp_pre": "mlp.dense_h_to_4h:out = mlp.dense_h_to_4h(mlp_in)",
    "mlp_post": "mlp.dense_4h_to_h:in = mlp.act(mlp_pre)",
    "mlp_out": "post_mlp_dropout:out = mlp.dense_4h_to_h(mlp_post)",
    **_SEQUENTIAL,
}
_OPT = {
    "attn_in": "self_attn:in = self_attn_layer_norm(resid_pre)",
    **_SEPARATE,
    "q": "= self_attn.scaling * q_proj",
    "k": "= k_proj",
    "attn_out": "self_attn:out = self_attn.out_proj(join(z))",
    "resid_mid": "final_layer_norm:in flat via attn_out = resid_pre + attn_out",
    "mlp_in": "fc1:in flat = final_layer_norm(resid_mid)",
    "mlp_pre": "fc1:out flat = fc1(mlp_in)",
    "mlp_post": "fc2:in flat = activation_fn(mlp_pre)",
    "mlp_out": "fc2:out flat = fc2(mlp_post)",
    **_SEQUENTIAL,
}
_OPT_POST_NORM = {
    **_OPT,
    "attn_in": "self_attn:in = resid_pre",
    "resid_mid": "self_attn_layer_norm:out = self_attn_layer_norm(resid_pre + attn_out)",
    "mlp_in": "fc1:in flat = resid_mid",
    "resid_post": "= final_layer_norm(resid_mid + mlp_out)",
}
_BLOOM = {
    "attn_in": "self_attention:in = input_layernorm(resid_pre)",
    "q_proj": "self_attention.query_key_value:out grouped:0",
    "k_proj": "self_attention.query_key_value:out grouped:1",
    "v_proj": "self_attention.query_key_value:out grouped:2",
    "z": "self_attention.dense:in heads",
    "attn_out": "self_attention.dense:out = self_attention.dense(join(z))",
    "resid_mid": "self_attention:out = resid_pre + attn_out",
    "mlp_in": "mlp:in = post_attention_layernorm(resid_mid)",
    "mlp_pre": "mlp.dense_h_to_4h:out = mlp.dense_h_to_4h(mlp_in)",
    "mlp_post": "mlp.dense_4h_to_h:in = mlp.gelu_impl(mlp_pre)",
    "mlp_out": "mlp.dense_4h_to_h:out = mlp.dense_4h_to_h(mlp_post)",
    **_SEQUENTIAL,
}
_MPT = {
    "attn_in": "attn:in = norm_1(resid_pre)",
    "q_proj": "attn.Wqkv:out joined:0",
    "k_proj": "attn.Wqkv:out joined:1",
    "v_proj": "attn.Wqkv:out joined:2",
    "z": "attn.out_proj:in heads",
    "attn_out": "resid_attn_dropout:out = attn.out_proj(join(z))",
    "resid_mid": "norm_2:in via attn_out = resid_pre + attn_out",
    "mlp_in": "ffn:in = norm_2(resid_mid)",
    "mlp_pre": "ffn.up_proj:out = ffn.up_proj(mlp_in)",
    "mlp_post": "ffn.down_proj:in = ffn.act(mlp_pre)",
    "mlp_out": "ffn.down_proj:out = ffn.down_proj(mlp_post)",
    **_SEQUENTIAL,
}
_FALCON_SEQUENTIAL = {
    "attn_in": "self_attention:in = input_layernorm(resid_pre)",
    "q_proj": "self_attention.query_key_value:out grouped:0",
    "k_proj": "self_attention.query_key_value:out grouped:1",
    "v_proj": "self_attention.query_key_value:out grouped:2",
    "z": "self_attention.dense:in heads",
    "attn_out": "self_attention:out = self_attention.dense(join(z))",
    "resid_mid": "post_attention_layernorm:in via attn_out = resid_pre + attn_out",
    "mlp_in": "mlp:in = post_attention_layernorm(resid_mid)",
    "mlp_pre": "mlp.dense_h_to_4h:out = mlp.dense_h_to_4h(mlp_in)",
    "mlp_post": "mlp.dense_4h_to_h:in = mlp.act(mlp_pre)",
    "mlp_out": "mlp:out = mlp.dense_4h_to_h(mlp_post)",
    **_SEQUENTIAL,
}

# Decoders, side by side ----------------------------------------------------------------------


def _side_by_side(table: dict[str, str], mlp_in: str, **lines: str) -> dict[str, str]:
    """The parallel form of a table: no resid_mid, and the MLP reads the block's input."""
    place = table["mlp_in"].partition("=")[0]
    kept = {role: line for role, line in table.items() if role != "resid_mid"}
    return {**kept, "mlp_in": f"{place}= {mlp_in}", **_PARALLEL, **lines}


_COHERE = _side_by_side(_LLAMA, "input_layernorm(resid_pre)")
_NEOX = _side_by_side(_NEOX_SEQUENTIAL, "post_attention_layernorm(resid_pre)")
_PHI = _side_by_side(
    _LLAMA,
    "input_layernorm(resid_pre)",
    q="= rotary(self_attn.q_layernorm?(q_proj))",
    k="= rotary(self_attn.k_layernorm?(k_proj))",
    attn_out="self_attn:out = self_attn.dense(join(z))",
    mlp_pre="mlp.fc1:out = mlp.fc1(mlp_in)",
    mlp_post="mlp.fc2:in = mlp.activation_fn(mlp_pre)",
    mlp_out="mlp:out = mlp.fc2(mlp_post)",
)
_GPTJ = _side_by_side(
    _GPT_NEO,
    "ln_1(resid_pre)",
    q_proj="attn.q_proj:out heads = split(attn.q_proj(attn_in))",
    k_proj="attn.k_proj:out heads = split(attn.k_proj(attn_in))",
    v_proj="attn.v_proj:out heads = split(attn.v_proj(attn_in))",
    z="attn.out_proj:in heads",
    attn_out="attn:out = attn.out_proj(join(z))",
    mlp_pre="mlp.fc_in:out = mlp.fc_in(mlp_in)",
    mlp_post="mlp.fc_out:in = mlp.act(mlp_pre)",
    mlp_out="mlp:out = mlp.fc_out(mlp_post)",
)
# The block adds attn_out into mlp_out in place, after the hook.
_IN_PLACE = "mlp:out clone = mlp.dense_4h_to_h(mlp_post)"
_FALCON = _side_by_side(_FALCON_SEQUENTIAL, "input_layernorm(resid_pre)", mlp_out=_IN_PLACE)
_FALCON_TWO_NORMS = _side_by_side(
    _FALCON_SEQUENTIAL,
    "ln_mlp(resid_pre)",
    attn_in="self_attention:in = ln_attn(resid_pre)",
    mlp_out=_IN_PLACE,
)

# Encoders ------------------------------------------------------------------------------------

# A write of attn_in must reach the projections only: `attention` itself adds its input back.
_BERT = {
    "attn_in": "attention.self:in = resid_pre",
    "q_proj": "attention.self.query:out heads = split(attention.self.query(attn_in))",
    "k_proj": "attention.self.key:out heads = split(attention.self.key(attn_in))",
    "v_proj": "attention.self.value:out heads = split(attention.self.value(attn_in))",
    "q": "= q_proj",
    "k": "= k_proj",
    "v": "= v_proj",
    "attn_out": "attention.output.dense:out = attention.output.dense(join(z))",
    "resid_mid": "attention:out = attention.output.LayerNorm(resid_pre + attn_out)",
    "mlp_in": "intermediate:in = resid_mid",
    "mlp_pre": "intermediate.dense:out = intermediate.dense(mlp_in)",
    "mlp_post": "output.dense:in = intermediate.intermediate_act_fn(mlp_pre)",
    "mlp_out": "output.dense:out = output.dense(mlp_post)",
    "resid_post": "= output.LayerNorm(resid_mid + mlp_out)",
}
_DISTILBERT = {
    "attn_in": "attention:in = resid_pre",
    "q_proj": "attention.q_lin:out heads = split(attention.q_lin(attn_in))",
    "k_proj": "attention.k_lin:out heads = split(attention.k_lin(attn_in))",
    "v_proj": "attention.v_lin:out heads = split(attention.v_lin(attn_in))",
    "q": "= q_proj",
    "k": "= k_proj",
    "v": "= v_proj",
    "attn_out": "attention:out = attention.out_lin(join(z))",
    "resid_mid": "sa_layer_norm:out = sa_layer_norm(resid_pre + attn_out)",
    "mlp_in": "ffn:in = resid_mid",
    "mlp_pre": "ffn.lin1:out = ffn.lin1(mlp_in)",
    "mlp_post": "ffn.lin2:in = ffn.activation(mlp_pre)",
    "mlp_out": "ffn:out = ffn.lin2(mlp_post)",
    "resid_post": "= output_layer_norm(resid_mid + mlp_out)",
}
_VIT = {
    "attn_in": "attention:in = layernorm_before(resid_pre)",
    "q_proj": "attention.q_proj:out heads = split(attention.q_proj(attn_in))",
    "k_proj": "attention.k_proj:out heads = split(attention.k_proj(attn_in))",
    "v_proj": "attention.v_proj:out heads = split(attention.v_proj(attn_in))",
    "q": "= q_proj",
    "k": "= k_proj",
    "v": "= v_proj",
    "attn_out": "attention:out = attention.o_proj(join(z))",
    "resid_mid": "layernorm_after:in via attn_out = resid_pre + attn_out",
    "mlp_in": "mlp:in = layernorm_after(resid_mid)",
    "mlp_pre": "mlp.fc1:out = mlp.fc1(mlp_in)",
    "mlp_post": "mlp.fc2:in = mlp.activation_fn(mlp_pre)",
    "mlp_out": "mlp:out = mlp.fc2(mlp_post)",
    **_SEQUENTIAL,
}

# The families --------------------------------------------------------------------------------

FAMILIES: tuple[Family, ...] = (
    Family(
        name="llama",
        model_types=(
            *("llama", "mistral", "ministral", "qwen2", "qwen3", "smollm3", "gemma"),
            *("seed_oss", "cwm", "helium", "ernie4_5"),
        ),
        blocks="layers",
        final_norm="norm",
        roles=_LLAMA,
    ),
    Family(name="olmo", model_types=("olmo",), blocks="layers", final_norm="norm", roles=_OLMO),
    Family(
        name="olmo2",
        model_types=("olmo2", "olmo3"),
        blocks="layers",
        final_norm="norm",
        roles=_OLMO2,
    ),
    Family(
        name="mixture",
        model_types=("mixtral", "qwen2_moe", "qwen3_moe"),
        blocks="layers",
        final_norm="norm",
        roles=_SPARSE,
    ),
    Family(
        name="olmoe",
        model_types=("olmoe",),
        blocks="layers",
        final_norm="norm",
        roles={
            **_SPARSE,
            **_JOINT_NORM,
            "v_proj": _OLMO["v_proj"],
            "v": _OLMO["v"],
        },
    ),
    Family(
        name="gpt_oss",
        model_types=("gpt_oss",),
        blocks="layers",
        final_norm="norm",
        roles=_GPT_OSS,
    ),
    Family(
        name="gemma2",
        model_types=("gemma2", "gemma3", "gemma3_text"),
        blocks="layers",
        final_norm="norm",
        logits="softcap(lm_head(final_norm))",
        roles=_GEMMA2,
    ),
    Family(name="phi3", model_types=("phi3",), blocks="layers", final_norm="norm", roles=_PHI3),
    Family(
        name="starcoder2",
        model_types=("starcoder2",),
        blocks="layers",
        final_norm="norm",
        roles=_STARCODER2,
    ),
    Family(
        name="stablelm",
        model_types=("stablelm",),
        blocks="layers",
        final_norm="norm",
        roles=_LLAMA,
        when={"use_parallel_residual": False, "qk_layernorm": False},
    ),
    Family(
        name="stablelm_parallel",
        model_types=("stablelm",),
        blocks="layers",
        final_norm="norm",
        roles=_COHERE,
        topology="parallel",
        when={"use_parallel_residual": True, "qk_layernorm": False},
    ),
    Family(
        name="cohere",
        model_types=("cohere", "cohere2"),
        blocks="layers",
        final_norm="norm",
        logits="logit_scale * lm_head(final_norm)",
        roles=_COHERE,
        topology="parallel",
    ),
    Family(
        name="phi",
        model_types=("phi",),
        blocks="layers",
        final_norm="final_layernorm",
        roles=_PHI,
        topology="parallel",
    ),
    Family(
        name="gpt2",
        model_types=("gpt2",),
        blocks="h",
        final_norm="ln_f",
        roles=_GPT2,
        attention="attn",
    ),
    Family(
        name="gpt_bigcode",
        model_types=("gpt_bigcode",),
        blocks="h",
        final_norm="ln_f",
        roles=_GPT2,
        attention="attn",
        when={"multi_query": True},
    ),
    Family(
        name="gpt_bigcode_heads",
        model_types=("gpt_bigcode",),
        blocks="h",
        final_norm="ln_f",
        roles=_GPT_BIGCODE_HEADS,
        attention="attn",
        when={"multi_query": False},
    ),
    Family(
        name="gpt_neo",
        model_types=("gpt_neo",),
        blocks="h",
        final_norm="ln_f",
        roles=_GPT_NEO,
        attention=None,
        returns_tuple=True,
    ),
    Family(
        name="gptj",
        model_types=("gptj",),
        blocks="h",
        final_norm="ln_f",
        roles=_GPTJ,
        topology="parallel",
        attention=None,
        returns_tuple=True,
    ),
    Family(
        name="gpt_neox",
        model_types=("gpt_neox",),
        blocks="layers",
        final_norm="final_layer_norm",
        roles=_NEOX,
        topology="parallel",
        attention="attention",
        when={"use_parallel_residual": True},
    ),
    Family(
        name="gpt_neox_sequential",
        model_types=("gpt_neox",),
        blocks="layers",
        final_norm="final_layer_norm",
        roles=_NEOX_SEQUENTIAL,
        attention="attention",
        when={"use_parallel_residual": False},
    ),
    Family(
        name="opt",
        model_types=("opt",),
        blocks="decoder.layers",
        final_norm="decoder.final_layer_norm",
        logits="lm_head(model.decoder.project_out?(final_norm))",
        roles=_OPT,
        when={"do_layer_norm_before": True, "_remove_final_layer_norm": False},
    ),
    Family(
        name="opt_post_norm",
        model_types=("opt",),
        blocks="decoder.layers",
        logits="lm_head(model.decoder.project_out?(resid_post))",
        roles=_OPT_POST_NORM,
        topology="post-norm",
        when={"do_layer_norm_before": False},
    ),
    Family(
        name="bloom",
        model_types=("bloom",),
        blocks="h",
        final_norm="ln_f",
        roles=_BLOOM,
        attention=None,
        returns_tuple=True,
        when={"apply_residual_connection_post_layernorm": False, "slow_but_exact": False},
    ),
    Family(
        name="mpt",
        model_types=("mpt",),
        blocks="blocks",
        final_norm="norm_f",
        roles=_MPT,
        attention=None,
        returns_tuple=True,
    ),
    Family(
        name="falcon",
        model_types=("falcon",),
        blocks="h",
        final_norm="ln_f",
        roles=_FALCON,
        topology="parallel",
        attention=None,
        returns_tuple=True,
        when={"new_decoder_architecture": False, "parallel_attn": True},
    ),
    Family(
        name="falcon_two_norms",
        model_types=("falcon",),
        blocks="h",
        final_norm="ln_f",
        roles=_FALCON_TWO_NORMS,
        topology="parallel",
        attention=None,
        returns_tuple=True,
        when={"new_decoder_architecture": True, "num_ln_in_parallel_attn": 2},
    ),
    Family(
        name="falcon_one_norm",
        model_types=("falcon",),
        blocks="h",
        final_norm="ln_f",
        roles=_FALCON,
        topology="parallel",
        attention=None,
        returns_tuple=True,
        when={"new_decoder_architecture": True, "num_ln_in_parallel_attn": 1},
    ),
    Family(
        name="falcon_sequential",
        model_types=("falcon",),
        blocks="h",
        final_norm="ln_f",
        roles=_FALCON_SEQUENTIAL,
        attention=None,
        returns_tuple=True,
        when={"new_decoder_architecture": False, "parallel_attn": False},
    ),
    Family(
        name="bert",
        model_types=("bert",),
        blocks="encoder.layer",
        logits="cls(resid_post)",
        roles=_BERT,
        topology="post-norm",
        attention="attention.self",
    ),
    Family(
        name="roberta",
        model_types=("roberta", "xlm-roberta", "camembert"),
        blocks="encoder.layer",
        logits="lm_head(resid_post)",
        roles=_BERT,
        topology="post-norm",
        attention="attention.self",
    ),
    Family(
        name="electra",
        model_types=("electra",),
        blocks="encoder.layer",
        logits="generator_lm_head(generator_predictions(resid_post))",
        roles=_BERT,
        topology="post-norm",
        attention="attention.self",
    ),
    Family(
        name="distilbert",
        model_types=("distilbert",),
        blocks="transformer.layer",
        logits="vocab_projector(vocab_layer_norm(activation(vocab_transform(resid_post))))",
        roles=_DISTILBERT,
        topology="post-norm",
        attention="attention",
    ),
    Family(
        name="vit",
        model_types=("vit",),
        blocks="layers",
        final_norm="layernorm",
        logits="classifier(first(final_norm))",
        roles=_VIT,
        attention="attention",
    ),
)
