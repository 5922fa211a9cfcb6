"""Dictionaries: what activations are made of, as directions that a few at a time add up to them.

Lives here: the `Dictionary` interface (encode, decode, splice, ablate, steer), the family of sparse
autoencoders, transcoders and crosscoders with their training, and the feature index that shows
what each latent fires on and promotes.
May use: core, edits, streams, model, reports. Look first: `dictionary.py` (what every dictionary
can do), then `topk.py` (one of them), `sparse_method.py` (how all are trained) and `features.py`
(how they are looked at).

    sae = jf.dictionaries.TopK(latents=2048, k=32).fit(store.stream("layers.15.resid_post"))
    index = jf.dictionaries.index_features(sae, store.stream("layers.15.resid_post"), model)
    index.show(index.interesting(1)[0])
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jackfield.dictionaries.batch_topk import BatchTopK as BatchTopK
    from jackfield.dictionaries.crosscoder import Crosscoder as Crosscoder
    from jackfield.dictionaries.crosscoder_dictionary import (
        CrosscoderDictionary as CrosscoderDictionary,
    )
    from jackfield.dictionaries.dictionary import Dictionary as Dictionary
    from jackfield.dictionaries.features import FeatureIndex as FeatureIndex
    from jackfield.dictionaries.features import index_features as index_features
    from jackfield.dictionaries.gated import Gated as Gated
    from jackfield.dictionaries.jump_relu import JumpReLU as JumpReLU
    from jackfield.dictionaries.matryoshka import Matryoshka as Matryoshka
    from jackfield.dictionaries.measures import Quality as Quality
    from jackfield.dictionaries.measures import fvu as fvu
    from jackfield.dictionaries.relu import ReLU as ReLU
    from jackfield.dictionaries.sparse_dictionary import SparseDictionary as SparseDictionary
    from jackfield.dictionaries.sparse_method import fit_many as fit_many
    from jackfield.dictionaries.splice import Splice as Splice
    from jackfield.dictionaries.topk import TopK as TopK
    from jackfield.dictionaries.transcoder import Transcoder as Transcoder

_HOME = {
    "BatchTopK": "batch_topk",
    "Crosscoder": "crosscoder",
    "CrosscoderDictionary": "crosscoder_dictionary",
    "Dictionary": "dictionary",
    "FeatureIndex": "features",
    "Gated": "gated",
    "JumpReLU": "jump_relu",
    "Matryoshka": "matryoshka",
    "Quality": "measures",
    "ReLU": "relu",
    "SparseDictionary": "sparse_dictionary",
    "Splice": "splice",
    "TopK": "topk",
    "Transcoder": "transcoder",
    "fit_many": "sparse_method",
    "fvu": "measures",
    "index_features": "features",
}

__all__ = [
    "BatchTopK",
    "Crosscoder",
    "CrosscoderDictionary",
    "Dictionary",
    "FeatureIndex",
    "Gated",
    "JumpReLU",
    "Matryoshka",
    "Quality",
    "ReLU",
    "SparseDictionary",
    "Splice",
    "TopK",
    "Transcoder",
    "fit_many",
    "fvu",
    "index_features",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
