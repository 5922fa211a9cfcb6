"""dictionary_learning: a folder with `ae.pt` (a state_dict) and `config.json`.

    AutoEncoder               z = relu((x − bias) W_encᵀ + b_enc),  x̂ = z W_decᵀ + bias
    AutoEncoderNew            z = relu(x W_encᵀ + b_enc),           x̂ = z W_decᵀ + b_dec
    GatedAutoEncoder          as in SAELens, encoder and decoder of `nn.Linear`
    AutoEncoderTopK           z = the k largest of relu((x − b_dec) W_encᵀ + b_enc)
    BatchTopKSAE              z = relu(p) · 1[relu(p) > threshold], one number for all
    MatryoshkaBatchTopKSAE    the same, W_enc [d, latent] and W_dec [latent, d]
    JumpReluAutoEncoder       z = relu(p) · 1[p > threshold], p = x W_enc + b_enc

Read from the source of dictionary_learning 0.1.0, whose outputs ours are compared with in the
tests. `ae.pt` is loaded with `weights_only=True`. A threshold of −1 was never set (a run shorter
than `threshold_start_step`): the library's codes are those of a plain ReLU then, and so are ours,
with a warning. A BatchTopK dictionary is written as BatchTopKSAE if its thresholds are all the same
number, else, like all other thresholds, as JumpReluAutoEncoder.
"""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jackfield.core.errors import InputError, explain, warn
from jackfield.dictionaries.formats import made, names
from jackfield.dictionaries.formats.files import Settings, Tensors, bad, json_bytes
from jackfield.dictionaries.formats.format import Format
from jackfield.dictionaries.formats.lengths import Weights, bias_about, gated
from jackfield.dictionaries.formats.names import Site
from jackfield.dictionaries.sparse_dictionary import SparseDictionary

_LINEAR = ("encoder.weight", "encoder.bias", "decoder.weight")
_PLAIN = ("W_enc", "b_enc", "W_dec", "b_dec")
_METHODS = {
    "AutoEncoder": "ReLU",
    "AutoEncoderNew": "ReLU",
    "GatedAutoEncoder": "Gated",
    "AutoEncoderTopK": "TopK",
    "BatchTopKSAE": "BatchTopK",
    "MatryoshkaBatchTopKSAE": "Matryoshka",
    "JumpReluAutoEncoder": "JumpReLU",
}


class DictionaryLearning(Format):
    """The format of saprmarks' dictionary_learning."""

    name = "dictionary_learning"
    files = ("config.json", "ae.pt")

    def read(self, folder: Path, site: Site | None) -> SparseDictionary:
        where = folder / self.files[0]
        trainer = Settings.read(where).part("trainer")
        kind = trainer.only("dict_class", *_METHODS)
        file = _state_dict(folder / self.files[1])
        weights = _READ[kind](file)
        _check_config(trainer, weights)
        k = _k(trainer, file, len(weights["encoder"]))
        point = trainer.values.get("submodule_name")
        own = trainer.values.get(names.OWN)
        sites = names.sites(site, (point, point), own, transcoder=False, where=where)
        settings: dict[str, Any] = {"format": self.name, "k": k, "trainer": trainer.values}
        if kind == "AutoEncoderTopK":
            return made.dictionary(_METHODS[kind], weights, sites, settings, k=k)
        return made.dictionary(_METHODS[kind], weights, sites, settings)

    def contents(self, dictionary: SparseDictionary) -> dict[str, bytes]:
        if made.check_one_source(dictionary, "save_dictionary, dictionary_learning"):
            where, expected = "save_dictionary, dictionary_learning", "an autoencoder"
            hint = "SAELens and sparsify have a place for transcoders."
            got = f"{dictionary.name} from {dictionary.sources[0]} to {dictionary.site}"
            raise InputError(explain(where=where, expected=expected, got=got, hint=hint))
        kind = _kind(dictionary)
        config = {"trainer": _trainer(dictionary, kind), "buffer": {}}
        state = {key: each.cpu().clone() for key, each in _WRITE[kind](dictionary).items()}
        buffer = io.BytesIO()
        torch.save(state, buffer)
        return {self.files[0]: json_bytes(config), self.files[1]: buffer.getvalue()}


