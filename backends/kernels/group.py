"""What a fused group computes, made ready for one loop nest.

A group is a graph of TE stages. `plan` turns its outputs (all of one shape) into a `Nest`: the value of each
output at one point of the common axes, in which every element-wise stage is inlined, and the reductions that
this needs (`Fold`), each computed as soon as the axes it depends on are fixed:

    softmax over rows of x[i, j]:  axes i, j
      fold  m  = max over k of x[i, k]                 depends on i
      fold  s  = sum over k of exp(x[i, k] - m)        depends on i
      value exp(x[i, j] - m) / s

A stage that does not fit, since it would be computed again and again or is a reduction needed at many points
at once, raises `SplitGroup`: it must become a tensor in memory, by a kernel of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import tvm
import tvm_ffi
from tvm import te, tirx
from tvm.tirx import expr as nodes

from onyxc.backends.kernels.expression import (
    Expr,
    Var,
    dtype_of,
    free_vars,
    guard,
    is_call,
    is_guard,
    is_load,
    multiplicities,
    narrow,
    substitute,
    transform,
    walk,
)
from onyxc.backends.kernels.floats import FORMATS, NARROW, computed_dtype, decode, rounded
from onyxc.backends.kernels.nest import (
    Fold,
    Nest,
    Scope,
    SplitGroup,
    Stash,
    Strides,
    flat_buffer,
    key,
    shape_of,
    stages,
    steps_of,
)

HEAVY = 12  # nodes of a stage above which computing it twice costs more than a trip to memory
REPEAT = 2.5  # how often a heavy stage may be computed instead of stored
LARGE = 4000  # nodes of one nest: above, the expression is cut
HOISTED = 4096  # source elements of a reduction that every call of the kernel may compute for itself


def weight(tensor: Any) -> int:
    """How much one element of the stage costs, in nodes; calls and divisions count tenfold."""
    body = tensor.op.body[0]
    sources = body.source if isinstance(body, nodes.Reduce) else [body]
    dear = ("te.tensor_load", "prim.if_then_else", "tirx.if_then_else")
    return sum(10 if isinstance(n, tvm.ir.Call) and not is_call(n, *dear) else 1 for s in sources for n in walk(s))


class Planner:
    """Builds the `Nest` of ``outputs``; tensors in ``leaves`` are in memory, everything else is inlined."""

    def __init__(self, outputs: Sequence[Any], leaves: Sequence[Any], strides: Strides) -> None:
        self.strides = strides
        self.leaves = {key(t) for t in leaves}
        self.analyzer = tvm.sym.Analyzer()
        self.uses: dict[tuple[int, int], int] = {}
        self.budget = LARGE
        self.heavy: dict[tuple[int, int], int] = {}
        for stage in stages(outputs, leaves):
            body = stage.op.body
            self.heavy[key(stage)] = weight(stage)
            for source in body[0].source if isinstance(body[0], nodes.Reduce) else body[:1]:
                for node, times in multiplicities(source):
                    if is_call(node, "te.tensor_load"):
                        self.uses[key(node.args[0])] = self.uses.get(key(node.args[0]), 0) + times
        self.nest = Nest(list(outputs), Scope([], []))

    def run(self) -> Nest:
        """The finished nest."""
        outputs = self.nest.outputs
        shape = shape_of(outputs[0])
        self.nest.scope, indices = self._scope(outputs[0].op.axis, shape, 1)
        self.nest.steps = [s for s, n in zip(steps_of(outputs[0], self.strides), shape, strict=True) if n != 1]
        self.nest.values = [self._stage(t, indices, self.nest.scope, bind=True, root=True) for t in outputs]
        self.nest.stash = self._stash() if len(outputs) == 1 else None
        return self.nest

    def _stash(self) -> Stash | None:
        """What may wait in the output: a value of its dtype that a row's fold visits in the row's order."""
        scope, output = self.nest.scope, self.nest.outputs[0]
        for fold in self.nest.folds:
            row = fold.scope.extents == scope.extents[-1:] and free_vars(*fold.indices) <= set(scope.axes[:-1])
            for tensor, at, var in fold.scope.bound if row else ():
                here = [substitute(i, {fold.scope.axes[0]: scope.axes[-1]}) for i in at]
                for other, indices, loaded in scope.bound:
                    same = other == tensor and _same(here, indices) and dtype_of(var) == str(output.dtype)
                    if same and self.heavy.get(tensor, 0) > HEAVY:
                        return Stash(var, loaded)
        return None

    def _scope(self, axes: Sequence[Any], extents: Sequence[int], points: int) -> tuple[Scope, list[Expr]]:
        """Fresh variables for ``axes``; a unit axis is the constant 0."""
        fresh = [tirx.Var(str(a.var.name), "int32") for a in axes]
        kept = [(v, n) for v, n in zip(fresh, extents, strict=True) if n != 1]
        scope = Scope([v for v, _ in kept], [n for _, n in kept], points=points * prod(extents))
        zero = tirx.const(0, "int32")
        return scope, [zero if n == 1 else v for v, n in zip(fresh, extents, strict=True)]

    def _environment(self, axes: Sequence[Any], indices: Sequence[Expr]) -> dict[Var, Expr]:
        return {
            a.var: i if dtype_of(a.var) == "int32" else nodes.Cast(dtype_of(a.var), i)
            for a, i in zip(axes, indices, strict=True)
        }

    def _simplify(self, index: Expr) -> Expr:
        return self.analyzer.simplify(narrow(index))

    def _load(self, tensor: Any, indices: Sequence[Expr]) -> Expr:
        steps = steps_of(tensor, self.strides)
        buffer = self.nest.buffers.setdefault(key(tensor), flat_buffer(tensor, tensor.op.name, steps))
        offset: Expr = tirx.const(0, "int32")
        for index, extent, step in zip(indices, shape_of(tensor), steps, strict=True):
            offset = offset + index * step if key(tensor) in self.strides else offset * extent + index
        return decode(tirx.BufferLoad(buffer, [self._simplify(offset)]), str(tensor.dtype))

    def _expand(self, expr: Expr, env: dict[Var, Expr], scope: Scope, bind: bool, guarded: bool) -> Expr:
        """``expr`` of a stage in terms of the scope's axes, buffers and fold results."""

        def visit(node: Expr) -> Expr | None:
            self.budget -= 1
            if isinstance(node, tirx.Var):
                return env.get(node)
            if dtype_of(node) in NARROW and isinstance(node, nodes.Cast | nodes.FloatImm):
                if isinstance(node, nodes.FloatImm):
                    return tirx.const(float(node.value), "float32")
                value = self._expand(node.value, env, scope, bind, guarded)
                value = as_float32(value)
                return value if dtype_of(node) in FORMATS else rounded(value, dtype_of(node))
            if isinstance(node, nodes.Cast) and dtype_of(node.value) == "bool":
                value = self._expand(node.value, env, scope, bind, guarded)
                one, zero = (tirx.const(n, dtype_of(node)) for n in (1, 0))
                return nodes.Select(value, one, zero)
            if is_guard(node):
                condition, *branches = node.args
                inner = [self._expand(b, env, scope, False, True) for b in branches]
                return guard(self._expand(condition, env, scope, bind, guarded), *inner)
            if not is_call(node, "te.tensor_load"):
                return None
            tensor = node.args[0]
            indices = [self._simplify(self._expand(i, env, scope, False, guarded)) for i in node.args[1:]]
            if key(tensor) in self.leaves or not isinstance(tensor.op, te.ComputeOp):
                return self._load(tensor, indices)
            return self._stage(tensor, indices, scope, bind, guarded=guarded)

        return transform(expr, visit)

    def _stage(
        self, tensor: Any, indices: list[Expr], scope: Scope, bind: bool, root: bool = False, guarded: bool = False
    ) -> Expr:
        body = tensor.op.body[int(tensor.value_index)]
        if isinstance(body, nodes.Reduce):
            return self._fold(tensor, indices, root, guarded)
        if not root:
            if isinstance(body, nodes.Cast) and dtype_of(body) in FORMATS:
                raise SplitGroup(tensor, "rounding to float8 happens in memory")
            size = max(1, prod(shape_of(tensor)))
            if scope.points > REPEAT * size and self.heavy[key(tensor)] > HEAVY:
                raise SplitGroup(tensor, "would be computed again and again")
            if self.budget < 0 and self.uses.get(key(tensor), 0) > 1:
                raise SplitGroup(tensor, "the group is too large for one nest")
        shared = bind and not root and self.uses.get(key(tensor), 0) > 1 and not guarded
        if shared:
            for known, at, var in scope.bound:
                if known == key(tensor) and _same(at, indices):
                    return var
        value = self._expand(body, self._environment(tensor.op.axis, indices), scope, bind, guarded)
        if not shared:
            return value
        var = tirx.Var(str(tensor.op.name), dtype_of(value))
        scope.bindings.append((var, value))
        scope.bound.append((key(tensor), indices, var))
        return var

    def _fold(self, tensor: Any, indices: list[Expr], root: bool, guarded: bool) -> Expr:
        op, slot = tensor.op, int(tensor.value_index)
        for known in self.nest.folds:
            if known.tensor.op.same_as(op):
                if _same(known.indices, indices):
                    return known.results[slot]
                raise SplitGroup(tensor, "a reduction read at several places")
        depends = free_vars(*indices)
        axes = self.nest.scope.axes
        level = max((i + 1 for i, v in enumerate(axes) if v in depends), default=0)
        times, size = prod(self.nest.scope.extents[:level]), prod(shape_of(tensor))
        extents = [int(a.dom.extent) for a in op.reduce_axis]
        if not root:
            if guarded:
                raise SplitGroup(tensor, "a reduction under a condition")
            if any(v not in axes for v in depends) or any(is_load_in(i) for i in indices):
                raise SplitGroup(tensor, "a reduction read at many points")
            if times > 1.25 * size:
                raise SplitGroup(tensor, "a reduction that would be repeated")
            if not level and prod(extents) > HOISTED and self.nest.scope.points > 64:
                raise SplitGroup(tensor, "a large reduction that all tasks share")
        inner, reduced = self._scope(op.reduce_axis, extents, times)
        shifted = [r + narrow(a.dom.min) if int(a.dom.min) else r for r, a in zip(reduced, op.reduce_axis, strict=True)]
        env = self._environment([*op.axis, *op.reduce_axis], [*indices, *shifted])
        body = op.body[0]
        results = [tirx.Var(f"{op.name}_{i}", computed_dtype(dtype_of(s))) for i, s in enumerate(body.source)]
        c = body.combiner
        parts = [[self._expand(e, {}, inner, False, False) for e in es] for es in (c.identity_element, c.result)]
        fold = Fold(tensor, indices, results, inner, [*c.lhs, *c.rhs], *parts)
        always = isinstance(body.condition, nodes.IntImm)
        fold.sources = [self._expand(s, env, inner, always, not always) for s in body.source]
        if not always:
            condition = self._expand(body.condition, env, inner, False, False)
            fold.sources = [guard(condition, s, e) for s, e in zip(fold.sources, fold.identity, strict=True)]
        fold.init = [self._expand(i, env, inner, False, False) for i in body.init]
        self.nest.folds.append(fold)
        return results[slot]


def is_load_in(expr: Expr) -> bool:
    """Whether the expression reads memory."""
    return any(is_load(n) for n in walk(expr))


def as_float32(value: Expr) -> Expr:
    """``value`` converted to float32."""
    if dtype_of(value) == "bool":
        return nodes.Select(value, tirx.const(1.0, "float32"), tirx.const(0.0, "float32"))
    return value if dtype_of(value) == "float32" else nodes.Cast("float32", value)


def _same(left: Sequence[Expr], right: Sequence[Expr]) -> bool:
    return all(tvm_ffi.structural_equal(a, b) for a, b in zip(left, right, strict=True))


def plan(outputs: Sequence[Any], leaves: Sequence[Any], strides: Strides | None = None) -> Nest:
    """The loop nest of ``outputs`` (TE tensors of one shape) from ``leaves`` (tensors in memory).

    ``strides``: those of leaves and outputs that are not dense.

    Raises:
        SplitGroup: a stage must be materialised first.
    """
    return Planner(outputs, leaves, strides or {}).run()
