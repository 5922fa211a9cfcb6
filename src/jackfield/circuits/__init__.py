"""Circuits: what activations cause.

Lives here: interchange patching over layer and position, head or neuron, with its metrics, and
the indirect-object battery to try it on.
May use: core, edits, streams, model, reports. Look first: `patching.py`, then `metrics.py`.
"""

from jackfield.circuits.ioi import IOI, IOIAccuracy, IOIExample
from jackfield.circuits.metrics import KL, Custom, LogitDifference, Metric, Probability
from jackfield.circuits.patch_grid import PatchGrid
from jackfield.circuits.patching import ActivationPatching, patch

__all__ = [
    "IOI",
    "KL",
    "ActivationPatching",
    "Custom",
    "IOIAccuracy",
    "IOIExample",
    "LogitDifference",
    "Metric",
    "PatchGrid",
    "Probability",
    "patch",
]
