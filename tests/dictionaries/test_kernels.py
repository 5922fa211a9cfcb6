"""The compiled kernels against PyTorch and against dense products, and a package without them."""

import logging
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jackfield.dictionaries import sparse
from jackfield.dictionaries.kernels import build, cpu, home, plain

DTYPES = [torch.float32, torch.float64, torch.bfloat16]
LATENTS = 40


@pytest.fixture(params=["v3", "plain"])
def level(request, compiled, monkeypatch):
    """A level of the CPU whose library the kernels use in the test."""
    if request.param not in compiled:
        pytest.skip("not a level of this CPU")
    monkeypatch.setattr(cpu, "library", lambda: compiled[request.param])
    return request.param


@pytest.fixture
def not_compiled(monkeypatch):
    cpu.library.cache_clear()
    monkeypatch.setattr(build, "LEVELS", {})
    yield
    cpu.library.cache_clear()


def code(rows, k, d, dtype=torch.float32, n=LATENTS):
    """values, latents (some chosen twice in a row), W and x."""
    return (
        torch.randn(rows, k, dtype=torch.float64).to(dtype),
        torch.randint(n, (rows, k)),
        torch.randn(n, d, dtype=torch.float64).to(dtype),
        torch.randn(rows, d, dtype=torch.float64).to(dtype),
    )


def products(kernels, values, latents, W, x):
    return {
        "combine": kernels.combine(values, latents, W),
        "dots": kernels.dots(x, latents, W),
        "scatter": kernels.scatter(values, latents, x, len(W)),
    }


def exact(values, latents, W, x):
    """The products from dense codes, in float64."""
    values, W, x = values.double(), W.double(), x.double()
    z = torch.zeros(len(x), len(W), dtype=torch.float64).scatter_add(1, latents, values)
    return {"combine": z @ W, "dots": (x @ W.T).gather(1, latents), "scatter": z.T @ x}


def bounds(values, latents, W, x):
    """What rounding can make of each product: terms · ε of the products of absolute values."""
    terms = max(x.shape[1], latents.numel()) + 2
    sums = exact(values.abs(), latents, W.abs(), x.abs())
    rounding = torch.finfo(torch.float64 if W.dtype == torch.float64 else torch.float32).eps
    stored = torch.finfo(W.dtype).eps
    return {name: (terms * rounding + stored) * total for name, total in sums.items()}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(0, 9), st.integers(0, 13), st.integers(1, 150), st.integers(0, 2**31))
def test_products_equal_dense_ones_to_rounding(level, dtype, rows, k, d, seed):
    torch.manual_seed(seed)
    given_ = code(rows, k, d, dtype)
    truth, allowed = exact(*given_), bounds(*given_)
    for kernels in (cpu, plain):
        for name, product in products(kernels, *given_).items():
            assert product.dtype == dtype
            wrong = (product.double() - truth[name]).abs() > allowed[name]
            assert not wrong.any(), (kernels.__name__, name)


@pytest.mark.parametrize("d", [1, 7, 64, 576])
def test_sums_of_rows_are_those_of_pytorch_to_the_bit(level, d):
    """In float32: four values at a time and fetched ahead, but in the order of the codes."""
    if level != "v3":
        pytest.skip("without fused multiply-adds the rounding is another")
    values, latents, W, x = code(60, 32, d)
    assert torch.equal(cpu.combine(values, latents, W), plain.combine(values, latents, W))
    mine, other = cpu.scatter(values, latents, x, 300), plain.scatter(values, latents, x, 300)
    assert torch.equal(mine, other)


def test_bfloat16_is_summed_in_float32_and_rounded_as_pytorch_does(level):
    _, latents, W, _ = code(200, 2, 50, torch.bfloat16)
    W[3], W[4] = torch.inf, torch.nan
    found = cpu.combine(torch.ones(200, 2).bfloat16(), latents, W)
    expected = W.float()[latents].sum(dim=1).bfloat16()
    assert torch.equal(found.nan_to_num(7.0), expected.nan_to_num(7.0))
    assert found.isnan().any()
    assert found.isinf().any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_number_of_threads_changes_no_bit(level, dtype):
    given_ = code(400, 16, 100, dtype)
    p = torch.randn(400, 300).to(dtype)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            found.append([*products(cpu, *given_).values(), *cpu.top_k(p, 9)])
    finally:
        torch.set_num_threads(before)
    for others in found[1:]:
        assert all(map(torch.equal, found[0], others))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(0, 5), st.integers(1, 700), st.data(), st.integers(0, 2**31))
def test_top_k_keeps_the_largest(level, dtype, rows, n, data, seed):
    """Of equals, which a rounded p has many of, the first; in the order of the latents."""
    k = data.draw(st.integers(0, n))
    torch.manual_seed(seed)
    p = (torch.randn(rows, n) * 8 + 3).round().to(dtype)
    values, latents = cpu.top_k(p, k)
    first = p.sort(dim=1, descending=True, stable=True).indices[:, :k].sort(dim=1).values
    assert torch.equal(latents, first)
    assert torch.equal(values, p.gather(1, first).relu())


