"""Sparsity: which activations need not be computed.

Lives here: weight-informed sparsity of the inputs of linear layers, and what leaving activations
out costs a language model.
May use: core, edits, streams, model, reports. Look first: `wina.py`, then `cost.py`.
"""

from jackfield.sparsity.cost import LanguageCost, language_cost
from jackfield.sparsity.sparse_inputs import SiteRule, SparseInputs
from jackfield.sparsity.wina import WINA

__all__ = ["WINA", "LanguageCost", "SiteRule", "SparseInputs", "language_cost"]
