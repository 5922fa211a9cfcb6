"""Learned interventions: what is done to the activation is learned from what is to be said.

Lives here: LoReFT (a low-rank map) and ReFT-r1 (one direction), their texts and their descent.
May use: core, edits, model, reports, and the rest of steering. Look first: `loreft.py`, then
`descent.py`.
"""

from jackfield.steering.reft.answers import Answers, answers, first_and_last
from jackfield.steering.reft.descent import Learned
from jackfield.steering.reft.latent_direction import LatentDirection
from jackfield.steering.reft.loreft import LoReFT
from jackfield.steering.reft.low_rank import LowRank
from jackfield.steering.reft.low_rank_maps import LowRankMap, LowRankMaps
from jackfield.steering.reft.reft_r1 import ReFTr1

__all__ = [
    "Answers",
    "LatentDirection",
    "Learned",
    "LoReFT",
    "LowRank",
    "LowRankMap",
    "LowRankMaps",
    "ReFTr1",
    "answers",
    "first_and_last",
]
