"""Transcoder: its loss in plain autograd, a planted map that it finds, and its fold."""

import pytest
import torch

from jackfield.dictionaries import Transcoder
from jackfield.dictionaries.sparse_method import learner_of
from jackfield.dictionaries.training_units import TrainingUnits
from jackfield.streams import Stream
from jackfield.testing import planted_dictionary

QUIET = {"progress": False}


@pytest.fixture(scope="module")
def truth():
    """Rows of 48 directions, and 48 other directions that each stands for at the second site."""
    found = planted_dictionary(rows=8000, d=32, latents=48, active=3, noise=0.02)
    draw = torch.Generator().manual_seed(11)
    steps = torch.nn.functional.normalize(torch.randn(48, 20, generator=draw))
    return found, steps, 0.2 * found.codes @ steps + 3.0


def stream_of(truth):
    found, _, y = truth
    return Stream.from_tensor({"in": found.x + 5.0, "out": y})


def method(**more):
    return Transcoder(
        reads="in", writes="out", latents=64, k=3, rows=100_000, batch=512, dead_after=4000, **more
    )


def test_planted_steps_are_found_from_input_to_output(truth):
    found, steps, _ = truth
    one = method().fit(stream_of(truth), **QUIET)
    cosines = steps @ one.directions.T
    best = cosines.argmax(dim=1)
    assert float(cosines.amax(dim=1).mean()) > 0.95
    codes = one.encode(found.x + 5.0)[:, best]
    agree = torch.stack([found.codes.flatten(), codes.flatten()]).corrcoef()[0, 1]
    assert float(agree) > 0.9, "each step is taken when its own direction is there"
    assert one.measure(stream_of(truth)).fvu < 0.1


def test_in_unrelated_rows_there_is_nothing_to_find(truth):
    found, _, y = truth
    shuffled = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(3))]
    stream = Stream.from_tensor({"in": found.x, "out": shuffled})
    one = method().fit(stream, **QUIET)
    fresh = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(4))]
    assert one.measure(Stream.from_tensor({"in": found.x, "out": fresh})).fvu > 0.9


def test_a_skip_carries_what_is_linear(truth):
    found, _, y = truth
    linear = found.x @ torch.randn(32, 20, generator=torch.Generator().manual_seed(5))
    stream = Stream.from_tensor({"in": found.x, "out": y + linear})
    with_skip, without = (
        method(skip=skip, learning_rate=0.02).fit(stream, **QUIET).measure(stream).fvu
        for skip in (True, False)
    )
    assert with_skip < 0.5 * without


@pytest.mark.parametrize("skip", [False, True], ids=["plain", "skip"])
def test_the_folded_transcoder_is_the_one_that_was_trained(truth, skip):
    found, _, y = truth
    learner = learner_of(method(skip=skip), ("in", "out"))
    rows = {"in": found.x + 5.0, "out": y}
    learner.start(rows)
    for done in range(30):
        part = {site: x[200 * done :][:200] for site, x in rows.items()}
        learner.step(part, (done + 0.5) / 30)
    (one,) = learner.dictionaries([])
    x = rows["in"][:50]
    into, out = learner.units.held["scale"]
    weights = {name: value.detach() for name, value in learner.weights.items()}
    centre = learner.units.held["centre"][:32]
    centred = x * into - centre
    p = centred @ weights["encoder"].T + weights["encoder_bias"]
    z = torch.zeros_like(p).scatter(1, p.topk(3).indices, 1.0) * p.relu()
    expected = z @ weights["decoder"] + weights["decoder_bias"]
    expected = (expected + centred @ weights["skip"] if skip else expected) / out
    torch.testing.assert_close(one.reconstruct(x), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(one.directions.norm(dim=1), torch.ones(64))


def perturbed(weights):
    """The weights in float64, each moved a little, so that none is 0."""
    draw = torch.Generator().manual_seed(1)
    return {
        name: (value.detach() + 0.1 * torch.randn(value.shape, generator=draw))
        .double()
        .requires_grad_()
        for name, value in weights.items()
    }


def test_loss_and_gradients_equal_plain_autograd(truth):
    found, _, y = truth
    learner = learner_of(method(skip=True), ("in", "out"))
    rows = {"in": found.x[:200].double(), "out": y[:200].double()}
    learner.start(rows)
    held = {n: v.double() if n != "width" else v for n, v in learner.units.held.items()}
    learner.units = TrainingUnits(("in",), ("out",), held)
    mine, plain = perturbed(learner.weights), perturbed(learner.weights)
    x, out = learner.units.scaled(rows)
    found = learner.objective.loss(learner.seen(x, out, mine, 0.5), mine)
    centred = x - learner.units.held["centre"][:32]
    p = centred @ plain["encoder"].T + plain["encoder_bias"]
    z = torch.zeros_like(p).scatter(1, p.topk(3).indices, 1.0) * p.relu()
    y_hat = z @ plain["decoder"] + plain["decoder_bias"] + centred @ plain["skip"]
    loss = (out - y_hat).square().sum() / (len(x) * learner.units.held["variance"][1])
    torch.testing.assert_close(found.loss, loss)
    found.loss.backward()
    loss.backward()
    for name, value in plain.items():
        assert value.grad.any(), name
        torch.testing.assert_close(mine[name].grad, value.grad)
