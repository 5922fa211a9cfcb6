"""What we write: the formulas of the formats give our outputs from the files, and we read it back.

The files themselves were loaded by the real libraries with equal outputs (`written.py`, then
`libraries.py check`).
"""

import json

import pytest
import torch
from safetensors.torch import load_file
from tests.dictionaries.formats.cases import (
    OUT,
    PAIR,
    contributions,
    random_dictionary,
    rows,
    writable,
)

from jackfield.core.errors import ArtifactError, ConfigError, InputError
from jackfield.dictionaries import TopK, load_dictionary, save_dictionary
from jackfield.streams import Stream

ALL = [pytest.param(format, dictionary, id=name) for name, format, dictionary in writable()]


def sae_lens(folder, x):
    """SAELens' formula, from its files alone."""
    cfg = json.loads((folder / "cfg.json").read_text())
    w = load_file(folder / "sae_weights.safetensors")
    p = (x - w["b_dec"] if cfg["apply_b_dec_to_input"] else x) @ w["W_enc"] + w["b_enc"]
    z = p.relu()
    if "jumprelu" in cfg["architecture"]:
        z = z * (p > w["threshold"])
    if cfg["architecture"] == "topk":
        z = largest(z, cfg["k"])
    skip = x @ w["W_skip"].T if "W_skip" in w else 0
    return z, z @ w["W_dec"] + w["b_dec"] + skip


def sparsify(folder, x):
    cfg = json.loads((folder / "cfg.json").read_text())
    w = load_file(folder / "sae.safetensors")
    centred = x if cfg["transcode"] else x - w["b_dec"]
    z = largest((centred @ w["encoder.weight"].T + w["encoder.bias"]).relu(), cfg["k"])
    skip = x @ w["W_skip"].T if cfg["skip_connection"] else 0
    return z, z @ w["W_dec"] + w["b_dec"] + skip


def dictionary_learning(folder, x):
    trainer = json.loads((folder / "config.json").read_text())["trainer"]
    w = torch.load(folder / "ae.pt", weights_only=True)
    if trainer["dict_class"] == "JumpReluAutoEncoder":
        p = x @ w["W_enc"] + w["b_enc"]
        z = p.relu() * (p > w["threshold"])
        return z, z @ w["W_dec"] + w["b_dec"]
    bias = w["bias"] if trainer["dict_class"] == "AutoEncoder" else w["b_dec"]
    z = ((x - bias) @ w["encoder.weight"].T + w["encoder.bias"]).relu()
    if trainer["dict_class"] == "AutoEncoderTopK":
        z = largest(z, int(w["k"]))
    if trainer["dict_class"] == "BatchTopKSAE":
        z = z * (z > w["threshold"])
    return z, z @ w["decoder.weight"].T + bias


def largest(z, k):
    return z * (z >= z.topk(k, dim=1).values[:, -1:])


FORMULAS = {"sae_lens": sae_lens, "sparsify": sparsify, "dictionary_learning": dictionary_learning}


@pytest.mark.parametrize(("format", "dictionary"), ALL)
def test_files_say_what_the_dictionary_does(format, dictionary, tmp_path):
    folder, x = save_dictionary(dictionary, tmp_path / "d", format=format), rows()
    codes, rebuilt = FORMULAS[format](folder, x)
    torch.testing.assert_close(dictionary.encode(x), codes, rtol=0, atol=1e-5)
    torch.testing.assert_close(dictionary.reconstruct(x), rebuilt, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("format", "dictionary"), ALL)
def test_what_was_written_is_read_back(format, dictionary, tmp_path):
    x = rows()
    again = load_dictionary(save_dictionary(dictionary, tmp_path / "d", format=format))
    torch.testing.assert_close(
        contributions(again, x), contributions(dictionary, x), rtol=0, atol=1e-5
    )
    torch.testing.assert_close(again.reconstruct(x), dictionary.reconstruct(x), rtol=0, atol=1e-5)
    assert (again.site, again.sources) == (dictionary.site, dictionary.sources)
    assert (again.k, again.latents) == (dictionary.k, dictionary.latents)


