"""k-means on a line: k-means++ seeding and Lloyd's iterations on sorted, weighted values.

    minimise  sum_i n[i] * min_k (x[i] - c[k])^2

Clusters of sorted values are intervals, so an iteration is a binary search and a difference of prefix sums: O(k log
n). Arthur and Vassilvitskii, k-means++ (2007).
"""

from __future__ import annotations

import numpy as np

from onyxc.compiler.ir.graph import Array

SEEDS = 1 << 12  # seeding looks at so many quantiles
RESTARTS = 3
ITERATIONS = 200


def codebook(values: Array, size: int, rng: np.random.Generator) -> Array:
    """At most ``size`` centres, ascending, in float64; exact when there are no more than ``size`` different values."""
    points, counts = np.unique(values.astype(np.float64), return_counts=True)
    if len(points) <= size:
        return points
    best: tuple[float, Array] | None = None
    for _ in range(RESTARTS):
        centres = _lloyd(points, counts, _seed(points, counts, size, rng))
        error = float(np.sum(counts * (points - centres[nearest(points, centres)]) ** 2))
        if best is None or error < best[0]:
            best = error, centres
    assert best is not None
    return best[1]


def nearest(values: Array, centres: Array) -> Array:
    """Index of the nearest of the ascending ``centres``; ties go to the lower."""
    middles = (centres[1:] + centres[:-1]) / 2
    return np.searchsorted(middles, values, side="left")


def _seed(points: Array, counts: Array, size: int, rng: np.random.Generator) -> Array:
    """k-means++: each centre is drawn with a chance proportional to its squared distance to the others."""
    if len(points) > SEEDS:
        places = np.searchsorted(np.cumsum(counts), np.linspace(0, counts.sum(), SEEDS, endpoint=False), side="right")
        points, counts = np.unique(points[places], return_counts=True)
    centres = [rng.choice(points, p=counts / counts.sum())]
    distance = (points - centres[0]) ** 2
    for _ in range(size - 1):
        chance = counts * distance
        if not chance.any():
            break
        centres.append(rng.choice(points, p=chance / chance.sum()))
        distance = np.minimum(distance, (points - centres[-1]) ** 2)
    return np.sort(np.asarray(centres))


def _lloyd(points: Array, counts: Array, centres: Array) -> Array:
    number = np.concatenate([[0], np.cumsum(counts)])
    total = np.concatenate([[0.0], np.cumsum(points * counts)])
    for _ in range(ITERATIONS):
        ends = np.searchsorted(points, (centres[1:] + centres[:-1]) / 2, side="right")
        edges = np.concatenate([[0], ends, [len(points)]])
        mass = np.diff(number[edges])
        moved = np.where(mass > 0, np.diff(total[edges]) / np.maximum(mass, 1), centres)
        moved.sort()
        if np.array_equal(moved, centres):
            break
        centres = moved
    return centres
