import struct
import zlib
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jackfield.core.errors import ConfigError
from jackfield.streams.store.codecs import BytePlanes, Kind


def back(rows, codec=None):
    codec = codec or BytePlanes()
    out = torch.empty_like(rows)
    codec.unpack(codec.pack(rows), out)
    return out


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_every_number_of_16_bits_comes_back(dtype):
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int16).reshape(64, 1024)
    assert torch.equal(back(bits.view(dtype)).view(torch.int16), bits)


@settings(max_examples=60, deadline=None)
@given(
    st.binary(min_size=48, max_size=48 * 5),
    st.sampled_from([torch.float64, torch.float32, torch.int64, torch.int32, torch.uint8]),
)
def test_any_bits_come_back(data, dtype):
    """Whatever the numbers mean: NaN with a payload, zeros with a sign, subnormal ones."""
    whole = data[: len(data) // 48 * 48]
    bits = torch.frombuffer(bytearray(whole), dtype=torch.uint8).reshape(-1, 48)
    assert torch.equal(back(bits.view(dtype)).view(torch.uint8), bits)


def test_the_layout_is_as_told():
    """Read by hand: a checksum, lengths, and zstd frames of the planes, highest byte first."""
    rows = torch.randn(5, 30).to(torch.float32)
    data = BytePlanes().pack(rows)
    checksum, *lengths = struct.unpack("<5I", data[:20])
    assert checksum == zlib.crc32(data[4:])
    ends = np.cumsum([20, *lengths])
    assert ends[-1] == len(data)
    frames = [data[start:stop] for start, stop in pairwise(ends)]
    planes = [pa.decompress(f, rows.numel(), codec="zstd", asbytes=True) for f in frames]
    numbers = np.stack([np.frombuffer(plane, np.uint8) for plane in reversed(planes)], axis=1)
    assert np.array_equal(numbers.copy().view("<f4").reshape(5, 30), rows.numpy())


def test_activations_shrink_and_noise_hardly_grows():
    generator = torch.Generator().manual_seed(0)
    gauss = torch.randn(64, 512, generator=generator) * torch.logspace(-1, 1, 512)
    for dtype, most in ((torch.bfloat16, 0.76), (torch.float16, 0.93), (torch.float32, 0.89)):
        assert len(BytePlanes().pack(gauss.to(dtype))) < most * gauss.numel() * dtype.itemsize
    noise = torch.randint(0, 256, (64, 512), dtype=torch.uint8, generator=generator)
    assert len(BytePlanes().pack(noise)) < noise.numel() + 40


def test_every_damaged_byte_is_noticed():
    rows = torch.randn(4, 16).bfloat16()
    data, out = BytePlanes().pack(rows), torch.empty_like(rows)
    for at in range(len(data)):
        for damaged in (data[:at], data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]):
            with pytest.raises(ValueError, match="checksum"):
                BytePlanes().unpack(damaged, out)


@pytest.mark.parametrize("shape", [(3, 16), (5, 16), (4, 15)], ids=str)
def test_a_sound_block_of_other_rows_is_refused(shape):
    data = BytePlanes().pack(torch.randn(4, 16).bfloat16())
    with pytest.raises(ValueError, match="does not fit its rows"):
        BytePlanes().unpack(data, torch.empty(shape, dtype=torch.bfloat16))


def test_a_block_has_less_than_2_gib():
    kind = Kind((1 << 20,), torch.float32)
    BytePlanes(block=511).check(kind)
    with pytest.raises(ConfigError, match=r"got 2,147,483,648\. Choose a block of fewer than 512"):
        BytePlanes(block=512).check(kind)
