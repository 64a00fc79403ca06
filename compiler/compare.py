"""Two results of one model, tensor by tensor."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import inf
from typing import Any

import numpy as np

from onyxc.compiler.ir.graph import Array

# Largest error relative to the reference's range, by dtype.
TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "float16": 5e-3, "bfloat16": 3e-2}
# Integers of 8 bits, and floats of quantized models: so large a share must be within one step of 8 bits.
SHARE = 0.999
STEP = 1 / 128  # of the range


@dataclass(frozen=True)
class Difference:
    """``relative``: largest error over the reference's range; ``cosine``: of the flattened tensors."""

    name: str
    absolute: float
    relative: float
    cosine: float
    share_equal: float
    ok: bool

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def difference(name: str, wanted: Array, got: Array, quantized: bool = False) -> Difference:
    """Compare ``got`` with the reference; ``quantized``: float values were 8-bit integers inside the model."""
    if wanted.shape != got.shape or wanted.dtype != got.dtype:
        return Difference(name, inf, inf, 0.0, 0.0, False)
    if wanted.size == 0:
        return Difference(name, 0.0, 0.0, 1.0, 1.0, True)
    if wanted.dtype.kind in "OUS":
        same = wanted == got
        off = 0.0 if same.all() else inf
        return Difference(name, off, off, float(same.all()), float(same.mean()), bool(same.all()))
    left, right = _numbers(wanted), _numbers(got)
    same = (left == right) | (np.isnan(left) & np.isnan(right))
    finite = np.isfinite(left) & np.isfinite(right)
    if not np.all(same | finite):  # infinity or NaN on one side only
        return Difference(name, inf, inf, 0.0, float(same.mean()), False)
    a, b = (np.where(finite, x, 0.0) for x in (left, right))
    error = np.abs(a - b)
    relative = error / _span(a)
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    cosine = float((a * b).sum() / norm) if norm else float(np.array_equal(a, b))
    ok = _close(wanted.dtype, relative, error, same, quantized)
    return Difference(name, float(error.max()), float(relative.max()), cosine, float(same.mean()), ok)


def relative_error(wanted: Any, got: Any) -> float:
    """`Difference.relative` of an output, for a sequence that of its worst element; infinite where kinds differ."""
    if isinstance(wanted, list) and isinstance(got, list) and len(wanted) == len(got):
        return max((relative_error(w, g) for w, g in zip(wanted, got, strict=True)), default=0.0)
    if wanted is None or got is None or isinstance(wanted, list) or isinstance(got, list):
        return 0.0 if wanted is got else inf
    return difference("", np.asarray(wanted), np.asarray(got)).relative


def _close(dtype: np.dtype[np.generic], relative: Array, error: Array, same: Array, quantized: bool) -> bool:
    if dtype.kind in "iu" and dtype.itemsize == 1:
        return float((error <= 1).mean()) >= SHARE
    if dtype.kind in "iub":
        return bool(same.all())
    if quantized:
        return float((relative <= STEP).mean()) >= SHARE
    return bool(relative.max() <= TOLERANCE.get(dtype.name, 1e-4))


def _numbers(array: Array) -> Array:
    if array.dtype.kind == "c":
        return np.stack([array.real, array.imag]).astype(np.float64)
    return array.astype(np.float64)


def _span(a: Array) -> float:
    """The range, but not less than float32 can resolve: a nearly constant tensor counts by its magnitude."""
    largest = float(np.abs(a).max())
    return max(float(a.max() - a.min()), largest if a.size == 1 else largest / 100, 1e-6)
