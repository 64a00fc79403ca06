"""Matrix products with fewer multiplications of blocks than the plain sum: each algorithm as a table.

A line is one product of a left factor, a sum of blocks of A, and a right factor, a sum of blocks of B, with the blocks
of C that it is added to (+) or taken from (-). Blocks are listed row by row:

    ++-- 000+ 0+00      (A11 + A12 - A21 - A22) * B22 is added to C12

Every table is proved by `Algorithm.is_exact`: the tests multiply it out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

_SIGNS = {"+": 1, "0": 0, "-": -1}


@dataclass(frozen=True)
class Algorithm:
    """A product of an ``m`` x ``k`` by a ``k`` x ``n`` matrix of blocks; ``table`` as above."""

    name: str
    m: int
    k: int
    n: int
    table: str

    @cached_property
    def _columns(self) -> list[np.ndarray[Any, Any]]:
        words = [line.split() for line in self.table.split("\n") if line.strip()]
        return [np.array([[_SIGNS[c] for c in line[i]] for line in words], np.int8) for i in range(3)]

    @property
    def left(self) -> np.ndarray[Any, Any]:
        """Signs [product, block of A] of the left factors."""
        return self._columns[0]

    @property
    def right(self) -> np.ndarray[Any, Any]:
        """Signs [product, block of B] of the right factors."""
        return self._columns[1]

    @property
    def result(self) -> np.ndarray[Any, Any]:
        """Signs [block of C, product] of the result."""
        return self._columns[2].T

    @property
    def products(self) -> int:
        """Number of products of blocks."""
        return len(self.left)

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
    def is_exact(self) -> bool:
        """Whether the products make the matrix product of the blocks."""
        m, k, n = self.m, self.k, self.n
        made = np.einsum("cp,pa,pb->cab", *(t.astype(np.int64) for t in (self.result, self.left, self.right)))
        wanted = np.zeros((m * n, m * k, k * n), np.int64)
        for i, j, inner in np.ndindex(m, n, k):
            wanted[i * n + j, i * k + inner, inner * n + j] = 1
        return bool((made == wanted).all())


WINOGRAD = Algorithm(
    "2 x 2 x 2 in 7 products",
    2,
    2,
    2,
    """
    +000 +000 ++++
    0+00 00+0 +000
    ++-- 000+ 0+00
    000+ +--+ 00-0
    00++ -+00 0+0+
    -0++ +-0+ 0+++
    +0-0 0-0+ 00++
    """,
)

# as few products as J. E. Hopcroft and L. R. Kerr have (On minimizing the number of multiplications necessary for matrix
# multiplication, 1971); found by a search over flips of two products, then made sparse by changes of basis
HOPCROFT_KERR = Algorithm(
    "2 x 3 x 3 in 15 products",
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

ALGORITHMS = (WINOGRAD, HOPCROFT_KERR)
