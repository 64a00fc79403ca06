"""Several signed sums of the same terms with few additions: what two sums share is added once. No TVM here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, TypeVar

import numpy as np

Number = TypeVar("Number")


@dataclass(frozen=True)
class Sums:
    """``shared``: (i, j, sign) makes a new term, term i plus or minus term j, behind those that are there already;

    ``sums``: the (term, sign) of each sum, in terms of all of these.
    """

    terms: int
    shared: tuple[tuple[int, int, int], ...]
    sums: tuple[tuple[tuple[int, int], ...], ...]

    @property
    def additions(self) -> int:
        """Additions and subtractions."""
        return len(self.shared) + sum(len(s) - 1 for s in self.sums)


def share(signs: np.ndarray[Any, Any]) -> Sums:
    """The sums with ``signs`` [sum, term] of -1, 0, 1: greedily, the pair that most sums contain becomes a term."""
    rows: list[dict[int, int]] = [{i: int(s) for i, s in enumerate(row) if s} for row in signs]
    terms, shared = signs.shape[1], list[tuple[int, int, int]]()
    while True:
        pairs = Counter((i, j, row[i] * row[j]) for row in rows for i, j in combinations(sorted(row), 2))
        best = max(pairs, key=lambda p: (pairs[p], *(-v for v in p)), default=None)
        if best is None or pairs[best] < 2:
            break
        i, j, sign = best
        new = terms + len(shared)
        shared.append(best)
        for row in rows:
            if row.get(i, 0) * row.get(j, 0) == sign:
                row[new] = row.pop(i)
                del row[j]
    return Sums(terms, tuple(shared), tuple(tuple(sorted(row.items(), reverse=True)) for row in rows))


def evaluate(sums: Sums, terms: Sequence[Number], keep: Callable[[Number], Number]) -> list[Number]:
    """The sums of ``terms``; ``keep`` names what is used more than once."""
    values: list[Any] = list(terms)
    for i, j, sign in sums.shared:
        values.append(keep(values[i] + values[j] if sign > 0 else values[i] - values[j]))
    return [signed_sum([(values[term], sign) for term, sign in row]) for row in sums.sums]


def signed_sum(terms: Sequence[tuple[Any, int]]) -> Any:
    """The sum of (term, sign); it starts with the first positive term, so that it has a negation only if it must."""
    start = next((i for i, (_, sign) in enumerate(terms) if sign > 0), 0)
    total = terms[start][0] if terms[start][1] > 0 else -terms[start][0]
    for term, sign in (*terms[:start], *terms[start + 1 :]):
        total = total + term if sign > 0 else total - term
    return total
