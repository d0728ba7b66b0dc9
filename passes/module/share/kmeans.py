"""k-means of scalars.

Only loaded by passes that are being applied: it imports torch.
"""

from __future__ import annotations

import torch

ITERATIONS = 100


def kmeans(values: torch.Tensor, k: int) -> torch.Tensor:
    """At most `k` sorted centroids (float64) of `values` (n), by Lloyd's algorithm on sorted values.

    In one dimension a cluster is an interval, so that prefix sums give each iteration's means in O(k log n). Centroids
    start evenly spaced over the range, which Han et al. 2016 ("Deep Compression") found best, since it keeps the few
    large weights; an empty cluster is dropped. No random choice is made.
    """
    ordered = values.detach().double().flatten().sort().values
    sums = torch.cat([torch.zeros(1, dtype=torch.float64), ordered.cpu().cumsum(0)])
    ordered = ordered.cpu()
    distinct = ordered.unique()
    if len(distinct) <= k:
        return distinct
    centroids = torch.linspace(float(ordered[0]), float(ordered[-1]), k, dtype=torch.float64)
    for _ in range(ITERATIONS):
        bounds = torch.searchsorted(ordered, (centroids[:-1] + centroids[1:]) / 2)
        edges = torch.cat([torch.zeros(1, dtype=torch.long), bounds, torch.tensor([len(ordered)])])
        counts = edges.diff()
        means = sums[edges].diff()[counts > 0] / counts[counts > 0]
        if len(means) == len(centroids) and bool((means == centroids).all()):
            break
        centroids = means
    return centroids


def assign(values: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    """The index of the nearest centroid of each value, same shape, int64."""
    bounds = (centroids[:-1] + centroids[1:]) / 2
    return torch.searchsorted(bounds.to(values.device), values.detach().double().contiguous())
