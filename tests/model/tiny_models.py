"""Tiny random models, one for each family and each shape that a family comes in.

    module = tiny("gemma2")      # 3 blocks, d_model 32, in eval mode, float32

Weights are drawn large enough to matter, biases and the gains of norms too, so that a place that
is off by a bias, a gain or a skip connection gives other numbers.
"""

from typing import Any

import torch
from torch import nn

VOCAB = 101
CONTEXT = 64
_SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
}
_GROUPED = {**_SIZES, "num_key_value_heads": 2}
_MOE = {**_GROUPED, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
_GEMMA = {**_GROUPED, "head_dim": 12, "query_pre_attn_scalar": 12, "sliding_window": 4}
_PICTURES = {
    **{name: size for name, size in _SIZES.items() if name not in ("vocab_size",)},
    "image_size": 16,
    "patch_size": 8,
    "num_labels": 7,
}
_FALCON = {**_SIZES, "alibi": False, "bias": True}
_RW = {"parallel_attn": False, "multi_query": False, "new_decoder_architecture": False}

# By name: its model_type, its head, and its config.
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("llama", "CausalLM", _GROUPED),
    "llama_tied": ("llama", "CausalLM", {**_GROUPED, "tie_word_embeddings": True}),
    "mistral": ("mistral", "CausalLM", {**_GROUPED, "sliding_window": 4}),
    "qwen2": ("qwen2", "CausalLM", _GROUPED),
    "qwen3": ("qwen3", "CausalLM", {**_GROUPED, "head_dim": 12}),
    "smollm3": ("smollm3", "CausalLM", {**_GROUPED, "no_rope_layers": [1, 1, 0]}),
    "gemma": ("gemma", "CausalLM", {**_GROUPED, "head_dim": 12}),
    "gemma2": ("gemma2", "CausalLM", {**_GEMMA, "final_logit_softcapping": 2.0}),
    "gemma3": ("gemma3_text", "CausalLM", _GEMMA),
    "olmo": ("olmo", "CausalLM", {**_GROUPED, "clip_qkv": 0.5}),
    "olmo2": ("olmo2", "CausalLM", _GROUPED),
    "starcoder2": ("starcoder2", "CausalLM", _GROUPED),
    "stablelm": ("stablelm", "CausalLM", _GROUPED),
    "stablelm_parallel": ("stablelm", "CausalLM", {**_GROUPED, "use_parallel_residual": True}),
    "phi": ("phi", "CausalLM", _GROUPED),
    "phi_qk_norm": ("phi", "CausalLM", {**_GROUPED, "qk_layernorm": True}),
    "phi3": ("phi3", "CausalLM", {**_GROUPED, "pad_token_id": 0}),
    "cohere": ("cohere", "CausalLM", {**_GROUPED, "use_qk_norm": True, "logit_scale": 0.25}),
    "cohere2": ("cohere2", "CausalLM", {**_GROUPED, "sliding_window": 4}),
    "gpt2": ("gpt2", "CausalLM", {**_SIZES, "scale_attn_by_inverse_layer_idx": True}),
    "gpt_bigcode": ("gpt_bigcode", "CausalLM", {**_SIZES, "multi_query": True}),
    "gpt_bigcode_heads": ("gpt_bigcode", "CausalLM", {**_SIZES, "multi_query": False}),
    "gpt_neo": (
        "gpt_neo",
        "CausalLM",
        {**_SIZES, "num_layers": 3, "attention_types": [[["global", "local", "global"], 1]],
         "window_size": 4},
    ),
    "gpt_neox": ("gpt_neox", "CausalLM", {**_SIZES, "use_parallel_residual": True}),
    "gpt_neox_sequential": ("gpt_neox", "CausalLM", {**_SIZES, "use_parallel_residual": False}),
    "gptj": ("gptj", "CausalLM", {**_SIZES, "rotary_dim": 4}),
    "opt": ("opt", "CausalLM", {**_SIZES, "ffn_dim": 48, "word_embed_proj_dim": 32}),
    "opt_post_norm": (
        "opt",
        "CausalLM",
        {**_SIZES, "ffn_dim": 48, "word_embed_proj_dim": 16, "do_layer_norm_before": False},
    ),
    "bloom": ("bloom", "CausalLM", _SIZES),
    "mpt": ("mpt", "CausalLM", {**_SIZES, "max_seq_len": CONTEXT}),
    "falcon": (
        "falcon",
        "CausalLM",
        {**_FALCON, "multi_query": True, "parallel_attn": True, "new_decoder_architecture": False},
    ),
    "falcon_new": (
        "falcon",
        "CausalLM",
        {**_FALCON, "new_decoder_architecture": True, "num_kv_heads": 2},
    ),
    "falcon_new_one_norm": (
        "falcon",
        "CausalLM",
        {**_FALCON, "new_decoder_architecture": True, "num_kv_heads": 2,
         "num_ln_in_parallel_attn": 1},
    ),
    "falcon_sequential": ("falcon", "CausalLM", {**_FALCON, **_RW, "alibi": True}),
    "mixtral": ("mixtral", "CausalLM", {**_MOE, "num_local_experts": 4}),
    "olmoe": ("olmoe", "CausalLM", {**_MOE, "num_experts": 4, "clip_qkv": 0.5}),
    "qwen2_moe": (
        "qwen2_moe",
        "CausalLM",
        {**_MOE, "num_experts": 4, "shared_expert_intermediate_size": 16, "mlp_only_layers": [1]},
    ),
    "qwen3_moe": ("qwen3_moe", "CausalLM", {**_MOE, "num_experts": 4, "head_dim": 12}),
    "gpt_oss": (
        "gpt_oss",
        "CausalLM",
        {**_MOE, "num_local_experts": 4, "head_dim": 12, "sliding_window": 4},
    ),
    "bert": ("bert", "MaskedLM", _SIZES),
    "bert_base": ("bert", "Model", _SIZES),
    "roberta": ("roberta", "MaskedLM", {**_SIZES, "pad_token_id": 1}),
    "electra": ("electra", "MaskedLM", {**_SIZES, "embedding_size": 16}),
    "distilbert": (
        "distilbert",
        "MaskedLM",
        {"vocab_size": VOCAB, "dim": 32, "hidden_dim": 48, "n_layers": 3, "n_heads": 4,
         "max_position_embeddings": CONTEXT},
    ),
    "vit": ("vit", "ImageClassification", _PICTURES),
}  # fmt: skip


