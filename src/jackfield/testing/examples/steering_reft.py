"""Examples of learned interventions."""

from jackfield.edits import Edit
from jackfield.steering.reft.loreft import LoReFT
from jackfield.steering.reft.reft_r1 import ReFTr1
from jackfield.steering.steering import Steering
from jackfield.testing.example import Example, MethodExample
from jackfield.testing.worlds import World


def _fit(method: LoReFT | ReFTr1, world: World) -> Steering:
    return method.fit(world.model, positive=world.tokens, negative=world.other, at=world.site)


def _unchanged(method: LoReFT | ReFTr1, world: World) -> list[Edit]:
    return _fit(method, world).edits(strength=0.0, where="all")


EXAMPLES: dict[str, Example] = {
    "loreft": MethodExample(
        make=lambda: LoReFT(rank=2, steps=3),
        fit=_fit,
        identity=_unchanged,
        refused={
            "equal sides": lambda world: LoReFT().fit(
                world.model, positive=world.tokens, negative=world.tokens, at=world.site
            ),
            "a rank beyond the width": lambda world: _fit(LoReFT(rank=33), world),
            "a site with heads": lambda world: LoReFT().fit(
                world.model, positive=world.tokens, at="layers.1.z"
            ),
            "positions of a prompt that is not there": lambda world: _fit(
                LoReFT(where=(0, 1, -2, -1)), world
            ),
            "texts of one token": lambda world: LoReFT().fit(
                world.model, positive=world.tokens[:, :1], at=world.site
            ),
        },
    ),
    "reft-r1": MethodExample(
        make=lambda: ReFTr1(steps=3),
        fit=_fit,
        identity=_unchanged,
        refused={
            "equal sides": lambda world: ReFTr1().fit(
                world.model, positive=world.tokens, negative=world.tokens, at=world.site
            ),
            "several sites": lambda world: ReFTr1().fit(
                world.model, positive=world.tokens, at="layers.*.resid_post"
            ),
            "fewer prompts than texts": lambda world: ReFTr1().fit(
                world.model, positive=world.tokens, prompts=world.other[:3], at=world.site
            ),
        },
    ),
}
