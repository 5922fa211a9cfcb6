"""The conformal promise, by simulation, at its edges, and where it cannot be kept."""

import pytest
import torch

from jackfield.core.errors import ConfigError, InputError
from jackfield.steering.guards import ConformalThreshold


@pytest.mark.parametrize(("alpha", "n"), [(0.1, 30), (0.2, 17), (0.05, 99), (0.3, 4)])
def test_new_scores_exceed_it_as_often_as_promised(alpha, n):
    """P(new > τ) = 1 − k/(n + 1) exactly for scores without ties, of whatever distribution."""
    draw = torch.Generator().manual_seed(0)
    trials = 1500
    scores = torch.rand(trials, n + 1, generator=draw).log().neg() ** 3  # a heavy tail
    limits = torch.tensor([ConformalThreshold(alpha=alpha).of(row) for row in scores[:, :n]])
    exceeded = (scores[:, n] > limits).double().mean()
    error = 3 * (alpha * (1 - alpha) / trials) ** 0.5
    assert exceeded <= alpha + error
    assert exceeded >= alpha - 1 / (n + 1) - error


def test_ties_only_make_it_safer():
    draw = torch.Generator().manual_seed(1)
    scores = torch.randint(0, 3, (1500, 20), generator=draw).double()
    limits = torch.tensor([ConformalThreshold(alpha=0.2).of(row) for row in scores[:, :19]])
    assert (scores[:, 19] > limits.double()).double().mean() <= 0.2


@pytest.mark.parametrize(("alpha", "n", "rank"), [(0.1, 9, 9), (0.1, 19, 18), (0.07, 99, 93)])
def test_the_rank_is_exact_where_floating_point_is_not(alpha, n, rank):
    scores = torch.arange(1, n + 1)[torch.randperm(n, generator=torch.Generator().manual_seed(2))]
    assert ConformalThreshold(alpha=alpha).of(scores) == rank


def test_too_few_scores_for_alpha_are_refused_and_one_more_is_enough():
    with pytest.raises(InputError, match=r"at least 19 benign scores for alpha=0\.05, got 18"):
        ConformalThreshold(alpha=0.05).of(torch.rand(18))
    assert ConformalThreshold(alpha=0.05).of(torch.arange(19.0)) == 18


@pytest.mark.parametrize("scores", [[], [1.0, float("nan")], [float("inf")] * 20])
def test_what_is_no_score_is_refused(scores):
    with pytest.raises(InputError, match="ConformalThreshold"):
        ConformalThreshold().of(scores)


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1])
def test_alpha_is_a_share(alpha):
    with pytest.raises(ConfigError, match="alpha"):
        ConformalThreshold(alpha=alpha)
