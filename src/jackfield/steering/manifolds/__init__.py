"""Manifolds: concepts with an order or a cycle lie on curves, and are steered along them.

Lives here: curves through class centroids, the edit that moves along one, tasks with ordered
answers (days, months, numbers), and the study that compares the curve with the straight line.
May use: the rest of steering. Look first: `manifold_steering.py`, then `curve.py`.
"""

from jackfield.steering.manifolds.activation_manifold import ActivationManifold
from jackfield.steering.manifolds.curve import Curve
from jackfield.steering.manifolds.manifold_paths import ManifoldPaths
from jackfield.steering.manifolds.manifold_steering import ManifoldSteering
from jackfield.steering.manifolds.move_along import MoveAlong
from jackfield.steering.manifolds.ordered_task import ORDERED_TASKS, OrderedTask
from jackfield.steering.manifolds.paths_found import PathsFound

__all__ = [
    "ORDERED_TASKS",
    "ActivationManifold",
    "Curve",
    "ManifoldPaths",
    "ManifoldSteering",
    "MoveAlong",
    "OrderedTask",
    "PathsFound",
]
