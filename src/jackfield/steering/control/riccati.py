"""The Riccati recursion: the feedback that is best for a linear system and a quadratic cost.

    e_{t+1} = A_t e_t − u_t,    t = 0 … T−1
    cost = Σ_t (q |e_t|² + r |u_t|²) + q_T |e_T|²          least for u_t = K_t e_t, with

    S_T = q_T 1
    K_t = (S_{t+1} + r 1)⁻¹ S_{t+1} A_t
    S_t = q 1 + A_tᵀ S_{t+1} (A_t − K_t)

and then it is e_0ᵀ S_0 e_0. Kalman 1960; the layers of a model as time: 2604.19018.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def backwards(
    dynamics: Sequence[Float[Tensor, "d d"]],
    take: Callable[[int, Float[Tensor, "d d"]], None],
    *,
    state: float,
    control: float,
    final: float,
) -> Float[Tensor, "d d"]:
    """Runs the recursion from the last step to the first; one gain is held at a time.

    Args:
        dynamics: A_t of each step; taken to float64 one by one.
        take: gets (t, K_t), the last step first.
        state: q, the price of an error at each step.
        control: r, the price of control.
        final: q_T, the price of the error at the end.

    Returns:
        S_0, float64: the least cost of an error e_0 is e_0ᵀ S_0 e_0.
    """
    one = torch.eye(len(dynamics[0]), dtype=torch.float64)
    cost = final * one
    for t in reversed(range(len(dynamics))):
        a = dynamics[t].double().cpu()
        ahead = cost @ a
        gain = torch.linalg.solve(cost + control * one, ahead)
        take(t, gain)
        cost = state * one + ahead.T @ (a - gain)
        cost = (cost + cost.T) / 2  # rounding would let it drift from symmetry
    return cost
