"""Lenses: what activations look like.

Lives here: the logit lens, which reads the residual stream as if the model stopped there.
May use: core, edits, streams, model, reports. Look first: `logit_lens.py`.
"""

from jackfield.lenses.logit_lens import LensGrid, LogitLens

__all__ = ["LensGrid", "LogitLens"]