def tiny(name: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The tiny model called `name` in `MODELS`, with seeded weights."""
    import transformers

    model_type, head, settings = MODELS[name]
    ends = {"eos_token_id": VOCAB - 1, "bos_token_id": None, "pad_token_id": 0}
    text = {} if head == "ImageClassification" else {**ends, **settings}
    config = transformers.AutoConfig.for_model(model_type, **{**text, **settings})
    made = getattr(transformers, "AutoModel" if head == "Model" else f"AutoModelFor{head}")
    return seeded(made.from_config(config)).to(dtype).eval()


def tiny_gemma3_with_pictures() -> nn.Module:
    """Gemma 3 as it comes with its vision tower: the blocks lie in `model.language_model`."""
    import transformers

    text = {**_GEMMA, "model_type": "gemma3_text"}
    sight = {k: v for k, v in _PICTURES.items() if k != "num_labels"}
    config = transformers.Gemma3Config(
        text_config=text,
        vision_config={**sight, "model_type": "siglip_vision_model"},
        mm_tokens_per_image=4,
        image_token_index=VOCAB - 2,
        boi_token_index=VOCAB - 3,
        eoi_token_index=VOCAB - 4,
    )
    return seeded(transformers.Gemma3ForConditionalGeneration(config)).eval()


def seeded(module: nn.Module, seed: int = 0) -> nn.Module:
    """Draws every parameter anew: matrices of spread 0.2, vectors about what they were."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                parameter.copy_(0.2 * noise)
            else:
                parameter.add_(0.1 * noise)
    return module


class HandWritten(nn.Module):
    """A decoder as one writes it oneself: no config, attention by torch's own function."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(VOCAB, 32), nn.Embedding(CONTEXT, 32)
        self.blocks = nn.ModuleList(HandWrittenBlock() for _ in range(3))
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, VOCAB, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """[batch, position] ids -> [batch, position, vocab] logits."""
        x = self.tokens(tokens) + self.places.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class HandWrittenBlock(nn.Module):
    """Attention, then an MLP, each after a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(32), nn.LayerNorm(32)
        self.attention = HandWrittenAttention()
        self.mlp = nn.Sequential(nn.Linear(32, 48), nn.GELU(), nn.Linear(48, 32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The residual stream after the block."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class HandWrittenAttention(nn.Module):
    """Causal, four heads."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, position, 32] -> the same."""
        q, k, v = (
            part.unflatten(-1, (4, 8)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1)
        )
        z = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(z.transpose(1, 2).flatten(2))
