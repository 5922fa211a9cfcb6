"""A segment: the model between two sites as a function, for Jacobians, `jvp` and `vjp`.

f = model.segment("layers.3.resid_post", "layers.7.resid_post", ["The capital of France is"])
y, dy = torch.func.jvp(f, (f.point,), (direction,))
"""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from jackfield.core.errors import SiteError, explain
from jackfield.core.sites import parse
from jackfield.edits import Edit
from jackfield.model.run import execute, start_site

if TYPE_CHECKING:
    from jackfield.model.model import Model


class Segment:
    """`segment(x)`: the value at site `stop` when site `start` holds x, on fixed inputs.

    Attention runs on torch's plain kernel here, as the fused ones have no forward-mode rule.

    Attributes:
        start, stop: sites; `start` is embed, resid_pre or resid_post.
        point: the value at `start` in an ordinary run.

    Raises:
        SiteError: `stop` comes before `start`, or `start` is another kind of site.
    """

    def __init__(
        self, model: "Model", start: str, stop: str, inputs: Any, *, edits: Sequence[Edit] = ()
    ) -> None:
        self._model, self.start, self.stop = model, start, stop
        self._inputs, self._edits = model.inputs(inputs), list(edits)
        order = {name: index for index, name in enumerate(model.sites.names())}
        first, last = start_site(model, start).name, parse(model.sites[stop].name).name
        if last not in order or order[first] > order[last]:
            expected = f"a named site from {start} on, to stop at"
            raise SiteError(explain(where=f"{model.name}.segment", expected=expected, got=stop))

    @cached_property
    def point(self) -> Float[Tensor, "batch position d_model"]:
        """The value at `start` in an ordinary run of the inputs."""
        run = execute(
            self._model, self._inputs, sites=[self.start], edits=self._edits, grad=False,
            logits=False, start=None, past=None, lengths=None,
        )  # fmt: skip
        return run[self.start].detach()

    def __call__(self, x: Float[Tensor, "batch position d_model"]) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            run = execute(
                self._model, self._inputs, sites=[self.stop], edits=self._edits,
                grad=torch.is_grad_enabled(), logits=self.stop == "logits", start={self.start: x},
                past=None, lengths=None,
            )  # fmt: skip
        return run[self.stop]

    def __repr__(self) -> str:
        return f"Segment of {self._model.name} from {self.start} to {self.stop}"
