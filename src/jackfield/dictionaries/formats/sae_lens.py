"""SAELens 6: a folder with `cfg.json` and `sae_weights.safetensors`.

    W_enc [d_in, latent], b_enc [latent], W_dec [latent, d], b_dec [d]
    p = (x − b_dec · apply_b_dec_to_input) W_enc + b_enc
    standard, transcoder               z = relu(p)
    jumprelu, jumprelu_transcoder      z = relu(p) · 1[p > threshold]
    topk                               z = relu of the k largest p, or of the k largest p ‖W_dec‖
    gated (no b_enc)                   z = 1[π + b_gate > 0] · relu(π e^r_mag + b_mag)
    …_skip_transcoder, skip_…          x̂ = z W_dec + b_dec + x W_skipᵀ

BatchTopK and Matryoshka are saved as jumprelu by SAELens itself. A transcoder takes no b_dec off.
Read from the source of sae-lens 6.54.12, whose outputs ours are compared with in the tests.

Refused: files of versions before 6 (other keys); `normalize_activations` other than "none" (the
scale of a row, or one that is not in the files: SAELens folds it when a training run is saved for
inference); one head's activations; codes that may be negative (abstopk) and the other kinds.
Half-precision weights are widened after they are rounded to the dtype of `cfg.json`, as it says.
"""

from pathlib import Path
from typing import Any

import torch

from jackfield.core.errors import InputError, explain
from jackfield.dictionaries.formats import made, names
from jackfield.dictionaries.formats.files import Settings, Tensors, bad, json_bytes, tensor_bytes
from jackfield.dictionaries.formats.format import Format
from jackfield.dictionaries.formats.lengths import Weights, bias_about, gated
from jackfield.dictionaries.formats.names import Site
from jackfield.dictionaries.sparse_dictionary import SparseDictionary

_OLDEST = 6
_VERSION = "6.54.12"  # whose files we write, and compared
_DTYPES = ("float32", "float64", "bfloat16", "float16")
_FEWEST = 1e-10  # a density below it is 0: SAELens writes its logarithm
_SPARSITY = "sparsity.safetensors"
_METHODS = {
    "standard": "ReLU",
    "topk": "TopK",
    "jumprelu": "JumpReLU",
    "gated": "Gated",
    "transcoder": "Transcoder",
    "skip_transcoder": "Transcoder",
    "jumprelu_transcoder": "Transcoder",
    "jumprelu_skip_transcoder": "Transcoder",
}


class SAELens(Format):
    """SAELens' format, version 6."""

    name = "sae_lens"
    files = ("cfg.json", "sae_weights.safetensors")

    def read(self, folder: Path, site: Site | None) -> SparseDictionary:
        cfg = Settings.read(folder / self.files[0])
        metadata = _checked(cfg)
        architecture = cfg.values["architecture"]
        transcoder = architecture.endswith("transcoder")
        weights = _weights(cfg, _rounded(Tensors.read(folder / self.files[1]), cfg))
        hook = metadata.get("hook_name")
        hooks = (hook, metadata.get("hook_name_out") if transcoder else hook)
        where, own = folder / self.files[0], metadata.get(names.OWN)
        sites = names.sites(site, hooks, own, transcoder=transcoder, where=where)
        ranks_by_length = bool(cfg.values.get("rescale_acts_by_decoder_norm"))
        most = len(weights["encoder"])
        k = cfg.count("k", most=most) if architecture == "topk" else None
        density = _density(folder / _SPARSITY, most)
        settings: dict[str, Any] = {"format": self.name, "k": k, "cfg": cfg.values}
        return made.dictionary(
            _METHODS[architecture],
            weights | density,
            sites,
            settings,
            k=k,
            ranks_by_length=ranks_by_length,
        )

    def contents(self, dictionary: SparseDictionary) -> dict[str, bytes]:
        architecture = _architecture(dictionary)
        centred = not architecture.endswith("transcoder") and torch.equal(
            dictionary.centre, dictionary.decoder_bias
        )
        centre = dictionary.centre if centred else torch.zeros_like(dictionary.centre)
        tensors = {
            "W_enc": dictionary.encoder.T,
            "b_enc": bias_about(dictionary, centre),
            "W_dec": dictionary.decoder,
            "b_dec": dictionary.decoder_bias,
        }
        if dictionary.threshold is not None and "jumprelu" in architecture:
            tensors["threshold"] = dictionary.threshold
        if dictionary.skip is not None:
            tensors["W_skip"] = dictionary.skip.T
        files = {
            self.files[0]: json_bytes(_cfg(dictionary, architecture, centred=centred)),
            self.files[1]: tensor_bytes(tensors),
        }
        if dictionary.density.isnan().any():
            return files
        sparsity = dictionary.density.clamp(min=_FEWEST).log10()
        return files | {_SPARSITY: tensor_bytes({"sparsity": sparsity})}


