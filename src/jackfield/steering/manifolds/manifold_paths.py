"""Manifold paths: what the answers do on the way along a curve, and on the straight line.

Each prompt is carried from where it lies on the curve of an `ActivationManifold` to a class, in
steps, once along the curve and once straight; both ways have the same ends. At every step p, the
probabilities of the answers and of all else, is read. Behaviour has a curve of its own, M_y: a
spline through the roots of the class means of p; Euclidean distance is √2 times Hellinger's there.

    energy    mean over the steps of min_u ‖√p − M_y(u)‖ / √2         0 is natural, at most 1
    order     share of the classes between the ends that become likeliest, in the order of the way
    arrived   whether the target is likeliest at the end
    length    Σ ‖Δ√p‖ ÷ the arc of M_y between the two ends            1 follows it closely

Behaviour manifold and comparison as in arXiv 2605.05115; the exact measures are our reading. Steps
where all else is likeliest count as a class that is not between the ends. A target half a cycle
away is left out, as both ways round are as short. Intervals are over prompts, a prompt's paths
averaged first, and the two ways are compared prompt by prompt.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from jackfield.core.config import config, setting
from jackfield.core.errors import InputError, explain
from jackfield.core.progress import Progress
from jackfield.core.study import Study
from jackfield.edits import Context
from jackfield.steering.manifolds.activation_manifold import ActivationManifold
from jackfield.steering.manifolds.curve import Curve
from jackfield.steering.manifolds.ordered_task import OrderedTask
from jackfield.steering.manifolds.paths_found import PathsFound

if TYPE_CHECKING:
    from jackfield.model.model import Model

_NEAREST = 2  # classes from start to target, so that there is one between
_PROMPTS = 16  # in one forward


@config
class ManifoldPaths(Study):
    """Paths along the curve and straight, to classes at least two away.

    The two are counted from a prompt's own class, and from the one that it lies nearest to.

    Attributes:
        steps: points on a path, both ends among them.
        starts: prompts that are carried to each target, drawn at random.
        seed: of the drawing, and of the intervals.

    >>> from jackfield.steering.manifolds import ManifoldSteering
    >>> from jackfield.testing import tiny_world
    >>> world = tiny_world()
    >>> answers = tuple(i % 4 for i in range(24))
    >>> task = OrderedTask("four", (3, 4, 5, 6), False, world.tokens, answers)
    >>> curve = ManifoldSteering().fit(world.model, task=task, at="layers.1.resid_post")
    >>> found = ManifoldPaths(steps=3, starts=2).run(world.model, curve, task)
    >>> found.along.shape, found.along_energy.shape  # [path, measure] and [path, step]
    (torch.Size([8, 4]), torch.Size([8, 3]))
    """

    steps: int = setting(default=9, ge=3)
    starts: int = setting(default=6, ge=1)
    seed: int = 0

    def run(
        self,
        model: "Model",
        manifold: ActivationManifold,
        task: OrderedTask,
        *,
        natural: OrderedTask | None = None,
        progress: bool = False,
    ) -> "PathsFound":
        """Measures the paths.

        Args:
            model: the model that the manifold was fitted on.
            manifold: of the same classes as the task, at a resid_pre or resid_post.
            task: prompts that start the paths; better others than those it was fitted on.
            natural: prompts of every class that make the behaviour curve; `task` if not given. How
                far unsteered prompts are from it is measured on the same ones, so a little low.
            progress: show a live line.

        Raises:
            InputError: other classes than the manifold's, a class without a prompt for the
                behaviour curve, or no prompt two classes, and not half a cycle, from another.
        """
        where = f"{model.name}, ManifoldPaths"
        if task.labels() != manifold.labels:
            expected, got = f"the classes {', '.join(manifold.labels)}", ", ".join(task.labels())
            raise InputError(explain(where=where, expected=expected, got=got))
        behaviour = behaviour_curve(model, natural or task)
        places = _places(model, manifold, task)
        jobs = list(self._jobs(manifold.curve, task, places, where))
        ways: dict[bool, list[Tensor]] = {False: [], True: []}
        with Progress("paths", total=len(jobs), unit="targets", enabled=progress) as shown:
            for target, starts in jobs:
                for straight, p in self._shares(model, manifold, task.take(starts), target).items():
                    ways[straight].append(p)
                shown.update(1)
        start = torch.tensor([i for _, starts in jobs for i in starts])
        targets = torch.tensor([target for target, starts in jobs for _ in starts])
        classes = torch.tensor(task.answers)[start]
        along, chord = (
            measured(torch.cat(ways[each]), behaviour, places[start], targets)
            for each in (False, True)
        )
        return PathsFound(
            task.name, manifold.at, model.name, start, classes, places[start], targets, along[0],
            chord[0], along[1], chord[1], _natural(model, natural or task, behaviour), self.seed,
        )  # fmt: skip

    def _jobs(
        self, curve: Curve, task: OrderedTask, places: Float[Tensor, " prompt"], where: str
    ) -> list[tuple[int, list[int]]]:
        """For each target the prompts that are carried to it."""
        generator = torch.Generator().manual_seed(self.seed)
        ends = torch.stack([torch.tensor(task.answers).to(places), places.round()])
        jobs = []
        for target in range(len(task.words)):
            gaps = curve.way(ends, float(target)).abs()
            half = curve.cyclic & (gaps[1] == curve.length / 2)
            far = ((gaps >= _NEAREST).all(dim=0) & ~half).nonzero()[:, 0]
            drawn = torch.randperm(len(far), generator=generator)[: self.starts]
            if len(far):
                jobs.append((target, far[drawn].tolist()))
        if not jobs:
            expected = "a prompt at least two classes, and not half a cycle, from another class"
            raise InputError(explain(where=where, expected=expected, got="none"))
        return jobs

    def _shares(
        self, model: "Model", manifold: ActivationManifold, task: OrderedTask, target: int
    ) -> dict[bool, Float[Tensor, "path step answer"]]:
        """What is answered at each step along and straight; the model goes on from the site."""
        call, x = _read(model, task.prompts, manifold.at)
        found: dict[bool, list[Tensor]] = {False: [], True: []}
        for straight, steps in found.items():
            for share in torch.linspace(0, 1, self.steps).tolist():
                (edit,) = manifold.to(target, share, straight=straight)
                moved = x.clone()
                moved[:, -1] = edit.apply(x[:, -1], Context(manifold.at))
                steps.append(task.shares_of(model, _answered(model, call, manifold.at, moved)))
        return {straight: torch.stack(steps, dim=1) for straight, steps in found.items()}


def behaviour_curve(model: "Model", task: OrderedTask) -> Curve:
    """M_y: the curve through the roots of the class means of p of unsteered prompts.

    Raises:
        InputError: a class without a prompt.
    """
    answers = torch.tensor(task.answers)
    missing = [name for i, name in enumerate(task.labels()) if i not in task.answers]
    if missing and len(task):
        where, expected = f"{model.name}, {task.name}", "a prompt for each class"
        got = f"none for {', '.join(missing)}"
        raise InputError(explain(where=where, expected=expected, got=got))
    p = task.shares(model)
    means = [p[answers == index].mean(dim=0).sqrt() for index in range(len(task.words))]
    return Curve.through(torch.stack(means), cyclic=task.cyclic)


def measured(
    p: Float[Tensor, "path step answer"],
    behaviour: Curve,
    places: Float[Tensor, " path"],
    targets: Int[Tensor, " path"],
) -> tuple[Float[Tensor, "path measure"], Float[Tensor, "path step"]]:
    """The measures of each path, and its distance to the behaviour curve at each step.

    Args:
        p: at each step of each path.
        behaviour: M_y.
        places: u, where each path starts, as the edit finds it.
        targets: the class where it ends, at least two from the one nearest to its start.
    """
    root = p.sqrt()
    energy = behaviour.distance(root) / 2**0.5
    best = p.argmax(dim=-1)
    length = root.diff(dim=1).norm(dim=-1).sum(dim=1)
    rows = []
    for i, (start, target) in enumerate(zip(places.tolist(), targets.tolist(), strict=True)):
        arc = behaviour.arc(start, float(target))
        order = passed(best[i].tolist(), between(start, target, behaviour))
        arrived = float(best[i, -1] == target)
        rows.append([float(energy[i].mean()), order, arrived, float(length[i]) / arc])
    return torch.tensor(rows, dtype=torch.float64), energy.double()


def between(start: float, target: int, curve: Curve) -> list[int]:
    """The classes between the one nearest to a place and a target, as a path passes them.

    >>> points = torch.eye(7)
    >>> between(5.2, 1, Curve.through(points, cyclic=True))
    [6, 0]
    """
    way = float(curve.way(torch.tensor(start), float(target)))
    step = 1 if way > 0 else -1
    places = range(round(start) + step, round(start + way), step)
    return [place % curve.length if curve.cyclic else place for place in places]


def passed(seen: Sequence[int], expected: Sequence[int]) -> float:
    """The share of the expected classes that are seen in their order.

    >>> passed([0, 0, 1, 3, 2, 4], [1, 2, 3])  # 1 and then 2, or 1 and then 3
    0.6666666666666666
    """
    longest = [0] * (len(expected) + 1)
    for each, _ in groupby(seen):
        for i in reversed(range(len(expected))):
            if expected[i] == each:
                longest[i + 1] = max(longest[i + 1], 1 + max(longest[: i + 1]))
    return max(longest) / len(expected)


def _read(
    model: "Model", prompts: Any, site: str
) -> tuple[dict[str, Tensor], Float[Tensor, "prompt position d"]]:
    """What the model is called with, the prompts ending together, and the activation there."""
    made = model.inputs(prompts, padding="left", answer=True)
    assert made.tokens is not None
    assert made.mask is not None
    call = {"input_ids": made.tokens, "attention_mask": made.mask.long()}
    return call, model.run(call, sites=[site], logits=False)[site]


def _places(
    model: "Model", manifold: ActivationManifold, task: OrderedTask
) -> Float[Tensor, " prompt"]:
    """U of each prompt, from where the edit moves it."""
    parts = (task.prompts[first : first + _PROMPTS] for first in range(0, len(task), _PROMPTS))
    read = [_read(model, each, manifold.at)[1][:, -1] for each in parts]
    return torch.cat([manifold.place(x).double().cpu() for x in read])


def _answered(
    model: "Model", call: Mapping[str, Tensor], site: str, x: Float[Tensor, "path position d"]
) -> Float[Tensor, "path vocab"]:
    """The logits at the last position of a forward that begins with x at the site."""
    last = f"layers.{model.n_layers - 1}.resid_post"
    if site == last:
        return model.unembed(x[:, -1])
    run = model.run(call, sites=[last], start={site: x}, logits=False)
    return model.unembed(run[last][:, -1])


def _natural(model: "Model", task: OrderedTask, behaviour: Curve) -> float:
    return float(behaviour.distance(task.shares(model).sqrt()).mean()) / 2**0.5
