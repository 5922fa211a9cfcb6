"""Reasoning vector: from problems that a model does not solve to those that it solves.

    v = mean of x_solved − mean of x_reference            x [d]: the stream at the last token
    v = ± main axis of x_solved,i − x_reference,i         "pc1", not centred, of pairs
    x ← x + c v                                           every token, at one or a few middle layers

Højer et al. 2025 (arXiv 2504.19483). What is solved is found by running the model first
(`sorted_by_solving`). The paper's abstract says that it works only as far as the typical state
"while correctly solving" can be read; the last token and the reference (here: problems of the same
kind that were not solved) are our reading. It is `MeanDifference` or `PairedPCA` at the last token.
"""

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from jackfield.core.config import config
from jackfield.core.errors import InputError, explain
from jackfield.steering.contrast import Pooling, difference
from jackfield.steering.direction_method import DirectionMethod
from jackfield.steering.paired_pca import PairedPCA


@config
class ReasoningVector(DirectionMethod):
    """The direction towards the state in which problems are solved.

    Attributes:
        axis: "mean" of the differences, or their first principal axis ("pc1", needs pairs).
        tokens: what stands for a problem: its last token, or the mean of its tokens ("all").
        where: which tokens may be read.
        splits: random halvings for d′ and the cosine.
        seed: of the halvings.

    >>> from jackfield.testing import tiny_world
    >>> world = tiny_world()
    >>> sides = {"positive": world.tokens, "negative": world.other}
    >>> ReasoningVector().fit(world.model, **sides, at="layers.1.resid_post").tokens_read
    48
    """

    axis: Literal["mean", "pc1"] = "mean"
    tokens: Pooling = "last"

    def direction(
        self,
        plus: Float[Tensor, "text d"],
        minus: Float[Tensor, "other d"],
    ) -> Float[Tensor, "d"]:  # noqa: F821
        """The mean difference, or the main axis of the pairs, as long as they are along it.

        Raises:
            InputError: the axis needs as many problems on one side as on the other.
        """
        if self.axis == "mean":
            return difference(plus, minus)
        if len(plus) != len(minus):
            where, got = "ReasoningVector, pc1", f"{len(plus)} and {len(minus)} problems"
            raise InputError(explain(where=where, expected="pairs", got=got))
        return PairedPCA().direction(plus, minus)
