"""Axes: directions on which roles, or levels, have their places; read from answers and texts.

Lives here: the assistant axis with its role vectors, ordinal axes with their tests, and the small
sets of roles, questions and levels to fit them from.
May use: the rest of steering. Look first: `assistant_axis.py`, then `ordinal_axis.py`.
"""

from jackfield.steering.axes.answers import RoleAnswers, ask_roles
from jackfield.steering.axes.assistant_axis import AssistantAxis
from jackfield.steering.axes.level_axis import LevelAxis
from jackfield.steering.axes.level_texts import GRANULARITY
from jackfield.steering.axes.ordinal_axis import OrdinalAxis
from jackfield.steering.axes.role_space import RoleSpace
from jackfield.steering.axes.role_texts import QUESTIONS, ROLES, SYSTEM_PROMPTS

__all__ = [
    "GRANULARITY",
    "QUESTIONS",
    "ROLES",
    "SYSTEM_PROMPTS",
    "AssistantAxis",
    "LevelAxis",
    "OrdinalAxis",
    "RoleAnswers",
    "RoleSpace",
    "ask_roles",
]
