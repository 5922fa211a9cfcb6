"""Steering by tasks: vectors that carry what a prompt asks for, and whether it can be read.

Lives here: in-context tasks; function vectors, by heads or by a mean difference; whether a task can
be steered where it cannot be decoded; vectors of right reasoning and their sweeps.
May use: core, edits, streams, model, reports, the rest of steering. Look first: `in_context.py`
(what a task is), then `function_vector.py`.
"""

from jackfield.steering.tasks.demonstration_difference import DemonstrationDifference
from jackfield.steering.tasks.function_direction import FunctionDirection, TaskHead
from jackfield.steering.tasks.function_vector import FunctionVector, written_by
from jackfield.steering.tasks.in_context import IN_CONTEXT, TEMPLATES, InContextTask, Template
from jackfield.steering.tasks.in_context_accuracy import AccuracyFound, InContextAccuracy
from jackfield.steering.tasks.indirect_effect import indirect_effects
from jackfield.steering.tasks.last_token import answered
from jackfield.steering.tasks.reasoning_items import (
    ReasoningItem,
    reasoning_items,
    sorted_by_solving,
)
from jackfield.steering.tasks.reasoning_result import ReasoningCurves
from jackfield.steering.tasks.reasoning_sweep import ReasoningSweep
from jackfield.steering.tasks.reasoning_vector import ReasoningVector
from jackfield.steering.tasks.steerable_or_decodable import SteerableOrDecodable
from jackfield.steering.tasks.steerable_result import SteerableTable

__all__ = [
    "IN_CONTEXT",
    "TEMPLATES",
    "AccuracyFound",
    "DemonstrationDifference",
    "FunctionDirection",
    "FunctionVector",
    "InContextAccuracy",
    "InContextTask",
    "ReasoningCurves",
    "ReasoningItem",
    "ReasoningSweep",
    "ReasoningVector",
    "SteerableOrDecodable",
    "SteerableTable",
    "TaskHead",
    "Template",
    "answered",
    "indirect_effects",
    "reasoning_items",
    "sorted_by_solving",
    "written_by",
]
