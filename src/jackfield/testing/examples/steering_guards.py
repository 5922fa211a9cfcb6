"""Examples of guards."""

from jackfield.steering.guards.eigentrack import EigenTrack, EigenTracked
from jackfield.steering.guards.guard import Guard
from jackfield.steering.guards.guard_trial import GuardTrial, TrialFound
from jackfield.steering.guards.linear_filter import FittedFilter, LinearFilter
from jackfield.testing.example import Example, MethodExample, StudyExample
from jackfield.testing.worlds import World, tiny_world


def _fit(method: LinearFilter, world: World) -> FittedFilter:
    sides = {"positive": world.tokens, "negative": world.other}
    return method.fit(world.model, **sides, at=world.site)


def _track(study: EigenTrack, world: World) -> EigenTracked:
    sides = {"positive": world.tokens, "negative": world.other}
    return study.run(world.model, **sides, at=world.site)


def _try(study: GuardTrial, world: World) -> TrialFound:
    found = _fit(LinearFilter(), tiny_world(world.model.dtype))
    guard = Guard(found, found.threshold)
    return study.run(world.model, guard, positive=world.tokens[:4], negative=world.other[:4])


EXAMPLES: dict[str, Example] = {
    "linear-filter": MethodExample(
        make=LinearFilter,
        fit=_fit,
        identity=lambda method, world: _fit(method, world).edits(0.0, where="all"),
        refused={
            "a site with heads": lambda world: LinearFilter().fit(
                world.model, positive=world.tokens, negative=world.other, at="layers.1.z"
            ),
            "equal sides": lambda world: LinearFilter().fit(
                world.model,
                positive=world.other,
                negative=world.other,
                calibration=world.other,
                at=world.site,
            ),
            "too few texts for alpha": lambda world: _fit(LinearFilter(alpha=0.01), world),
        },
    ),
    "eigentrack": StudyExample(
        make=lambda: EigenTrack(window=6, steps=3),
        run=_track,
        varying=("detector",),
        refused={
            "texts shorter than a window": lambda world: _track(EigenTrack(window=40), world),
        },
    ),
    "guard-trial": StudyExample(make=lambda: GuardTrial(new_tokens=3), run=_try),
}
