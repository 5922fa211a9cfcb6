"""SNMF: the authors' updates written out, monotonicity, planted groups of neurons, hierarchy."""

from itertools import pairwise

import pytest
import torch

from jackfield.core.errors import ConfigError
from jackfield.dictionaries import SNMF
from jackfield.dictionaries.snmf import winners
from jackfield.streams import Stream

GROUPS, WIDTH, SIZE = 6, 60, 4


def planted(rows: int = 400):
    """Rows that are non-negative sums of groups of four neurons, up or down."""
    draw = torch.Generator().manual_seed(7)
    F = torch.zeros(GROUPS, WIDTH)
    for group in range(GROUPS):
        chosen = torch.randperm(WIDTH, generator=draw)[:SIZE]
        F[group, chosen] = torch.randn(SIZE, generator=draw).sign() / 2
    G = torch.rand(rows, GROUPS, generator=draw) * (torch.rand(rows, GROUPS, generator=draw) < 0.4)
    return G @ F + 0.01 * torch.randn(rows, WIDTH, generator=draw), F


def recovered(x, F, start="random"):
    method = SNMF(latents=2 * GROUPS, keep=SIZE / WIDTH, start=start, rounds=300)
    return float((F @ method.fit(Stream.from_tensor(x)).directions.T).amax(dim=1).mean())


@pytest.mark.parametrize("start", ["random", "kmeans", "svd"])
def test_planted_groups_are_found_from_every_start(start):
    x, F = planted()
    assert recovered(x, F, start) > 0.95


def test_in_noise_they_are_not_found():
    _, F = planted()
    noise = torch.randn(400, WIDTH, generator=torch.Generator().manual_seed(8))
    assert recovered(noise, F) < 0.7


def test_rounds_are_those_of_the_paper():
    """A ≈ F Gᵀ with units in rows, as the paper has it, with `numpy`-like plain steps."""
    x, _ = planted(rows=50)
    method = SNMF(latents=4, keep=0.1, rounds=3)
    A, G = x.double().T, method._first(x.double())
    for _ in range(3):
        F = A @ G @ torch.linalg.inv(G.T @ G + 1e-6 * torch.eye(4).double())
        cut = F.abs().sort(dim=0, descending=True).values[6 - 1]
        F = F * (F.abs() >= cut)
        F, G = F * G.norm(dim=0), G / G.norm(dim=0)
        P, Q = A.T @ F, F.T @ F
        plus, minus = (lambda M: (M.abs() + M) / 2), (lambda M: (M.abs() - M) / 2)
        G = G * ((plus(P) + G @ minus(Q)) / (minus(P) + G @ plus(Q) + 1e-6)).sqrt()
    X, state = x.double(), method._first(x.double())
    for _ in range(3):
        found, state, error = method._round(X, state)
    torch.testing.assert_close(found, F.T, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(state, G, rtol=1e-7, atol=1e-9)
    assert error == pytest.approx(float((A - F @ G.T).square().sum()), rel=1e-9)


def test_without_winners_the_error_never_rises_and_with_them_it_is_watched():
    x, _ = planted()
    plain, sparse = (
        SNMF(latents=8, keep=keep, rounds=60).fit(Stream.from_tensor(x)) for keep in (1.0, 0.02)
    )
    assert plain.figures["rises"] == 0
    errors = [point["error"] for point in sparse.history]
    rises = sum(b > a for a, b in pairwise(errors))
    assert sparse.figures["rises"] == rises
    assert plain.figures["FVU"] < sparse.figures["FVU"]


def test_winners_keep_their_share_and_no_code_is_negative():
    x, _ = planted()
    snmf = SNMF(latents=8, keep=0.05, rounds=30).fit(Stream.from_tensor(x))
    assert ((snmf.directions != 0).sum(dim=1) == 3).all()
    assert (snmf.encode(x) >= 0).all()
    assert (winners(torch.tensor([[1.0, -9.0]]), 0.01) == torch.tensor([[0.0, -9.0]])).all()


def test_the_level_above_joins_what_occurs_together():
    """Six groups of which the first three and the last three are variants of two parents."""
    draw = torch.Generator().manual_seed(9)
    parents = torch.nn.functional.normalize(torch.randn(2, 40, generator=draw))
    own = torch.nn.functional.normalize(torch.randn(6, 40, generator=draw))
    children = torch.nn.functional.normalize(parents.repeat_interleave(3, dim=0) + 0.3 * own)
    x = torch.eye(6).repeat(50, 1) @ children
    below = SNMF(latents=6, keep=1.0, start="kmeans", rounds=100).fit(Stream.from_tensor(x))
    above = SNMF(latents=2, keep=1.0, start="kmeans", rounds=200).over(below)
    assert (parents @ above.directions.T).amax(dim=1).min() > 0.9
    parent_of = above.encode(below.directions).argmax(dim=1)
    which = (children @ below.directions.T).argmax(dim=1)
    assert parent_of[which].reshape(2, 3).float().std(dim=1).eq(0).all()
    assert parent_of[which[0]] != parent_of[which[3]]


def test_more_latents_than_rows_are_refused():
    x, _ = planted(rows=10)
    with pytest.raises(ConfigError, match="latents <= 10"):
        SNMF(latents=11).fit(Stream.from_tensor(x))
