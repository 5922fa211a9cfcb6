"""Examples of steering as control."""

from collections.abc import Callable

from jackfield.edits import Edit
from jackfield.steering import MeanDifference, SteeringVector
from jackfield.steering.control import (
    LQR,
    CompressedReasoning,
    Compression,
    FeedbackControl,
    GuidedController,
    GuidedSteering,
    PIDSteering,
    Problem,
)
from jackfield.testing.example import Example, MethodExample, StudyExample
from jackfield.testing.worlds import World

_EARLY = "layers.0.resid_post"


def _fit_loop(method: LQR | PIDSteering, world: World, at: str | None = None) -> FeedbackControl:
    return method.fit(world.model, positive=world.tokens, negative=world.other, at=at)


def _open_loop(method: LQR | PIDSteering, world: World) -> list[Edit]:
    return _fit_loop(method, world).edits(0.0, where="all")


def _base(world: World) -> SteeringVector:
    return MeanDifference().fit(
        world.model, positive=world.tokens, negative=world.other, at=world.site
    )


def _fit_guided(method: GuidedController, world: World, reads: str = _EARLY) -> GuidedSteering:
    return method.fit(
        world.model, directions=_base(world), steer=world.tokens, leave=world.other,
        reads=reads, words=range(2, 40), against=range(60, 100),
    )  # fmt: skip


def _compress(study: CompressedReasoning, world: World) -> Compression:
    problems = [Problem(row, "7") for row in world.tokens[:4]]
    return study.run(world.model, _base(world), problems, neutral=world.other[:3])


def _controller(make: Callable[[], LQR | PIDSteering]) -> MethodExample:
    """The example of a controller with set-points at several layers."""
    return MethodExample(
        make=make,
        fit=_fit_loop,
        identity=_open_loop,
        refused={
            "equal sides": lambda world: make().fit(
                world.model, positive=world.tokens, negative=world.tokens
            ),
            "a gap between the layers": lambda world: make().fit(
                world.model, positive=world.tokens, negative=world.other,
                at=["layers.0.resid_post", "layers.2.resid_post"],
            ),
            "a site with heads": lambda world: _fit_loop(make(), world, "layers.1.z"),
        },
    )  # fmt: skip


EXAMPLES: dict[str, Example] = {
    "lqr": _controller(lambda: LQR(prompts=2)),
    "pid-steering": _controller(PIDSteering),
    "guided-controller": MethodExample(
        make=lambda: GuidedController(hidden=8, steps=5),
        fit=_fit_guided,
        identity=lambda method, world: _fit_guided(method, world).edits(0.0, where="all"),
        refused={
            "a site that is read too late": lambda world: _fit_guided(
                GuidedController(), world, "layers.2.resid_post"
            ),
            "no words": lambda world: GuidedController().fit(
                world.model, directions=_base(world), steer=world.tokens, leave=world.other,
                reads=_EARLY,
            ),
        },
    ),
    "compressed-reasoning": StudyExample(
        make=lambda: CompressedReasoning(kls=(0.05,), max_new_tokens=4),
        run=_compress,
        refused={
            "no problems": lambda world: CompressedReasoning().run(world.model, _base(world), []),
        },
    ),
}  # fmt: skip
