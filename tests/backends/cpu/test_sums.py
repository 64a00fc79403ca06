"""Sums that share terms, against the matrix product."""

from __future__ import annotations

import numpy as np
import pytest

from onyxc.backends.cpu.strassen_tables import ALGORITHMS, STRASSEN
from onyxc.backends.cpu.sums import evaluate, share


@pytest.mark.parametrize("seed", range(3))
def test_random_signs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    signs = rng.integers(-1, 2, (6, 9))
    signs[:, 0] = 1  # no sum is empty
    values = rng.integers(-50, 50, 9)
    sums = share(signs)
    assert evaluate(sums, list(values), lambda v: v) == list(signs @ values)
    assert sums.additions <= np.abs(signs).sum() - len(signs)


def test_a_sum_of_negative_terms_alone() -> None:
    assert evaluate(share(np.array([[-1, 0, -1]])), [3, 4, 5], lambda v: v) == [-8]


def test_strassen_needs_eighteen_additions() -> None:
    tables = (STRASSEN.left, STRASSEN.right, STRASSEN.result)
    assert sum(share(t).additions for t in tables) == 18


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: a.name)
def test_sharing_saves_additions(algorithm: object) -> None:
    for table in (algorithm.left, algorithm.result):  # type: ignore[attr-defined]
        assert share(table).additions <= np.abs(table).sum() - len(table)
