"""Two results of one model, tensor by tensor."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from onyxc.compiler.ir.graph import Array

# Largest error relative to the reference's range, by dtype; integers of 8 bits may differ by one step in 0.1 %.
TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "float16": 5e-3, "bfloat16": 3e-2}


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
    """Compare ``got`` with the reference; ``quantized`` allows one step of 8 bits for 0.1 % of the values."""
    if wanted.shape != got.shape or wanted.dtype != got.dtype:
        return Difference(name, float("inf"), float("inf"), 0.0, 0.0, False)
    if wanted.size == 0:
        return Difference(name, 0.0, 0.0, 1.0, 1.0, True)
    finite = np.isfinite(wanted.astype(np.float64))
    same_kind = bool(np.array_equal(finite, np.isfinite(got.astype(np.float64))))
    a, b = (np.where(finite, x.astype(np.float64), 0.0) for x in (wanted, got))
    error = np.abs(a - b)
    span = max(float(a.max() - a.min()), 1e-6)
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    cosine = float((a * b).sum() / norm) if norm else 1.0
    equal = float((wanted == got).mean())
    if wanted.dtype.kind in "iub" and wanted.dtype.itemsize > 1 or wanted.dtype.kind == "b":
        ok = equal == 1
    elif wanted.dtype.kind in "iu":
        ok = float((error <= 1).mean()) >= 0.999
    elif quantized:
        ok = float((error / span <= 1 / 128).mean()) >= 0.999
    else:
        ok = float(error.max()) / span <= TOLERANCE.get(wanted.dtype.name, 1e-4)
    return Difference(name, float(error.max()), float(error.max()) / span, cosine, equal, ok and same_kind)
