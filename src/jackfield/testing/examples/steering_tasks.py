"""Examples of steering by tasks: function vectors, what can be steered or read, reasoning."""

from dataclasses import replace

from jackfield.edits import Edit
from jackfield.model.load import wrap
from jackfield.model.model import Model
from jackfield.steering.steering_vector import SteeringVector
from jackfield.steering.tasks.demonstration_difference import DemonstrationDifference
from jackfield.steering.tasks.function_direction import FunctionDirection
from jackfield.steering.tasks.function_vector import FunctionVector
from jackfield.steering.tasks.in_context import IN_CONTEXT, InContextTask
from jackfield.steering.tasks.in_context_accuracy import AccuracyFound, InContextAccuracy
from jackfield.steering.tasks.reasoning_items import ReasoningItem
from jackfield.steering.tasks.reasoning_result import ReasoningCurves
from jackfield.steering.tasks.reasoning_sweep import ReasoningSweep
from jackfield.steering.tasks.reasoning_vector import ReasoningVector
from jackfield.steering.tasks.steerable_or_decodable import SteerableOrDecodable
from jackfield.steering.tasks.steerable_result import SteerableTable
from jackfield.testing.example import Example, MethodExample, StudyExample
from jackfield.testing.worlds import World, tiny_tokenizer, tiny_world

_TASK = IN_CONTEXT["next-letter"]


def _heads(method: FunctionVector, world: World) -> FunctionDirection:
    answers = world.tokens[:, 0]
    return method.fit(
        world.model, positive=world.tokens, negative=world.other, answers=answers, at=world.site
    )


def _difference(method: DemonstrationDifference, world: World) -> FunctionDirection:
    return method.fit(world.model, positive=world.tokens, negative=world.other, at=world.site)


def _reasoning(method: ReasoningVector, world: World) -> SteeringVector:
    return method.fit(world.model, positive=world.tokens, negative=world.other, at=world.site)


def _unchanged(fitted: FunctionDirection | SteeringVector) -> list[Edit]:
    return fitted.edits(strength=0.0, where="all")


def _worded(world: World) -> Model:
    """The world's model with words: those of one task."""
    words = [word for x, y in _TASK.pairs for word in (x, f" {x}", f" {y}")]
    tokenizer = tiny_tokenizer([*words, "Q: A: -> Input: Output:"])
    return wrap(world.model.module, tokenizer, name=world.model.name)


def _tasks(world: World) -> list[InContextTask]:
    return [_TASK] if len(world.tokens) else []


def _accuracy(study: InContextAccuracy, world: World) -> AccuracyFound:
    return study.run(_worded(world), _tasks(world))


def _steerable(study: SteerableOrDecodable, world: World) -> SteerableTable:
    return study.run(_worded(world), _tasks(world))


def _sweep(study: ReasoningSweep, world: World) -> ReasoningCurves:
    items = [ReasoningItem(tuple(row.tolist()), 7) for row in world.other[:5]]
    vector = _reasoning(ReasoningVector(), tiny_world())
    return study.run(world.model, vector, items)


EXAMPLES: dict[str, Example] = {
    "function-vector": MethodExample(
        make=lambda: FunctionVector(heads=3),
        fit=_heads,
        identity=lambda method, world: _unchanged(_heads(method, world)),
        refused={
            "more heads than there are": lambda world: _heads(FunctionVector(heads=99), world),
            "too few answers": lambda world: FunctionVector().fit(
                world.model, positive=world.tokens, negative=world.other, answers=[3]
            ),
            "several sites": lambda world: _heads(
                FunctionVector(), replace(world, site="layers.*.resid_post")
            ),
        },
    ),
    "demonstration-difference": MethodExample(
        make=DemonstrationDifference,
        fit=_difference,
        identity=lambda method, world: _unchanged(_difference(method, world)),
        refused={
            "equal sides": lambda world: _difference(
                DemonstrationDifference(), replace(world, other=world.tokens)
            ),
            "a site with heads": lambda world: _difference(
                DemonstrationDifference(), replace(world, site="layers.1.z")
            ),
        },
    ),
    "reasoning-vector": MethodExample(
        make=ReasoningVector,
        fit=_reasoning,
        identity=lambda method, world: _unchanged(_reasoning(method, world)),
        refused={
            "no pairs": lambda world: _reasoning(
                ReasoningVector(axis="pc1"), replace(world, other=world.other[:9])
            ),
            "equal sides": lambda world: _reasoning(
                ReasoningVector(), replace(world, other=world.tokens)
            ),
        },
    ),
    "in-context-accuracy": StudyExample(
        make=lambda: InContextAccuracy(questions=4, shots=2),
        run=_accuracy,
        refused={
            "no templates": lambda world: InContextAccuracy(templates=()).run(
                _worded(world), [_TASK]
            ),
        },
    ),
    "steerable-or-decodable": StudyExample(
        make=lambda: SteerableOrDecodable(
            templates=("arrow", "colon"), shots=2, every=1, tuned_steps=1, probe_steps=2, hidden=4
        ),
        run=_steerable,
        refused={
            "one template": lambda world: SteerableOrDecodable(templates=("qa",)).run(
                _worded(world), [_TASK]
            ),
        },
    ),
    "reasoning-sweep": StudyExample(
        make=lambda: ReasoningSweep(coefficients=(-1.0, 1.0), randoms=1),
        run=_sweep,
        refused={
            "no vector": lambda world: ReasoningSweep().run(
                world.model, [], [ReasoningItem((3, 4), 7)]
            ),
        },
    ),
}
