import json
import logging
import shutil
import sys
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

from jackfield.core.errors import JackfieldWarning, MissingExtraError, SourceError
from jackfield.model.folders import open_folder, quiet


@pytest.fixture
def folder(tiny_folder, tmp_path):
    """A copy of the tiny model that a test may harm."""
    return shutil.copytree(tiny_folder, tmp_path / "model")


def set_config(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_weights_and_class_are_the_stored_ones(tiny_folder):
    module, tokenizer = open_folder(tiny_folder, dtype=None)
    stored = load_file(tiny_folder / "model.safetensors")
    assert type(module).__name__ == "LlamaForCausalLM"
    assert not module.training
    assert all(torch.equal(module.state_dict()[name], value) for name, value in stored.items())
    assert tokenizer("the cat sat")["input_ids"] == [1, 2, 3]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtype_is_as_asked(tiny_folder, dtype):
    module, _ = open_folder(tiny_folder, dtype=dtype)
    assert {weight.dtype for weight in module.parameters()} == {dtype}


def test_stored_dtype_is_kept(tiny_folder, tmp_path):
    module, _ = open_folder(tiny_folder, dtype=torch.bfloat16)
    module.save_pretrained(tmp_path)
    assert open_folder(tmp_path, dtype=None)[0].dtype == torch.bfloat16


def test_nothing_but_weights_means_no_tokenizer(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()
    assert open_folder(folder, dtype=None)[1] is None


@torch.no_grad()
def test_device_map_is_passed_on(tiny_folder):
    parts = ["model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head", "model.layers.0"]
    places = dict.fromkeys(parts, "cpu") | {"model.layers.1": "disk"}
    spread, _ = open_folder(tiny_folder, dtype=None, device_map=places)
    whole, _ = open_folder(tiny_folder, dtype=None)
    tokens = torch.tensor([[1, 2, 3]])
    assert spread.hf_device_map == places
    assert spread.model.layers[1].mlp.up_proj.weight.is_meta
    assert torch.equal(spread(tokens).logits, whole(tokens).logits)


def test_device_map_without_accelerate(tiny_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(MissingExtraError, match=r"jackfield\[accelerate\]"):
        open_folder(tiny_folder, dtype=None, device_map="auto")


def test_pickles_only_are_refused_unopened(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"never opened")
    with pytest.raises(SourceError, match=r"got only pytorch_model\.bin\. .*save_pretrained"):
        open_folder(folder, dtype=None)


def test_command_for_pickles_converts_them(folder):
    """The command in the message is run as it stands."""
    import subprocess

    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(SourceError, match="convert it once") as caught:
        open_folder(folder, dtype=None)
    command = str(caught.value).partition("convert it once: ")[2]
    command = command.replace("python -c", f"{sys.executable} -c", 1)
    subprocess.run(command, shell=True, check=True, capture_output=True)
    module, _ = open_folder(folder, dtype=None)
    assert all(torch.equal(module.state_dict()[name], value) for name, value in weights.items())


def test_no_weights_at_all(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(SourceError, match=r"expected weights as \.safetensors, got config\.json"):
        open_folder(folder, dtype=None)


def test_no_config(folder):
    (folder / "config.json").unlink()
    with pytest.raises(SourceError, match=r"a folder with a config\.json, got generation_config"):
        open_folder(folder, dtype=None)


def test_folder_around_a_gguf_file_names_it(tmp_path):
    (tmp_path / "a.gguf").touch()
    with pytest.raises(SourceError, match=rf"Give the file: {tmp_path}/a\.gguf"):
        open_folder(tmp_path, dtype=None)


def test_config_that_is_no_json(folder):
    (folder / "config.json").write_text("{")
    with pytest.raises(SourceError, match=r"config\.json: expected valid JSON"):
        open_folder(folder, dtype=None)


def test_unknown_architecture_names_the_near_ones(folder):
    set_config(folder, architectures=["LlamaForCausalML"])
    with pytest.raises(SourceError, match=r"got LlamaForCausalML\. Near: LlamaForCausalLM"):
        open_folder(folder, dtype=None)


def test_code_of_the_folder_is_not_run_unasked(folder):
    set_config(
        folder, architectures=["OwnModel"], auto_map={"AutoModelForCausalLM": "own.OwnModel"}
    )
    (folder / "own.py").write_text("raise SystemExit('the code ran')")
    with pytest.raises(SourceError, match="trust_remote_code=True"):
        open_folder(folder, dtype=None)


def test_truncated_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(SourceError, match="a model that transformers can open") as caught:
        open_folder(folder, dtype=None)
    assert "\n" not in str(caught.value)


def test_weights_of_another_shape(folder):
    set_config(folder, intermediate_size=16)
    with pytest.raises(SourceError, match="a model that transformers can open"):
        open_folder(folder, dtype=None)


def test_missing_weights_are_said(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.warns(JackfieldWarning, match=r"1 weights are .* model\.layers\.1\.mlp\.up_proj"):
        open_folder(folder, dtype=None)


def test_opening_is_silent(tiny_folder, capfd):
    open_folder(tiny_folder, dtype=None)
    assert capfd.readouterr() == ("", "")


def test_quiet_restores_what_it_changed(capfd):
    from huggingface_hub.utils import are_progress_bars_disabled
    from transformers.utils import logging as theirs

    def state():
        return (
            theirs.get_verbosity(),
            theirs.is_progress_bar_enabled(),
            are_progress_bars_disabled(),
        )

    before = state()
    with quiet():
        assert state() == (logging.ERROR, False, True)
        warnings.warn("not for the user", stacklevel=1)
    assert state() == before
    with pytest.raises(KeyError), quiet():
        raise KeyError
    assert state() == before
    theirs.disable_progress_bar()
    try:
        with quiet():
            pass
        assert state()[1:] == (False, True)
    finally:
        theirs.enable_progress_bar()
