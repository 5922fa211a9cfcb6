"""GGUF files written here, tensor by tensor, and read back."""

import sys

import numpy as np
import pytest
import torch

from jackfield.core.errors import JackfieldWarning, MissingExtraError, SourceError
from jackfield.model.gguf import convert_gguf, open_gguf

LAYERS, HEADS, WIDTH, INNER = 2, 2, 32, 64


def byte_tokens() -> list[str]:
    """GPT-2's 256 byte tokens, a few merges, two control tokens."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return [*bytes_to_unicode().values(), "ĠĠ", "Ġa", "<|end|>", "<|pad|>"]


def original() -> torch.nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(byte_tokens()),
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=1,
        max_position_embeddings=128,
        initializer_range=0.3,
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config).eval()


def rotary_order(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """GGUF keeps the two rows that rotate together side by side; transformers half a head apart."""
    half = weight.shape[0] // heads // 2
    return weight.view(heads, 2, half, WIDTH).transpose(1, 2).reshape(weight.shape)


def write_gguf(path, *, cutting_rule="smollm", kind=None):
    """Writes `original()` as a GGUF file; `kind` quantises the projections of the MLP."""
    import gguf

    module = original()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(byte_tokens()))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(cutting_rule)
    writer.add_token_list(byte_tokens())
    writer.add_token_types([1] * 258 + [3, 3])
    writer.add_token_merges(["Ġ Ġ", "Ġ a"])
    writer.add_eos_token_id(258)
    writer.add_pad_token_id(259)
    names = {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "lm_head": "output",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "post_attention_layernorm": "ffn_norm",
        "input_layernorm": "attn_norm",
        "model.layers": "blk",
    }
    for name, weight in module.state_dict().items():
        if "q_proj" in name or "k_proj" in name:
            weight = rotary_order(weight, HEADS if "q_proj" in name else 1)
        data, dtype = weight.numpy().astype(np.float32), None
        if kind is not None and "mlp" in name:
            data, dtype = gguf.quantize(data, kind), kind
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        writer.add_tensor(name, data, raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def cut(tokenizer, text: str) -> list[str]:
    return tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="module")
def opened(file):
    return open_gguf(file)


@torch.no_grad()
def test_model_computes_what_the_written_one_does(opened):
    tokens = torch.randint(0, 250, (2, 9))
    module, _ = opened
    assert not module.training
    expected = original()(tokens).logits
    torch.testing.assert_close(module(tokens).logits, expected, atol=1e-4, rtol=1e-4)


def test_quantised_weights_become_dense(tmp_path):
    import gguf

    kind = gguf.GGMLQuantizationType.Q8_0
    module, _ = open_gguf(write_gguf(tmp_path / "q8.gguf", kind=kind))
    weight = original().model.layers[0].mlp.up_proj.weight.detach()
    expected = gguf.dequantize(gguf.quantize(weight.numpy(), kind), kind)
    projection = module.model.layers[0].mlp.up_proj
    assert type(projection) is torch.nn.Linear
    np.testing.assert_array_equal(projection.weight.detach().numpy(), expected)
    assert 0 < np.abs(weight.numpy() - expected).max() < 0.02


def test_dtype_is_as_asked(file):
    module, _ = open_gguf(file, dtype=torch.bfloat16)
    assert {weight.dtype for weight in module.parameters()} == {torch.bfloat16}


def test_each_digit_stands_alone_where_the_file_says_so(opened):
    """Otherwise the blanks before a digit would be cut as one and one, not as the pair."""
    _, tokenizer = opened
    assert cut(tokenizer, "x  12 a") == ["x", "ĠĠ", "1", "2", "Ġa"]
    assert tokenizer.decode(tokenizer("x  12 a")["input_ids"]) == "x  12 a"


def test_gpt2_rule_is_left_as_it_is(tmp_path):
    _, tokenizer = open_gguf(write_gguf(tmp_path / "plain.gguf", cutting_rule="gpt-2"))
    assert cut(tokenizer, "x  12") == ["x", "Ġ", "Ġ", "1", "2"]


def test_unknown_rule_is_said(tmp_path):
    path = write_gguf(tmp_path / "odd.gguf", cutting_rule="odd-rule")
    with pytest.warns(JackfieldWarning, match=r"odd\.gguf: its rule for cutting text, 'odd-rule'"):
        open_gguf(path)


def test_tokenizer_knows_padding_end_and_length(opened):
    _, tokenizer = opened
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|end|>", "<|pad|>")
    assert tokenizer.model_max_length == 128
    assert cut(tokenizer, "a<|end|>") == ["a", "<|end|>"]


def test_converted_folder_holds_the_same(file, opened, tmp_path):
    from jackfield.model.folders import open_folder

    convert_gguf(file, tmp_path)
    module, tokenizer = open_folder(tmp_path, dtype=None)
    expected = opened[0].state_dict()
    assert module.state_dict().keys() == expected.keys()
    assert all(torch.equal(weight, expected[name]) for name, weight in module.state_dict().items())
    assert cut(tokenizer, "x  12 a<|end|>") == ["x", "ĠĠ", "1", "2", "Ġa", "<|end|>"]
    assert tokenizer.model_max_length == 128


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5])
def test_truncated_file(file, tmp_path, share):
    path = tmp_path / "cut.gguf"
    path.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with pytest.raises(SourceError, match="a GGUF file that transformers can read") as caught:
        open_gguf(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("package", ["gguf", "accelerate"])
def test_missing_package(file, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=f"needs {package}, which is not installed"):
        open_gguf(file)
