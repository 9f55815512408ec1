"""A skip connection that isn't there: how much of what a transcoder lacks is linear in what it reads.

    r ≈ x Mᵀ,  M = argmin Σ|r − x Mᵀ|² + λ|M|²,  r = y − ŷ

Ridge regression on one half of the sequences for the other half, and the other way round, so that no position is told
by itself. λ is the one of a few with the least generalised cross-validation (Golub, Heath and Wahba 1979), from the
singular values s of x over n positions:

    GCV(λ) = Σ|r − r̂|² / (n − Σ s²/(s² + λ))²
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

_SHARES = torch.logspace(-6, 0, 13)  # λ, in units of the largest s²


def linear(
    x: Float[Tensor, "n d_in"], lacking: Float[Tensor, "n d_out"], seq: Int[Tensor, " n"]
) -> Float[Tensor, "n d_out"]:
    """What a linear map of x makes of what is lacking, of each sequence by the other half of them; 0 if there is none.

    Args:
        x: What is read.
        lacking: y − ŷ.
        seq: The sequence of each position.
    """
    _, number = seq.unique(return_inverse=True)
    told = torch.zeros_like(lacking)
    for half in (number % 2 == 0, number % 2 == 1):
        if half.any() and not half.all():
            told[half] = x[half] @ _ridge(x[~half], lacking[~half])
    return told


def _ridge(x: Float[Tensor, "n d_in"], y: Float[Tensor, "n d_out"]) -> Float[Tensor, "d_in d_out"]:
    u, s, v = torch.linalg.svd(x, full_matrices=False)
    within = u.T @ y
    outside = y.pow(2).sum() - within.pow(2).sum()

    def gcv(penalty: Tensor) -> Float[Tensor, ""]:
        kept = s**2 / (s**2 + penalty)
        left = outside + ((1 - kept).unsqueeze(1) * within).pow(2).sum()
        found: Tensor = left / (len(x) - kept.sum()).clamp(min=1e-3) ** 2
        return found

    penalties = _SHARES.to(x.device) * s[0] ** 2 + torch.finfo(s.dtype).tiny
    best = penalties[torch.stack([gcv(penalty) for penalty in penalties]).argmin()]
    weights: Tensor = v.T @ ((s / (s**2 + best)).unsqueeze(1) * within)
    return weights
