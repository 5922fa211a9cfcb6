"""Steering by features: latents of a dictionary, added to the activation or set in its code.

Lives here: feature steering, LangFIR, the random-token filter without a dictionary.
May use: core, edits, model, reports, and of steering what lies above; dictionaries are given as
arguments. Look first: `steered_features.py` (what is fitted), then `feature_steering.py`.
"""

from jackfield.steering.features.dictionary import FeatureDictionary, read_codes
from jackfield.steering.features.feature_steering import FeatureSteering
from jackfield.steering.features.langfir import LangFIR
from jackfield.steering.features.partway import Partway
from jackfield.steering.features.random_filtered import RandomFilteredDifference
from jackfield.steering.features.random_texts import random_texts
from jackfield.steering.features.steered_features import SteeredFeatures

__all__ = [
    "FeatureDictionary",
    "FeatureSteering",
    "LangFIR",
    "Partway",
    "RandomFilteredDifference",
    "SteeredFeatures",
    "random_texts",
    "read_codes",
]