# ------------------------------------------------------------------------------------- reading


def _state_dict(path: Path) -> Tensors:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file fails in torch, in zipfile or in the unpickler
        raise bad(path, "a state_dict of tensors", error) from error
    if not isinstance(state, dict) or not all(torch.is_tensor(each) for each in state.values()):
        raise bad(path, "a state_dict of tensors", type(state).__name__)
    return Tensors(state, path)


def _linear(file: Tensors, bias: str | None, *, encoder_bias: bool = True) -> Weights:
    """The weights of two `nn.Linear`; `bias` is the decoder's, and the centre."""
    latents, d = file.shape("encoder.weight")
    weights = {
        "encoder": file.take("encoder.weight", latents, d),
        "decoder": file.take("decoder.weight", d, latents).T.contiguous(),
        "decoder_bias": file.take(bias or "decoder.bias", d),
    }
    if encoder_bias:
        weights["encoder_bias"] = file.take("encoder.bias", latents)
    centre = weights["decoder_bias"]
    return weights | {"centre": centre if bias else torch.zeros_like(centre)}


def _auto_encoder(file: Tensors) -> Weights:
    file.keys_are("bias", *_LINEAR)
    return _with_threshold(_linear(file, "bias"))


def _auto_encoder_new(file: Tensors) -> Weights:
    file.keys_are("decoder.bias", *_LINEAR)
    return _with_threshold(_linear(file, None))


def _gated(file: Tensors) -> Weights:
    biases = ("gate_bias", "mag_bias", "r_mag")
    file.keys_are("decoder_bias", "encoder.weight", "decoder.weight", *biases)
    weights = _linear(file, "decoder_bias", encoder_bias=False)
    gate, magnitude, r = (file.take(key, len(weights["encoder"])) for key in biases)
    return weights | gated(weights["encoder"], gate, magnitude, r)


def _top_k(file: Tensors) -> Weights:
    file.keys_are("b_dec", *_LINEAR, optional=("k", "threshold"))
    return _linear(file, "b_dec")


def _batch_top_k(file: Tensors) -> Weights:
    file.keys_are("b_dec", "threshold", *_LINEAR, optional=("k",))
    return _with_threshold(_linear(file, "b_dec"), _one_threshold(file))


def _matryoshka(file: Tensors) -> Weights:
    file.keys_are(*_PLAIN, "threshold", optional=("k", "group_sizes"))
    weights = _matrices(file)
    threshold = _one_threshold(file)
    return _with_threshold(weights | {"centre": weights["decoder_bias"]}, threshold)


def _jump_relu(file: Tensors) -> Weights:
    file.keys_are(*_PLAIN, "threshold")
    weights = _matrices(file)
    threshold = file.take("threshold", len(weights["encoder"]))
    centre = torch.zeros_like(weights["decoder_bias"])
    return _with_threshold(weights | {"centre": centre}, threshold)


def _matrices(file: Tensors) -> Weights:
    d, latents = file.shape("W_enc")
    return {
        "encoder": file.take("W_enc", d, latents).T.contiguous(),
        "encoder_bias": file.take("b_enc", latents),
        "decoder": file.take("W_dec", latents, d),
        "decoder_bias": file.take("b_dec", d),
    }


def _one_threshold(file: Tensors) -> Tensor:
    threshold = file.take("threshold")
    if threshold < 0:
        warn(
            f"{file.where}: the threshold was never set ({float(threshold):g}), so that more "
            "latents fire on a row than k."
        )
    return threshold


def _with_threshold(weights: Weights, threshold: Tensor | None = None) -> Weights:
    """With one threshold a latent, 0 or more: below 0 nothing more passes a ReLU."""
    zeros = torch.zeros_like(weights["encoder_bias"])
    return weights | {"threshold": zeros if threshold is None else zeros + threshold.relu()}


