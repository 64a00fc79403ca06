"""LSTM, GRU and RNN: the code around the cells.

The products of the inputs are made for a chunk of steps at once, those of the state step by step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from tvm import tirx
from tvm.tirx.script import builder as T

from onyxc.backends.kernels.imperative import Array
from onyxc.backends.lowering.panels import Panels
from onyxc.backends.lowering.panels import products as panel_products
from onyxc.backends.lowering.recurrent_spec import Layout, weights
from onyxc.backends.lowering.rowdots import Block, block, products, put, take
from onyxc.backends.lowering.words import Expr, cast, fill, fix, i32, when


class Steps(ABC):
    """Writes the code of one direction, all but what a step computes from its products (`step`).

    ``ins``: x, w, r, b, lengths, h0, c0, p (None: left out), ``outs``: y, y_h, y_c (None: left out), all flat;
    ``scratch``: the flat buffers of `Layout.sizes`, all directions in one; ``packed``: which of ``ins`` are in panels.
    """

    def __init__(
        self,
        layout: Layout,
        number: int,
        ins: Sequence[Array | None],
        outs: Sequence[Array | None],
        scratch: dict[str, Array],
        packed: frozenset[int] = frozenset(),
    ) -> None:
        self.layout, self.spec, self.d = layout, layout.spec, number
        x, w, r, self.b, self.lengths, self.h0, self.c0, self.p = ins
        assert x is not None
        assert w is not None
        assert r is not None
        self.x, self.w, self.r = x, w, r
        self.y, self.y_h, self.y_c = outs
        self.buffers = scratch
        both = weights(self.spec, layout.lanes, layout.registers)
        self.panels = {key: p for key, number, p in zip(("pre", "again"), (1, 2), both, strict=True) if number in packed}
        self.base = {key: number * size for key, size in layout.sizes().items()}
        self.reverse = self.spec.reverse[number]
        self.functions = self.spec.functions[number]
        self.dtype, self.lanes = self.spec.dtype, layout.lanes

    # --- addresses

    def state_at(self, b: Expr) -> Expr:
        """Where the state of batch entry ``b`` lies in h0, c0, y_h and y_c."""
        s = self.spec
        return (b * s.directions + self.d) * s.hidden if s.batch_first else (self.d * s.batch + b) * s.hidden

    def x_at(self, time: Expr, b: Expr) -> Expr:
        """Where the inputs of a step lie."""
        s = self.spec
        return (b * s.steps + time if s.batch_first else time * s.batch + b) * s.inputs

    def y_at(self, time: Expr, b: Expr) -> Expr:
        """Where the outputs of a step go."""
        s = self.spec
        row = (b * s.steps + time) * s.directions + self.d
        return (row if s.batch_first else (time * s.directions + self.d) * s.batch + b) * s.hidden

    def length(self, b: Expr) -> Expr | int:
        """Steps of batch entry ``b``."""
        if self.lengths is None:
            return self.spec.steps
        return T.min(i32(self.lengths[b]), self.spec.steps)

    def time(self, step: Expr, b: Expr) -> Expr:
        """The position in x that step number ``step`` reads; in reverse it starts at the entry's end."""
        if not self.reverse:
            return step
        return T.max(self.length(b) - 1 - step, 0)

    # --- vectors of scratch

    def get(self, key: str, row: Expr, unit: Expr) -> Expr:
        """A vector of row ``row`` from hidden unit ``unit`` on."""
        start = self.base[key] + row * self.layout.padded + unit
        return fix(take(self.buffers[key], start, self.lanes, self.dtype))

    def put(self, key: str, row: Expr, unit: Expr, value: Expr) -> None:
        """Store a vector of hidden units."""
        start = self.base[key] + row * self.layout.padded + unit
        put(self.buffers[key], start, value)

    # --- the parts

    def run(self) -> None:
        """All steps."""
        self.prepare()
        chunk, steps = self.layout.chunk, self.spec.steps
        if self.spec.batch and self.spec.hidden:
            with T.serial(0, -(-steps // chunk)) as turn:
                first = fix(turn * chunk)
                count = fix(T.min(chunk, steps - first))
                self.inputs(first, count)
                with T.serial(0, count) as inner:
                    self.step(first + inner, inner)
        self.finish()

    def prepare(self) -> None:
        """Biases, peepholes and the first state, padded with zeros."""
        s, padded = self.spec, self.layout.padded
        for key in ("bias", "peephole", "h", "c", "again"):
            fill(self.buffers[key], self.base[key], self.layout.sizes()[key], 0)
        if self.b is not None:
            both = 2 * s.gates * s.hidden
            for gate in range(s.gates):
                apart = s.linear_before_reset and gate == 2
                with T.serial(0, s.hidden) as j:
                    own = cast(self.b[self.d * both + gate * s.hidden + j], self.dtype)
                    recurrent = cast(self.b[self.d * both + (s.gates + gate) * s.hidden + j], self.dtype)
                    at = self.base["bias"] + gate * padded + j
                    self.buffers["bias"][at] = own if apart else own + recurrent
                    if apart:
                        self.buffers["bias"][at + padded] = recurrent
        if self.p is not None:
            self.load_rows("peephole", 3, lambda i: (self.d * 3 + i) * s.hidden, self.p)
        for key, source in (("h", self.h0), ("c", self.c0)):
            if source is not None:
                self.load_rows(key, s.batch, self.state_at, source)

    def load_rows(self, key: str, rows: int, start: Callable[[Expr], Expr], source: Array) -> None:
        """Copy rows of ``hidden`` elements into padded scratch."""
        with T.serial(0, rows) as i:
            first = fix(i32(start(i)))
            with T.serial(0, self.spec.hidden) as j:
                at = self.base[key] + i * self.layout.padded + j
                self.buffers[key][at] = cast(source[first + j], self.dtype)

    def inputs(self, first: Expr, count: Expr) -> None:
        """``pre``: the products of ``count`` steps' inputs from step ``first`` on."""
        s = self.spec
        rows = fix(count * s.batch)

        def start(row: Expr) -> Expr:
            b = fix(tirx.truncmod(row, s.batch)) if s.batch > 1 else i32(0)
            step = tirx.truncdiv(row, s.batch) if s.batch > 1 else row
            return self.x_at(self.time(first + step, b), b)

        shape = block(self.lanes, self.layout.registers, s.hidden, self.layout.chunk * s.batch)
        matrix = (self.w, self.d * s.gates * s.hidden * s.inputs, s.inputs)
        self.rows_of("pre", shape, rows, matrix, (self.x, start), (0, s.gates))

    def recurrence(self, key: str, first_gate: int, gates: int) -> None:
        """``again``: the products of the vectors in ``key`` with the recurrent weights of some gates."""
        s = self.spec
        shape = block(self.lanes, self.layout.registers, s.hidden, s.batch)
        matrix = (self.r, self.d * s.gates * s.hidden * s.hidden, s.hidden)
        vectors = (self.buffers[key], lambda row: self.base[key] + row * self.layout.padded)
        self.rows_of("again", shape, i32(s.batch), matrix, vectors, (first_gate, gates))

    def rows_of(
        self,
        key: str,
        shape: Block,
        rows: Expr,
        matrix: tuple[Array, int, int],
        x: tuple[Array, Callable[[Expr], Expr]],
        gates: tuple[int, int],
    ) -> None:
        """``key[row, gate, :] = x[row] w[gate]^T`` for all rows; blocks of weights outside, rows inside."""
        if key in self.panels:
            self.rows_of_panels(key, self.panels[key], rows, matrix[0], x, gates)
            return
        s, (w, base, pitch), (xs, start) = self.spec, matrix, x
        first_gate, count = gates
        blocks = -(-s.hidden // shape.rows)
        with T.serial(0, count * blocks) as number:
            gate = fix(first_gate + tirx.truncdiv(number, blocks)) if count > 1 else i32(first_gate)
            unit = tirx.truncmod(number, blocks) * shape.rows if count > 1 else number * shape.rows
            unit = fix(T.min(unit, s.hidden - shape.rows))  # the last block overlaps its neighbour
            first = fix(base + (gate * s.hidden + unit) * pitch)

            def some(row: Expr, columns: int) -> None:
                starts = [fix(i32(start(row + n))) for n in range(columns)]
                found = products(shape, (w, first, pitch), (xs, starts), pitch, self.dtype)
                for n, value in enumerate(found):
                    at = self.base[key] + ((row + n) * s.gates + gate) * self.layout.padded + unit
                    put(self.buffers[key], at, value)

            _in_groups(rows, shape.columns, some)

    def rows_of_panels(
        self,
        key: str,
        panels: Panels,
        rows: Expr,
        w: Array,
        x: tuple[Array, Callable[[Expr], Expr]],
        gates: tuple[int, int],
    ) -> None:
        """The same with weights in panels."""
        s, (xs, start), (first_gate, count) = self.spec, x, gates
        with T.serial(0, count * panels.count) as number:
            gate = fix(first_gate + tirx.truncdiv(number, panels.count))
            panel = fix(tirx.truncmod(number, panels.count))
            at = ((self.d * s.gates + gate) * panels.count + panel) * (panels.depth * panels.width)

            def some(row: Expr, columns: int) -> None:
                starts = [fix(i32(start(row + n))) for n in range(columns)]
                for n, vectors in enumerate(panel_products(panels, (w, fix(at)), (xs, starts), self.dtype)):
                    to = self.base[key] + ((row + n) * s.gates + gate) * self.layout.padded + panel * panels.width
                    for v, value in enumerate(vectors):
                        put(self.buffers[key], to + v * self.lanes, value)

            _in_groups(rows, panels.columns, some)

    @abstractmethod
    def step(self, step: Expr, inner: Expr) -> None:
        """One step of all batch entries; ``inner`` is its number in the chunk."""

    def units(self, step: Expr, inner: Expr, body: Callable[[Expr, Expr, Expr], None]) -> None:
        """``body(row of pre, batch entry, first unit)`` for every vector of a live entry."""
        s = self.spec
        vectors = self.layout.padded // self.lanes
        with T.serial(0, s.batch) as b, when(step < self.length(b)), T.serial(0, vectors) as vector:
            body(inner * s.batch + b, b, vector * self.lanes)

    def emit(self, step: Expr) -> None:
        """Write the step's outputs; behind an entry's end they are zero."""
        if self.y is None:
            return
        s = self.spec
        with T.serial(0, s.batch) as b:
            live = fix(step < self.length(b))
            here = self.time(step, b)
            time = fix(tirx.Select(live, here, step) if self.lengths is not None else here)
            at = fix(i32(self.y_at(time, b)))
            with T.serial(0, s.hidden) as j:
                value = self.buffers["h"][self.base["h"] + b * self.layout.padded + j]
                zero = tirx.const(0, self.dtype)
                self.y[at + j] = tirx.Select(live, value, zero) if self.lengths is not None else value

    def finish(self) -> None:
        """The last state."""
        for key, target in (("h", self.y_h), ("c", self.y_c)):
            if target is not None:
                with T.serial(0, self.spec.batch) as b:
                    at = fix(i32(self.state_at(b)))
                    with T.serial(0, self.spec.hidden) as j:
                        target[at + j] = self.buffers[key][self.base[key] + b * self.layout.padded + j]


def _in_groups(rows: Expr, size: int, some: Callable[[Expr, int], None]) -> None:
    """``some(first, count)`` over all rows: ``size`` of them at once, one by one at the end."""
    groups = fix(tirx.truncdiv(rows, size))
    with T.serial(0, groups) as group:
        some(fix(group * size), size)
    if size > 1:
        with T.serial(groups * size, rows) as row:
            some(row, 1)
