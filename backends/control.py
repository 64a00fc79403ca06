"""Control flow at run time: If, Loop, and Scan that was too long to be unrolled, as steps of a program.

Carried values live in buffers of their own, copied at the end of each turn. A scan output is one buffer; at the end of
each turn a small kernel copies the turn's value to its place there, and in front of a turn of Scan others fetch the
elements that it reads. A loop that may end early gives fewer elements than the bound: a count tells how many.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, Protocol

import numpy as np

from onyxc.backends import kinds
from onyxc.backends.kernels.imperative import Array, Emitter, Imperative
from onyxc.backends.program import Buffer, Call, Copy, If, Kernel, Loop, Step
from onyxc.backends.target import Target
from onyxc.compiler.errors import UnsupportedError
from onyxc.compiler.ir.graph import Graph, Node, Value
from onyxc.compiler.ir.types import numpy_dtype


class Compiler(Protocol):
    """What this module asks of `backends.compile`."""

    target: Target
    buffers: dict[Value, Buffer]
    counts: dict[Value, Buffer]
    kernels: dict[Any, Kernel]

    def steps(self, graph: Graph) -> list[Step]:
        """The steps of a graph."""

    def read(self, value: Value) -> Buffer:
        """The buffer that holds a value."""

    def constant(self, array: Any, name: str, key: Any = None) -> Buffer:
        """The buffer of a constant."""

    def buffer(self, value: Value, what: str) -> Buffer:
        """A new buffer of a value's type."""

    def unique(self, name: str) -> str:
        """A symbol that nothing else has."""


def branch(compiler: Compiler, node: Node) -> list[Step]:
    """ONNX If: both branches write the same buffers."""
    condition = node.inputs[0]
    assert condition is not None
    for value in node.outputs:
        compiler.buffers[value] = compiler.buffer(value, "output")
    sides = []
    for name in ("then_branch", "else_branch"):
        inner = node.attrs[name]
        assert isinstance(inner, Graph)
        side = compiler.steps(inner)
        for value, result in zip(node.outputs, inner.outputs, strict=True):
            if result.dims != value.dims:
                raise UnsupportedError(f"{node.label()}: the branches return {value.type} and {result.type}")
            side.append(Copy(compiler.read(result), compiler.buffers[value]))
        sides.append(side)
    return [If(compiler.read(condition), *sides)]


def loop(compiler: Compiler, node: Node) -> list[Step]:
    """ONNX Loop; scan outputs need a constant trip count, or a static type."""
    trip, condition, *initial = node.inputs
    body = node.attrs["body"]
    assert isinstance(body, Graph)
    carried, before = _carry(compiler, node, initial, body.inputs[2:])
    going = Buffer(f"{node.output.name}_going", "bool", ())
    truth = compiler.constant(np.array(True), "true", "true") if condition is None else compiler.read(condition)
    before.append(Copy(truth, going))
    turn = Buffer(f"{node.output.name}_turn", "int64", ())
    compiler.buffers[body.inputs[0]], compiler.buffers[body.inputs[1]] = turn, going
    inside = compiler.steps(body)
    count = Buffer(f"{node.output.name}_count", "int64", ())
    limit = node.const(0)
    scans = zip(node.outputs[len(initial) :], body.outputs[1 + len(initial) :], strict=True)
    after: list[Step] = []
    for value, result in scans:
        dims = result.dims
        if value.tensor.is_static:
            made = compiler.buffer(value, "output")
        elif limit is not None:
            most = max(0, int(limit.reshape(())))
            made = Buffer(value.name, numpy_dtype(value.dtype).name, (most, *dims))
            shape = compiler.counts[value] = Buffer(f"{value.name}_shape", "int64", (1 + len(dims),))
            whole = np.array((most, *dims), np.int64)
            after += [Copy(compiler.constant(whole, "shape", ("shape", *whole.tolist())), shape)]
            after += [Copy(count, Buffer("count", "int64", (), base=shape))]
        else:
            raise UnsupportedError(f"{node.label()}: scan outputs need a constant number of turns, or known dimensions")
        compiler.buffers[value] = made
        inside.append(put(compiler, compiler.read(result), turn, made, 0))
    inside += _advance(compiler, body.outputs[: 1 + len(carried)], [going, *carried])
    return [*before, Loop(None if trip is None else compiler.read(trip), going, turn, inside, count), *after]


