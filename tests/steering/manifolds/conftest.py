"""A planted world: tokens on a circle, a readout of the angle, and nothing between the two."""

from math import pi

import pytest
import torch

from jackfield.model.load import wrap
from jackfield.model.model import Model
from jackfield.steering.manifolds import OrderedTask
from jackfield.testing import tiny_llama

CLASSES = 7


@pytest.fixture(scope="session")
def circle() -> Model:
    """Token 2 + c lies at angle 2πc/7; its logit is cos of the angle between, times the radius.

    A third coordinate is constant, so that the final norm keeps the radius, and feeds a token of
    its own, which wins where the radius is small: in the middle of the circle.
    """
    model = tiny_llama(torch.float32, layers=2)
    module = model.module
    angles = 2 * pi * torch.arange(CLASSES) / CLASSES
    ring = torch.stack([angles.cos(), angles.sin()], dim=1)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            norm = "norm" in name
            weight.fill_(1.0 if norm else 0.0)
        embed, head = module.get_input_embeddings().weight, module.get_output_embeddings().weight
        embed[:, 2], embed[2 : 2 + CLASSES, :2] = 1.0, ring
        head[2 : 2 + CLASSES, :2] = 6 * ring
        head[90, 2] = 4.0
        head[:2, 2] = head[9:90, 2] = head[91:, 2] = -4.0
    return wrap(module, name="circle")


@pytest.fixture
def task() -> OrderedTask:
    """Two prompts a class, the last token of each being the class's own."""
    answers = tuple(range(CLASSES)) * 2
    prompts = torch.tensor([[50 + i, 60 + i, 2 + answer] for i, answer in enumerate(answers)])
    return OrderedTask("circle", tuple(range(2, 2 + CLASSES)), True, prompts, answers)
