"""The matrices of Winograd's (Cook and Toom's) short convolutions, exact, and as few additions as they need.

F(m, r) computes m neighbouring outputs of a filter with r taps from n = m + r - 1 inputs by n products:
``y = A ((G w) * (B d))``. An image takes one such transform along each axis. The filter is seen as a polynomial that
is evaluated at n - 1 points and at infinity (S. Winograd, Arithmetic Complexity of Computations, 1980;
A. Lavin and S. Gray, arXiv:1509.09308). With a stride each phase of the input meets its own taps by a transform of its
own, and the results are added up. Nothing here imports TVM.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import chain
from math import prod

TILES = (4, 2)  # outputs of a tile; with more, errors grow

# by number of products; 5/8 and 3/2 in place of 1 and 2: all entries of A and B stay exact in float32, and the largest
# error is a quarter
POINTS: dict[int, tuple[Fraction, ...]] = {
    3: (Fraction(1), Fraction(-1)),
    4: (Fraction(0), Fraction(1), Fraction(-1)),
    5: (Fraction(1, 2), Fraction(-1, 2), Fraction(3, 2), Fraction(-3, 2)),
    6: (Fraction(0), Fraction(5, 8), Fraction(-5, 8), Fraction(3, 2), Fraction(-3, 2)),
    8: (Fraction(0), Fraction(1, 2), Fraction(-1, 2), Fraction(1), Fraction(-1), Fraction(2), Fraction(-2)),
}

Row = tuple[float, ...]
Matrix = tuple[Row, ...]
Fractions = list[list[Fraction]]


@dataclass(frozen=True)
class Transform:
    """F(``outputs``, ``taps``) along one axis, outputs being ``stride`` inputs apart.

    ``inverse`` (A) and ``forward`` (B) are products of sparse stages, to be applied one after the other;
    ``filter`` (G) has a row for each of the ``size`` products.
    """

    outputs: int
    taps: int
    stride: int
    inverse: tuple[Matrix, ...]
    filter: Matrix
    forward: tuple[Matrix, ...]

    @property
    def size(self) -> int:
        """Inputs of one tile, and products."""
        return self.step + self.taps - self.stride

    @property
    def step(self) -> int:
        """Inputs from one tile to the next."""
        return self.stride * self.outputs


def outputs(taps: int, stride: int) -> tuple[int, ...]:
    """The numbers of outputs for which there is a transform that saves products, or (1,) for one tap."""
    if stride == taps == 1:
        return (1,)
    counts = _phases(taps, stride)
    return tuple(m for m in TILES if max(counts) > 1 and all(n == 1 or m + n - 1 in POINTS for n in counts))


def _phases(taps: int, stride: int) -> list[int]:
    """How many of ``taps`` meet the inputs of each phase."""
    return [len(range(phase, taps, stride)) for phase in range(stride)]


@lru_cache(maxsize=32)
def transform(outputs: int, taps: int, stride: int = 1) -> Transform:
    """The transform of F(``outputs``, ``taps``).

    Raises:
        ValueError: there are no points for that size.
    """
    phases = [_phase(outputs, n) for n in _phases(taps, stride)]
    size = stride * (outputs - 1) + taps
    sums = _diagonal([p.sums for p in phases])
    inverse = [list(chain.from_iterable(rows)) for rows in zip(*(p.inverse for p in phases), strict=True)]
    filters, forward = Fractions(), Fractions()
    for i, phase in enumerate(phases):
        filters += _spread(phase.filter, range(i, taps, stride), taps)
        forward += _spread(phase.forward, range(i, size, stride), size)
    return Transform(outputs, taps, stride, _stages(sums, inverse), _floats(filters), _stages(forward, sums))


@dataclass(frozen=True)
class _Phase:
    """A transform without a stride: A is ``inverse`` times ``sums``, B is ``sums`` times ``forward``."""

    inverse: Fractions
    sums: Fractions
    filter: Fractions
    forward: Fractions


def _phase(outputs: int, taps: int) -> _Phase:
    if taps == 1:
        same = _butterfly(outputs, ())
        return _Phase(same, same, [[Fraction(1)]] * outputs, same)
    size = outputs + taps - 1
    if size not in POINTS:
        raise ValueError(f"F({outputs}, {taps}) needs a transform of {size} points, known are {sorted(POINTS)}")
    points = POINTS[size]
    inverse = [[p**i for p in points] + [Fraction(i == outputs - 1)] for i in range(outputs)]
    filters = [[p**k / prod((p - q for q in points if q != p), start=Fraction(1)) for k in range(taps)] for p in points]
    filters.append([Fraction(k == taps - 1) for k in range(taps)])
    forward = [[*_polynomial([q for q in points if q != p]), Fraction(0)] for p in points] + [_polynomial(points)]
    pairs = [(i, i + 1) for i, p in enumerate(points) if p > 0]  # points p and -p
    # columns of A, and rows of B, that belong to a pair differ in signs only
    for row in inverse:
        for a, b in pairs:
            row[a], row[b] = (row[a] + row[b]) / 2, (row[a] - row[b]) / 2
    for a, b in pairs:
        both = list(zip(forward[a], forward[b], strict=True))
        forward[a], forward[b] = [(p + q) / 2 for p, q in both], [(p - q) / 2 for p, q in both]
    return _Phase(inverse, _butterfly(size, pairs), filters, forward)


def _polynomial(roots: Sequence[Fraction]) -> list[Fraction]:
    """Coefficients, lowest first, of the product of (x - root)."""
    made = [Fraction(1)]
    for root in roots:
        made = [a - root * b for a, b in zip([Fraction(0), *made], [*made, Fraction(0)], strict=True)]
    return made


def _butterfly(size: int, pairs: Sequence[tuple[int, int]]) -> Fractions:
    """The identity, but with sum and difference in the places of each pair."""
    made = [[Fraction(i == j) for j in range(size)] for i in range(size)]
    for a, b in pairs:
        made[a][b], made[b][a], made[b][b] = Fraction(1), Fraction(1), Fraction(-1)
    return made


def _diagonal(blocks: Sequence[Fractions]) -> Fractions:
    """The square ``blocks`` along the diagonal of a matrix."""
    size, made = sum(map(len, blocks)), Fractions()
    for block in blocks:
        made += _spread(block, range(len(made), len(made) + len(block)), size)
    return made


def _spread(rows: Fractions, columns: Sequence[int], size: int) -> Fractions:
    """``rows`` with their entries moved to ``columns`` of ``size``."""
    made = [[Fraction(0)] * size for _ in rows]
    for new, row in zip(made, rows, strict=True):
        for column, value in zip(columns, row, strict=True):
            new[column] = value
    return made


def _floats(matrix: Fractions) -> Matrix:
    return tuple(tuple(float(v) for v in row) for row in matrix)


def _stages(*stages: Fractions) -> tuple[Matrix, ...]:
    """The stages as floats, without those that change nothing."""
    made = [_floats(stage) for stage in stages]
    return tuple(m for m in made if m != _floats(_butterfly(len(m), ())))
