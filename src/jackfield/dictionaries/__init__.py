"""Dictionaries: what activations are made of, as directions that a few at a time add up to them.

Lives here: the `Dictionary` interface (encode, decode, splice, ablate, steer), the TopK sparse
autoencoder, and the feature index that shows what each latent fires on and promotes.
May use: core, edits, streams, model, reports. Look first: `dictionary.py` (what every dictionary
can do), then `topk.py` (one of them) and `features.py` (how they are looked at).

    sae = jf.dictionaries.TopK(latents=2048, k=32).fit(store.stream("layers.15.resid_post"))
    index = jf.dictionaries.index_features(sae, store.stream("layers.15.resid_post"), model)
    index.show(index.interesting(1)[0])
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jackfield.dictionaries.dictionary import Dictionary as Dictionary
    from jackfield.dictionaries.features import FeatureIndex as FeatureIndex
    from jackfield.dictionaries.features import index_features as index_features
    from jackfield.dictionaries.measures import Quality as Quality
    from jackfield.dictionaries.measures import fvu as fvu
    from jackfield.dictionaries.splice import Splice as Splice
    from jackfield.dictionaries.topk import TopK as TopK
    from jackfield.dictionaries.topk_dictionary import TopKDictionary as TopKDictionary

_HOME = {
    "Dictionary": "dictionary",
    "FeatureIndex": "features",
    "Quality": "measures",
    "Splice": "splice",
    "TopK": "topk",
    "TopKDictionary": "topk_dictionary",
    "fvu": "measures",
    "index_features": "features",
}

__all__ = [
    "Dictionary",
    "FeatureIndex",
    "Quality",
    "Splice",
    "TopK",
    "TopKDictionary",
    "fvu",
    "index_features",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
