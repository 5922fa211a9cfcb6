"""Guards: watch what a model is about to say, by its activations, and act on it.

Lives here: scorers (a projection, a linear filter, spectra under a recurrent detector), thresholds
with a promise, velocity over turns, the guard that watches a generation, and its trial.
May use: core, edits, streams, model, reports, and the rest of steering. Look first: `guard.py`,
then `scorer.py` and `linear_filter.py`.
"""

from jackfield.steering.guards.conformal import ConformalThreshold
from jackfield.steering.guards.detector import SpectralDetector
from jackfield.steering.guards.eigentrack import EigenTrack, EigenTracked
from jackfield.steering.guards.guard import Guard, Watched
from jackfield.steering.guards.guard_trial import GuardTrial, TrialFound
from jackfield.steering.guards.guarded import Guarded
from jackfield.steering.guards.linear_filter import FittedFilter, LinearFilter
from jackfield.steering.guards.rates import Auroc, Rate
from jackfield.steering.guards.reading import prompt_scores
from jackfield.steering.guards.scorer import Projection, Scorer, Watcher
from jackfield.steering.guards.turns import Conversations, Turns

__all__ = [
    "Auroc",
    "ConformalThreshold",
    "Conversations",
    "EigenTrack",
    "EigenTracked",
    "FittedFilter",
    "Guard",
    "GuardTrial",
    "Guarded",
    "LinearFilter",
    "Projection",
    "Rate",
    "Scorer",
    "SpectralDetector",
    "TrialFound",
    "Turns",
    "Watched",
    "Watcher",
    "prompt_scores",
]
