"""A segment's derivatives against autograd's own Jacobian and against differences."""

import pytest
import torch

from jackfield import edits as E
from jackfield.core.errors import InputError, SiteError


class Norm64(torch.nn.Module):
    """An RMS norm in the precision of its input; that of transformers is float32 inside."""

    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


@pytest.fixture
def double(tiny64):
    """The tiny Llama in float64 throughout, so that differences can be trusted."""
    for block in tiny64.module.model.layers:
        for name in ("input_layernorm", "post_attention_layernorm"):
            setattr(block, name, Norm64(getattr(block, name).weight))
    tiny64.module.model.norm = Norm64(tiny64.module.model.norm.weight)
    return tiny64


SEGMENTS = [
    ("layers.0.resid_post", "layers.2.resid_post"),
    ("layers.1.resid_pre", "layers.1.mlp_out"),
    ("embed", "layers.1.z[head=1]"),
    ("layers.2.resid_post", "final_norm"),
    ("layers.1.resid_post", "logits"),
    ("layers.1.resid_post", "layers.1.resid_post"),
]


@pytest.mark.parametrize(("start", "stop"), SEGMENTS, ids=str)
class TestDerivatives:
    def test_the_value_is_that_of_a_run(self, start, stop, double, tokens):
        f = double.segment(start, stop, tokens)
        run = double.run(tokens, sites=[start, stop])
        assert torch.equal(f.point, run[start])
        assert torch.allclose(f(f.point), run[stop], atol=1e-12)

    def test_jvp_is_the_difference_along_a_direction(self, start, stop, double, tokens):
        f = double.segment(start, stop, tokens)
        direction = torch.randn_like(f.point)
        value, slope = torch.func.jvp(f, (f.point,), (direction,))
        with torch.no_grad():
            step = 1e-5
            ends = f(f.point + step * direction), f(f.point - step * direction)
            assert torch.allclose(value, f(f.point), atol=1e-12)
        assert torch.allclose(slope, (ends[0] - ends[1]) / (2 * step), atol=1e-6)

    def test_vjp_is_the_other_side_of_jvp(self, start, stop, double, tokens):
        f = double.segment(start, stop, tokens)
        value, pull = torch.func.vjp(f, f.point)
        weight, direction = torch.randn_like(value), torch.randn_like(f.point)
        _, slope = torch.func.jvp(f, (f.point,), (direction,))
        (pulled,) = pull(weight)
        assert torch.allclose((pulled * direction).sum(), (weight * slope).sum(), rtol=1e-9)

    def test_plain_autograd_works_too(self, start, stop, double, tokens):
        f = double.segment(start, stop, tokens)
        x = f.point.requires_grad_()
        weight = torch.randn_like(f(x))
        (got,) = torch.autograd.grad((f(x) * weight).sum(), x)
        _, pull = torch.func.vjp(f, x.detach())
        assert torch.allclose(got, pull(weight)[0], atol=1e-12)


def test_the_jacobian_is_that_of_the_blocks_themselves(double, tokens):
    """Block 1 on one short row, with the model's own rotary tables: no segment in it."""
    short = tokens[:1, :3]
    f = double.segment("layers.1.resid_pre", "layers.1.resid_post", short)
    x = f.point
    positions = double.module.model.rotary_emb(x, torch.arange(3)[None])
    block = double.module.model.layers[1]
    mask = torch.zeros(1, 1, 3, 3, dtype=x.dtype).masked_fill(
        ~torch.ones(3, 3).tril().bool(), -1e30
    )

    def plain(x):
        return block(x, attention_mask=mask, position_embeddings=positions)

    expected = torch.autograd.functional.jacobian(plain, x)
    got = torch.autograd.functional.jacobian(f, x)
    assert torch.allclose(got, expected, atol=1e-10)
    columns = torch.eye(96, dtype=x.dtype).reshape(96, *x.shape)
    by_columns = torch.stack([torch.func.jvp(f, (x,), (c,))[1].flatten() for c in columns], 1)
    assert torch.allclose(by_columns, expected.reshape(96, 96), atol=1e-10)


