"""Examples of rules over activations."""

import torch

from jackfield.edits import Edit
from jackfield.steering.rules.activation_reasoning import ActivationReasoning
from jackfield.steering.rules.ontology import (
    ASKED,
    KINDS,
    NAMES,
    OntologyAnswers,
    OntologyQuestions,
)
from jackfield.steering.rules.reasoning import Reasoning
from jackfield.testing.example import Example, MethodExample, StudyExample
from jackfield.testing.worlds import World, tiny_llama


def _fit(method: ActivationReasoning, world: World) -> Reasoning:
    texts = {"low": world.tokens, "high": world.other}
    return method.fit(world.model, concepts=texts, at=world.site)


def _unchanged(method: ActivationReasoning, world: World) -> list[Edit]:
    return _fit(method, world).edits(strength=0.0, where="all")


def _ontology(study: OntologyQuestions, world: World) -> OntologyAnswers:
    return study.run(world.model, world.site)


def _worded(dtype: torch.dtype) -> World:
    """A model that knows the words of the questions."""
    words = [f" {word}" for word in (*KINDS, *NAMES, *ASKED, *"Every is a True False or".split())]
    texts = [*words, *NAMES, *ASKED, "Every True Answer:.\n", " false:"]
    model = tiny_llama(dtype, texts=texts)
    none = torch.zeros(1, 2, dtype=torch.int64)
    return World(model, none, none)


EXAMPLES: dict[str, Example] = {
    "activation-reasoning": MethodExample(
        make=lambda: ActivationReasoning(rules=("low or high -> low",), acts="all"),
        fit=_fit,
        identity=_unchanged,
        refused={
            "equal sides": lambda world: _fit(
                ActivationReasoning(rules=("low or high -> low",)),
                World(world.model, world.tokens, world.tokens),
            ),
            "a rule that asks for what nothing shows": lambda world: _fit(
                ActivationReasoning(rules=("low and hihg -> high",)), world
            ),
            "a site with heads": lambda world: ActivationReasoning(rules=("low -> x",)).fit(
                world.model,
                concepts={"low": world.tokens},
                negative=world.other,
                at="layers.1.z",
            ),
            "latents without a coder": lambda world: _fit(
                ActivationReasoning(rules=("low or high -> low",), scorer="latents"), world
            ),
        },
    ),
    "ontology-questions": StudyExample(
        make=lambda: OntologyQuestions(hops=(1,), questions=2, fits=2),
        run=_ontology,
        world=_worded,
        refused={
            "too many hops": lambda world: _ontology(OntologyQuestions(hops=(9,)), world),
            "a site with heads": lambda world: OntologyQuestions().run(
                _worded(torch.float32).model, "layers.1.z"
            ),
        },
    ),
}
