"""Zero points of products of unsigned and signed bytes.

Activations are made unsigned, x' = x + 128 where they were signed, and weights signed, w' = w - 128 where they were
unsigned; zero points move with them. The sum of n products (x - zx)(w - zw) is then

    sum of x' w'  -  zx' * (sum of w' - n * zw')  -  zw' * sum of x'

The middle is known when weights are packed: accumulators start there. All is exact in int32, modulo 2^32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from onyxc.backends.cpu.blocking import Panel
from onyxc.backends.cpu.convolution_plan import pack_panels
from onyxc.backends.cpu.shapes import ConvShape

Array = np.ndarray[Any, Any]
HALF = 128


@dataclass(frozen=True)
class ZeroPoints:
    """``x``: that of the unsigned activations, ``flip``: whether they are signed in memory; ``w``: those of the signed
    weights, one or one for each output channel."""

    x: int
    flip: bool
    w: tuple[int, ...]

    @classmethod
    def of(cls, shape: ConvShape, weights: Array) -> ZeroPoints:
        """The zero points of ``shape``, ``weights`` being those of its weights."""
        flip, back = shape.x_dtype == "int8", HALF if shape.w_dtype == "uint8" else 0
        return cls(shape.x_zero_point + HALF * flip, flip, tuple(int(z) - back for z in np.atleast_1d(weights)))

    @property
    def sums(self) -> bool:
        """Whether the sum of the activations is needed."""
        return any(self.w)

    def behind(self, weights: Array, group: int, panels: tuple[Panel, ...]) -> list[Array]:
        """What is packed behind the signed ``weights`` [O, ...]: where accumulators start, and factors of the sums."""
        points = np.broadcast_to(np.array(self.w, np.int64), len(weights))
        total = weights.reshape(len(weights), -1).sum(1, dtype=np.int64)
        starts = -self.x * (total - weights[0].size * points)
        columns = (v.astype(np.int32).reshape(group, -1, 1, 1, 1) for v in (starts, -points))
        return [pack_panels(column, panels) for column in columns]


def signed(weights: Array) -> Array:
    """Weights as signed bytes."""
    return (weights.astype(np.int16) - (HALF if weights.dtype == np.uint8 else 0)).astype(np.int8)


def words(rows: Array) -> Array:
    """Signed bytes [..., n] as dwords [..., ceil(n / 4)], zeros behind the last."""
    short = -rows.shape[-1] % 4
    padded = np.pad(rows, [(0, 0)] * (rows.ndim - 1) + [(0, short)])
    return np.ascontiguousarray(padded).view(np.int32)
