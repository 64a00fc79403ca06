"""LSTM, GRU and RNN: products with the inputs for a chunk of steps at once, then step by step.

Scratch rows are padded to whole vectors of hidden units, so that the element-wise part needs no tails:

    pre     [steps of a chunk, batch, gates, H']   x W^T
    again   [batch, gates, H']                     h R^T of this step
    h, c    [batch, H']                            state
    bias    [bias rows, H']                        added once a call;  peephole [3, H']

A task is a direction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from onyxc.backends.kernels.imperative import Array, Imperative
from onyxc.backends.lowering.code import Code, kernel
from onyxc.backends.lowering.gates import Gate, gates
from onyxc.backends.lowering.registry import imperative
from onyxc.backends.lowering.rowdots import Block, block, products, put, spread, take
from onyxc.backends.lowering.words import Expr, cast, fill, fix, hold, i32, when
from onyxc.compiler.errors import UnsupportedError
from onyxc.compiler.ir.graph import Node

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
WIDEST = 16  # lanes of any target
CHUNK_BYTES = 256 << 10  # of products kept between the two phases


@dataclass(frozen=True)
class Spec:
    """The static facts of one node."""

    kind: str
    steps: int
    batch: int
    inputs: int
    hidden: int
    directions: int
    batch_first: bool
    reverse: tuple[bool, ...]  # of each direction
    functions: list[list[Gate]]
    clip: float
    linear_before_reset: bool
    coupled: bool  # forget gate = 1 - input gate
    dtype: str  # of the computation

    @property
    def gates(self) -> int:
        """Rows of weights, in units of ``hidden``."""
        return GATES[self.kind]

    @property
    def bias_rows(self) -> int:
        """Sums of input and recurrent biases that stay apart."""
        return self.gates + self.linear_before_reset


def spec(node: Node) -> Spec:
    """The facts of ``node``."""
    x, w = node.inputs[0], node.inputs[1]
    assert x is not None
    assert w is not None
    first = bool(node.attrs.get("layout", 0))
    steps, batch = (x.dims[1], x.dims[0]) if first else (x.dims[0], x.dims[1])
    direction = node.attrs.get("direction", "forward")
    direction = direction.decode() if isinstance(direction, bytes) else str(direction)
    if direction not in ("forward", "reverse", "bidirectional"):
        raise UnsupportedError(f"{node.label()}: unknown direction {direction!r}")
    reverse = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}[direction]
    clip = node.attrs.get("clip")
    return Spec(
        node.op,
        steps,
        batch,
        x.dims[2],
        w.dims[1] // GATES[node.op],
        len(reverse),
        first,
        reverse,
        gates(node, len(reverse)),
        float(clip) if isinstance(clip, int | float) else 0.0,
        node.op == "GRU" and bool(node.attrs.get("linear_before_reset", 0)),
        node.op == "LSTM" and bool(node.attrs.get("input_forget", 0)),
        "float64" if x.dtype == "float64" else "float32",
    )


@dataclass
class Layout:
    """Vector width and the scratch of one direction."""

    spec: Spec
    lanes: int
    registers: int
    chunk: int = field(init=False)  # steps a chunk
    padded: int = field(init=False)  # H'

    def __post_init__(self) -> None:
        spec = self.spec
        self.padded = -(-spec.hidden // self.lanes) * self.lanes
        widest = -(-spec.hidden // WIDEST) * WIDEST  # the same chunk on every target
        step = spec.batch * spec.gates * widest * (8 if spec.dtype == "float64" else 4)
        self.chunk = max(1, min(spec.steps, CHUNK_BYTES // max(1, step)))

    def sizes(self) -> dict[str, int]:
        """Elements of each scratch buffer, for one direction."""
        s, p = self.spec, self.padded
        return {
            "pre": max(1, self.chunk * s.batch * s.gates * p),
            "again": max(1, s.batch * s.gates * p),
            "h": max(1, s.batch * p),
            "c": max(1, s.batch * p),
            "bias": s.bias_rows * p,
            "peephole": 3 * p,
        }


class Direction:
    """Writes the code of one direction.

    ``ins``: x, w, r, b, lengths, h0, c0, p (None: left out), ``outs``: y, y_h, y_c (None: left out), all flat;
    ``scratch``: the flat buffers of `Layout.sizes`, all directions in one.
    """

    def __init__(
        self,
        layout: Layout,
        number: int,
        ins: Sequence[Array | None],
        outs: Sequence[Array | None],
        scratch: dict[str, Array],
    ) -> None:
        self.layout, self.spec, self.d = layout, layout.spec, number
        self.x, self.w, self.r, self.b, self.lengths, self.h0, self.c0, self.p = ins
        self.y, self.y_h, self.y_c = outs
        self.buffers = scratch
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
        weights = (self.w, self.d * s.gates * s.hidden * s.inputs, s.inputs)
        self.rows_of("pre", shape, rows, weights, (self.x, start), (0, s.gates))

    def recurrence(self, key: str, first_gate: int, gates: int) -> None:
        """``again``: the products of the vectors in ``key`` with the recurrent weights of some gates."""
        s = self.spec
        shape = block(self.lanes, self.layout.registers, s.hidden, s.batch)
        weights = (self.r, self.d * s.gates * s.hidden * s.hidden, s.hidden)
        vectors = (self.buffers[key], lambda row: self.base[key] + row * self.layout.padded)
        self.rows_of("again", shape, i32(s.batch), weights, vectors, (first_gate, gates))

    def rows_of(
        self,
        key: str,
        shape: Block,
        rows: Expr,
        weights: tuple[Array, int, int],
        x: tuple[Array, Callable[[Expr], Expr]],
        gates: tuple[int, int],
    ) -> None:
        """``key[row, gate, :] = x[row] w[gate]^T`` for all rows; blocks of weights outside, rows inside."""
        s, (w, base, pitch), (xs, start) = self.spec, weights, x
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

            pairs = fix(tirx.truncdiv(rows, shape.columns))
            with T.serial(0, pairs) as pair:
                some(fix(pair * shape.columns), shape.columns)
            if shape.columns > 1:
                with T.serial(pairs * shape.columns, rows) as row:
                    some(row, 1)

    def step(self, step: Expr, inner: Expr) -> None:
        """One step of all batch entries."""
        kind = self.spec.kind
        split_reset = kind == "GRU" and not self.spec.linear_before_reset
        self.recurrence("h", 0, 2 if split_reset else self.spec.gates)
        if split_reset:  # the third product needs r * h, which is kept in c
            self.units(step, inner, self.reset)
            self.recurrence("c", 2, 1)
        self.units(step, inner, {"LSTM": self.lstm, "GRU": self.gru, "RNN": self.rnn}[kind])
        self.emit(step)

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

    # --- element-wise mathematics

    def gate(self, row: Expr, b: Expr, unit: Expr, number: int) -> Expr:
        """x W + h R + bias of one gate."""
        gates = self.spec.gates
        total = self.get("pre", row * gates + number, unit) + self.get("again", b * gates + number, unit)
        return total if self.b is None else total + self.get("bias", i32(number), unit)

    def clip(self, value: Expr) -> Expr:
        """The argument of an activation, clipped."""
        if not self.spec.clip:
            return fix(value)
        low, high = (spread(tirx.const(v, self.dtype), self.lanes) for v in (-self.spec.clip, self.spec.clip))
        return fix(tirx.Min(tirx.Max(value, low), high))

    def peephole(self, value: Expr, number: int, cell: Expr, unit: Expr) -> Expr:
        """``value`` plus what the gate sees of the cell."""
        return value if self.p is None else value + self.get("peephole", i32(number), unit) * cell

    def lstm(self, row: Expr, b: Expr, unit: Expr) -> None:
        """Gates i, o, f, c; peepholes i, o, f. The new cell is not clipped, as in onnxruntime."""
        f, g, h = self.functions
        old = self.get("c", b, unit)
        i = hold(f(self.clip(self.peephole(self.gate(row, b, unit, 0), 0, old, unit))))
        if self.spec.coupled:
            forget = spread(tirx.const(1, self.dtype), self.lanes) - i
        else:
            forget = f(self.clip(self.peephole(self.gate(row, b, unit, 2), 2, old, unit)))
        fresh = g(self.clip(self.gate(row, b, unit, 3)))
        cell = fix(hold(forget) * old + i * hold(fresh))
        o = hold(f(self.clip(self.peephole(self.gate(row, b, unit, 1), 1, cell, unit))))
        self.put("c", b, unit, cell)
        self.put("h", b, unit, o * hold(h(cell)))

    def reset(self, row: Expr, b: Expr, unit: Expr) -> None:
        """c = r * h."""
        r = hold(self.functions[0](self.clip(self.gate(row, b, unit, 1))))
        self.put("c", b, unit, r * self.get("h", b, unit))

    def gru(self, row: Expr, b: Expr, unit: Expr) -> None:
        """Gates z, r, h."""
        f, g = self.functions
        old = self.get("h", b, unit)
        z = hold(f(self.clip(self.gate(row, b, unit, 0))))
        if self.spec.linear_before_reset:
            r = hold(f(self.clip(self.gate(row, b, unit, 1))))
            own, recurrent = self.get("pre", row * 3 + 2, unit), self.get("again", b * 3 + 2, unit)
            if self.b is not None:
                own = own + self.get("bias", i32(2), unit)
                recurrent = recurrent + self.get("bias", i32(3), unit)
            inside: Any = own + r * recurrent
        else:
            inside = self.gate(row, b, unit, 2)
        fresh = hold(g(self.clip(inside)))
        self.put("h", b, unit, fresh + z * (old - fresh))

    def rnn(self, row: Expr, b: Expr, unit: Expr) -> None:
        """The only gate."""
        self.put("h", b, unit, self.functions[0](self.clip(self.gate(row, b, unit, 0))))


def layout(facts: Spec, dtype: str, code: Code) -> Layout:
    """Vectors where the target has them and the tensors are of a type that is loaded as it is."""
    native = dtype == facts.dtype
    lanes = max(1, code.lanes // (2 if dtype == "float64" else 1)) if native else 1
    return Layout(facts, lanes, code.emitter.target.registers)


def emit(code: Code) -> None:
    """The direction whose number is the task."""
    facts = spec(code.node)
    made = layout(facts, code.ins[0].dtype, code)
    ins = [*code.ins, *[None] * (8 - len(code.ins))]
    outs = [*code.outs, *[None] * (3 - len(code.outs))]
    scratch = dict(zip(made.sizes(), code.scratch, strict=True))
    for number in range(facts.directions):
        with when(tirx.EQ(code.task, number)):
            Direction(made, number, ins, outs, scratch).run()


@imperative("LSTM", "GRU", "RNN")
def recurrent(node: Node) -> Imperative:
    """All outputs; a task is a direction."""
    facts = spec(node)
    s = (facts.batch, facts.directions) if facts.batch_first else (facts.directions, facts.batch)
    y = (facts.steps, facts.directions, facts.batch, facts.hidden)
    if facts.batch_first:
        y = (facts.batch, facts.steps, facts.directions, facts.hidden)
    dtype = node.inputs[0].dtype if node.inputs[0] is not None else "float32"
    outputs: list[Any] = [(shape, dtype) for shape in (y, (*s, facts.hidden), (*s, facts.hidden))]
    outputs = outputs[: len(node.outputs)]
    widest = Layout(facts, WIDEST, 32)
    scratch = [((size * facts.directions,), facts.dtype) for size in widest.sizes().values()]
    work = 2 * facts.steps * facts.batch * facts.directions * facts.gates * facts.hidden
    return kernel(
        node, outputs, emit, tasks=facts.directions, scratch=scratch, work=work * (facts.inputs + facts.hidden)
    )
