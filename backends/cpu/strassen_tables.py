"""Matrix products with fewer multiplications of blocks than the plain sum: each algorithm as a table.

A line is one product of a left factor, a sum of blocks of A, and a right factor, a sum of blocks of B, with the blocks
of C that it is added to (+) or taken from (-). Blocks are listed row by row:

    ++-- 000+ 0+00      (A11 + A12 - A21 - A22) * B22 is added to C12

Every table is proved by `Algorithm.is_exact`: the tests multiply it out.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

_SIGNS = {"+": 1, "0": 0, "-": -1}
Signs = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Algorithm:
    """A product of an ``m`` x ``k`` by a ``k`` x ``n`` matrix of blocks.

    ``left``: signs [product, block of A] of the left factors; ``right``: [product, block of B]; ``result``: [block of C,
    product].
    """

    m: int
    k: int
    n: int
    left: Signs
    right: Signs
    result: Signs

    @property
    def products(self) -> int:
        """Number of products of blocks."""
        return len(self.left)

    @property
    def name(self) -> str:
        """Sizes and products in words."""
        return f"{self.m} x {self.k} x {self.n} in {self.products} products"

    @property
    def saving(self) -> float:
        """Multiplications over those of the plain sum."""
        return self.products / (self.m * self.k * self.n)

    @property
    def growth(self) -> int:
        """How much larger than the plain sum's an element's error can become, beyond that of a longer sum.

        The largest number of terms of A, B and products that come together in a block of C.
        """
        terms = np.abs(self.left).sum(1) * np.abs(self.right).sum(1)
        return int((np.abs(self.result) * terms).sum(1).max())

    @property
    def roundings(self) -> int:
        """Additions, at most, that an element goes through outside of the sums themselves."""
        return int(sum(np.abs(signs).sum(1).max() for signs in (self.left, self.right, self.result)))

    @property
    def is_exact(self) -> bool:
        """Whether the products make the matrix product of the blocks."""
        m, k, n = self.m, self.k, self.n
        made = np.einsum("cp,pa,pb->cab", *(t.astype(np.int64) for t in (self.result, self.left, self.right)))
        wanted = np.zeros((m * n, m * k, k * n), np.int64)
        for i, j, inner in np.ndindex(m, n, k):
            wanted[i * n + j, i * k + inner, inner * n + j] = 1
        return bool((made == wanted).all())


def from_table(m: int, k: int, n: int, table: str) -> Algorithm:
    """The algorithm that ``table`` writes down, as above."""
    words = [line.split() for line in table.split("\n") if line.strip()]
    left, right, result = (np.array([[_SIGNS[c] for c in line[i]] for line in words], np.int8) for i in range(3))
    return Algorithm(m, k, n, left, right, result.T)


def nested(outer: Algorithm, inner: Algorithm) -> Algorithm:
    """``inner`` does the products of ``outer``."""

    def both(a: Signs, b: Signs, rows: tuple[int, int], columns: tuple[int, int]) -> Signs:
        made = np.einsum("pij,qkl->pqikjl", a.reshape(-1, rows[0], columns[0]), b.reshape(-1, rows[1], columns[1]))
        return np.asarray(made.reshape(len(a) * len(b), -1))

    m, k, n = ((getattr(outer, size), getattr(inner, size)) for size in "mkn")
    left, right = both(outer.left, inner.left, m, k), both(outer.right, inner.right, k, n)
    result = both(outer.result.T, inner.result.T, m, n).T
    return Algorithm(prod(m), prod(k), prod(n), left, right, result)


# V. Strassen, Gaussian elimination is not optimal, 1969
STRASSEN = from_table(
    2,
    2,
    2,
    """
    +00+ +00+ +00+
    00++ +000 00+-
    +000 0+0- 0+0+
    000+ -0+0 +0+0
    ++00 000+ -+00
    -0+0 ++00 000+
    0+0- 00++ +000
    """,
)

# as few products as J. E. Hopcroft and L. R. Kerr have (On minimizing the number of multiplications necessary for matrix
# multiplication, 1971); found by a search over flips of two products, then made sparse by changes of basis
HOPCROFT_KERR = from_table(
    2,
    3,
    3,
    """
    00++00 00+0000-0 0-000+
    +0-000 00+000000 0-+000
    +-0000 +00000000 +-0-+0
    0000++ 000000+00 -0++0-
    00+000 00+000+0+ 00+00-
    0++0++ 00000+000 -0+000
    +00+00 0++0+0000 0+0000
    +-0+-0 0000+0000 000+-0
    000+00 ++00000+0 0-00+0
    0+0000 +00+0+000 +00000
    0000+0 000++0-00 000+00
    00+00+ 00000+0-- 00000-
    000+0- 0000000+0 0000-+
    +-0+00 +000-0000 0+0+-0
    00+0++ 00000++00 +0-00+
    """,
)

ALGORITHMS = (STRASSEN, HOPCROFT_KERR, nested(STRASSEN, STRASSEN))
