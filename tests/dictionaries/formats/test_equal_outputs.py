"""What the libraries saved gives what the libraries gave (`data/`, made by `libraries.py`)."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.dictionaries.formats.cases import (
    CASES,
    DATA,
    PAIR,
    case_name,
    contributions,
    expected,
    site_for,
)

from jackfield.dictionaries import SparseDictionary, load_dictionary
from jackfield.edits.base import Context

KEEP_LENGTHS = {"sae_lens-topk", "sae_lens-topk_raw_input", "sparsify/layers.6"}
UNSET = "dictionary_learning-batchtopksae_unset"
pytestmark = pytest.mark.filterwarnings("ignore:.*the threshold was never set")


def load(name):
    return load_dictionary(DATA / name, site=site_for(DATA / name))


def close(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("folder", CASES, ids=case_name)
def test_outputs_are_the_librarys(folder):
    theirs, dictionary = expected(folder), load(case_name(folder))
    codes = theirs["codes"] * theirs["lengths"]
    assert (codes > 0).any(dim=1).all(), "an empty code shows nothing"
    close(contributions(dictionary, theirs["x"]), codes)
    close(dictionary.reconstruct(theirs["x"]), theirs["rebuilt"])
    assert torch.equal(dictionary.encode(theirs["x"]) > 0, codes > 0)


@pytest.mark.parametrize("folder", CASES, ids=case_name)
def test_directions_have_length_1_unless_that_would_choose_other_latents(folder):
    dictionary, lengths = load(case_name(folder)), expected(folder)["lengths"]
    found = dictionary.directions.norm(dim=1)
    kept = case_name(folder) in KEEP_LENGTHS or folder.name.endswith("mlp")
    close(found, lengths if kept else torch.ones_like(lengths))


@pytest.mark.parametrize("folder", CASES, ids=case_name)
def test_what_was_loaded_is_saved_and_loaded_as_ours(folder, tmp_path):
    first, x = load(case_name(folder)), expected(folder)["x"]
    again = SparseDictionary.load(first.save(tmp_path / "d"))
    assert torch.equal(again.reconstruct(x), first.reconstruct(x))
    assert (again.site, again.sources) == (first.site, first.sources)


@pytest.mark.parametrize(
    ("case", "method"),
    [
        ("sae_lens-standard", "ReLU"),
        ("sae_lens-topk", "TopK"),
        ("sae_lens-matryoshka", "JumpReLU"),
        ("sae_lens-gated", "Gated"),
        ("sparsify/layers.5", "TopK"),
        ("dictionary_learning-batchtopksae", "BatchTopK"),
        ("dictionary_learning-matryoshkabatchtopksae", "Matryoshka"),
    ],
)
def test_method_is_named_as_ours(case, method):
    assert load(case).name == method


def test_site_is_that_of_the_files():
    assert load("sae_lens-standard").site == "layers.5.resid_post"
    assert load("sparsify/layers.6").site == "layers.6.resid_post"
    assert load("dictionary_learning-autoencoder").site == "layers.5.resid_post"
    assert load("gemma-scope-2b-pt-res/layer_5/width_16k/average_l0_7").site == (
        "layers.5.resid_post"
    )
    assert load("sae_lens-standard_hook_z").site == "layers.5.z"
    transcoder = load("sae_lens-transcoder")
    assert (transcoder.sources, transcoder.site) == (("layers.5.resid_mid",), "layers.5.resid_post")


def test_site_that_is_given_wins():
    folder = DATA / "sae_lens-standard"
    assert load_dictionary(folder, site="blocks.7.hook_mlp_out").site == "layers.7.mlp_out"
    transcoder = load_dictionary(DATA / "sae_lens-transcoder", site=PAIR)
    assert (*transcoder.sources, transcoder.site) == PAIR


def test_it_acts_in_a_forward_as_ours():
    dictionary, theirs = load("sae_lens-jumprelu"), expected(DATA / "sae_lens-jumprelu")
    (edit,) = dictionary.edits()
    close(edit.apply(theirs["x"], Context(dictionary.site)), theirs["rebuilt"])


def test_a_file_of_the_folder_will_do():
    x = expected(DATA / "sparsify/layers.5")["x"]
    found = load_dictionary(DATA / "sparsify/layers.5/sae.safetensors")
    assert torch.equal(found.encode(x), load("sparsify/layers.5").encode(x))


def test_weights_have_the_precision_that_the_settings_say(tmp_path):
    folder = shutil.copytree(DATA / "sae_lens-standard", tmp_path / "sae")
    path = folder / "cfg.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"dtype": "bfloat16"}))
    found, whole = load_dictionary(folder), load("sae_lens-standard")
    assert torch.equal(found.decoder_bias, whole.decoder_bias.bfloat16().float())
    assert not torch.equal(found.decoder_bias, whole.decoder_bias)


def test_width_from_the_expansion_factor():
    cfg = json.loads((DATA / "sparsify/layers.7/cfg.json").read_text())
    assert (cfg["num_latents"], cfg["expansion_factor"], cfg["d_in"]) == (0, 3, 8)
    assert load("sparsify/layers.7").latents == 24


def test_a_threshold_that_was_never_set_is_told():
    with pytest.warns(UserWarning, match="never set"):
        load(UNSET)


def test_latents_without_a_direction_stay_finite(tmp_path):
    folder = shutil.copytree(DATA / "sae_lens-jumprelu", tmp_path / "sae")
    tensors = load_file(folder / "sae_weights.safetensors")
    tensors["W_dec"][3] = 0
    save_file(tensors, folder / "sae_weights.safetensors")
    x = expected(folder)["x"]
    dictionary = load_dictionary(folder)
    assert dictionary.reconstruct(x).isfinite().all()
    assert not dictionary.directions[3].any()
