"""SavedBytes: counted by hand on small nets; each storage once, parameters left out."""

import torch
from torch import nn

import jackfield as jf
from jackfield.memory import LowPrecision, SavedBytes
from jackfield.model.saving import SavingPolicy


def count(module, call, policy=None):
    with jf.wrap(module).saving(SavedBytes(policy)) as meter:
        out = call()
    del out
    return meter


def test_an_mlp_saves_what_its_layers_need():
    """Linear saves its input, tanh its output, which is the next layer's input: one storage."""
    module = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
    x = torch.randn(10, 8)
    meter = count(module, lambda: module(x))
    assert meter.bytes == meter.unpacked_bytes == 4 * (10 * 8 + 10 * 16)


def test_frozen_weights_need_no_input():
    module = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
    x = torch.randn(10, 8)
    module[0].requires_grad_(False)
    module[2].requires_grad_(False)
    assert count(module, lambda: module(x)).bytes == 0
    module[2].requires_grad_(True)
    assert count(module, lambda: module(x)).bytes == 4 * 10 * 16


def test_parameters_do_not_count_and_views_count_their_storage():
    module = nn.Linear(8, 16)
    x = torch.randn(10, 8, requires_grad=True)
    assert count(module, lambda: module(x)).bytes == 4 * 80  # not the weight, which is saved too
    whole = torch.randn(100, 8)
    assert count(module, lambda: module(whole[:10])).bytes == 4 * 800


def test_a_storage_counts_once():
    heads = nn.ModuleList(nn.Linear(8, 4) for _ in range(3))
    x = torch.randn(10, 8)
    assert count(heads, lambda: sum(head(x) for head in heads)).bytes == 4 * 80
    apart = [x.clone() for _ in heads]
    calls = zip(heads, apart, strict=True)
    assert count(heads, lambda: sum(head(each) for head, each in calls)).bytes == 3 * 4 * 80


def test_storages_that_come_and_go_at_one_address_count_each():
    module = nn.Linear(8, 4)
    with jf.wrap(module).saving(SavedBytes()) as meter:
        for _ in range(20):
            module(torch.randn(10, 8))  # the graph is dropped at once
    assert meter.bytes == 20 * 4 * 80


def test_a_policy_is_measured_after_packing():
    module = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 4))
    x = torch.randn(32, 64)
    whole = 2 * 4 * 32 * 64
    meter = count(module, lambda: module(x), LowPrecision(dtype="bfloat16"))
    assert (meter.bytes, meter.unpacked_bytes) == (whole // 2, whole)
    meter = count(module, lambda: module(x), LowPrecision(dtype="int8"))
    assert (meter.bytes, meter.unpacked_bytes) == (whole // 4 + 2 * 4 * 32, whole)
    meter = count(module, lambda: module(x), LowPrecision(min_elements=32 * 64 + 1))
    assert (meter.bytes, meter.unpacked_bytes) == (whole, whole)


def test_what_several_layers_read_is_packed_once():
    heads = nn.ModuleList(nn.Linear(64, 4) for _ in range(3))
    x = torch.randn(32, 64)
    meter = count(heads, lambda: sum(head(x) for head in heads), LowPrecision(dtype="bfloat16"))
    assert (meter.bytes, meter.unpacked_bytes) == (2 * 32 * 64, 4 * 32 * 64)


class Nested(SavingPolicy):
    """Keeps a tensor in a list in a dict, with a number."""

    def pack(self, x):
        return {"parts": [x.half(), 1.0], "shape": tuple(x.shape)}

    def unpack(self, kept):
        return kept["parts"][0].float()


def test_tensors_are_found_inside_what_a_policy_keeps():
    module = nn.Linear(8, 16)
    x = torch.randn(10, 8)
    assert count(module, lambda: module(x), Nested()).bytes == 2 * 80


def test_the_meter_changes_no_gradient_and_keeps_nothing_alive():
    module = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    x = torch.randn(10, 8)
    module(x).sum().backward()
    expected = [p.grad.clone() for p in module.parameters()]
    module.zero_grad()
    with jf.wrap(module).saving(SavedBytes(LowPrecision(min_elements=10**9))) as meter:
        loss = module(x).sum()
    loss.backward()
    assert all(torch.equal(p.grad, e) for p, e in zip(module.parameters(), expected, strict=True))
    del loss
    alive = [ref for ref in meter._saved if not ref.expired()]
    assert len(alive) == 1  # x, which this test holds
