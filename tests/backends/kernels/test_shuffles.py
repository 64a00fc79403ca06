"""Vectors whose lanes lie close together: which loads are shuffled, and that they are right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import te, tirx

from onyxc.backends.kernels import loops
from onyxc.backends.kernels.shuffles import distances

Array = np.ndarray[Any, Any]
Run = Callable[..., list[Array]]
Index = Callable[[Any], Any]


def clip(value: Any, low: int, high: int) -> Any:
    return np.clip(value, low, high) if isinstance(value, np.ndarray) else tirx.max(tirx.min(value, high), low)


CASES: dict[str, tuple[int, Index]] = {
    "twice": (100, lambda w: w // 2),
    "three times": (149, lambda w: w // 3),
    "every second": (24, lambda w: w * 2 + 1),
    "every third": (16, lambda w: w * 3),
    "one and a half times": (70, lambda w: w * 2 // 3),
    "limited at both ends": (100, lambda w: clip((w * 2 - 1) // 4, 0, 49)),
}


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Gets the number of vectors that each shuffle takes."""
    found: list[int] = []

    def shuffled(source: Any, first: Any, places: list[int]) -> Any:
        found.append(len(places))
        return original(source, first, places)

    original = loops.shuffled
    monkeypatch.setattr(loops, "shuffled", shuffled)
    return found


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", ["float32", "uint8", "int64", "bool"])
def test_near_elements(case: str, dtype: str, run_group: Run, count: list[int]) -> None:
    width, index = CASES[case]
    x = np.random.default_rng(1).integers(0, 2 if dtype == "bool" else 100, (3, 50)).astype(dtype)
    t = te.placeholder(x.shape, dtype)
    y = te.compute((3, width), lambda r, w: t[r, index(w)], name="y")
    np.testing.assert_array_equal(run_group([t], [y], [x])[0], x[:, index(np.arange(width))])
    if dtype == "float32" and not case.startswith("every"):
        assert count


def test_what_lies_behind_a_guard_stays_there(run_group: Run, count: list[int]) -> None:
    x = np.arange(20, dtype=np.float32)
    t = te.placeholder(x.shape)
    y = te.compute((100,), lambda w: tirx.if_then_else(w < 40, t[w // 2], tirx.const(7, "float32")), name="y")
    expected = np.where(np.arange(100) < 40, np.repeat(np.pad(x, (0, 30)), 2), 7)
    np.testing.assert_array_equal(run_group([t], [y], [x])[0], expected)
    assert not count


def test_indices_from_memory_are_read_by_themselves(run_group: Run, count: list[int]) -> None:
    x, order = np.arange(400, dtype=np.float32), np.random.default_rng(3).permutation(64).astype(np.int32)
    t, s = te.placeholder(x.shape), te.placeholder(order.shape, "int32")
    y = te.compute((64,), lambda w: t[s[w] * 2 + w // 2], name="y")
    np.testing.assert_array_equal(run_group([t, s], [y], [x, order])[0], x[order * 2 + np.arange(64) // 2])
    assert not count


def test_distances() -> None:
    analyzer, i = tvm.sym.Analyzer(), tirx.Var("i", "int32")

    def found(index: Index, lanes: int = 4) -> list[int] | None:
        return distances(lambda lane: index(i * 4 + lane), lanes, analyzer)

    assert found(lambda w: tirx.floordiv(w, 2)) == [0, 0, 1, 1]
    assert found(lambda w: w * 3 + 7) == [0, 3, 6, 9]
    for plain in (lambda w: w + 5, lambda w: w * 0):
        assert found(plain) is None
    for far in (lambda w: w * 17, lambda w: -w, lambda w: tirx.floordiv(w, 3)):
        assert found(far) is None
