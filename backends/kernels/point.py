"""One point of a `Nest`, or a vector of points: its values as statements, by the axes and results known so far."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import tvm
from tvm import tirx
from tvm.tirx import expr as nodes
from tvm.tirx.script import builder as T

from onyxc.backends.kernels.axes import safe_everywhere, scope_ranges
from onyxc.backends.kernels.expression import Expr, Var, dtype_of, free_vars, identity, is_guard, is_load, transform
from onyxc.backends.kernels.floats import FORMATS, decode, encode, encode8, memory_dtype
from onyxc.backends.kernels.nest import Nest, Scope


class Point:
    """Writes the statements of the current point with TVM's IRBuilder; `loops.Writer` moves it.

    ``env``: what stands for an axis, a buffer or a result by now.
    """

    def __init__(self, nest: Nest, env: dict[Var, Expr], outputs: list[Any]) -> None:
        self.nest, self.env, self.outputs = nest, env, outputs
        self.ranges = scope_ranges(nest.scope, *(f.scope for f in nest.folds))
        self.analyzer = tvm.sym.Analyzer()
        self.lane: Var | None = None  # axis that is a vector in the statement being written
        self.number: Expr = tirx.const(0, "int32")  # lane of that vector
        self.width = 1  # lanes of it
        self.turned: dict[int, Any] = {}  # identity of a load -> the square that holds it
        self.row: Expr = tirx.const(0, "int32")  # where the current row begins in the squares

    def emit(self, expr: Expr) -> Expr:
        """``expr`` with the axes, buffers and results that are known by now."""
        lane = self.lane

        def visit(node: Expr) -> Expr | None:
            if isinstance(node, tirx.Var):
                value = self.env.get(node)
                return value() if callable(value) and not isinstance(value, tvm.ir.Expr) else value
            if is_load(node) and identity(node) in self.turned:
                return tirx.BufferLoad(self.turned[identity(node)], [self.row + self.number])
            if is_load(node):
                index = self.analyzer.simplify(self.emit(node.indices[0]))
                return tirx.BufferLoad(self.env.get(node.source, node.source), [index])
            lanes_differ = lane is not None and is_guard(node) and lane in free_vars(node.args[0])
            if lanes_differ and all(safe_everywhere(b, self.ranges) for b in node.args[1:]):
                return nodes.Select(*(self.emit(a) for a in node.args))
            return None

        return transform(expr, visit)

    def bind(self, scope: Scope) -> None:
        """Bind what the scope shares between its values."""
        stash = self.nest.stash
        for var, value in scope.bindings:
            if stash and var.same_as(stash.loaded):
                self.env[var] = self.hold(tirx.BufferLoad(self.outputs[0], [self.offset()]))
                continue
            self.env[var] = self.hold(self.emit(value))
            if stash and var.same_as(stash.stored):
                self.env[self.nest.scope.axes[-1]] = self.env[scope.axes[-1]]
                T.buffer_store(self.outputs[0], self.env[var], [self.offset()])

    def store(self) -> None:
        """One element of every output."""
        self.bind(self.nest.scope)
        for buffer, tensor, value in zip(self.outputs, self.nest.outputs, self.nest.values, strict=True):
            kind = str(tensor.dtype)
            result = self.emit(value)
            code = encode8(result, kind, self.hold) if kind in FORMATS else encode(result, kind)
            T.buffer_store(buffer, code, [self.offset()])

    def hold(self, value: Expr) -> Expr:
        """``value`` computed once, for several uses at the current point.

        It waits in memory, a lane each, not in a let variable: TVM substitutes those back, into trees that grow
        exponentially, and loses them where it takes a vector statement apart. LLVM makes registers of it.
        """
        kind = dtype_of(value)
        buffer = T.alloc_buffer((self.width,), memory_dtype(kind), scope="local")
        T.buffer_store(buffer, encode(value, kind), [self.number])
        return decode(tirx.BufferLoad(buffer, [self.number]), kind)

    def offset(self) -> Expr:
        """Where the current point lies in an output."""
        total: Expr = tirx.const(0, "int32")
        for axis, step in zip(self.nest.scope.axes, self.nest.steps, strict=True):
            total = total + self.emit(axis) * step
        return self.analyzer.simplify(total)

    @contextmanager
    def vector(self, axis: Var, base: Expr, lanes: int) -> Iterator[Expr]:
        """Statements in here run for ``axis`` = base .. base + lanes at once; yields the lane number."""
        with ExitStack() as stack:
            zero = tirx.const(0, "int32")
            number = stack.enter_context(T.vectorized(0, lanes)) if lanes > 1 else zero
            self.env[axis] = base + number
            before = self.lane, self.number, self.width
            self.lane, self.number, self.width = axis if lanes > 1 else None, number, lanes
            yield number
            self.lane, self.number, self.width = before
