"""Foreign files that are damaged, of another version, or set to what we have no equal for."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.dictionaries.formats.cases import DATA, PAIR

from jackfield.core.errors import ArtifactError, ConfigError, InputError
from jackfield.dictionaries import load_dictionary

GEMMA = "gemma-scope-2b-pt-res/layer_5/width_16k/average_l0_7"


def copy(case, tmp_path):
    return shutil.copytree(DATA / case, tmp_path / case)


def change_json(folder, name, **values):
    path = folder / name
    content = json.loads(path.read_text())
    (content.get("trainer") or content).update(values)
    path.write_text(json.dumps(content))
    return folder


def change_tensors(folder, name, change):
    tensors = load_file(folder / name)
    change(tensors)
    save_file({key: each.contiguous() for key, each in tensors.items()}, folder / name)
    return folder


def refused(folder, message, **given):
    with pytest.raises(ArtifactError, match=message) as raised:
        load_dictionary(folder, **given)
    text = str(raised.value)
    assert "\n" not in text
    assert folder.name in text


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"normalize_activations": "layer_norm"}, "normalize_activations: expected 'none'"),
        ({"normalize_activations": "expected_average_only_in"}, "normalize_activations"),
        ({"normalize_activations": "constant_norm_rescale"}, "normalize_activations"),
        ({"normalize_activations": "covariance_whitening"}, "Save the training run for inference"),
        ({"architecture": "abstopk"}, "architecture: expected .* got 'abstopk'"),
        ({"dtype": "int8"}, "dtype: expected float32"),
        ({"d_in": 9}, r"b_dec: expected floats of shape \[9\], got float32 \[8\]"),
        ({"d_sae": True}, "d_sae: expected a value of type int"),
        ({"reshape_activations": "other"}, "reshape_activations"),
        ({"apply_b_dec_to_input": "maybe"}, "apply_b_dec_to_input"),
        ({"metadata": {}}, "sae_lens_version: expected SAELens 6 or later, got None"),
        ({"metadata": {"sae_lens_version": "5.10.7"}}, "SAELens 6 or later, got '5.10.7'"),
        ({"metadata": {"sae_lens_version": "6.0.0"}}, "Say for which site"),
        (
            {"metadata": {"sae_lens_version": "6.0.0", "hook_head_index": 3}},
            "hook_head_index: expected None, got 3",
        ),
        (
            {
                "metadata": {
                    "sae_lens_version": "6.1.0",
                    "hook_name": "blocks.5.ln2.hook_normalized",
                }
            },
            "got 'blocks.5.ln2.hook_normalized'",
        ),
    ],
)
def test_sae_lens_settings(setting, message, tmp_path):
    refused(change_json(copy("sae_lens-standard", tmp_path), "cfg.json", **setting), message)


def test_sae_lens_k(tmp_path):
    folder = change_json(copy("sae_lens-topk", tmp_path), "cfg.json", k=21)
    refused(folder, "k: expected 1 to 20, got 21")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("b_enc"), r"b_enc \(missing\): expected the keys W_enc"),
        (lambda w: w.update(scaling_factor=torch.ones(20)), r"scaling_factor \(unknown\)"),
        (lambda w: w.update(W_dec=w["W_dec"].T), r"W_dec: expected floats of shape \[20, 8\]"),
        (lambda w: w["b_enc"].fill_(torch.nan), "b_enc: expected finite numbers"),
    ],
    ids=["missing", "unknown", "transposed", "nan"],
)
def test_sae_lens_tensors(change, message, tmp_path):
    folder = change_tensors(copy("sae_lens-standard", tmp_path), "sae_weights.safetensors", change)
    refused(folder, message)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"activation": "groupmax"}, "activation: expected 'topk', got 'groupmax'"),
        ({"k": 0}, "k: expected 1 to 20, got 0"),
        ({"num_latents": 40}, r"encoder.weight: expected floats of shape \[40, 8\]"),
        ({"skip_connection": True}, r"W_skip \(missing\)"),
        ({"transcode": True}, "Say for which site"),
    ],
)
def test_sparsify_settings(setting, message, tmp_path):
    refused(change_json(copy("sparsify/layers.5", tmp_path), "cfg.json", **setting), message)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"dict_class": "CrossCoder"}, "dict_class: expected .* got 'CrossCoder'"),
        ({"k": 4}, "ae.pt, k: expected 4, as in .* got 3"),
        ({"dict_size": 24}, "dict_size: expected 20 or None, got 24"),
        ({"submodule_name": "mlp_layer_5"}, "Say for which site"),
        ({"dict_class": "AutoEncoder"}, r"bias \(missing\)"),
    ],
)
def test_dictionary_learning_settings(setting, message, tmp_path):
    folder = copy("dictionary_learning-autoencodertopk", tmp_path)
    refused(change_json(folder, "config.json", **setting), message)


class Evil:
    def __reduce__(self):
        return (print, ("ran",))


@pytest.mark.parametrize("what", [{"weight": Evil()}, [torch.ones(2)]], ids=["code", "list"])
def test_a_pt_file_is_data(what, tmp_path, capsys):
    folder = copy("dictionary_learning-autoencoder", tmp_path)
    torch.save(what, folder / "ae.pt")
    refused(folder, "ae.pt: expected a state_dict of tensors")
    assert "ran" not in capsys.readouterr().out


def test_an_npz_file_is_data(tmp_path, capsys):
    folder = copy(GEMMA, tmp_path)
    np.savez(folder / "params.npz", W_enc=np.array([Evil()], dtype=object), allow_pickle=True)
    refused(folder, "params.npz: expected a NumPy archive of arrays of numbers")
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("case", "file"),
    [
        ("sae_lens-standard", "cfg.json"),
        ("sae_lens-standard", "sae_weights.safetensors"),
        ("sparsify/layers.5", "sae.safetensors"),
        ("dictionary_learning-autoencoder", "config.json"),
        ("dictionary_learning-autoencoder", "ae.pt"),
        (GEMMA, "params.npz"),
    ],
)
def test_damaged_files(case, file, tmp_path):
    folder = copy(case, tmp_path)
    whole = (folder / file).read_bytes()
    (folder / file).write_bytes(whole[: len(whole) // 2])
    refused(folder, f"{file}: expected")


def test_gemma_scope_tells_its_site_by_the_path_only(tmp_path):
    folder = shutil.copytree(DATA / GEMMA, tmp_path / "somewhere")
    refused(folder, "Say for which site")
    assert load_dictionary(folder, site="layers.3.mlp_out").site == "layers.3.mlp_out"
    transcoder = load_dictionary(folder, site=PAIR)
    assert (*transcoder.sources, transcoder.site) == PAIR


def test_gemma_scope_embedding(tmp_path):
    folder = shutil.copytree(DATA / GEMMA, tmp_path / "embedding" / "width_4k")
    refused(folder, "one of the embedding", site="embed")


def test_wrong_number_of_sites():
    with pytest.raises(InputError, match="one site, it is an autoencoder"):
        load_dictionary(DATA / "sae_lens-standard", site=PAIR)
    with pytest.raises(InputError, match="it is a transcoder"):
        load_dictionary(DATA / "sae_lens-transcoder", site="layers.5.mlp_out")


def test_nothing_that_is_known(tmp_path):
    (tmp_path / "weights.bin").write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"sparsify.* got weights\.bin"):
        load_dictionary(tmp_path)
    with pytest.raises(ArtifactError, match="no such folder"):
        load_dictionary(tmp_path / "missing")
    with pytest.raises(ConfigError, match="sae_lens or sparsify"):
        load_dictionary(tmp_path, format="overcomplete")
    with pytest.raises(ArtifactError, match=r"cfg\.json"):
        load_dictionary(tmp_path, format="sparsify")