def test_edits_inside_are_part_of_the_function(double, tokens):
    edits = [E.Scale(3.0, at="layers.2.mlp_out", where=[1]), E.Scale(0.5, at="layers.1.k")]
    f = double.segment("layers.0.resid_post", "layers.2.resid_post", tokens, edits=edits[:1])
    run = double.run(tokens, sites=["layers.0.resid_post", "layers.2.resid_post"], edits=edits[:1])
    assert torch.allclose(f(f.point), run["layers.2.resid_post"], atol=1e-12)
    direction = torch.randn_like(f.point)
    _, slope = torch.func.jvp(f, (f.point,), (direction,))
    plain = double.segment("layers.0.resid_post", "layers.2.resid_post", tokens)
    _, other = torch.func.jvp(plain, (plain.point,), (direction,))
    assert not torch.allclose(slope, other)


def test_edits_before_the_start_are_refused(double, tokens):
    f = double.segment("layers.1.resid_pre", "logits", tokens, edits=[E.ZeroOut(at="layers.0.z")])
    with pytest.raises(SiteError, match="What lies before the start is not computed"):
        f(torch.randn(2, 7, 32, dtype=torch.float64))


def test_parameters_are_left_without_gradients(double, tokens):
    f = double.segment("layers.0.resid_post", "logits", tokens)
    torch.autograd.functional.vjp(f, f.point, torch.ones(2, 7, 101, dtype=torch.float64))
    assert all(parameter.grad is None for parameter in double.module.parameters())


def test_without_grad_there_is_no_graph(double, tokens):
    f = double.segment("layers.0.resid_post", "layers.1.resid_post", tokens)
    with torch.no_grad():
        assert not f(f.point).requires_grad


def test_padding_on_the_left_is_no_part_of_it(talker):
    texts = ["w7 w8 w9 w10", "w11 w12"]
    f = talker.segment("layers.0.resid_post", "logits", talker.inputs(texts, padding="left").call)
    alone = talker.segment("layers.0.resid_post", "logits", "w11 w12")
    assert torch.allclose(f(f.point)[1, 2:], alone(alone.point)[0], atol=1e-5)
    direction = torch.randn(1, 2, 32)
    padded = torch.cat([torch.randn(1, 2, 32), direction], 1)
    both = torch.cat([torch.randn(1, 4, 32), padded])
    _, slope = torch.func.jvp(f, (f.point,), (both,))
    _, expected = torch.func.jvp(alone, (alone.point,), (direction,))
    assert torch.allclose(slope[1, 2:], expected[0], atol=1e-4)


@pytest.mark.parametrize(
    ("start", "stop", "message"),
    [
        (
            "layers.2.resid_post",
            "layers.1.resid_post",
            r"a named site from layers\.2\.resid_post on",
        ),
        ("layers.1.resid_post", "embed", "a named site from"),
        ("layers.1.resid_post", "model.layers.2.mlp:out", "a named site from"),
        ("layers.1.z", "logits", "one of embed, layers"),
        ("layers.*.resid_post", "logits", "expected one site"),
        ("layers.1.resid_post", "layers.*.z", "expected one site"),
        ("layers.1.resid_post", "layers.7.z", "a layer from 0 to 2"),
    ],
)
def test_a_segment_that_cannot_be_is_refused_when_it_is_made(start, stop, message, tiny, tokens):
    with pytest.raises(SiteError, match=message):
        tiny.segment(start, stop, tokens)


def test_a_value_of_another_shape_is_refused(tiny, tokens):
    f = tiny.segment("layers.1.resid_pre", "logits", tokens)
    with pytest.raises(InputError, match=r"\[2, 7, 32\], got \[7, 32\]"):
        f(torch.randn(7, 32))
    assert repr(f) == "Segment of tiny from layers.1.resid_pre to logits"
