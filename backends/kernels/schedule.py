"""The decisions about a `Nest`, before any loop is written: vector or dot form, lanes, tasks.

*Vector*: the last axis is cut into blocks of lanes, and reductions that depend on it keep one accumulator a lane,
with the reduction loops outside the vector. *Dot*: where the reduced axis is the contiguous one, all axes are
loops, and each reduction runs lanes along its own last axis, which are combined at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from tvm import tirx
from tvm.ir import Call
from tvm.tirx import expr as nodes

from onyxc.backends.kernels.axes import friendliness, scope_ranges, transposed
from onyxc.backends.kernels.expression import Expr, dtype_of, free_vars, is_guard, is_load, walk
from onyxc.backends.kernels.nest import Fold, Nest, Scope, expressions
from onyxc.backends.kernels.squares import side
from onyxc.backends.target import Target

SERIAL = 100_000  # operations below which a kernel stays one task
CHUNK = 4096  # elements a task of a kernel that has only one axis
SHARE = 32  # tasks wanted: enough for the threads of a large machine
STRIP = 16  # steps of the inner axis for one visit of a transposing access's cache lines
BLOCK = 4  # vectors of accumulators a block of a reduction


@dataclass
class Schedule:
    """The decisions about one nest. ``lanes`` of 1 means scalar code everywhere."""

    lanes: int
    dot: bool
    split: int  # leading axes that the task number enumerates
    chunk: int  # elements of the last axis a task, 0 when the tasks are whole axes
    tasks: int
    work: int
    light: bool = False  # no mathematical functions: registers suffice for several vectors at once
    inner: int | None = None  # axis that runs innermost, around the vector
    square: int = 0  # steps of that axis that are turned in registers at once, as many as lanes


def element_bytes(nest: Nest) -> int:
    """Bytes of the widest value that the nest computes with; narrow floats compute in float32."""
    widths = [1]
    for expr in expressions(nest):
        for node in walk(expr):
            kind = dtype_of(node)
            if kind.startswith("float") or ((isinstance(node, nodes.Cast) or is_load(node)) and kind != "bool"):
                widths.append(max(1, int("".join(c for c in kind if c.isdigit())[:2]) // 8))
    return max(widths)


def level_of(fold: Fold, scope: Scope) -> int:
    """Number of leading axes that must be fixed before the fold can be computed."""
    depends = free_vars(*fold.indices)
    return max((i + 1 for i, v in enumerate(scope.axes) if v in depends), default=0)


def work_of(nest: Nest) -> int:
    """Operations of the nest, about; a mathematical function counts ten."""

    def cost(exprs: list[Expr]) -> int:
        calls = sum(isinstance(n, Call) and not is_guard(n) for e in exprs for n in walk(e))
        return max(1, sum(not isinstance(n, tirx.Var | nodes.IntImm) for e in exprs for n in walk(e)) + 9 * calls)

    own = [*nest.values, *(v for _, v in nest.scope.bindings)]
    total = cost(own) * prod(nest.scope.extents)
    for fold in nest.folds:
        total += cost([*fold.sources, *(v for _, v in fold.scope.bindings)]) * fold.scope.points
    return total


def schedule(nest: Nest, target: Target, simple: bool = False) -> Schedule:
    """How to run ``nest`` on ``target``; ``simple`` is the scalar, one-task form that always works."""
    extents, work = nest.scope.extents, work_of(nest)
    if simple or not prod(extents):
        return Schedule(1, True, 0, 0, 1, work)
    lanes = max(1, target.lanes(element_bytes(nest)))
    levels = [level_of(f, nest.scope) for f in nest.folds]
    inner = [f for f, level in zip(nest.folds, levels, strict=True) if level == len(extents)]
    dot = not nest.short and (not extents or _prefers_dot(nest, inner, lanes))
    made = Schedule(lanes, dot, 0, 0, 1, work, light=not mathematics(nest))
    if nest.short:
        made.inner = len(extents) - 2
    elif not dot and not nest.folds:
        made.inner = transposed(nest)
        if made.inner is not None:
            rows = side(nest, made.inner, lanes, scope_ranges(nest.scope))
            made.square = rows if made.light or rows == lanes else 0
    outer = extents if dot else extents[:-1]
    if nest.short and len(extents) == 2:
        made.chunk, made.tasks = _chunks(extents[-1], lanes, work)
    elif made.inner is not None:
        made.split = len(outer)
        made.tasks = prod(outer) // outer[made.inner] * -(-outer[made.inner] // (made.square or STRIP))
    elif work >= SERIAL:
        limit = min([level for level in levels if level] + [len(outer)])
        while made.split < limit and prod(outer[: made.split]) < SHARE:
            made.split += 1
        made.tasks = prod(outer[: made.split])
        if made.tasks == 1 and not dot and len(extents) == 1:
            made.chunk, made.tasks = _chunks(extents[0], lanes, work)
    return made


def words(nest: Nest, made: Schedule) -> str:
    """What was decided, for people."""
    if made.lanes == 1:
        return "loop nest, scalar"
    vectors = f"loop nest, vectors of {made.lanes}"
    if nest.short:
        return f"{vectors} across short rows"
    if made.square:
        return f"{vectors}, squares of {made.lanes} x {made.square} turned in registers"
    if made.inner is not None:
        return f"{vectors} along the last axis, axis {made.inner} innermost"
    return f"{vectors} along the {'reduced' if made.dot else 'last'} axis"


def _chunks(extent: int, lanes: int, work: int) -> tuple[int, int]:
    """The length of a task's piece of an axis, and how many there are."""
    step = lanes * BLOCK
    chunk = extent if work < SERIAL else max(step, min(CHUNK, -(-extent // SHARE)) // step * step)
    return chunk, -(-extent // chunk)


def mathematics(nest: Nest) -> bool:
    """Whether the nest calls mathematical functions."""
    return any(isinstance(n, Call) and not is_guard(n) for e in expressions(nest) for n in walk(e))


def _prefers_dot(nest: Nest, inner: list[Fold], lanes: int) -> bool:
    """Whether the reductions read along their own last axis rather than along the nest's."""
    last = nest.scope.axes[-1]
    along = across = 0
    for fold in inner:
        if len(fold.sources) > 1 or not fold.scope.axes:
            return False
        exprs = [*fold.sources, *(v for _, v in fold.scope.bindings)]
        along += friendliness(exprs, fold.scope.axes[-1])
        across += friendliness(exprs, last)
    contiguous = all(f.scope.extents[-1] >= lanes // 2 for f in inner)
    window = across < 0 and all(prod(f.scope.extents) < 32 for f in inner)  # pooling with a stride: scalar is best
    return bool(inner) and along > across and (contiguous or window)
