"""The matrices of Winograd's (Cook and Toom's) short convolutions, exact, and as few additions as they need.

F(m, r) computes m neighbouring outputs of a filter with r taps from n = m + r - 1 inputs by n products:
``y = A ((G w) * (B d))``. An image takes one such transform along each axis. The filter is seen as a polynomial that
is evaluated at n - 1 points and at infinity (S. Winograd, Arithmetic Complexity of Computations, 1980;
A. Lavin and S. Gray, arXiv:1509.09308). Nothing here imports TVM.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import prod

# 5/8 and 3/2 in place of 1 and 2: all entries of A and B stay exact in float32, and the largest error is a quarter
POINTS: dict[int, tuple[Fraction, ...]] = {
    1: (),
    4: (Fraction(0), Fraction(1), Fraction(-1)),
    6: (Fraction(0), Fraction(5, 8), Fraction(-5, 8), Fraction(3, 2), Fraction(-3, 2)),
    8: (Fraction(0), Fraction(1, 2), Fraction(-1, 2), Fraction(1), Fraction(-1), Fraction(7, 4), Fraction(-7, 4)),
}

Row = tuple[float, ...]
Matrix = tuple[Row, ...]


@dataclass(frozen=True)
class Transform:
    """F(``outputs``, ``taps``) along one axis.

    ``inverse`` (A) and ``forward`` (B) are products of sparse stages, to be applied one after the other;
    ``filter`` (G) has a row for each of the ``size`` products.
    """

    outputs: int
    taps: int
    inverse: tuple[Matrix, ...]
    filter: Matrix
    forward: tuple[Matrix, ...]

    @property
    def size(self) -> int:
        """Inputs of one tile, and products."""
        return self.outputs + self.taps - 1


@lru_cache(maxsize=32)
def transform(outputs: int, taps: int) -> Transform:
    """The transform of F(``outputs``, ``taps``); their sum less one is 1, 4 or 6.

    Raises:
        ValueError: there are no points for that size.
    """
    size = outputs + taps - 1
    if size not in POINTS:
        raise ValueError(f"F({outputs}, {taps}) needs a transform of {size} points, known are {sorted(POINTS)}")
    points = POINTS[size]
    inverse = [[p**i for p in points] + [Fraction(i == outputs - 1)] for i in range(outputs)]
    filters = [[p**k / _product(p - q for q in points if q != p) for k in range(taps)] for p in points]
    filters.append([Fraction(k == taps - 1) for k in range(taps)])
    forward = [[*_polynomial([q for q in points if q != p]), Fraction(0)] for p in points] + [_polynomial(points)]
    pairs = [(2 * i + 1, 2 * i + 2) for i in range((size - 2) // 2)]  # points p and -p
    return Transform(
        outputs,
        taps,
        _stages(_sums_first(inverse, pairs)),
        _floats(filters),
        _stages(_sums_last(forward, pairs)),
    )


def _product(factors: Iterable[Fraction]) -> Fraction:
    return prod(factors, start=Fraction(1))


def _polynomial(roots: Sequence[Fraction]) -> list[Fraction]:
    """Coefficients, lowest first, of the product of (x - root)."""
    made = [Fraction(1)]
    for root in roots:
        made = [a - root * b for a, b in zip([Fraction(0), *made], [*made, Fraction(0)], strict=True)]
    return made


def _butterfly(size: int, pairs: Sequence[tuple[int, int]]) -> list[list[Fraction]]:
    """The identity, but with sum and difference in the places of each pair."""
    made = [[Fraction(i == j) for j in range(size)] for i in range(size)]
    for a, b in pairs:
        made[a][b], made[b][a], made[b][b] = Fraction(1), Fraction(1), Fraction(-1)
    return made


def _sums_first(matrix: list[list[Fraction]], pairs: Sequence[tuple[int, int]]) -> list[list[list[Fraction]]]:
    """Stages of a matrix whose columns of a pair differ in signs only: sums and differences of the inputs first."""
    rest = [list(row) for row in matrix]
    for row in rest:
        for a, b in pairs:
            row[a], row[b] = (row[a] + row[b]) / 2, (row[a] - row[b]) / 2
    return [_butterfly(len(matrix[0]), pairs), rest]


def _sums_last(matrix: list[list[Fraction]], pairs: Sequence[tuple[int, int]]) -> list[list[list[Fraction]]]:
    """Stages of a matrix whose rows of a pair differ in signs only: sums and differences of the outputs last."""
    rest = [list(row) for row in matrix]
    for a, b in pairs:
        rest[a], rest[b] = (
            [(p + q) / 2 for p, q in zip(matrix[a], matrix[b], strict=True)],
            [(p - q) / 2 for p, q in zip(matrix[a], matrix[b], strict=True)],
        )
    return [rest, _butterfly(len(matrix), pairs)]


def _floats(matrix: Sequence[Sequence[Fraction]]) -> Matrix:
    return tuple(tuple(float(v) for v in row) for row in matrix)


def _stages(stages: Sequence[Sequence[Sequence[Fraction]]]) -> tuple[Matrix, ...]:
    """The stages as floats, without those that change nothing."""
    made = [_floats(stage) for stage in stages]
    return tuple(m for m in made if m != _floats(_butterfly(len(m), ())))
