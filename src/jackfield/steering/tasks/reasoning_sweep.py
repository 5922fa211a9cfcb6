"""Reasoning sweep: what a vector does to solving, and to the answer's distribution, at each c.

    accuracy(c)    share of items whose answer is the likeliest token
    KL(c)          KL(p_steered ‖ p_base) at the answer's place           nats
    H(c)           − Σ p_steered log p_steered there                      nats

for c of both signs, beside random directions of the same lengths at the same sites. All measures
of Højer et al. 2025 (arXiv 2504.19483); "at the answer's place" is our reading. Accuracies are
compared item by item: a change whose interval holds 0 is no change, and is reported as that. The
interval of the best c is widened for the choice (Bonferroni). The items must not be those that the
vector was fitted on.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from jackfield.core.config import config, setting
from jackfield.core.errors import InputError, explain
from jackfield.core.progress import Progress
from jackfield.core.study import Study
from jackfield.steering.steering_vector import SteeringVector
from jackfield.steering.tasks.last_token import last_logits
from jackfield.steering.tasks.reasoning_items import ReasoningItem, asked
from jackfield.steering.tasks.reasoning_result import ReasoningCurves

if TYPE_CHECKING:
    from jackfield.model.model import Model


@config
class ReasoningSweep(Study):
    """Accuracy, KL and entropy [variant, coefficient, item] over the strength of a vector.

    Attributes:
        coefficients: c, in lengths of the vector; 0 is always measured.
        randoms: random directions.
        seed: of them, and of the intervals.

    >>> ReasoningSweep(randoms=1).coefficients
    (-2.0, -1.0, -0.5, 0.5, 1.0, 2.0)
    """

    coefficients: tuple[float, ...] = (-2.0, -1.0, -0.5, 0.5, 1.0, 2.0)
    randoms: int = setting(default=2, ge=1)
    seed: int = 0

    def run(
        self,
        model: "Model",
        vectors: SteeringVector | Sequence[SteeringVector],
        items: Sequence[ReasoningItem],
        *,
        progress: bool = False,
    ) -> ReasoningCurves:
        """Asks every item at every coefficient.

        Args:
            model: the model to steer.
            vectors: one, or one at each of a few layers, which are added together.
            items: problems, none of them fitted on.
            progress: show a live line.

        Raises:
            InputError: no items, vectors or coefficients, or an answer of several tokens.
        """
        listed = [vectors] if isinstance(vectors, SteeringVector) else list(vectors)
        if not listed or not self.coefficients:
            where, expected = f"{model.name}, ReasoningSweep", "a vector and a coefficient"
            raise InputError(explain(where=where, expected=expected, got="none"))
        prompts, answers = asked(model, items)
        places = torch.tensor(answers)
        base = last_logits(model, prompts).log_softmax(dim=-1)
        draws = range(self.randoms)
        variants = {"vector": listed} | {
            f"random {i}": [v.control(self.seed + i + 100 * j) for j, v in enumerate(listed)]
            for i in draws
        }
        coefficients = tuple(sorted({0.0, *map(float, self.coefficients)}))
        total = len(variants) * len(coefficients)
        with Progress("asking", total=total, unit="sweeps", enabled=progress) as shown:
            rows = []
            for each in variants.values():
                for c in coefficients:
                    rows.append(_measured(model, prompts, places, base, each, c))
                    shown.update(1)
        columns = [torch.stack(column) for column in zip(*rows, strict=True)]
        right, kl, entropy = (
            column.unflatten(0, (len(variants), len(coefficients))) for column in columns
        )
        return ReasoningCurves(
            model.name, tuple(v.at for v in listed), tuple(variants), coefficients, right, kl,
            entropy, self.seed,
        )  # fmt: skip


def _measured(
    model: "Model",
    prompts: Sequence[str] | Tensor,
    answers: Tensor,
    base: Tensor,
    vectors: Sequence[SteeringVector],
    c: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """[item] whether it is right, KL and entropy."""
    edits = [edit for each in vectors for edit in each.scaled(c)]
    log_p = last_logits(model, prompts, edits).log_softmax(dim=-1)
    p = log_p.exp()
    kl = (p * (log_p - base)).sum(dim=-1).clamp(min=0)
    return log_p.argmax(dim=-1) == answers, kl, -(p * log_p).sum(dim=-1)
