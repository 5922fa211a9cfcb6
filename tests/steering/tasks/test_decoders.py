"""Decoders on planted activations: what each can read and what it cannot."""

import pytest
import torch

from jackfield.steering.tasks.decoders import Probe, diagonal_lens, in_top, lens_hits
from jackfield.testing import tiny_llama


@pytest.fixture
def model():
    return tiny_llama()


def written(model, answers: torch.Tensor) -> torch.Tensor:
    """[row, d] streams in which the head reads each answer first."""
    head = model.module.lm_head.weight.detach()
    return 5 * torch.linalg.pinv(head)[:, answers].T


def test_the_lens_is_the_models_head(model):
    answers = torch.arange(5, 25)
    assert bool(lens_hits(model, written(model, answers), answers, 3).float().mean() > 0.8)
    noise = torch.randn(20, 32)
    by_hand = model.module.lm_head(model.module.model.norm(noise)).topk(4).indices
    hits = lens_hits(model, noise, answers, 4)
    assert torch.equal(hits, (by_hand == answers[:, None]).any(dim=1))


def test_in_top_counts_what_is_above():
    logits = torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])
    answers = torch.tensor([1, 1])
    assert not in_top(logits, answers, 1).any()
    assert in_top(logits, answers, 2).all()


def test_the_tuned_lens_undoes_a_scaling_that_hides_the_answer(model):
    answers = torch.arange(4, 84)
    final = written(model, answers) + 0.01 * torch.randn(80, 32)
    scale = torch.exp(torch.randn(32)) * torch.where(torch.rand(32) < 0.5, -1.0, 1.0)
    hidden = final * scale + 3 * torch.randn(32)
    before = float(lens_hits(model, hidden, answers, 1).float().mean())
    gain, bias = diagonal_lens(model, hidden[:40], final[:40], steps=10)
    after = float(lens_hits(model, hidden[40:] * gain + bias, answers[40:], 1).float().mean())
    plain = float(lens_hits(model, final[40:], answers[40:], 1).float().mean())
    assert before < 0.2
    assert after > plain - 0.1
    assert after > before + 0.3


def test_steps_lower_the_kl_to_the_models_own_output(model):
    final = torch.randn(60, 32)
    hidden = torch.tanh(final) + 0.5 * torch.randn(60, 32)

    def kl(steps: int) -> float:
        gain, bias = diagonal_lens(model, hidden, final, steps=steps)
        with torch.no_grad():
            target = model.unembed(final).log_softmax(-1)
            said = model.unembed(hidden * gain + bias).log_softmax(-1)
        return float((target.exp() * (target - said)).sum(-1).mean())

    assert kl(30) < 0.98 * kl(0)


def test_a_probe_reads_a_hidden_answer_of_unseen_words_and_no_random_label(model):
    """Four answers, many words each: the answer lies in a product of two coordinates."""
    draw = torch.Generator().manual_seed(3)
    labels = torch.randint(0, 4, (480,), generator=draw)
    h = torch.randn(480, 32, generator=draw)
    h[:, 0] = 2 * (labels % 2) - 1.0
    sign = torch.randint(0, 2, (480,), generator=draw) * 2 - 1.0
    h[:, 1], h[:, 2] = sign, sign * (2 * (labels // 2) - 1)
    random = torch.randint(0, 4, (480,), generator=draw)
    ids, trained = torch.tensor([10, 20, 30, 40]), {"steps": 100, "decay": 1e-3}

    def accuracy(given: torch.Tensor) -> float:
        given = ids[given]
        probe = Probe(model, hidden=64, seed=0).fit(h[:400], given[:400], ids, **trained)
        return float(probe.right(h[400:], given[400:], ids).float().mean())

    assert accuracy(labels) > 0.8
    assert accuracy(random) < 0.5


def test_an_untrained_probe_is_the_lens_among_its_choices(model):
    choices, h = torch.tensor([3, 50, 77]), torch.randn(12, 32)
    scores = Probe(model, hidden=8, seed=0).scores(h, choices)
    torch.testing.assert_close(scores, model.unembed(h)[:, choices], atol=1e-4, rtol=1e-4)
