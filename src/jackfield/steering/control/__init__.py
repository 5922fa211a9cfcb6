"""Steering as control: feedback to a set-point, a controller that decides by row, shorter answers.

Lives here: the linear-quadratic regulator over layers (block Jacobians, Riccati gains) and its PID
baseline; a small network that decides how much and where to steer; the study of how far answers
can be shortened at equal accuracy, with its problems.
May use: core, edits, model, reports, and the rest of steering. Look first: `feedback.py`, then
`lqr.py`.
"""

from jackfield.steering.control.compression import Answers, CompressedReasoning, Compression
from jackfield.steering.control.decider import Decider, Guided
from jackfield.steering.control.feedback import Feedback, FeedbackControl
from jackfield.steering.control.guided import GuidedController, GuidedSteering
from jackfield.steering.control.jacobians import block_jacobians
from jackfield.steering.control.lqr import LQR
from jackfield.steering.control.pid import PIDSteering
from jackfield.steering.control.small_sums import CONCISE, SMALL_SUMS, VERBOSE, Problem

__all__ = [
    "CONCISE",
    "LQR",
    "SMALL_SUMS",
    "VERBOSE",
    "Answers",
    "CompressedReasoning",
    "Compression",
    "Decider",
    "Feedback",
    "FeedbackControl",
    "Guided",
    "GuidedController",
    "GuidedSteering",
    "PIDSteering",
    "Problem",
    "block_jacobians",
]
