"""Products with constant weights in panels: ``out[n, m] = sum over k of w[m, k] * x[n, k]``.

The rows of w lie in panels of a few vectors, [k][rows of the panel]: a step along k loads the panel's vectors and spreads
an element of x for each of its rows. Sums stay in registers, one vector for some rows of w and one row of x.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from onyxc.backends.kernels.imperative import Array
from onyxc.backends.lowering.rowdots import spread, take
from onyxc.backends.lowering.words import Expr, cast, fix, span
from onyxc.compiler.ir.graph import Array as Numbers


@dataclass(frozen=True)
class Panels:
    """``units`` rows of ``groups`` matrices of depth ``depth``, padded to whole vectors, ``vectors`` in a panel.

    ``columns``: rows of x at once.
    """

    groups: int
    units: int
    depth: int
    lanes: int
    vectors: int
    columns: int

    @property
    def width(self) -> int:
        """Rows of w in a panel."""
        return self.vectors * self.lanes

    @property
    def count(self) -> int:
        """Panels of a group."""
        return -(-self.units // self.width)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the packed weights."""
        return self.groups, self.count, self.depth, self.width

    def pack(self, w: Numbers) -> Numbers:
        """[..., depth] with groups * units rows -> `shape`."""
        rows = w.reshape(self.groups, self.units, self.depth)
        padded = np.zeros((self.groups, self.count * self.width, self.depth), w.dtype)
        padded[:, : self.units] = rows
        panels = padded.reshape(self.groups, self.count, self.width, self.depth)
        return np.ascontiguousarray(panels.transpose(0, 1, 3, 2))


def panels(groups: int, units: int, depth: int, rows: int, lanes: int, registers: int) -> Panels:
    """Panels for products with ``rows`` rows of x, on a processor with so many vector registers.

    A panel is no longer than the padded units, which it divides.
    """
    many, total = registers >= 32, -(-units // lanes)
    columns = min(rows, 4)
    most = (8 if columns == 1 else 4) if many else (4 if columns == 1 else 2)
    vectors = max(n for n in range(1, most + 1) if total % n == 0)
    return Panels(groups, units, depth, lanes, vectors, columns)


def products(shape: Panels, weights: tuple[Array, Expr], x: tuple[Array, Sequence[Expr]], dtype: str) -> list[list[Expr]]:
    """For every row of x the sums of a panel, in vectors.

    ``weights``: flat buffer and position of the panel; ``x``: flat buffer and position of each row.
    """
    (w, first), (xs, starts), lanes = weights, x, shape.lanes
    cells = list(product(range(len(starts)), range(shape.vectors)))
    sums = T.alloc_buffer((len(cells) * lanes,), dtype, scope="local")
    places = [span(number * lanes, lanes) for number in range(len(cells))]
    for place in places:
        T.buffer_store(sums, spread(tirx.const(0, dtype), lanes), [place])
    with T.serial(0, shape.depth) as k:
        line = fix(first + k * shape.width)
        factors = [fix(take(w, line + v * lanes, lanes, dtype)) for v in range(shape.vectors)]
        values = [spread(fix(cast(xs[start + k], dtype)), lanes) for start in starts]
        for place, (n, v) in zip(places, cells, strict=True):
            T.buffer_store(sums, sums[place] + values[n] * factors[v], [place])
    found = [fix(sums[place]) for place in places]
    return [found[n * shape.vectors : (n + 1) * shape.vectors] for n in range(len(starts))]
