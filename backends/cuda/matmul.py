"""Contractions: convolution, MatMul, Gemm as one tiled implicit GEMM in shared memory and registers.

A reduction ``sum(a * b)`` is one where some axes are read by ``a`` alone (rows) and some by ``b`` alone (columns).
With the output's axes in memory order (outer..., rows..., columns...), rows and columns in either role, it is

    A[s, k, m] = a at the axes that s, m, k stand for          in shared memory, a tile of TILE_K x bm
    B[s, k, n] = b ...                                         in shared memory, TILE_K x bn
    C[s, m, n] = sum over k of A * B                           MICRO x MICRO registers a thread
    E[s, m, n] = the epilogue, or C itself                     written where the output lies: a flat view of it

so that a convolution's im2col is index arithmetic of the copy into shared memory. Ragged sizes are padded with
zeros in A and B, and cut off in E. A block of threads owns bm x bn outputs; `plan` chooses both by a cost model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

from tvm import s_tir, te, tirx
from tvm.tirx import expr as nodes

from onyxc.backends.cuda.stages import Stage, key
from onyxc.backends.cuda.unit import Sum, Unit, axes_env, unflat
from onyxc.backends.kernels.expression import Expr, affine, free_vars, is_call, walk

MICRO = 4  # outputs a thread, in each direction
TILE_K = 16
TILES = (16, 32, 64)
LEAST = 8  # rows, columns and terms below which one thread an element does as well
PROCESSORS = 80  # of the GPU that blocks should fill


@dataclass(frozen=True)
class Plan:
    """How one contraction is tiled. Axes are te axes of ``reduction`` in memory order."""

    reduction: Stage
    reader: Stage | None  # the injective stage that is computed from its elements
    outer: tuple[Any, ...]
    rows: tuple[Any, ...]
    columns: tuple[Any, ...]
    swapped: bool  # rows are those of the product's second factor
    bm: int
    bn: int

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Outer, rows, columns, terms."""
        s, m, n = (_size(axes) for axes in (self.outer, self.rows, self.columns))
        return s, m, n, _size(self.reduction.op.reduce_axis)

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.bm * self.bn // MICRO**2


def _size(axes: Sequence[Any]) -> int:
    return prod(int(a.dom.extent) for a in axes)


def plan(stage: Stage, sums: Sequence[Sum], memory: Mapping[Any, Any]) -> Plan | None:
    """The plan for ``stage``, or for its only sum; None if it is no contraction or too small to tile."""
    if len(sums) > 1 or not (stage.is_reduction or sums):
        return None
    reduction, reader = (sums[0].stage, stage) if sums else (stage, None)
    factors = _factors(reduction, Unit(memory))
    if factors is None or (sums and not _is_identity(sums[0])):
        return None
    first, second = (free_vars(f) for f in factors)
    kinds = []
    for axis in reduction.op.axis:
        sides = (axis.var in first, axis.var in second)
        kinds.append("any" if int(axis.dom.extent) == 1 else {(True, False): "a", (False, True): "b"}.get(sides, "s"))
    outer, rows, columns = _grouped(list(reduction.op.axis), kinds)
    m, n, k = _size(rows), _size(columns), _size(reduction.op.reduce_axis)
    if min(m, n, k) < LEAST:
        return None
    swapped = any(axis.var in second for axis in rows if int(axis.dom.extent) > 1)
    bm, bn = _tile(_size(outer), m, n)
    return Plan(reduction, reader, outer, rows, columns, swapped, bm, bn)


def _is_identity(total: Sum) -> bool:
    """Whether the reader's element (i, j, ...) reads the sum's element (i, j, ...)."""
    axes = zip(total.reader.op.axis, total.stage.op.axis, total.place, strict=False)
    same = len(total.reader.op.axis) == len(total.place)
    return same and all(a.var.same_as(p) if int(b.dom.extent) > 1 else int(a.dom.extent) == 1 for a, b, p in axes)


def _factors(reduction: Stage, unit: Unit) -> tuple[Expr, Expr] | None:
    """``a`` and ``b`` of ``sum(a * b)``, over memory."""
    body = reduction.op.body[0]
    total = body.combiner.result[0]
    plain = isinstance(body.condition, nodes.IntImm) and len(body.source) == 1 and not len(body.init)
    if not plain or not isinstance(total, nodes.Add) or str(total.ty.dtype) not in ("float32", "int32"):
        return None
    source = unit.expand(body.source[0], {})
    return (source.a, source.b) if isinstance(source, nodes.Mul) else None


def _grouped(axes: list[Any], kinds: list[str]) -> tuple[tuple[Any, ...], tuple[Any, ...], tuple[Any, ...]]:
    """Split axes in memory order into outer, rows, columns: two runs at the end that only one factor reads each."""

    def run(end: int, without: str) -> tuple[int, str]:
        start, kind = end, ""
        while start:
            found = kinds[start - 1]
            if found not in ("any", kind) and (kind or found in ("s", without)):
                break
            kind = kind or found.replace("any", "")
            start -= 1
        return start, kind

    columns, kind = run(len(axes), "")
    rows, _ = run(columns, kind)
    return tuple(axes[:rows]), tuple(axes[rows:columns]), tuple(axes[columns:])


