"""One task in one template: its prompts, and what the model holds at their last token."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from jackfield.edits import Add, Edit
from jackfield.steering.tasks.in_context import InContextTask, Prompts
from jackfield.steering.tasks.last_token import answered, read_last

if TYPE_CHECKING:
    from jackfield.model.model import Model


@dataclass(frozen=True)
class TaskReading:
    """A task in a template.

    Attributes:
        fit, test: prompts of words to fit on, and of others.
        shown: {site: [prompt, d]} with demonstrations, of the words to fit on.
        fit_bare, test_bare: {site: [prompt, d]} without.
    """

    fit: Prompts
    test: Prompts
    shown: dict[str, Tensor]
    fit_bare: dict[str, Tensor]
    test_bare: dict[str, Tensor]

    @property
    def fit_answers(self) -> Int[Tensor, " prompt"]:
        """The token ids of the words to fit on."""
        return torch.tensor(self.fit.answers)

    @property
    def test_answers(self) -> Int[Tensor, " prompt"]:
        """The token ids of the others."""
        return torch.tensor(self.test.answers)

    def vector(self, site: str) -> Float[Tensor, " d"]:
        """The mean difference between prompts with and without demonstrations."""
        return (self.shown[site].mean(dim=0) - self.fit_bare[site].mean(dim=0)).float()

    def edits(self, site: str) -> list[Edit]:
        """Adds the vector at the last token."""
        return [Add(self.vector(site), at=site, where="last & ~sinks")]

    def best(self, model: "Model", sites: Sequence[str]) -> str:
        """The site at which the vector steers the words to fit on best; the earliest of equals."""
        hits = [self._share(model, self.edits(site)) for site in sites]
        return sites[max(range(len(sites)), key=lambda place: hits[place])]

    def steered(self, model: "Model", edits: Sequence[Edit] = ()) -> Bool[Tensor, " prompt"]:
        """Whether the other words are answered, without demonstrations."""
        return answered(model, self.test.bare, self.test.answers, edits)

    def _share(self, model: "Model", edits: Sequence[Edit]) -> float:
        right = answered(model, self.fit.bare, self.fit.answers, edits)
        return float(right.double().mean())


def read_task(
    model: "Model",
    task: InContextTask,
    template: str,
    *,
    shots: int,
    seed: int,
    vectors: Sequence[str],
    decoders: Sequence[str],
) -> TaskReading:
    """Reads a task.

    Args:
        model: the model.
        task: its words are halved by the seed.
        template: by name.
        shots: demonstrations a prompt, all of words to fit on.
        seed: of the halves and the demonstrations.
        vectors: sites of vectors.
        decoders: sites that decoders read.
    """
    fit_pairs, test_pairs = task.halves(model, seed)
    fit, test = (
        task.prompts(model, template, shots=shots, seed=seed, asked=asked, shown=fit_pairs)
        for asked in (fit_pairs, test_pairs)
    )
    sites = list(dict.fromkeys([*vectors, *decoders]))
    return TaskReading(
        fit,
        test,
        read_last(model, fit.shown, vectors, where=f"{task.name}, shown"),
        read_last(model, fit.bare, sites, where=f"{task.name}, bare"),
        read_last(model, test.bare, decoders, where=f"{task.name}, bare"),
    )