def scan(compiler: Compiler, node: Node) -> list[Step]:
    """ONNX Scan: each turn reads and writes one place along the axes."""
    body, count = node.attrs["body"], node.integer("num_scan_inputs")
    assert isinstance(body, Graph)
    inputs = [v for v in node.inputs if v is not None]
    initial, scanned = inputs[: len(inputs) - count], inputs[len(inputs) - count :]
    carried, steps = _carry(compiler, node, initial, body.inputs)
    turn = Buffer(f"{node.output.name}_turn", "int64", ())
    inside: list[Step] = []
    axes, backward = node.integers("scan_input_axes"), node.integers("scan_input_directions")
    length = scanned[0].dims[(axes or (0,))[0]]
    for index, (value, inner) in enumerate(zip(scanned, body.inputs[len(initial) :], strict=True)):
        axis = axes[index] % value.tensor.rank if axes else 0
        item = Buffer(inner.name, numpy_dtype(value.dtype).name, value.dims[:axis] + value.dims[axis + 1 :])
        compiler.buffers[inner] = item
        flip = bool(backward and backward[index])
        inside.append(put(compiler, compiler.read(value), turn, item, axis, fetch=True, flip=flip))
    inside += compiler.steps(body)
    axes, backward = node.integers("scan_output_axes"), node.integers("scan_output_directions")
    for index, result in enumerate(body.outputs[len(initial) :]):
        value = node.outputs[len(initial) + index]
        made = compiler.buffers[value] = compiler.buffer(value, "output")
        axis = axes[index] % len(made.shape) if axes else 0
        inside.append(put(compiler, compiler.read(result), turn, made, axis, flip=bool(backward and backward[index])))
    inside += _advance(compiler, body.outputs[: len(initial)], carried)
    trip = compiler.constant(np.array(length, np.int64), "trip", ("trip", length))
    return [*steps, Loop(trip, None, turn, inside)]


def _carry(
    compiler: Compiler, node: Node, initial: Sequence[Value | None], inputs: Sequence[Value]
) -> tuple[list[Buffer], list[Step]]:
    """Buffers of the carried values, and the steps that fill them; they are also the first outputs."""
    carried, steps = [], list[Step]()
    for value, source, inner in zip(node.outputs, initial, inputs, strict=False):
        assert source is not None
        if inner.tensor.is_static and inner.dims != source.dims:
            raise UnsupportedError(f"{node.label()}: carried value {inner.name!r} changes its shape")
        inner.type = source.type
        made = compiler.buffer(source, "input")
        made.name = value.name
        steps.append(Copy(compiler.read(source), made))
        compiler.buffers[value] = compiler.buffers[inner] = made
        carried.append(made)
    return carried, steps


def _advance(compiler: Compiler, results: Sequence[Value], targets: Sequence[Buffer]) -> list[Step]:
    """What a turn computed becomes what the next one reads; through copies, as results may trade places."""
    sources = [compiler.read(v) for v in results]
    staged = [Buffer("staged", b.dtype, b.shape) for b in sources]
    copies: list[Step] = [Copy(r, s) for r, s in zip(sources, staged, strict=True)]
    return [*copies, *(Copy(s, t) for s, t in zip(staged, targets, strict=True))]


def put(
    compiler: Compiler, source: Buffer, turn: Buffer, target: Buffer, axis: int, *, fetch: bool = False,
    flip: bool = False,
) -> Call:  # fmt: skip
    """Copy ``source`` to place ``turn`` of ``target`` along ``axis``, or (``fetch``) that place of it to ``target``."""
    whole, part = (source, target) if fetch else (target, source)
    length, outer = whole.shape[axis], prod(whole.shape[:axis])
    inner = prod(whole.shape[axis + 1 :])
    key = ("put", fetch, flip, source.dtype, source.shape, target.shape, axis)
    if key not in compiler.kernels:

        def emit(task: Any, inputs: list[Array], outputs: list[Array], e: Emitter) -> None:
            number = e.bind(inputs[1].flat[0].astype("int32"))
            place = length - 1 - number if flip else number
            large, small = (inputs[0], outputs[0]) if fetch else (outputs[0], inputs[0])
            rows, items = large.reshape(outer, length, inner), small.reshape(outer, inner)
            for i in e.vectorised(inner, source.dtype):
                if fetch:
                    items[task, i] = rows[task, place, i]
                else:
                    rows[task, place, i] = items[task, i]

        imperative = Imperative([(target.shape, target.dtype)], outer, emit, work=prod(part.shape))
        specs = [(source.shape, source.dtype), ((), "int64")]
        compiler.kernels[key] = kinds.imperative(
            compiler.unique("fetch" if fetch else "put"), specs, imperative, compiler.target
        )
    return Call(compiler.kernels[key], (source, turn, target), 2)
