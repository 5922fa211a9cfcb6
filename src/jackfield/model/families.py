"""The role table: where each family keeps each site. Data, one entry a family.

A place is written "path:side view", relative to the block:

    self_attn:in                  what the module is given (its first tensor)
    self_attn:out                 what it returns (the first tensor of a tuple)
    self_attn.q_proj:out heads    with a view; the views are listed in `views.py`
    norm:in via attn_out          read here, written as a change of attn_out (the skip path would
                                  miss a write at the norm's input)

Paths of `blocks`, `final_norm` are relative to the base model; `head` to the whole model.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Topology = Literal["sequential", "parallel", "post-norm"]


@dataclass(frozen=True, kw_only=True)
class Family:
    """One architecture.

    Attributes:
        name: how we call it; `model_types` are the names in a transformers config.
        blocks: path of the list of blocks.
        roles: site role → place.
        topology: how a block adds up: "sequential" (attention, then MLP), "parallel" (both read
            the block's input) or "post-norm" (a norm after each addition).
        attention: the module that calls the attention interface; None where it does not use it.
        returns_tuple: whether a block returns a tuple.
        when: values of the config that this entry is for, by name.
    """

    name: str
    model_types: tuple[str, ...]
    blocks: str
    roles: Mapping[str, str]
    topology: Topology = "sequential"
    final_norm: str | None = None
    head: str | None = "lm_head"
    attention: str | None = "self_attn"
    returns_tuple: bool = False
    when: Mapping[str, Any] = field(default_factory=dict)

    def fits(self, config: Any) -> bool:
        """Whether this entry is for a model with this config."""
        if getattr(config, "model_type", None) not in self.model_types:
            return False
        return all(getattr(config, name, None) == value for name, value in self.when.items())


_LLAMA = {
    "attn_in": "self_attn:in",
    "q_proj": "self_attn.q_proj:out heads",
    "k_proj": "self_attn.k_proj:out heads",
    "v_proj": "self_attn.v_proj:out heads",
    "attn_out": "self_attn:out",
    "resid_mid": "post_attention_layernorm:in via attn_out",
    "mlp_in": "mlp:in",
    "mlp_pre": "mlp.gate_proj:out",
    "mlp_post": "mlp.down_proj:in",
    "mlp_out": "mlp:out",
}
_MIXTURE = {
    **{role: place for role, place in _LLAMA.items() if role not in ("mlp_pre", "mlp_post")},
    "router": "mlp.gate:out router",
    "router_topk": "mlp.gate:out router_choice",
}
_GEMMA = {
    **_LLAMA,
    "attn_out": "post_attention_layernorm:out",
    "resid_mid": "pre_feedforward_layernorm:in via attn_out",
    "mlp_out": "post_feedforward_layernorm:out",
}
_GPT2 = {
    "attn_in": "attn:in",
    "q_proj": "attn.c_attn:out thirds:0",
    "k_proj": "attn.c_attn:out thirds:1",
    "v_proj": "attn.c_attn:out thirds:2",
    "attn_out": "attn:out",
    "resid_mid": "ln_2:in via attn_out",
    "mlp_in": "mlp:in",
    "mlp_pre": "mlp.c_fc:out",
    "mlp_post": "mlp.c_proj:in",
    "mlp_out": "mlp:out",
}
_NEOX = {
    "attn_in": "attention:in",
    "q_proj": "attention.query_key_value:out interleaved:0",
    "k_proj": "attention.query_key_value:out interleaved:1",
    "v_proj": "attention.query_key_value:out interleaved:2",
    "attn_out": "post_attention_dropout:out",
    "mlp_in": "mlp:in",
    "mlp_pre": "mlp.dense_h_to_4h:out",
    "mlp_post": "mlp.dense_4h_to_h:in",
    "mlp_out": "post_mlp_dropout:out",
}
_PHI = {
    **{role: place for role, place in _LLAMA.items() if not role.startswith("resid")},
    "mlp_pre": "mlp.fc1:out",
    "mlp_post": "mlp.fc2:in",
}
_OPT = {
    "attn_in": "self_attn:in",
    "q_proj": "self_attn.q_proj:out heads",
    "k_proj": "self_attn.k_proj:out heads",
    "v_proj": "self_attn.v_proj:out heads",
    "attn_out": "self_attn:out",
    "resid_mid": "final_layer_norm:in flat via attn_out",
    "mlp_in": "fc1:in flat",
    "mlp_pre": "fc1:out flat",
    "mlp_post": "fc2:in flat",
    "mlp_out": "fc2:out flat",
}
_FALCON = {
    "attn_in": "self_attention:in",
    "z": "self_attention.dense:in heads",
    "attn_out": "self_attention:out",
    "mlp_in": "mlp:in",
    "mlp_pre": "mlp.dense_h_to_4h:out",
    "mlp_post": "mlp.dense_4h_to_h:in",
    "mlp_out": "mlp:out clone",
}
_BERT = {
    "attn_in": "attention:in",
    "q_proj": "attention.self.query:out heads",
    "k_proj": "attention.self.key:out heads",
    "v_proj": "attention.self.value:out heads",
    "attn_out": "attention.output.dense:out",
    "resid_mid": "attention:out",
    "mlp_in": "intermediate:in",
    "mlp_pre": "intermediate.dense:out",
    "mlp_post": "output.dense:in",
    "mlp_out": "output.dense:out",
}

FAMILIES: tuple[Family, ...] = (
    Family(
        name="llama",
        model_types=("llama", "mistral", "qwen2", "qwen3", "gemma", "smollm3", "starcoder2"),
        blocks="layers",
        final_norm="norm",
        roles=_LLAMA,
    ),
    Family(
        name="mixture",
        model_types=("mixtral", "olmoe", "qwen2_moe", "qwen3_moe"),
        blocks="layers",
        final_norm="norm",
        roles=_MIXTURE,
    ),
    Family(
        name="gemma2",
        model_types=("gemma2", "gemma3", "gemma3_text"),
        blocks="layers",
        final_norm="norm",
        roles=_GEMMA,
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
        roles={**_NEOX, "resid_mid": "post_attention_layernorm:in via attn_out"},
        attention="attention",
        when={"use_parallel_residual": False},
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
        name="opt",
        model_types=("opt",),
        blocks="decoder.layers",
        final_norm="decoder.final_layer_norm",
        roles=_OPT,
        when={"do_layer_norm_before": True},
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
        when={"parallel_attn": True},
    ),
    Family(
        name="bert",
        model_types=("bert",),
        blocks="encoder.layer",
        roles=_BERT,
        topology="post-norm",
        head=None,
        attention="attention.self",
    ),
)


def family_of(config: Any) -> Family | None:
    """The entry for a model's config, None if no entry is for it."""
    return next((family for family in FAMILIES if family.fits(config)), None)