def test_a_trained_dictionary_goes_there_and_back(tmp_path):
    x = torch.randn(512, 8, generator=torch.Generator().manual_seed(0)) + 3
    stream = Stream.from_tensor(x, site="layers.2.resid_post")
    trained = TopK(latents=16, k=2, rows=1024, batch=128).fit(stream, progress=False)
    for format in FORMULAS:
        again = load_dictionary(save_dictionary(trained, tmp_path / format, format=format))
        torch.testing.assert_close(again.reconstruct(x), trained.reconstruct(x), rtol=0, atol=1e-5)
        assert again.site == "layers.2.resid_post"


def test_sae_lens_keeps_densities_and_the_hook(tmp_path):
    dictionary = random_dictionary("each")
    dictionary.density[2] = 0
    folder = save_dictionary(dictionary, tmp_path / "d", format="sae_lens")
    metadata = json.loads((folder / "cfg.json").read_text())["metadata"]
    assert metadata["hook_name"] == "blocks.5.hook_mlp_out"
    assert int(metadata["sae_lens_version"].split(".")[0]) >= 6
    found = load_dictionary(folder).density
    torch.testing.assert_close(found, dictionary.density)
    assert found[2] == 0, "a latent that never fired, not one that hardly does"


def test_one_threshold_stays_a_batch_top_k(tmp_path):
    for rule, kind in (("one", "BatchTopKSAE"), ("each", "JumpReluAutoEncoder")):
        dictionary = random_dictionary(rule)
        folder = save_dictionary(dictionary, tmp_path / rule, format="dictionary_learning")
        config = json.loads((folder / "config.json").read_text())
        assert config["trainer"]["dict_class"] == kind


@pytest.mark.parametrize(
    ("format", "dictionary", "message"),
    [
        pytest.param("sparsify", random_dictionary("each"), "keeps the k largest", id="threshold"),
        pytest.param(
            "sparsify",
            random_dictionary("k", transcoder=True, out=OUT),
            "as many dimensions read as rebuilt, got 10 and 7",
            id="not-square",
        ),
        pytest.param(
            "sae_lens",
            random_dictionary("k", transcoder=True),
            "a transcoder with thresholds",
            id="k-transcoder",
        ),
        pytest.param(
            "dictionary_learning",
            random_dictionary("each", transcoder=True),
            "an autoencoder",
            id="transcoder",
        ),
        pytest.param("sae_lens", random_dictionary("each", skip=True), "autoencoder", id="skip"),
        pytest.param("gemma_scope", random_dictionary("each"), "only read", id="read-only"),
    ],
)
def test_what_a_format_has_no_place_for_is_refused(format, dictionary, message, tmp_path):
    with pytest.raises(InputError, match=message):
        save_dictionary(dictionary, tmp_path / "d", format=format)
    assert not (tmp_path / "d").exists()


def test_several_sources_are_refused(tmp_path):
    dictionary = random_dictionary("each", transcoder=True)
    dictionary._sources = PAIR
    with pytest.raises(InputError, match="reads one site"):
        save_dictionary(dictionary, tmp_path / "d", format="sae_lens")


def test_unknown_format_is_told_with_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match="Did you mean sae_lens"):
        save_dictionary(random_dictionary("each"), tmp_path / "d", format="saelens")


def test_other_things_in_the_folder_are_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ArtifactError, match="other things"):
        save_dictionary(random_dictionary("k"), tmp_path, format="sparsify")
    assert [each.name for each in tmp_path.iterdir()] == ["notes.txt"]


def test_a_dictionary_of_the_same_format_is_replaced(tmp_path):
    save_dictionary(random_dictionary("zero"), tmp_path / "d", format="sae_lens")
    save_dictionary(random_dictionary("k"), tmp_path / "d", format="sae_lens")
    assert load_dictionary(tmp_path / "d").k == random_dictionary("k").k
