"""Products with weights as they come: ``out[n, m] = sum over k of w[m, k] * x[n, k]``, both contiguous along k.

A block of M weight rows times N rows of x keeps M * N vectors of partial sums. At the end each vector is folded
to M lanes, and the M vectors of one row of x are transposed and added at once, by log2(M) rounds of shuffles.
No repacking of w: right for recurrent networks, where a weight is used once a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from tvm import tirx
from tvm.tirx.script import builder as T

from onyxc.backends.kernels.imperative import Array
from onyxc.backends.lowering.words import Expr, cast, fix, span


@dataclass(frozen=True)
class Block:
    """How products are cut: ``lanes`` of a vector, ``rows`` of w and ``columns`` (rows of x) at once."""

    lanes: int
    rows: int
    columns: int


def block(lanes: int, registers: int, outputs: int, inputs: int) -> Block:
    """The blocks for ``outputs`` weight rows and ``inputs`` rows of x."""
    rows = 1
    while rows * 2 <= min(outputs, lanes, 8):
        rows *= 2
    columns = 2 if inputs > 1 and registers >= 2 * rows + 6 else 1
    return Block(lanes, rows, columns)


def spread(value: Expr, lanes: int) -> Expr:
    """``value`` in every lane."""
    return value if lanes == 1 else tirx.Broadcast(value, lanes)


def take(buffer: Array, start: Expr, lanes: int, dtype: str, step: int = 1) -> Expr:
    """A vector from memory, as ``dtype``; of more than one lane only from arrays of float32 and float64."""
    return cast(buffer[start] if lanes == 1 else tirx.BufferLoad(buffer.buffer, [span(start, lanes, step)]), dtype)


def put(buffer: Array, start: Expr, value: Expr) -> None:
    """Store a vector, or a scalar."""
    lanes = int(value.ty.dtype.lanes)
    T.buffer_store(buffer.buffer, value, [span(start, lanes)])


def _halves(value: Expr, dtype: str, lanes: int) -> Expr:
    """The upper half of ``value`` added to the lower."""
    half = lanes // 2
    if half == 1:
        low, high = (tirx.Shuffle([value], [tirx.const(i, "int32")]) for i in (0, 1))
        return low + high
    name = f"{dtype}x{half}"
    return tirx.vectorlow(name, value) + tirx.vectorhigh(name, value)


def _merge(left: Expr, right: Expr, sums: int, lanes: int) -> Expr:
    """Two vectors of ``sums`` interleaved partial sums as one of twice as many."""
    parts = lanes // sums
    low = [p * sums + r + side * lanes for p in range(parts // 2) for side in (0, 1) for r in range(sums)]
    picks = (low, [i + lanes // 2 for i in low])
    a, b = (tirx.Shuffle([left, right], [tirx.const(i, "int32") for i in pick]) for pick in picks)
    return a + b


def transposed_sum(vectors: Sequence[Expr], lanes: int) -> Expr:
    """Lane m of the result is the sum over all lanes of ``vectors[m]``; as many vectors as lanes."""
    found, sums = list(vectors), 1
    while len(found) > 1:
        found = [fix(_merge(a, b, sums, lanes)) for a, b in zip(found[::2], found[1::2], strict=True)]
        sums *= 2
    return found[0]


def products(
    shape: Block,
    weights: tuple[Array, Expr | int, int],
    x: tuple[Array, Sequence[Expr]],
    depth: int,
    dtype: str,
) -> list[Expr]:
    """A vector of ``shape.rows`` sums for every row of x.

    ``weights``: flat buffer, position of the first row, distance of rows; ``x``: flat buffer, position of
    every row (at most ``shape.columns``).
    """
    (w, first, pitch), (xs, starts) = weights, x
    rows, columns = shape.rows, len(starts)
    lanes = shape.lanes
    while lanes > rows and lanes > depth:
        lanes //= 2
    cells = list(product(range(columns), range(rows)))

    def terms(k: Expr | int, width: int) -> list[Expr]:
        """Products at depth k, k + 1, ..., one vector for each cell."""
        values = [fix(take(xs, start + k, width, dtype)) for start in starts]
        factors = [fix(take(w, first + m * pitch + k, width, dtype)) for m in range(rows)]
        return [values[n] * factors[m] for n, m in cells]

    full = depth // lanes
    if not full:
        sums = [spread(tirx.const(0, dtype), lanes) for _ in cells]
    elif full == 1:
        sums = [fix(t) for t in terms(0, lanes)]
    else:
        partial = T.alloc_buffer((len(cells) * lanes,), dtype, scope="local")
        places = [span(number * lanes, lanes) for number in range(len(cells))]
        for place in places:
            T.buffer_store(partial, spread(tirx.const(0, dtype), lanes), [place])
        with T.serial(0, full) as step:
            for place, term in zip(places, terms(step * lanes, lanes), strict=True):
                T.buffer_store(partial, partial[place] + term, [place])
        sums = [fix(partial[place]) for place in places]
    done = full * lanes
    while lanes > rows:
        sums = [_halves(s, dtype, lanes) for s in sums]
        lanes //= 2
        if depth - done >= lanes:
            sums = [s + t for s, t in zip(sums, terms(done, lanes), strict=True)]
            done += lanes
        sums = [fix(s) for s in sums]
    found = [transposed_sum(sums[n * rows : (n + 1) * rows], rows) for n in range(columns)]
    for k in range(done, depth):
        factor = take(w, first + k, rows, dtype, pitch)
        found = [f + factor * spread(cast(xs[s + k], dtype), rows) for f, s in zip(found, starts, strict=True)]
    return found
