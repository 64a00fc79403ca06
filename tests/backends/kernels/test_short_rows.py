"""Rows much shorter than a vector: the vector runs across them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tvm import te, tirx

from onyxc.backends.kernels.axes import across_rows, collapse
from onyxc.backends.kernels.group import plan
from onyxc.backends.kernels.nest import Nest
from onyxc.backends.kernels.schedule import element_bytes, mathematics, schedule
from onyxc.backends.target import PRESETS

Array = np.ndarray[Any, Any]
Run = Callable[..., list[Array]]
X86 = PRESETS["x86-64-v4"]


def softmax(x: Any) -> Any:
    *outer, last = (int(d) for d in x.shape)
    r, s = te.reduce_axis((0, last), "r"), te.reduce_axis((0, last), "s")
    peak = te.compute(outer, lambda *i: te.max(x[(*i, r)], axis=r), name="peak")
    powers = te.compute((*outer, last), lambda *i: tirx.exp(x[i] - peak[i[:-1]]), name="powers")
    total = te.compute(outer, lambda *i: te.sum(powers[(*i, s)], axis=s), name="total")
    return te.compute((*outer, last), lambda *i: powers[i] / total[i[:-1]], name="softmax")


def nest_of(output: Any, source: Any) -> Nest:
    nest = plan([output], [source])
    collapse(nest)
    across_rows(nest, X86.lanes(element_bytes(nest)), mathematics(nest))
    return nest


@pytest.mark.parametrize("columns", [2, 3, 10, 16])
@pytest.mark.parametrize("rows", [(40,), (4421,), (3, 300), (2, 5, 64)])
def test_softmax(rows: tuple[int, ...], columns: int, run_group: Run) -> None:
    x = np.random.default_rng(0).normal(size=(*rows, columns)).astype(np.float32) * 3
    t = te.placeholder(x.shape)
    y = softmax(t)
    nest = nest_of(y, t)
    assert nest.short
    assert nest.scope.extents[-2:] == [columns, rows[-1]]
    powers = np.exp(x - x.max(-1, keepdims=True))
    np.testing.assert_allclose(run_group([t], [y], [x])[0], powers / powers.sum(-1, keepdims=True), rtol=1e-5)


def test_a_slice_with_an_exponential(run_group: Run) -> None:
    x = np.random.default_rng(1).normal(size=(4420, 4)).astype(np.float32)
    t = te.placeholder(x.shape)
    y = te.compute((4420, 2), lambda i, j: tirx.exp(t[i, j + 2]) * 2.0, name="y")
    assert nest_of(y, t).short
    np.testing.assert_allclose(run_group([t], [y], [x])[0], np.exp(x[:, 2:]) * 2, rtol=1e-6)


def test_many_rows_are_divided() -> None:
    t = te.placeholder((100_000, 4))
    made = schedule(nest_of(softmax(t), t), X86)
    assert made.chunk
    assert made.tasks > 8
    assert made.inner == 0


def test_others_stay() -> None:
    wide, few, plain = te.placeholder((4420, 40)), te.placeholder((20, 4)), te.placeholder((4420, 4))
    cheap = te.compute((4420, 2), lambda i, j: plain[i, j + 2] + 1.0, name="cheap")
    for output, source in ((softmax(wide), wide), (softmax(few), few), (cheap, plain)):
        assert not nest_of(output, source).short