_READ: dict[str, Callable[[Tensors], Weights]] = {
    "AutoEncoder": _auto_encoder,
    "AutoEncoderNew": _auto_encoder_new,
    "GatedAutoEncoder": _gated,
    "AutoEncoderTopK": _top_k,
    "BatchTopKSAE": _batch_top_k,
    "MatryoshkaBatchTopKSAE": _matryoshka,
    "JumpReluAutoEncoder": _jump_relu,
}


def _check_config(trainer: Settings, weights: Weights) -> None:
    latents, d = weights["encoder"].shape
    trainer.only("activation_dim", d, None)
    trainer.only("dict_size", latents, None)


def _k(trainer: Settings, file: Tensors, latents: int) -> int | None:
    """How many latents are kept, by the config and the weights; None if the method has none."""
    if "Top" not in trainer.values["dict_class"]:
        return None
    k = trainer.count("k", most=latents)
    kept = file.tensors.get("k")
    if kept is not None and (kept.numel() != 1 or int(kept) != k):
        raise bad(f"{file.where}, k", f"{k}, as in {trainer.where}", kept.tolist())
    return k


# ------------------------------------------------------------------------------------- writing


def _kind(dictionary: SparseDictionary) -> str:
    """The library's class for such a dictionary."""
    if dictionary.k is not None:
        return "AutoEncoderTopK"
    threshold = dictionary.threshold
    assert threshold is not None
    if not threshold.any():
        return "AutoEncoder"
    counted = isinstance(dictionary.settings.get("k"), int)
    same = bool((threshold == threshold[0]).all())
    return "BatchTopKSAE" if counted and same else "JumpReluAutoEncoder"


def _to_linear(dictionary: SparseDictionary, bias: str) -> Weights:
    return {
        "encoder.weight": dictionary.encoder,
        "encoder.bias": bias_about(dictionary, dictionary.decoder_bias),
        "decoder.weight": dictionary.decoder.T.contiguous(),
        bias: dictionary.decoder_bias,
    }


def _to_auto_encoder(dictionary: SparseDictionary) -> Weights:
    return _to_linear(dictionary, "bias")


def _to_top_k(dictionary: SparseDictionary) -> Weights:
    counted = {
        "k": torch.tensor(_k_of(dictionary), dtype=torch.int),
        "threshold": torch.tensor(-1.0),
    }
    return _to_linear(dictionary, "b_dec") | counted


def _to_batch_top_k(dictionary: SparseDictionary) -> Weights:
    assert dictionary.threshold is not None
    return _to_top_k(dictionary) | {"threshold": dictionary.threshold[0]}


def _to_jump_relu(dictionary: SparseDictionary) -> Weights:
    assert dictionary.threshold is not None
    return {
        "W_enc": dictionary.encoder.T.contiguous(),
        "b_enc": bias_about(dictionary, torch.zeros_like(dictionary.decoder_bias)),
        "W_dec": dictionary.decoder,
        "b_dec": dictionary.decoder_bias,
        "threshold": dictionary.threshold,
    }


_WRITE: dict[str, Callable[[SparseDictionary], Weights]] = {
    "AutoEncoder": _to_auto_encoder,
    "AutoEncoderTopK": _to_top_k,
    "BatchTopKSAE": _to_batch_top_k,
    "JumpReluAutoEncoder": _to_jump_relu,
}


def _k_of(dictionary: SparseDictionary) -> int:
    k: int = dictionary.settings["k"] if dictionary.k is None else dictionary.k
    return k


def _trainer(dictionary: SparseDictionary, kind: str) -> dict[str, Any]:
    trainer: dict[str, Any] = {
        "dict_class": kind,
        "activation_dim": len(dictionary.decoder_bias),
        "dict_size": dictionary.latents,
        "submodule_name": dictionary.site,
        names.OWN: [dictionary.site, dictionary.site],
    }
    return trainer | ({"k": _k_of(dictionary)} if "Top" in kind else {})
