"""What the tests of this room share: a cache and a package index in folders, models that speak,
and a look at everything that hooks leave behind.
"""

import hashlib
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import jackfield as jf
from jackfield.model.wheels import Wheel

MakeWheel = Callable[..., Wheel]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small tensors are slower on several threads, twenty times so on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, in force."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("JACKFIELD_CACHE", str(folder))
    return folder


@pytest.fixture
def no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """pip without an index, whatever the machine's settings are."""
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")


@pytest.fixture
def index(tmp_path: Path, no_index: None, monkeypatch: pytest.MonkeyPatch) -> MakeWheel:
    """Puts a wheel with the given files where pip, the real one, finds it; returns its pin."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))

    def put(files: dict[str, bytes], project: str = "tiny_model", version: str = "1.0") -> Wheel:
        path = folder / f"{project}-{version}-py3-none-any.whl"
        about = f"{project}-{version}.dist-info"
        meta = f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n"
        meta += "Requires-Dist: nowhere-to-be-found\n"  # what we fetch comes without these
        tags = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
            archive.writestr(f"{about}/METADATA", meta)
            archive.writestr(f"{about}/WHEEL", tags)
            archive.writestr(f"{about}/RECORD", "")
        data = path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        return Wheel(project=project, version=version, sha256=digest, size=len(data))

    return put


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder as `transformers` writes it: a Llama of 2 layers and a word tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny_folder")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=12,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    words = {word: i for i, word in enumerate(["<pad>", "the", "cat", "sat"])}
    backend = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>").save_pretrained(folder)
    return folder


CHAT = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} <end> {% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture
def talker(tiny: jf.Model) -> jf.Model:
    """The tiny Llama with a tokenizer: token i is the word "wi", and chats have roles."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<user>", "<assistant>", "<system>", "<end>"]
    words = [*special, *(f"w{i}" for i in range(5, 100)), "<eos>"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="w5"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>"
    )
    tokenizer.chat_template = CHAT
    return jf.wrap(tiny.module, tokenizer, name="talker")


@pytest.fixture
def traces() -> Callable[[torch.nn.Module], dict[str, object]]:
    """All that an edit or a read could leave on a module, to be compared before and after."""
    from transformers.modeling_utils import AttentionInterface

    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")

    def look(module: torch.nn.Module) -> dict[str, object]:
        found: dict[str, object] = {"get_interface": AttentionInterface.get_interface}
        for path, part in module.named_modules():
            found[f"{path} is"] = id(part)
            for name in hooks:
                found[f"{path}.{name}"] = list(vars(part)[name].values())
            for name in ("forward", "generate", "_gradient_checkpointing_func", "training"):
                found[f"{path}.{name}"] = vars(part).get(name)
        return found

    return look
