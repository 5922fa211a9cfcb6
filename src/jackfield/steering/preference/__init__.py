"""Steering from preferences: what is added is learned so that preferred answers become likelier.

Lives here: BiPO (a direction), YaPO (a vector in the code of a sparse autoencoder), the objective
and the descent that they share.
May use: core, edits, model, reports, and of steering what lies above; dictionaries are given as
arguments. Look first: `objective.py`, then `bipo.py`.
"""

from jackfield.steering.preference.bipo import BiPO, PreferenceVector
from jackfield.steering.preference.course import Course
from jackfield.steering.preference.in_code import InCode
from jackfield.steering.preference.learning import PreferenceMethod
from jackfield.steering.preference.objective import PreferenceObjective, preference_loss
from jackfield.steering.preference.pairs import Pairs, preference_pairs
from jackfield.steering.preference.yapo import PreferenceCode, YaPO

__all__ = [
    "BiPO",
    "Course",
    "InCode",
    "Pairs",
    "PreferenceCode",
    "PreferenceMethod",
    "PreferenceObjective",
    "PreferenceVector",
    "YaPO",
    "preference_loss",
    "preference_pairs",
]
