"""Examples of steering by features and by preferences."""

from dataclasses import replace
from typing import Any

import torch

from jackfield.dictionaries.sparse_dictionary import SparseDictionary
from jackfield.edits import Edit
from jackfield.steering.features import FeatureSteering, LangFIR, RandomFilteredDifference
from jackfield.steering.preference import BiPO, YaPO
from jackfield.steering.steering import Steering
from jackfield.testing.example import Example, MethodExample
from jackfield.testing.worlds import World

Sided = FeatureSteering | RandomFilteredDifference | BiPO | YaPO | LangFIR


def _dictionary(world: World) -> SparseDictionary:
    """Without an error: latent i is max(x_i, 0), latent d + i is max(−x_i, 0)."""
    eye = torch.eye(world.model.d_model)
    ends, zero = torch.cat([eye, -eye]), torch.zeros(2 * len(eye))
    weights = {
        "encoder": ends, "encoder_bias": zero, "centre": zero[: len(eye)], "decoder": ends,
        "decoder_bias": zero[: len(eye)], "threshold": zero, "density": zero,
    }  # fmt: skip
    return SparseDictionary("made", {}, weights, site=world.site, history=[])


def _fit(method: Sided, world: World) -> Steering:
    dictionary = _dictionary(world)
    if isinstance(method, LangFIR):
        return method.fit(world.model, texts=world.tokens, dictionary=dictionary)
    sides: dict[str, Any] = {"positive": world.tokens, "negative": world.other}
    if isinstance(method, RandomFilteredDifference | BiPO):
        return method.fit(world.model, **sides, at=world.site)
    return method.fit(world.model, **sides, dictionary=dictionary)


def _unchanged(method: Sided, world: World) -> list[Edit]:
    return _fit(method, world).edits(strength=0.0, where="all")


def _equal_sides(world: World) -> World:
    return replace(world, other=world.tokens)


EXAMPLES: dict[str, Example] = {
    "feature-steering": MethodExample(
        make=lambda: FeatureSteering(features=6, act="set"),
        fit=_fit,
        identity=_unchanged,
        refused={
            "equal sides": lambda world: _fit(FeatureSteering(), _equal_sides(world)),
            "a latent that is not there": lambda world: FeatureSteering().fit(
                world.model,
                positive=world.tokens,
                negative=world.other,
                dictionary=_dictionary(world),
                latents=[64],
            ),
        },
    ),
    "langfir": MethodExample(
        make=lambda: LangFIR(fires=0.5, random_fires=0.6, random=16, length=8),
        fit=_fit,
        identity=_unchanged,
        refused={
            "no latent that passes": lambda world: _fit(
                LangFIR(fires=1.0, random_fires=0.01), world
            ),
        },
    ),
    "random-filtered-difference": MethodExample(
        make=lambda: RandomFilteredDifference(components=4, random=16, length=8),
        fit=_fit,
        identity=_unchanged,
        refused={
            "equal sides": lambda world: _fit(RandomFilteredDifference(), _equal_sides(world)),
            "as many components as units": lambda world: _fit(
                RandomFilteredDifference(components=32), world
            ),
        },
    ),
    "bipo": MethodExample(
        make=lambda: BiPO(epochs=1, batch=8),
        fit=_fit,
        identity=_unchanged,
        refused={
            "equal answers": lambda world: _fit(BiPO(), _equal_sides(world)),
            "no pairs": lambda world: _fit(BiPO(), replace(world, other=world.other[:3])),
            "two pairs, none to hold out": lambda world: _fit(
                BiPO(), replace(world, tokens=world.tokens[:2], other=world.other[:2])
            ),
        },
    ),
    "yapo": MethodExample(
        make=lambda: YaPO(epochs=1, batch=8),
        fit=_fit,
        identity=_unchanged,
        refused={
            "equal answers": lambda world: _fit(YaPO(), _equal_sides(world)),
        },
    ),
}
