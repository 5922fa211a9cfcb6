"""Demonstration difference: the simple function vector, a mean difference at the last token.

    v = mean over prompts that show a task of x − mean over prompts that do not of x       [d]

x: the stream at the last token. It asks nothing of single heads, so it needs no answers and one
forward a prompt in place of one a head. It differs from `MeanDifference(tokens="last")` in where
it acts: at the last token alone, where it was read, as a function vector does.

As in Nadaf 2026 (arXiv 2604.02608), from its abstract; which prompts stand on the other side there
could not be confirmed. Ours: whatever is given; zero-shot prompts in `SteerableOrDecodable`.
"""

from typing import TYPE_CHECKING, Any

from jackfield.core.config import config
from jackfield.core.fitted import Method
from jackfield.steering.tasks.function_direction import FunctionDirection
from jackfield.steering.tasks.function_vector import function_direction, task_site
from jackfield.steering.tasks.last_token import read_last

if TYPE_CHECKING:
    from jackfield.model.model import Model


@config
class DemonstrationDifference(Method):
    """The mean difference between prompts with and without demonstrations, at their last token.

    Attributes:
        acts: on which tokens the vector is added: "last", or another `where`.

    >>> from jackfield.testing import tiny_world
    >>> world = tiny_world()
    >>> sides = {"positive": world.tokens, "negative": world.other}
    >>> DemonstrationDifference().fit(world.model, **sides).at
    'layers.1.resid_post'
    """

    acts: str = "last"

    def fit(
        self,
        model: "Model",
        *,
        positive: Any,
        negative: Any,
        at: str | None = None,
    ) -> FunctionDirection:
        """Fits the direction.

        Args:
            model: a language model.
            positive: prompts that show the task: texts, or token ids [prompt, position].
            negative: prompts that do not.
            at: a site [batch, position, d]; a third of the way up if not given.

        Raises:
            InputError: no prompts, equal means, or activations that are not finite.
            SiteError: a site of another shape, or several.
        """
        site = task_site(model, at)
        with_task, without = (
            read_last(model, prompts, [site], where=where)[site]
            for prompts, where in ((positive, "positive"), (negative, "negative"))
        )
        vector = with_task.mean(dim=0) - without.mean(dim=0)
        counts = (len(with_task), len(without))
        return function_direction(self, model, vector, site, with_task, self.acts, counts)