def _checked(cfg: Settings) -> dict[str, Any]:
    """The metadata, once every setting is one that we have an equal for."""
    metadata: dict[str, Any] = cfg.get("metadata", dict, {})
    version = metadata.get("sae_lens_version") or cfg.values.get("sae_lens_version")
    major = str(version).partition(".")[0]
    if not major.isdigit() or int(major) < _OLDEST:
        hint = "Load it with SAELens 6 and save it again."
        where, expected = f"{cfg.where}, metadata.sae_lens_version", "SAELens 6 or later"
        raise bad(where, expected, repr(version), hint)
    cfg.only("architecture", *_METHODS)
    hint = "Save the training run for inference with SAELens, which folds the scale in."
    cfg.only("normalize_activations", "none", None, hint=hint)
    cfg.only("reshape_activations", "none", "hook_z", default="none")
    cfg.only("rescale_acts_by_decoder_norm", True, False, default=False)
    cfg.only("apply_b_dec_to_input", True, False, default=True)
    Settings(metadata, f"{cfg.where}, metadata").only("hook_head_index", None)
    return metadata


def _rounded(tensors: Tensors, cfg: Settings) -> Tensors:
    """Tensors in the dtype that `cfg.json` says, which is what SAELens computes with."""
    name = str(cfg.get("dtype", str, "float32")).removeprefix("torch.")
    if name not in _DTYPES:
        raise bad(f"{cfg.where}, dtype", " or ".join(_DTYPES), repr(name))
    dtype = getattr(torch, name)
    return Tensors({key: each.to(dtype) for key, each in tensors.tensors.items()}, tensors.where)


def _weights(cfg: Settings, file: Tensors) -> Weights:
    architecture = cfg.values["architecture"]
    d_in, latents = cfg.count("d_in"), cfg.count("d_sae")
    transcoder = architecture.endswith("transcoder")
    d = cfg.count("d_out") if transcoder else d_in
    file.keys_are(*_keys(architecture))
    decoder_bias = file.take("b_dec", d)
    centred = not transcoder and cfg.values.get("apply_b_dec_to_input", True)
    weights = {
        "encoder": file.take("W_enc", d_in, latents).T.contiguous(),
        "centre": decoder_bias if centred else decoder_bias.new_zeros(d_in),
        "decoder": file.take("W_dec", latents, d),
        "decoder_bias": decoder_bias,
    }
    if "skip" in architecture:
        weights["skip"] = file.take("W_skip", d, d_in).T.contiguous()
    if architecture == "gated":
        gate, magnitude, r = (file.take(key, latents) for key in ("b_gate", "b_mag", "r_mag"))
        return weights | gated(weights["encoder"], gate, magnitude, r)
    weights["encoder_bias"] = file.take("b_enc", latents)
    if "jumprelu" in architecture:
        weights["threshold"] = file.take("threshold", latents).relu()
    elif architecture != "topk":
        weights["threshold"] = torch.zeros_like(weights["encoder_bias"])
    return weights


def _keys(architecture: str) -> list[str]:
    biases = ["b_gate", "b_mag", "r_mag"] if architecture == "gated" else ["b_enc"]
    extra = ["threshold"] * ("jumprelu" in architecture) + ["W_skip"] * ("skip" in architecture)
    return ["W_enc", "W_dec", "b_dec", *biases, *extra]


def _density(path: Path, latents: int) -> Weights:
    """The share of rows each latent fires on, where SAELens has kept it."""
    if not path.is_file():
        return {}
    file = Tensors.read(path)
    file.keys_are("sparsity")
    density = 10 ** file.take("sparsity", latents)
    return {"density": torch.where(density > 2 * _FEWEST, density, 0.0)}


def _architecture(dictionary: SparseDictionary) -> str:
    """What SAELens calls such a dictionary."""
    transcoder = made.check_one_source(dictionary, "save_dictionary, sae_lens")
    if dictionary.k is not None and transcoder:
        expected, got = (
            "a transcoder with thresholds",
            f"one that keeps the k={dictionary.k} largest",
        )
        hint = "sparsify has a place for it."
        where = "save_dictionary, sae_lens"
        raise InputError(explain(where=where, expected=expected, got=got, hint=hint))
    if dictionary.k is not None:
        return "topk"
    jumps = dictionary.threshold is not None and bool(dictionary.threshold.any())
    if not transcoder:
        return "jumprelu" if jumps else "standard"
    parts = ["jumprelu"] * jumps + ["skip"] * (dictionary.skip is not None)
    return "_".join([*parts, "transcoder"])


def _cfg(dictionary: SparseDictionary, architecture: str, *, centred: bool) -> dict[str, Any]:
    d_in, d = len(dictionary.centre), len(dictionary.decoder_bias)
    reads, writes = dictionary.sources[0], dictionary.site
    cfg: dict[str, Any] = {
        "architecture": architecture,
        "d_in": d_in,
        "d_sae": dictionary.latents,
        "dtype": str(dictionary.decoder.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": centred,
        "normalize_activations": "none",
        "reshape_activations": "hook_z" if reads.endswith(".z") else "none",
    }
    if architecture == "topk":
        cfg |= {"k": dictionary.k, "rescale_acts_by_decoder_norm": False}
    if architecture.endswith("transcoder"):
        cfg["d_out"] = d
    metadata: dict[str, Any] = {"sae_lens_version": _VERSION, "sae_lens_training_version": None}
    metadata |= {"hook_name": names.hook_of(reads), "hook_head_index": None}
    metadata |= {"hook_name_out": names.hook_of(writes), names.OWN: [reads, writes]}
    return cfg | {"metadata": metadata}
