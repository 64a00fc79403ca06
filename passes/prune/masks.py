"""Choosing what to keep: the smallest scores go, ties in order, an exact number of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onyxc.compiler.errors import PassError
from onyxc.compiler.ir.graph import Array
from onyxc.compiler.transform import PassResult
from onyxc.passes.weights import Weight, put


def keep_largest(scores: Array, drop: int) -> Array:
    """A mask that leaves out exactly the ``drop`` smallest scores; among equal ones the first go."""
    flat = scores.ravel()
    if drop <= 0:
        return np.ones(scores.shape, bool)
    threshold = np.partition(flat, drop - 1)[drop - 1]
    keep: Array = flat > threshold
    ties = np.flatnonzero(flat == threshold)
    spare = drop - int(np.count_nonzero(flat < threshold))
    keep[ties[spare:]] = True
    result: Array = keep.reshape(scores.shape)
    return result


def masks(scores: Sequence[Array], sparsity: float, scope: str) -> list[Array]:
    """One mask for each array of scores: round(sparsity * count) go, of each array or of all together."""
    if scope == "layer":
        return [keep_largest(s, round(sparsity * s.size)) for s in scores]
    together = np.concatenate([s.ravel() for s in scores]) if scores else np.zeros(0)
    kept = keep_largest(together, round(sparsity * together.size))
    parts = np.split(kept, np.cumsum([s.size for s in scores])[:-1]) if scores else []
    return [p.reshape(s.shape) for p, s in zip(parts, scores, strict=True)]


def magnitudes(weight: Weight) -> Array:
    """Absolute values, in float32."""
    return np.abs(weight.array.astype(np.float32))


def prune(weights: Sequence[Weight], kept: Sequence[Array]) -> PassResult:
    """Zero what the masks (of the weights' shapes) leave out, and write the fact ``sparsity``.

    Raises:
        PassError: a weight is clustered, which pruning would undo.
    """
    counts: dict[str, int] = {}
    for weight, mask in zip(weights, kept, strict=True):
        facts = weight.value.facts
        if "palette" in facts and not np.all(mask | (weight.array == 0)):
            raise PassError(f"weight {weight.value.name!r} is clustered: prune first, then cluster")
        whole = mask & facts["sparsity"] if "sparsity" in facts else mask
        changed = put(weight, np.where(whole, weight.array, weight.array.dtype.type(0)))
        facts["sparsity"] = np.ascontiguousarray(whole)
        zeros = weight.array.size - int(np.count_nonzero(weight.array))
        counts[f"{weight.label}: {zeros} of {weight.array.size} are zero"] = changed
    return PassResult(counts)


def check_sparsity(sparsity: float) -> None:
    """Refuse a share that is none.

    Raises:
        PassError: it is not between 0 and 1.
    """
    if not 0 <= sparsity <= 1:
        raise PassError(f"sparsity={sparsity}: a number from 0 to 1 is wanted")
