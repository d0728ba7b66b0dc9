"""Factorizing one weight matrix, plainly or by what the layer reads.

Only loaded by passes that are being applied: it imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from enginery.passes.module.low_rank.moments import Moments

RIDGE = 1e-6
"""Added to the covariance, relative to its mean diagonal, so that directions no sample took keep a little weight."""


@dataclass(frozen=True)
class Decomposition:
    """The singular value decomposition of W (out, in), or of W S with S S^T the covariance of the inputs.

    `energy` holds the squared singular values, which are the squared error of the output (per input vector) that each
    rank removes.
    """

    u: torch.Tensor
    scale: torch.Tensor
    v: torch.Tensor
    unwhiten: torch.Tensor | None
    shift: torch.Tensor | None

    @property
    def energy(self) -> torch.Tensor:
        return self.scale.square()

    def factors(self, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
        """B (out, rank) and A (rank, in) with W ~ B A; the singular values are split evenly between them."""
        root = self.scale[:rank].sqrt()
        b, a = self.u[:, :rank] * root, root[:, None] * self.v[:rank]
        if self.unwhiten is not None:
            a = torch.linalg.solve_triangular(self.unwhiten, a, upper=False, left=False)
        return b, a

    def bias(self, weight: torch.Tensor, approximate: torch.Tensor) -> torch.Tensor | None:
        """What the bias takes over: (W - B A) times the mean input. None for a plain decomposition."""
        return None if self.shift is None else (weight - approximate) @ self.shift


def decompose(weight: torch.Tensor, moments: Moments | None) -> Decomposition:
    """Decompose a weight (out, in), float64.

    Without moments, the truncated product is the nearest in the Frobenius norm (Eckart and Young 1936). With them, it
    is the one whose output error is least over the data: W S = U s V^T is truncated and S undone (Wang et al. 2024,
    "SVD-LLM"). Here S whitens the inputs *about their mean*, and the bias takes over the mean's part, which is never
    worse than whitening the raw second moment, and each input vector counts by the inverse of its squared output.
    """
    weight = weight.detach().double().cpu()
    if moments is None:
        u, s, v = torch.linalg.svd(weight, full_matrices=False)
        return Decomposition(u, s, v, None, None)
    covariance = moments.covariance
    ridge = RIDGE * float(covariance.diagonal().mean().clamp_min(1e-30))
    lower = torch.linalg.cholesky(covariance + ridge * torch.eye(len(covariance), dtype=torch.float64))
    u, s, v = torch.linalg.svd(weight @ lower, full_matrices=False)
    return Decomposition(u, s, v, lower, moments.mean)
