"""Loop and Scan of known length become straight code.

    %0 = Loop(@3, @true, %x) body {%y = f(%i, %x) return %cond, %y}   ->   %0 = f(@2, f(@1, f(@0, %x)))
    %1 = Scan(%s, %xs) {...}                                     ->   the body on Gather(%xs, @0), Gather(%xs, @1) ...

Refused: trip counts that are only known at run time, conditions that may become false, results of more than
``max_nodes`` nodes, scan outputs of unknown shape in a loop of no rounds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onyxc.compiler.ir.copying import inline
from onyxc.compiler.ir.graph import Graph, Node, Value
from onyxc.compiler.ir.types import numpy_dtype
from onyxc.compiler.rewrite import Builder, Refuse
from onyxc.compiler.transform import Pass, PassResult


@dataclass(frozen=True)
class Unroll(Pass):
    """Replaces Loop and Scan of known length by copies of their bodies."""

    max_nodes: int = 4096

    name: ClassVar[str] = "unroll"

    def run(self, graph: Graph) -> PassResult:
        """Inner loops first."""
        counts, refused = Counter[str](), Counter[str]()
        self._walk(graph, counts, refused)
        return PassResult(dict(counts), dict(refused))

    def _walk(self, graph: Graph, counts: Counter[str], refused: Counter[str]) -> None:
        for node in graph:
            for inner in node.subgraphs():
                self._walk(inner, counts, refused)
            if not node.is_op("Loop", "Scan"):
                continue
            op = Builder(graph, node)
            try:
                results = self._loop(node, op) if node.op == "Loop" else self._scan(node, op)
            except Refuse as reason:
                refused[f"{node.op}: {reason}"] += 1
                continue
            graph.replace(node, results)
            counts[node.op] += 1

    def _check_size(self, body: Graph, rounds: int) -> None:
        if rounds * max(1, sum(1 for _ in body.walk())) > self.max_nodes:
            raise Refuse(f"{rounds} rounds make more than max-nodes nodes")

    def _loop(self, node: Node, op: Builder) -> list[Value]:
        body = node.subgraph("body")
        trips, start = node.const(0), node.const(1)
        if trips is None:
            raise Refuse("the number of rounds is not constant")
        if node.input(1) is not None and start is None:
            raise Refuse("the condition is not constant")
        if not _stays_true(body):
            raise Refuse("the condition may become false")
        rounds = max(0, int(trips.ravel()[0])) if start is None or bool(start.ravel()[0]) else 0
        self._check_size(body, rounds)
        state: list[Value] = [v for v in node.inputs[2:] if v is not None]
        collected: list[list[Value]] = [[] for _ in body.outputs[1 + len(state) :]]
        _check_empty(node.outputs[len(state) :], rounds)
        truth = op.constant(np.array(True), "true")
        for number in range(rounds):
            counter = op.constant(np.array(number, np.int64), "round")
            results = inline(body, [counter, truth, *state][: len(body.inputs)], op.graph, node)
            state, found = results[1 : 1 + len(state)], results[1 + len(state) :]
            for values, value in zip(collected, found, strict=True):
                values.append(value)
        scans = node.outputs[len(state) :]
        return [*state, *(_stack(op, v, o, 0) for v, o in zip(collected, scans, strict=True))]

    def _scan(self, node: Node, op: Builder) -> list[Value]:
        body = node.subgraph("body")
        count = node.integer("num_scan_inputs")
        inputs = [v for v in node.inputs if v is not None]
        state, scanned = inputs[: len(inputs) - count], inputs[len(inputs) - count :]
        axes = _numbers(node, "scan_input_axes", count)
        lengths = {_length(v, a) for v, a in zip(scanned, axes, strict=True)}
        if len(lengths) != 1 or None in lengths:
            raise Refuse("the length is not static")
        rounds = lengths.pop() or 0
        self._check_size(body, rounds)
        outs = len(body.outputs) - len(state)
        _check_empty(node.outputs[len(state) :], rounds)
        backward = _numbers(node, "scan_input_directions", count)
        directions = _numbers(node, "scan_output_directions", outs)
        collected: list[list[Value]] = [[] for _ in range(outs)]
        for number in range(rounds):
            items = [
                op.Gather(v, op.constant(np.array(rounds - 1 - number if b else number), "index"), axis=a)
                for v, a, b in zip(scanned, axes, backward, strict=True)
            ]
            results = inline(body, [*state, *items], op.graph, node)
            state, found = results[: len(state)], results[len(state) :]
            for values, value, back in zip(collected, found, directions, strict=True):
                values.insert(0 if back else len(values), value)
        places = zip(collected, node.outputs[len(state) :], _numbers(node, "scan_output_axes", outs), strict=True)
        return [*state, *(_stack(op, v, o, a) for v, o, a in places)]


def _stays_true(body: Graph) -> bool:
    """Whether the condition that the body returns is constant true, or the one it was given."""
    value = body.outputs[0]
    while value.producer is not None and value.producer.is_op("Identity") and value.producer.inputs[0] is not None:
        value = value.producer.inputs[0]
    given = len(body.inputs) > 1 and value is body.inputs[1]
    return given or (value.const is not None and bool(value.const.ravel()[0]))


def _length(value: Value, axis: int) -> int | None:
    shape = value.tensor.shape
    dim = None if shape is None else shape[axis]
    return dim if isinstance(dim, int) else None


def _numbers(node: Node, name: str, count: int) -> Sequence[int]:
    return node.integers(name) or (0,) * count


def _check_empty(outputs: Sequence[Value], rounds: int) -> None:
    if rounds == 0 and any(v.uses and not v.tensor.is_static for v in outputs):
        raise Refuse("no round settles the shape of a scan output")


def _stack(op: Builder, values: list[Value], output: Value, axis: int) -> Value:
    """Values of all rounds side by side along a new axis."""
    if not values:
        dims = output.tensor.dims if output.tensor.is_static else (0,)
        return op.constant(np.zeros(dims, numpy_dtype(output.dtype)), output.name)
    at = op.constant(np.array([axis], np.int64), "axis")
    return op.Concat(*(op.Unsqueeze(v, at) for v in values), axis=axis)