@pytest.mark.parametrize("kernels", [cpu, plain], ids=["cpu", "plain"])
def test_top_k_knows_infinities_and_what_is_not_a_number(level, kernels):
    p = torch.randn(4, 500)
    p[0, 450:] = -torch.inf
    p[0, :450] = -torch.inf
    p[1, [3, 499]] = torch.inf
    p[2, [5, 130]] = torch.nan
    p[3] = torch.nan
    values, latents = kernels.top_k(p, 4)
    assert (values[0] == 0).all()
    assert latents[0].unique().numel() == 4
    assert {3, 499} < set(latents[1].tolist())
    assert {5, 130} < set(latents[2].tolist())
    assert values[2].isnan().sum() == 2
    assert values[3].isnan().all()


def test_kernels_take_views_that_are_not_contiguous(level):
    values, latents, W, x = code(6, 5, 9)
    slanted = [each.T.contiguous().T for each in (values, latents, W, x)]
    straight = products(cpu, values, latents, W, x)
    for name, product in products(cpu, *slanted).items():
        assert torch.equal(product, straight[name]), name
    one = torch.tensor(2.0).expand(6, 9)
    assert torch.equal(cpu.dots(one, latents, W), cpu.dots(one.clone(), latents, W))


def test_home_is_the_kernel_only_for_what_it_takes(level):
    x = torch.ones(2, 3)
    assert home(x, x.clone()) is cpu
    assert home(x.half()) is plain
    assert home(x, x.double()) is plain
    assert home(x.to("meta")) is plain


def test_without_a_library_pytorch_does_the_work_and_says_so_once(not_compiled, caplog):
    values, latents, W, x = code(6, 5, 9)
    with caplog.at_level(logging.DEBUG, logger="jackfield"):
        assert home(values, W) is plain
        torch.testing.assert_close(
            sparse.combine(values, latents, W).double(), exact(values, latents, W, x)["combine"],
            check_dtype=False, atol=1e-5, rtol=1e-5,
        )  # fmt: skip
    assert [record.levelname for record in caplog.records] == ["DEBUG"]


@pytest.mark.parametrize("command", ["no-such-compiler", "false"])
def test_no_compiler_or_one_that_fails_is_no_failure(tmp_path, monkeypatch, command):
    monkeypatch.setenv("CXX", command)
    assert build.build(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_no_compiler_on_the_path_is_no_failure(tmp_path, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert build.build(tmp_path) == []


def test_a_library_of_another_source_is_removed_and_never_loaded(tmp_path, monkeypatch):
    changed = tmp_path / "sparse.cpp"
    changed.write_bytes(build.SOURCE.read_bytes() + b"\n")
    old = build.library("plain", tmp_path)
    old.touch()
    monkeypatch.setattr(build, "SOURCE", changed)
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert build.library("plain", tmp_path) != old
    build.build(tmp_path)
    assert not old.exists()


def test_a_library_that_cannot_be_loaded_is_as_none(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "LEVELS", {"plain": []})
    broken = tmp_path / "broken.kernel"
    broken.write_bytes(b"not a library")
    monkeypatch.setattr(build, "library", lambda level: broken)
    cpu.library.cache_clear()
    try:
        assert cpu.library() is None
    finally:
        cpu.library.cache_clear()


TRITON = """
import torch
from jackfield.dictionaries.kernels import cuda, plain

torch.manual_seed(0)
for rows, k, d in ((5, 3, 70), (4, 1, 600), (3, 0, 8), (0, 2, 8)):
    for dtype in (torch.float32, torch.bfloat16):
        values, x, W = (torch.randn(*shape).to(dtype) for shape in ((rows, k), (rows, d), (9, d)))
        latents = torch.randint(9, (rows, k))
        wide = [each.float() for each in (values, x, W)]
        found = cuda.combine(values, latents, W), plain.combine(wide[0], latents, wide[2])
        found += cuda.dots(x, latents, W), plain.dots(wide[1], latents, wide[2])
        found += cuda.scatter(values, latents, x, 9), plain.scatter(wide[0], latents, wide[1], 9)
        near = 1e-2 if dtype == torch.bfloat16 else 1e-5
        for mine, other in zip(found[::2], found[1::2], strict=True):
            assert mine.dtype == dtype
            torch.testing.assert_close(mine.float(), other, atol=1e-4, rtol=near)
assert cuda._works(torch.device("cpu"))
"""


@pytest.mark.skipif(not find_spec("triton"), reason="Triton is not installed")
def test_triton_kernels_give_what_pytorch_gives():
    """By Triton's interpreter, which needs no GPU; it must be chosen before Triton is imported."""
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", TRITON], env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_the_kernels_give_what_the_cpu_gives():
    given_ = code(200, 16, 600)
    on_gpu = [each.cuda() for each in given_]
    for name, product in products(home(*on_gpu[2:]), *on_gpu).items():
        torch.testing.assert_close(product.cpu(), products(plain, *given_)[name])
