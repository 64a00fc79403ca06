"""The state of a reduction while it runs: local accumulators, one a lane."""

from __future__ import annotations

from contextlib import ExitStack

from tvm import tirx
from tvm.tirx.script import builder as T

from onyxc.backends.kernels.expression import Expr, dtype_of, occurrences, substitute
from onyxc.backends.kernels.floats import decode, encode, memory_dtype
from onyxc.backends.kernels.nest import Fold
from onyxc.backends.kernels.point import Point


class State:
    """The accumulators of a fold: one local buffer a result, ``lanes`` long."""

    def __init__(self, point: Point, fold: Fold, lanes: int) -> None:
        self.point, self.fold, self.lanes = point, fold, lanes
        self.kinds = [dtype_of(s) for s in fold.sources]
        self.buffers = [T.alloc_buffer((lanes,), memory_dtype(k), scope="local") for k in self.kinds]

    def get(self, slot: int, lane: Expr) -> Expr:
        """The current value of a result."""
        return decode(tirx.BufferLoad(self.buffers[slot], [lane]), self.kinds[slot])

    def set(self, values: list[Expr], lane: Expr) -> None:
        """Write all results."""
        for buffer, kind, value in zip(self.buffers, self.kinds, values, strict=True):
            T.buffer_store(buffer, encode(value, kind), [lane])

    def reset(self, lane: Expr) -> None:
        """Start at the combiner's neutral element."""
        self.set(self.fold.identity, lane)

    def combined(self, left: list[Expr], right: list[Expr]) -> list[Expr]:
        """The combiner applied."""
        env = dict(zip(self.fold.operands, [*left, *right], strict=True))
        results = [substitute(r, env) for r in self.fold.combined]
        return results if len(results) == 1 else [self.point.hold(r) for r in results]

    def include(self, lane: Expr, values: list[Expr]) -> None:
        """Combine ``values`` into one lane."""
        self.set(self.combined([self.get(i, lane) for i in range(len(values))], values), lane)

    def add(self, lane: Expr) -> None:
        """Combine the sources at the current point into one lane."""
        self.point.bind(self.fold.scope)
        values = [self.point.emit(s) for s in self.fold.sources]
        rights = self.fold.operands[len(values) :]
        used = [sum(node.same_as(r) for e in self.fold.combined for node in occurrences(e)) for r in rights]
        self.include(lane, [v if n < 2 else self.point.hold(v) for v, n in zip(values, used, strict=True)])

    def combine_lanes(self) -> None:
        """Halve the lanes until one is left."""
        width = self.lanes
        while width > 1:
            width //= 2
            with ExitStack() as stack:
                lane = stack.enter_context(T.vectorized(0, width)) if width > 1 else tirx.const(0, "int32")
                self.include(lane, [self.get(i, lane + width) for i in range(len(self.buffers))])