def _tile(outer: int, m: int, n: int) -> tuple[int, int]:
    """The tile with the least time: rounds of blocks, times multiplications and copies of one."""

    def cost(tile: tuple[int, int]) -> float:
        bm, bn = tile
        blocks = outer * -(-m // bm) * -(-n // bn)
        return -(-blocks // PROCESSORS) * (bm * bn + 8 * (bm + bn) + 256)

    return min((t for t in product(TILES, TILES) if t[0] * t[1] >= 32 * MICRO**2), key=cost)


def build(plan: Plan, unit: Unit) -> tuple[s_tir.Schedule, list[Any]]:
    """Schedule the contraction; the result is a flat view of the stage's output."""
    result = _expression(plan, unit)
    function = te.create_prim_func([*unit.reads.values(), result])
    return _schedule(plan, function, unit), [result]


def _expression(plan: Plan, unit: Unit) -> Any:
    s, m, n, k = plan.sizes
    mp, np_, kp = _padded(m, plan.bm), _padded(n, plan.bn), _padded(k, TILE_K)
    op, terms = plan.reduction.op, plan.reduction.op.reduce_axis
    source = op.body[0].source[0]
    units = {axis.var: tirx.const(0, "int32") for axis in op.axis if int(axis.dom.extent) == 1}

    def factor(index: int, name: str, axes: Sequence[Any], size: int, padded: int) -> Any:
        def element(outer: Expr, term: Expr, place: Expr) -> Expr:
            env = {**units, **unflat(plan.outer, outer), **unflat(axes, place), **unflat(terms, term)}
            expanded = unit.expand(source, env)
            value = expanded.a if index == 0 else expanded.b
            inside = [limit for limit in (_below(place, size, padded), _below(term, k, kp)) if limit is not None]
            return tirx.if_then_else(tirx.all(*inside), value, tirx.const(0, dtype)) if inside else value

        return te.compute((s, kp, padded), element, name=name)

    dtype = str(op.body[0].source[0].ty.dtype)
    a = factor(int(plan.swapped), "A", plan.rows, m, mp)
    b = factor(int(not plan.swapped), "B", plan.columns, n, np_)
    r = te.reduce_axis((0, kp), "k")
    c = te.compute((s, mp, np_), lambda o, i, j: te.sum(a[o, r, i] * b[o, r, j], axis=r), name="C")
    if plan.reader is None:
        return te.compute((s, m, n), lambda o, i, j: c[o, i, j], name="E")
    return te.compute((s, m, n), lambda o, i, j: _epilogue(plan, unit, c, o, i, j), name="E")


def _epilogue(plan: Plan, unit: Unit, c: Any, o: Expr, i: Expr, j: Expr) -> Expr:
    """The reader's value at the place that (o, i, j) stands for, its sum taken from ``c``."""
    assert plan.reader is not None
    at = {**unflat(plan.outer, o), **unflat(plan.rows, i), **unflat(plan.columns, j)}
    env = axes_env(plan.reader.op.axis, [at[a.var] for a in plan.reduction.op.axis])
    unit.local[key(plan.reduction.tensors[0])] = c[o, i, j]
    return unit.expand(plan.reader.op.body[0], env)


def _padded(size: int, tile: int) -> int:
    return -(-size // tile) * tile


def _below(index: Expr, size: int, padded: int) -> Expr | None:
    return None if size == padded else index < size


def _schedule(plan: Plan, function: Any, unit: Unit) -> s_tir.Schedule:
    sch = s_tir.Schedule(function)
    a, b, c, e = (sch.get_sblock(name) for name in "ABCE")
    outer, i, j, k = sch.get_loops(c)
    by, ty, mi = sch.split(i, [None, plan.bm // MICRO, MICRO])
    bx, tx, ni = sch.split(j, [None, plan.bn // MICRO, MICRO])
    ko, ki = sch.split(k, [None, TILE_K])
    sch.reorder(outer, by, bx, ty, tx, ko, ki, mi, ni)
    binds = {"blockIdx.z": outer, "blockIdx.y": by, "blockIdx.x": bx, "threadIdx.y": ty, "threadIdx.x": tx}
    for name, loop in binds.items():
        sch.bind(loop, name)
    sch.set_scope(c, 0, "local")
    sch.reverse_compute_at(e, tx, preserve_unit_loops=True)
    for block, axes in ((a, plan.rows), (b, plan.columns)):
        sch.set_scope(block, 0, "shared")
        sch.compute_at(block, ko, preserve_unit_loops=True)
        loops = sch.get_loops(block)[-2:]
        if _terms_lie_together(plan, axes, unit):
            sch.reorder(*reversed(loops))
            loops = loops[::-1]
        fused = sch.fuse(*loops)
        _, y, x = sch.split(fused, [None, plan.bm // MICRO, plan.bn // MICRO])
        sch.bind(y, "threadIdx.y")
        sch.bind(x, "threadIdx.x")
    sch.decompose_reduction(c, ko)
    for loop in (ki, mi, ni, *sch.get_loops(e)[-2:]):
        sch.unroll(loop)
    return sch


def _terms_lie_together(plan: Plan, axes: Sequence[Any], unit: Unit) -> bool:
    """Whether neighbours in memory of this factor are neighbouring terms of the sum, not neighbouring ``axes``."""
    source = unit.expand(plan.reduction.op.body[0].source[0], {})
    factor = source.b if any(a.var in free_vars(source.b) for a in axes if int(a.dom.extent) > 1) else source.a
    load = next((n for n in walk(factor) if is_call(n, "te.tensor_load")), None)
    if load is None:
        return False
    steps = affine(load.args[-1]).coefficients
    inner = [a.var for a in axes if int(a.dom.extent) > 1][-1:]
    return not any(steps.get(v) == 1 for v in inner)
