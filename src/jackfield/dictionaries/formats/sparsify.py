"""sparsify: a folder for each hookpoint with `cfg.json` and `sae.safetensors`.

    encoder.weight [latent, d], encoder.bias [latent], W_dec [latent, d], b_dec [d], W_skip [d, d]
    p = relu((x − b_dec) W_encᵀ + b_enc)      of a transcoder x, not x − b_dec
    z = the k largest of p in each row
    x̂ = z W_dec + b_dec (+ x W_skipᵀ)

Read from the source of eai-sparsify 1.3.3, whose outputs ours are compared with in the tests. The
folder's name is the hookpoint. `num_latents` 0 stands for d_in · expansion_factor. Refused:
activation "groupmax". Rows of a transcoder's W_dec are of any length there, see `lengths.py`.
"""

from pathlib import Path
from typing import Any

import torch

from jackfield.core.errors import InputError, explain
from jackfield.dictionaries.formats import made, names
from jackfield.dictionaries.formats.files import Settings, Tensors, json_bytes, tensor_bytes
from jackfield.dictionaries.formats.format import Format
from jackfield.dictionaries.formats.lengths import Weights, bias_about
from jackfield.dictionaries.formats.names import Site
from jackfield.dictionaries.sparse_dictionary import SparseDictionary

_EXPANSION = 32  # sparsify's default


class Sparsify(Format):
    """EleutherAI's format."""

    name = "sparsify"
    files = ("cfg.json", "sae.safetensors")

    def read(self, folder: Path, site: Site | None) -> SparseDictionary:
        where = folder / self.files[0]
        cfg = Settings.read(where)
        cfg.only("activation", "topk", default="topk")
        transcoder = cfg.get("transcode", bool, False)
        weights = _weights(cfg, Tensors.read(folder / self.files[1]), transcoder=transcoder)
        k = cfg.count("k", 32, most=len(weights["encoder"]))
        point = (None if transcoder else folder.resolve().name,) * 2
        own = cfg.values.get(names.OWN)
        sites = names.sites(site, point, own, transcoder=transcoder, where=where)
        settings: dict[str, Any] = {"format": self.name, "k": k, "cfg": cfg.values}
        method = "Transcoder" if transcoder else "TopK"
        return made.dictionary(method, weights, sites, settings, k=k)

    def contents(self, dictionary: SparseDictionary) -> dict[str, bytes]:
        transcoder = _check_fits(dictionary)
        bias = dictionary.decoder_bias
        tensors = {
            "encoder.weight": dictionary.encoder,
            "encoder.bias": bias_about(dictionary, torch.zeros_like(bias) if transcoder else bias),
            "W_dec": dictionary.decoder,
            "b_dec": bias,
        }
        if dictionary.skip is not None:
            tensors["W_skip"] = dictionary.skip.T
        return {
            self.files[0]: json_bytes(_cfg(dictionary, transcoder=transcoder)),
            self.files[1]: tensor_bytes(tensors),
        }


def _weights(cfg: Settings, file: Tensors, *, transcoder: bool) -> Weights:
    d = cfg.count("d_in")
    latents = cfg.get("num_latents", int, 0) or d * cfg.count("expansion_factor", _EXPANSION)
    skip = cfg.get("skip_connection", bool, False)
    keys = ["encoder.weight", "encoder.bias", "W_dec", "b_dec"]
    file.keys_are(*keys, *(["W_skip"] if skip else []))
    bias = file.take("b_dec", d)
    weights = {
        "encoder": file.take("encoder.weight", latents, d),
        "encoder_bias": file.take("encoder.bias", latents),
        "centre": torch.zeros_like(bias) if transcoder else bias,
        "decoder": file.take("W_dec", latents, d),
        "decoder_bias": bias,
    }
    return weights | {"skip": file.take("W_skip", d, d).T.contiguous()} if skip else weights


def _check_fits(dictionary: SparseDictionary) -> bool:
    """Whether it is a transcoder; an error if sparsify has no place for it."""
    where = "save_dictionary, sparsify"
    transcoder = made.check_one_source(dictionary, where)
    d_in, d = len(dictionary.centre), len(dictionary.decoder_bias)
    if dictionary.k is None:
        expected, got = "one that keeps the k largest", f"{dictionary.name}, with thresholds"
        hint = "SAELens and dictionary_learning have a place for it."
        raise InputError(explain(where=where, expected=expected, got=got, hint=hint))
    if d_in != d:
        expected, got = "as many dimensions read as rebuilt", f"{d_in} and {d}"
        raise InputError(explain(where=where, expected=expected, got=got))
    return transcoder


def _cfg(dictionary: SparseDictionary, *, transcoder: bool) -> dict[str, Any]:
    return {
        "activation": "topk",
        "expansion_factor": _EXPANSION,
        "normalize_decoder": not transcoder,
        "num_latents": dictionary.latents,
        "k": dictionary.k,
        "multi_topk": False,
        "skip_connection": dictionary.skip is not None,
        "transcode": transcoder,
        "d_in": len(dictionary.centre),
        names.OWN: [dictionary.sources[0], dictionary.site],
    }
