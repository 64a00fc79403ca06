"""Weights in panels: their form, and how it follows the sizes."""

from __future__ import annotations

import numpy as np
import pytest

from onyxc.backends.lowering.panels import Panels, panels


def test_pack() -> None:
    shape = Panels(groups=2, units=5, depth=3, lanes=4, vectors=1, columns=1)
    w = np.arange(30, dtype=np.float32).reshape(1, 10, 3)
    packed = shape.pack(w)
    assert packed.shape == shape.shape == (2, 2, 3, 4)
    np.testing.assert_array_equal(packed[0, 0, :, 2], w[0, 2])  # the third unit of the first group
    np.testing.assert_array_equal(packed[1, 1], [[w[0, 9, k], 0, 0, 0] for k in range(3)])


@pytest.mark.parametrize(
    ("units", "rows", "lanes", "registers", "vectors", "columns"),
    [
        (256, 1, 16, 32, 8, 1),
        (256, 8, 16, 32, 4, 4),
        (100, 8, 16, 32, 1, 4),  # seven vectors
        (96, 3, 16, 32, 3, 3),
        (4, 1, 16, 32, 1, 1),
        (256, 64, 8, 16, 2, 4),
        (256, 1, 4, 16, 4, 1),
    ],
)
def test_the_plan(units: int, rows: int, lanes: int, registers: int, vectors: int, columns: int) -> None:
    made = panels(4, units, 32, rows, lanes, registers)
    assert (made.vectors, made.columns) == (vectors, columns)
    assert made.count * made.width == -(-units // lanes) * lanes
    assert made.vectors * made.columns + made.vectors + made.columns <= registers
