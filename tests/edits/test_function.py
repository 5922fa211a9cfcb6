import math

import torch

from jackfield.edits import Context, Function


def test_it_is_the_function_with_the_place():
    seen = []

    def note(x, context):
        seen.append(context.site)
        return x.sin()

    x = torch.randn(2, 3)
    assert torch.equal(Function(note, at="x").apply(x, Context("x")), x.sin())
    assert seen == ["x"]


def test_a_name_stands_for_the_function_that_can_be_imported():
    made = Function("torch.nn.functional:threshold", at="x")
    x = torch.tensor([-1.0, 2.0])
    assert made.function == "torch.nn.functional:threshold"
    named = Function("tests_no_such:thing", at="x")
    assert named.settings()["function"] == "tests_no_such:thing"
    assert Function(f"{__name__}:halved", at="x").settings()["function"].endswith(":halved")
    assert torch.equal(Function(halved, at="x").apply(x, Context("x")), x / 2)


def halved(x, context):
    return x / 2


def test_what_it_reads_comes_from_the_context():
    other = torch.full((2,), math.pi)
    made = Function(lambda x, context: x + context.read("y"), at="x", reads=["y"])
    place = Context("x", read=lambda name: other if name == "y" else None)
    assert torch.equal(made.apply(torch.zeros(2), place), other)
