"""Examples of steering by axes, manifolds and reinjection."""

from dataclasses import replace

from jackfield.edits import Edit
from jackfield.steering.axes import AssistantAxis, LevelAxis, OrdinalAxis, RoleSpace
from jackfield.steering.manifolds import (
    ActivationManifold,
    ManifoldPaths,
    ManifoldSteering,
    OrderedTask,
    PathsFound,
)
from jackfield.steering.reinjected import Reinjected
from jackfield.steering.reinjection import Reinjection
from jackfield.testing.example import Example, MethodExample, StudyExample
from jackfield.testing.worlds import World, tiny_world


def _fit_roles(method: AssistantAxis, world: World) -> RoleSpace:
    roles = {"first": world.other[:8], "second": world.other[8:16], "third": world.other[16:]}
    return method.fit(world.model, roles=roles, default=world.tokens, at=world.site)


def _fit_levels(method: OrdinalAxis, world: World) -> LevelAxis:
    levels = {"low": world.tokens[:12], "between": world.tokens[12:], "high": world.other}
    return method.fit(world.model, levels=levels, at=world.site)


def _task(world: World) -> OrderedTask:
    """Five classes in a cycle; the classes mean nothing to a random model."""
    answers = tuple(i % 5 for i in range(len(world.tokens)))
    return OrderedTask("five", (3, 4, 5, 6, 7), True, world.tokens, answers)


def _fit_manifold(method: ManifoldSteering, world: World) -> ActivationManifold:
    return method.fit(world.model, task=_task(world), at=world.site)


def _paths(study: ManifoldPaths, world: World) -> PathsFound:
    plain = tiny_world(world.model.dtype)
    return study.run(world.model, _fit_manifold(ManifoldSteering(), plain), _task(world))


def _fit_reinjection(
    method: Reinjection, world: World, at: str = "layers.2.resid_post"
) -> Reinjected:
    facts = world.tokens[:4]
    plain = tiny_world().model
    answers = plain.run(facts).logits[:, -1].argmax(dim=-1).tolist() if len(facts) else []
    sources = ["layers.0:2.attn_out", "layers.0:2.mlp_out"]
    return method.fit(
        world.model, prompts=facts, subjects=[(2, 3)] * len(facts), answers=answers,
        sources=sources, at=at,
    )  # fmt: skip


def _unchanged(fitted: RoleSpace | LevelAxis | ActivationManifold | Reinjected) -> list[Edit]:
    return fitted.edits(strength=0.0, where="all")


EXAMPLES: dict[str, Example] = {
    "assistant-axis": MethodExample(
        make=AssistantAxis,
        fit=_fit_roles,
        identity=lambda method, world: _unchanged(_fit_roles(method, world)),
        refused={
            "one role": lambda world: AssistantAxis().fit(
                world.model, roles={"one": world.other}, default=world.tokens, at=world.site
            ),
            "roles like the default": lambda world: _fit_roles(
                AssistantAxis(),
                replace(world, tokens=world.tokens[:8], other=world.tokens[:8][[*range(8)] * 3]),
            ),
            "several sites": lambda world: _fit_roles(
                AssistantAxis(), replace(world, site="layers.*.resid_post")
            ),
        },
    ),
    "ordinal-axis": MethodExample(
        make=lambda: OrdinalAxis(folds=3, permutations=5),
        fit=_fit_levels,
        identity=lambda method, world: _unchanged(_fit_levels(method, world)),
        refused={
            "two levels": lambda world: OrdinalAxis().fit(
                world.model, levels={"low": world.tokens, "high": world.other}, at=world.site
            ),
            "fewer texts than folds": lambda world: _fit_levels(OrdinalAxis(folds=13), world),
            "several sites": lambda world: _fit_levels(
                OrdinalAxis(), replace(world, site="layers.*.resid_post")
            ),
        },
    ),
    "manifold-steering": MethodExample(
        make=lambda: ManifoldSteering(components=2),
        fit=_fit_manifold,
        identity=lambda method, world: _unchanged(_fit_manifold(method, world)),
        refused={
            "two classes": lambda world: ManifoldSteering().fit(
                world.model,
                task=OrderedTask("two", (3, 4), False, world.tokens[:2], (0, 1)),
                at=world.site,
            ),
            "a class without a prompt": lambda world: ManifoldSteering().fit(
                world.model, task=_task(world).take([0, 1, 2, 4]), at=world.site
            ),
            "no such class": lambda world: _fit_manifold(ManifoldSteering(), world).to("Monday"),
        },
    ),
    "manifold-paths": StudyExample(
        make=lambda: ManifoldPaths(steps=3, starts=2),
        run=_paths,
        refused={
            "other classes": lambda world: ManifoldPaths().run(
                world.model,
                _fit_manifold(ManifoldSteering(), world),
                replace(_task(world), words=(3, 4, 5, 6, 8)),
            ),
        },
    ),
    "reinjection": MethodExample(
        make=lambda: Reinjection(draws=1),
        fit=_fit_reinjection,
        identity=lambda method, world: _unchanged(_fit_reinjection(method, world)),
        refused={
            "a place before the parts": lambda world: _fit_reinjection(
                Reinjection(), world, at="layers.1.resid_mid"
            ),
        },
    ),
}
