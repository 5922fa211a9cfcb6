"""LowPrecision: the forward bit-equal, the gradient's error bounded by that of the saved values."""

import gc

import pytest
import torch
from torch import nn

import jackfield as jf
from jackfield.core.config import from_json, to_json
from jackfield.core.errors import ConfigError
from jackfield.memory import LowPrecision, SavedBytes
from jackfield.memory.low_precision import _packed
from jackfield.model.saving import SavingPolicy

UNIT = {"float32": 2**-24, "bfloat16": 2**-8, "float16": 2**-11}
DTYPES = [*UNIT, "int8"]


def policy(dtype, min_elements=1):
    return LowPrecision(dtype=dtype, min_elements=min_elements)


def round_trip(x, dtype):
    return policy(dtype).unpack(policy(dtype).pack(x))


def mlp(width=32):
    torch.manual_seed(0)
    layers = [
        nn.Linear(16, width),
        nn.GELU(),
        nn.Linear(width, width),
        nn.Tanh(),
        nn.Linear(width, 1),
    ]
    return nn.Sequential(*layers)


def gradients(model, call, given):
    """The loss and the gradients of all parameters, one after the other, under a policy."""
    model.module.zero_grad()
    with model.saving(given):
        loss = call(model.module)
    loss.backward()
    flat = torch.cat([p.grad.flatten() for p in model.module.parameters()])
    return loss.detach(), flat


def cosine(a, b):
    """In float64, piece by piece: there are 135 million of them."""
    pieces = zip(a.split(2**22), b.split(2**22), strict=True)
    sums = [
        torch.stack([x @ y, x @ x, y @ y]) for x, y in ((x.double(), y.double()) for x, y in pieces)
    ]
    both, first, second = torch.stack(sums).sum(dim=0).tolist()
    return both / (first * second) ** 0.5


def relative(a, b):
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("dtype", UNIT)
def test_a_saved_value_is_off_by_at_most_the_unit_roundoff(dtype):
    """d(x²)/dx is 2x, of which autograd saves x: the gradient shows what was kept."""
    x = torch.randn(8, 33, dtype=torch.float64).sign() * torch.logspace(-3, 4, 33).double()
    x = (x * 1.2345678901).requires_grad_()
    with jf.wrap(nn.Identity()).saving(policy(dtype)):
        y = x**2
    (got,) = torch.autograd.grad(y.sum(), x)
    off = ((got - 2 * x) / (2 * x)).abs().max().item()
    assert 0 < off <= UNIT[dtype]


def test_int8_is_off_by_at_most_half_a_step_of_its_row():
    x = torch.randn(6, 40, dtype=torch.float64) * torch.logspace(-6, 6, 6).double()[:, None]
    step = x.abs().amax(dim=-1, keepdim=True) / 127
    off = (round_trip(x, "int8") - x).abs() / step
    assert 0.3 < float(off.max()) <= 0.5 + 1e-4  # the step itself is kept in float32
    one_step_for_all = x.abs().max() / 254
    assert float((round_trip(x, "int8") - x)[:3].abs().max()) < 1e-3 * one_step_for_all


@pytest.mark.parametrize("dtype", DTYPES)
def test_shape_dtype_strides_and_values_without_error_come_back(dtype):
    exact = torch.tensor([[127.0, -64.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]]).repeat(1, 8)
    for x in (exact, exact.double(), exact.T.contiguous().T, exact.bfloat16(), exact[:0]):
        back = round_trip(x, dtype)
        assert torch.equal(back, x)
        assert (back.dtype, back.shape) == (x.dtype, x.shape)
        assert back.stride() == x.stride()


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_would_not_shrink_is_kept_as_it_is(dtype):
    narrow = torch.randn(5, 1) if dtype in ("float32", "int8") else torch.randn(5, 1).bfloat16()
    mask = torch.zeros(1, 9).expand(8, 9)  # packing would write its 72 elements out
    for x in (torch.arange(50), torch.ones(50).bool(), narrow, narrow[0, 0], mask):
        assert policy(dtype).pack(x) is x
    small = torch.randn(10, 10, dtype=torch.float64)
    assert LowPrecision(dtype=dtype, min_elements=101).pack(small) is small
    assert LowPrecision(dtype=dtype, min_elements=100).pack(small) is not small


def test_values_past_the_range_stay_finite_and_infinite_ones_infinite():
    x = torch.tensor([[1e5, -3.4e38, -torch.inf, 1.0]])
    half = round_trip(x, "float16")
    assert half.tolist() == [[65504.0, -65504.0, -torch.inf, 1.0]]
    brain = round_trip(x, "bfloat16")
    assert brain.isinf().tolist() == x.isinf().tolist()
    assert policy("int8").pack(x.repeat(1, 4)).isinf().any()  # no grid holds it: kept as it is
    assert round_trip(torch.tensor([[torch.nan, 1.0] * 8]), "int8").isnan().sum() == 8


@pytest.mark.parametrize("dtype", DTYPES)
def test_forward_is_bit_equal_and_gradients_near(tiny64, tokens, dtype):
    def call(module):
        return module(input_ids=tokens, labels=tokens).loss

    plain = call(tiny64.module)
    plain.backward()
    expected = torch.cat([p.grad.flatten() for p in tiny64.module.parameters()])
    loss, got = gradients(tiny64, call, policy(dtype))
    assert torch.equal(loss, plain)
    assert not torch.equal(got, expected)
    assert cosine(got, expected) > 0.999


