"""LSTM, GRU and RNN: all directions, layouts, activations, lengths, peepholes. A task is a direction."""

from __future__ import annotations

from typing import Any

from tvm import tirx

from onyxc.backends.kernels.imperative import Imperative, Pack
from onyxc.backends.lowering.code import Code, kernel
from onyxc.backends.lowering.recurrent_spec import WIDEST, Layout, Spec, spec, weights
from onyxc.backends.lowering.recurrent_steps import Steps
from onyxc.backends.lowering.registry import imperative
from onyxc.backends.lowering.rowdots import spread
from onyxc.backends.lowering.words import Expr, fix, hold, i32, when
from onyxc.backends.target import Target
from onyxc.compiler.ir.graph import Node


class Cells(Steps):
    """What a step computes."""

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
            Cells(made, number, ins, outs, scratch, code.emitter.packed).run()


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

    def packs(target: Target) -> dict[int, Pack]:
        """Panels of W and R, where they are read as they are."""
        if dtype != facts.dtype or not facts.hidden or not facts.inputs:
            return {}
        lanes = target.lanes(8 if dtype == "float64" else 4)
        return {1 + i: Pack(p.shape, p.pack) for i, p in enumerate(weights(facts, lanes, target.registers))}

    work *= facts.inputs + facts.hidden
    return kernel(node, outputs, emit, tasks=facts.directions, scratch=scratch, work=work, packs=packs)
