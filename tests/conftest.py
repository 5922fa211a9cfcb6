"""Fixtures that several rooms share: tiny random models, and the real default model."""

import os

import pytest
import torch

import jackfield as jf

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def tiny_llama_module(dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """A Llama of 3 layers, 4 heads on 2 KV heads, random weights large enough to matter."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=101,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.2,
        eos_token_id=100,
        pad_token_id=0,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config).to(dtype).eval()


@pytest.fixture
def tiny() -> jf.Model:
    """A tiny random Llama without a tokenizer."""
    return jf.wrap(tiny_llama_module(), name="tiny")


@pytest.fixture
def tiny64() -> jf.Model:
    """The same in float64."""
    return jf.wrap(tiny_llama_module(torch.float64), name="tiny64")


@pytest.fixture
def tokens() -> torch.Tensor:
    """[2, 7] token ids for the tiny models."""
    return torch.randint(1, 100, (2, 7), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def smollm2() -> jf.Model:
    """The default model, fetched if it is not cached."""
    return jf.load("smollm2")
