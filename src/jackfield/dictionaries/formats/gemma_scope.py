"""Gemma Scope: `params.npz` of a JumpReLU autoencoder or transcoder; read only (2408.05147).

    W_enc [d_in, latent], b_enc [latent], threshold [latent], W_dec [latent, d], b_dec [d]
    p = x W_enc + b_enc,    z = relu(p) · 1[p > threshold],    x̂ = z W_dec + b_dec

Source: Lieberum et al. 2024, "Gemma Scope", arXiv 2408.05147; outputs are compared in the tests
with SAELens 6.54.12, which reads these files. The file does not say for which site it is. The path
does if it is kept as it is published: `gemma-scope-2b-pt-res/layer_20/width_16k/…` is read for
layers.20.resid_post, `…-mlp/…` for mlp_out, `…-att/…` for z. A transcoder is told by the two sites
that it is given. Refused: autoencoders of the embedding, whose input is scaled by what is not in
the file.
"""

import re
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch

from jackfield.core.errors import InputError, explain
from jackfield.dictionaries.formats import made, names
from jackfield.dictionaries.formats.files import Tensors, bad
from jackfield.dictionaries.formats.format import Format
from jackfield.dictionaries.formats.lengths import Weights
from jackfield.dictionaries.formats.names import Site
from jackfield.dictionaries.sparse_dictionary import SparseDictionary

_HOOKS = {"res": "hook_resid_post", "mlp": "hook_mlp_out", "att": "attn.hook_z"}
_KEYS = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")


class GemmaScope(Format):
    """Gemma Scope's files."""

    name = "gemma_scope"
    files = ("params.npz",)

    def read(self, folder: Path, site: Site | None) -> SparseDictionary:
        path = folder / self.files[0]
        parts = path.resolve().parts
        if "embedding" in parts:
            raise bad(path, "an autoencoder of a layer", "one of the embedding")
        transcoder = isinstance(site, tuple)
        hook = _hook(parts)
        sites = names.sites(site, (hook, hook), None, transcoder=transcoder, where=path)
        weights = _weights(_arrays(path), transcoder=transcoder)
        settings: dict[str, Any] = {"format": self.name}
        method = "Transcoder" if transcoder else "JumpReLU"
        return made.dictionary(method, weights, sites, settings)

    def contents(self, dictionary: SparseDictionary) -> dict[str, bytes]:
        expected, got = (
            "sae_lens, sparsify or dictionary_learning",
            "gemma_scope, which is only read",
        )
        raise InputError(explain(where="save_dictionary, format", expected=expected, got=got))


def _arrays(path: Path) -> Tensors:
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
        return Tensors({key: torch.from_numpy(each) for key, each in arrays.items()}, path)
    except (OSError, ValueError, TypeError, AttributeError, BadZipFile) as error:
        raise bad(path, "a NumPy archive of arrays of numbers", error) from error


def _weights(file: Tensors, *, transcoder: bool) -> Weights:
    file.keys_are(*_KEYS)
    d_in, latents = file.shape("W_enc")
    d = file.shape("W_dec")[1] if transcoder else d_in
    encoder = file.take("W_enc", d_in, latents).T.contiguous()
    return {
        "encoder": encoder,
        "encoder_bias": file.take("b_enc", latents),
        "centre": encoder.new_zeros(d_in),
        "decoder": file.take("W_dec", latents, d),
        "decoder_bias": file.take("b_dec", d),
        "threshold": file.take("threshold", latents).relu(),
    }


def _hook(parts: tuple[str, ...]) -> str | None:
    """TransformerLens' name of the site, from a path as it is published."""
    layers = [found[1] for part in parts if (found := re.fullmatch(r"layer_(\d+)", part))]
    kinds = [found[1] for part in parts if (found := re.search(r"gemma-scope-.*-(\w+)$", part))]
    hook = _HOOKS.get(kinds[-1]) if kinds else None
    return f"blocks.{layers[-1]}.{hook}" if layers and hook else None