def test_the_error_of_the_gradient_shrinks_with_precision():
    """Against a planted truth, an MLP in float64; without a policy the gradients are bit-equal."""
    model, x = jf.wrap(mlp().double()), torch.randn(64, 16, dtype=torch.float64)

    def call(module):
        return module(x).square().mean()

    _, expected = gradients(model, call, SavedBytes())
    call(model.module).backward()  # on top of those in .grad: twice as much
    again = torch.cat([p.grad.flatten() for p in model.module.parameters()]) / 2
    assert torch.equal(again, expected)
    off = {d: relative(gradients(model, call, policy(d))[1], expected) for d in DTYPES}
    assert 0 < off["float32"] < off["float16"] / 50 < off["bfloat16"] / 100
    assert all(off[dtype] < 4 * UNIT[dtype] for dtype in UNIT)
    assert off["bfloat16"] < off["int8"] < 0.02


def test_int8_of_a_bad_grid_would_be_seen():
    """Negative control: with one step for a whole batch of unlike rows the gradients go astray."""

    class OneStep(SavingPolicy):
        def pack(self, x):
            return x if x.numel() < 64 else (x / (x.abs().max() / 127)).round(), x.abs().max() / 127

        def unpack(self, kept):
            return kept[0] * kept[1] if isinstance(kept, tuple) else kept

    module = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 1)).double()
    model = jf.wrap(module)
    x = torch.randn(64, 16, dtype=torch.float64) * torch.logspace(-3, 2, 64).double()[:, None]
    weights = torch.logspace(3, -2, 64).double()[:, None]  # rows count alike in the loss

    def call(module):
        return (module(x) * weights).tanh().sum()

    _, expected = gradients(model, call, SavedBytes())
    good = relative(gradients(model, call, policy("int8"))[1], expected)
    bad = relative(gradients(model, call, OneStep())[1], expected)
    assert good < 0.03
    assert bad > 3 * good


def test_parameters_are_never_packed():
    seen = []

    class Spy(SavingPolicy):
        def pack(self, x):
            seen.append(x.data_ptr())
            return x

        def unpack(self, kept):
            return kept

    model = jf.wrap(mlp())
    with model.saving(Spy()):
        model.module(torch.randn(4, 16, requires_grad=True)).sum().backward()
    assert len(seen) >= 4
    assert not {p.data_ptr() for p in model.module.parameters()} & set(seen)


def test_a_tensor_that_several_operations_save_is_packed_once():
    x = torch.randn(20, 20)
    given = policy("bfloat16")
    first, second = given.pack(x), given.pack(x.detach())
    assert first is second
    assert policy("float16").pack(x) is not first
    assert given.pack(x[1:]) is not first
    x.add_(1)  # what autograd saves now is another value
    third = given.pack(x)
    assert third is not first
    assert torch.allclose(given.unpack(third) - given.unpack(first), torch.ones(1), atol=0.05)


def test_nothing_stays_when_the_graph_is_gone():
    gc.collect()
    before = len(_packed)
    model = jf.wrap(mlp())
    with model.saving(policy("int8")):
        loss = model.module(torch.randn(64, 16)).sum()
    assert len(_packed) > before
    loss.backward()
    del loss
    gc.collect()
    assert len(_packed) == before


def test_a_storage_at_the_address_of_one_that_is_gone_is_another():
    """Packed tensors outlive their storages; memory that is used again must not find them."""
    given, kept, truth = policy("float32"), [], []
    for i in range(200):
        x = torch.full((50,), float(i), dtype=torch.float64)
        kept.append(given.pack(x))
        truth.append(float(i))
        del x
    assert [given.unpack(each)[0].item() for each in kept] == truth


def test_settings():
    assert from_json(LowPrecision, to_json(policy("int8"))) == policy("int8")
    with pytest.raises(ConfigError, match="'dtype'"):
        LowPrecision(dtype="int4")
    with pytest.raises(ConfigError, match="min_elements"):
        LowPrecision(min_elements=0)


@pytest.mark.slow
def test_on_a_real_model(smollm2, capsys):
    """Saved bytes and gradients of SmolLM2-135M on 16 tokens; the figures are printed."""
    call = smollm2.tokenize(
        "The capital of France is Paris, and the capital of Italy is", labels=True
    )

    def loss(module):
        return module(**call).loss

    plain, expected = gradients(smollm2, loss, meter := SavedBytes())
    assert meter.bytes == meter.unpacked_bytes
    for dtype, share, near in (("bfloat16", 0.56, 0.999), ("int8", 0.33, 0.98)):
        meter = SavedBytes(LowPrecision(dtype=dtype))
        got, flat = gradients(smollm2, loss, meter)
        alike = cosine(flat, expected)
        with capsys.disabled():
            kept, whole = meter.bytes / 2**20, meter.unpacked_bytes / 2**20
            print(f"\n{dtype}: {whole:.2f} -> {kept:.2f} MiB saved, cosine {alike:.6f}")
        assert torch.equal(got, plain)
        assert alike > near
        assert meter.bytes < share * meter.unpacked_bytes
    smollm2.module.zero_grad()
