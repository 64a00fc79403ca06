"""Fused attention against numpy in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from onyxc.backends.cpu import attention, attention_plan
from onyxc.backends.cpu.attention_plan import AttentionShape
from onyxc.backends.cpu.epilogue import Epilogue, Operand
from onyxc.backends.cpu.match.attention import LOWEST, limits_of
from onyxc.backends.cpu.vectors import constant, lanes_of
from onyxc.backends.target import get

Array = np.ndarray[Any, Any]
TARGETS = ["x86-64-v4", "x86-64-v3", "x86-64-v2"]


@dataclass(frozen=True)
class Case:
    """Batch and heads, rows, keys, depth, columns of v; how k and v lie; heads that share k and v."""

    batch: tuple[int, int]
    rows: int
    keys: int
    depth: int
    width: int
    k_turned: bool = True  # contiguous along depth
    v_turned: bool = False
    shared: bool = False
    causal: bool = False
    guarded: bool = False  # some rows see nothing, and are zero


CASES = {
    "whole vectors": Case((1, 2), 24, 32, 32, 32),
    "tails": Case((2, 3), 29, 45, 19, 13),
    "keys contiguous": Case((1, 2), 21, 37, 16, 24, k_turned=False),
    "v turned": Case((1, 2), 21, 37, 16, 24, v_turned=True),
    "shared keys": Case((1, 4), 17, 21, 8, 40, shared=True),
    "causal": Case((1, 3), 40, 40, 16, 16, causal=True),
    "many keys": Case((1, 1), 30, 1100, 12, 20),
    "many keys, causal": Case((1, 1), 60, 1100, 12, 20, causal=True),
    "guarded": Case((1, 2), 29, 45, 19, 13, guarded=True),
    "many keys, guarded": Case((1, 1), 30, 1100, 12, 20, causal=True, guarded=True),
}


def strides(array: Array) -> tuple[int, ...]:
    """Element strides."""
    return tuple(s // array.itemsize for s in array.strides)


def swapped(array: Array, turned: bool) -> Array:
    """The array, lying in memory with its last two axes exchanged if ``turned``."""
    return np.ascontiguousarray(array.swapaxes(-1, -2)).swapaxes(-1, -2) if turned else array


def expected(q: Array, k: Array, v: Array, mask: Array, scale: float) -> Array:
    """In float64."""
    scores = q.astype(np.float64) @ k.astype(np.float64) * scale + mask
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.asarray(weights / weights.sum(-1, keepdims=True) @ v)


@pytest.mark.parametrize("level", TARGETS)
@pytest.mark.parametrize("name", CASES)
def test_attention(name: str, level: str, call: Any) -> None:
    case, target, rng = CASES[name], get(level), np.random.default_rng(5)
    heads = (1, 1) if case.shared else case.batch
    q = 3 * rng.standard_normal((*case.batch, case.rows, case.depth), np.float32)
    k = swapped(rng.standard_normal((*heads, case.depth, case.keys), np.float32), case.k_turned)
    v = swapped(rng.standard_normal((*heads, case.keys, case.width), np.float32), case.v_turned)
    y = np.full((*case.batch, case.rows, case.width), np.nan, np.float32)
    first = case.keys - case.rows if case.causal else case.keys
    mask = np.where(np.arange(case.keys) <= np.arange(case.rows)[:, None] + first, 0, -np.inf).astype(np.float32)
    if case.guarded:
        mask[::3] = -np.inf
        q[0, 0, 1, 0] = np.nan
    shape = AttentionShape(
        case.batch, case.rows, case.keys, case.depth, case.width, strides(q),
        *(((0, 0) if case.shared else strides(a)[:2]) + strides(a)[2:] for a in (k, v)), strides(y)[:-1],
    )  # fmt: skip
    plan = attention.plan(shape, target)
    assert plan.long == (case.keys > 1024)
    scale = float(np.float32(case.depth**-0.5))
    operand = Operand("float32", (0, 0, case.keys, 1))
    epilogue = Epilogue((operand,), lambda acc, ops: acc * constant(scale, "float32", lanes_of(acc)) + ops[0])
    kernel = attention.emit("kernel", plan, epilogue, target, limited=case.causal, guarded=case.guarded)
    assert kernel.tasks == plan.tasks
    limits = [limits_of(mask, plan, LOWEST)] * case.causal
    stored = [
        np.ascontiguousarray(swapped(a, t).swapaxes(-1, -2) if t else a)
        for a, t in ((k, case.k_turned), (v, case.v_turned))
    ]
    call(kernel, target, [q, *stored, mask, *limits, y, np.full(plan.scratch_size, np.nan, np.float32)])
    with np.errstate(invalid="ignore"):
        wanted = expected(q, k, v, mask, scale)
    assert np.isnan(wanted).any() == case.guarded
    np.testing.assert_allclose(y, np.nan_to_num(wanted, nan=0), rtol=1e-4, atol=2e-6)


def test_parts_of_one_buffer(call: Any) -> None:
    """q, k and v as parts of the rows of one tensor, the result with heads side by side."""
    target, rng, (rows, heads, depth) = get("x86-64-v4"), np.random.default_rng(6), (24, 2, 16)
    joined = rng.standard_normal((rows, 3, heads, depth), np.float32)
    pitch = 3 * heads * depth
    by_rows, by_keys = (depth, pitch, 1), (depth, 1, pitch)
    starts = tuple(i * heads * depth for i in range(3))
    shape = AttentionShape(
        (heads,),
        rows,
        rows,
        depth,
        depth,
        by_rows,
        by_keys,
        by_rows,
        (depth, heads * depth),
        starts,  # type: ignore[arg-type]
    )
    plan = attention.plan(shape, target)
    y = np.zeros((rows, heads, depth), np.float32)
    scratch = np.zeros(plan.scratch_size, np.float32)
    call(attention.emit("kernel", plan, Epilogue(), target), target, [joined, joined, joined, y, scratch])
    q, k, v = joined.transpose(1, 2, 0, 3)
    wanted = expected(q, k.swapaxes(1, 2), v, np.zeros(1), 1).transpose(1, 0, 2)
    np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=2e-6)


def test_plan_divides_few_heads() -> None:
    shape = AttentionShape((2,), 128, 128, 64, 64, (8192, 64, 1), (8192, 1, 64), (8192, 64, 1), (8192, 64))
    few = attention_plan.plan(shape, get("x86-64-v4"))
    assert few.chunks > 1
    assert few.tasks == 2 * few.chunks
    assert few.scratch_size < 128 * 128 + 2 * 128 * 64  # less than scores, keys and values of one head


def test_limits_of_a_causal_mask() -> None:
    shape = AttentionShape((1,), 40, 40, 8, 8, (320, 8, 1), (320, 1, 8), (320, 8, 1), (320, 8))
    plan = attention_plan.plan(shape, get("x86-64-v4"))
    mask = np.triu(np.full((40, 40), -1e4, np.float32), 1)
    ends = [t.start + (i + 1) * t.width for t in plan.tiles for i in range(t.count)]
    assert limits_of(mask, plan).tolist() == ends
    assert set(limits_of(mask, plan, LOWEST).tolist()) == {40}
    mask[3] = -np.inf  # a row that sees nothing keeps its tile whole
    assert limits_of(mask, plan)[0] == 40
