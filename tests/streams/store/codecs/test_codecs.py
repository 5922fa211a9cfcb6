"""All codecs: what `check_codec` asks of them, on all kinds of rows they take; their names."""

import pytest
import torch

from jackfield.core.errors import ConfigError
from jackfield.streams.store import codecs
from jackfield.streams.store.codecs import BytePlanes, Kind, TopKRows
from jackfield.testing import check_codec

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
OTHERS = (torch.float64, torch.int64, torch.int16, torch.uint8, torch.bool)
LOSSLESS = ("none", "byteplanes", BytePlanes(block=1), BytePlanes(block=7))
LOSSY = ("int8", "fp8", TopKRows(k=1), TopKRows(k=6))


def rows(dtype, shape=(24,), count=20):
    generator = torch.Generator().manual_seed(0)
    return (5 * torch.randn(count, *shape, generator=generator)).abs().to(dtype)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape", [(24,), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("codec", LOSSLESS + LOSSY, ids=str)
def test_floats(codec, shape, dtype):
    check_codec(codec, rows(dtype, shape))


@pytest.mark.parametrize("dtype", OTHERS, ids=str)
@pytest.mark.parametrize("codec", LOSSLESS, ids=str)
def test_other_dtypes(codec, dtype):
    check_codec(codec, rows(dtype))


@pytest.mark.parametrize("codec", [*LOSSLESS, "int8", "fp8", TopKRows(k=1)], ids=str)
def test_rows_that_are_one_number_and_a_single_row(codec):
    check_codec(codec, rows(torch.float32, ()))
    check_codec(codec, rows(torch.bfloat16, (3,), count=1))


@pytest.mark.parametrize("dtype", OTHERS, ids=str)
@pytest.mark.parametrize("codec", ["int8", "fp8", TopKRows(k=1)], ids=str)
def test_lossy_codecs_refuse_what_float32_does_not_hold(codec, dtype):
    with pytest.raises(ConfigError, match=r"float16, got \[24\] in .*byteplanes take every dtype"):
        codecs.find(codec).check(Kind((24,), dtype))


@pytest.mark.parametrize("codec", ["int8", "fp8", "top-k"])
def test_lossy_codecs_refuse_rows_of_nothing(codec):
    with pytest.raises(ConfigError, match="at least one number"):
        codecs.find(codec).check(Kind((3, 0), torch.float32))


def test_names_are_those_in_files():
    for name in ("none", "byteplanes", "int8", "fp8", "top-k"):
        assert codecs.told(codecs.find(name))["name"] == name
    assert codecs.told(TopKRows(k=5)) == {"name": "top-k", "k": 5}
    assert codecs.read({"name": "byteplanes", "block": 9}) == BytePlanes(block=9)


def test_wrong_names_and_settings_are_told():
    with pytest.raises(ConfigError, match="Did you mean byteplanes"):
        codecs.find("byteplane")
    with pytest.raises(ConfigError, match="expected 'k' to be int >= 1"):
        codecs.read({"name": "top-k", "k": 0})
    with pytest.raises(ConfigError, match="no setting 'blocks'"):
        codecs.read({"name": "byteplanes", "blocks": 3})
