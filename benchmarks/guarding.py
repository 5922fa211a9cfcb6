"""Guarding: what a guard costs a generation."""

import math

import torch

import jackfield as jf
from benchmarks.timing import paired
from jackfield.steering.guards import EigenTrack, Guard, LinearFilter

NEW = 24
SITE = "layers.15.resid_post"
PROMPTS = [
    "The history of the harbour begins with",
    "In the spring the farmers of the valley",
    "A good way to learn a language is",
    "The old bridge over the river was",
]


def overhead(rounds: int = 7) -> str:
    """Tokens a second of four prompts, 24 new tokens each, with guards that do not fire.

    The filter watches one site; the spectra are of windows of 24 tokens, at one site and at three.
    """
    model = jf.load("smollm2")
    candidates = {"no guard": lambda: model.generate(PROMPTS, max_new_tokens=NEW)}
    for name, guard in _guards(model).items():
        candidates[name] = lambda guard=guard: guard.generate(model, PROMPTS, max_new_tokens=NEW)
    made = {name: call().tokens.shape[1] for name, call in candidates.items()}
    lines = ["| | tokens/s (median) | share of no guard | 95 % |", "|---|---|---|---|"]
    for timing in paired(candidates, rounds=rounds):
        low, high = timing.interval
        scale = made[timing.name] / made["no guard"]
        rate = len(PROMPTS) * made[timing.name] / timing.median
        lines.append(
            f"| {timing.name} | {rate:.1f} | {scale / timing.ratio:.3f} "
            f"| {scale / high:.3f}–{scale / low:.3f} |"
        )
    return "\n".join(lines)


def _guards(model: jf.Model) -> dict[str, Guard]:
    draw = torch.Generator().manual_seed(0)
    plus, minus = torch.randint(1000, 40_000, (2, 12, 40), generator=draw)
    sides = {"positive": plus, "negative": minus}
    linear = LinearFilter().fit(model, **sides, at=SITE)
    one = EigenTrack(steps=2).run(model, **sides, at=SITE).detector
    three = [f"layers.{layer}.resid_post" for layer in (5, 15, 25)]
    edit = jf.edits.Add(torch.zeros(model.d_model), at=SITE)
    return {
        "a linear filter": Guard(linear, math.inf),
        "a linear filter, steering ready": Guard(linear, math.inf, "steer", [edit]),
        "spectra at one site": Guard(one, math.inf),
        "spectra at three sites": Guard(
            EigenTrack(steps=2).run(model, **sides, at=three).detector, math.inf
        ),
    }
