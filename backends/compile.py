"""From a graph, passes done and shapes static, to a Program: one recipe a group, one buffer a value."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onyxc.backends import control, kinds
from onyxc.backends.lowering import dynamic
from onyxc.backends.program import Buffer, Call, Copy, Kernel, Program, Step
from onyxc.backends.recipe import Argument, Constant, Count, Input, Output, Packed, Recipe, Scratch, Temporary
from onyxc.backends.target import Target
from onyxc.compiler.errors import OnyxcError, UnsupportedError
from onyxc.compiler.ir import facts
from onyxc.compiler.ir.fused import body_of, is_parameter
from onyxc.compiler.ir.graph import Array, Graph, Node, Value
from onyxc.compiler.ir.text import format_graph
from onyxc.compiler.ir.types import ONNX_CODES, TensorType, numpy_dtype

_CONTROL = {"If": control.branch, "Loop": control.loop, "Scan": control.scan}


def to_program(graph: Graph, target: Target, name: str) -> Program:
    """The program of ``graph`` on ``target``.

    Raises:
        UnsupportedError: an operator has no lowering, or a shape is not static; the message names the node.
    """
    return _Compiler(target, name).program(graph)


@dataclass
class _Compiler:
    target: Target
    name: str
    buffers: dict[Value, Buffer] = field(default_factory=dict)
    recipes: dict[str, Recipe] = field(default_factory=dict)
    constants: dict[Any, Buffer] = field(default_factory=dict)
    counts: dict[Value, Buffer] = field(default_factory=dict)
    kernels: dict[Any, Kernel] = field(default_factory=dict)  # of control flow
    symbols: set[str] = field(default_factory=set)

    def program(self, graph: Graph) -> Program:
        for value in graph.inputs:
            self.buffers[value] = Buffer(value.name, *_form(value, "input"), kind="input")
        steps = self.steps(graph)
        outputs, taken = [], set[Buffer]()
        for value, name in zip(graph.outputs, graph.output_names, strict=True):
            buffer = self.read(value)
            made = Buffer(name, buffer.dtype, buffer.shape, kind="output")
            root, offset = buffer.root()
            if root.kind == "arena" and root.nbytes == made.nbytes and offset == 0 and root not in taken:
                root.base = made  # computed in place
            else:
                steps.append(Copy(buffer, made))
            taken.add(made)
            outputs.append(made)
        counts = {
            n: self.counts[v] for v, n in zip(graph.outputs, graph.output_names, strict=True) if v in self.counts
        }
        return Program(self.name, [self.buffers[v] for v in graph.inputs], outputs, steps, counts)

    # ---- values

    def read(self, value: Value) -> Buffer:
        """The buffer that holds ``value``."""
        if value not in self.buffers:
            if value.const is None:
                raise UnsupportedError(f"{value.name!r} is read before it is computed")
            self.buffers[value] = self.constant(value.const, value.name)
        return self.buffers[value]

    def constant(self, array: Array, name: str, key: Any = None) -> Buffer:
        key = key or id(array)
        if key not in self.constants:
            if array.dtype == object:
                raise UnsupportedError(f"{name!r}: string tensors cannot be compiled")
            self.constants[key] = Buffer(name, array.dtype.name, array.shape, "constant", np.ascontiguousarray(array))
        return self.constants[key]

    # ---- steps

    def steps(self, graph: Graph) -> list[Step]:
        made: list[Step] = []
        for node in graph:
            made += self.node(node)
        return made

    def node(self, node: Node) -> list[Step]:
        if node.is_op(*_CONTROL):
            return _CONTROL[node.op](self, node)
        if node.is_op(*facts.VIEWS) and node.inputs[0] is not None:
            source = self.read(node.inputs[0])
            self.buffers[node.output] = Buffer(node.output.name, *_form(node.output, "output"), base=source)
            return []
        return self.group(node)

    def group(self, node: Node) -> list[Step]:
        body, arguments = as_body(node)
        constant = tuple(v.const is not None for v in arguments)
        key = f"{constant}\n{_text(body)}"
        if key not in self.recipes:
            name = self.symbol(body)
            try:
                self.recipes[key] = kinds.recipe(name, body, constant, self.target)
            except OnyxcError:
                raise
            except Exception as error:  # a fault of ours or of TVM: say where
                _check_static(node)
                raise RuntimeError(f"{node.label()}: {type(error).__name__}: {error}") from error
        bounds = dynamic.bound(node) if dynamic.dynamic(node) else [None] * len(node.outputs)
        for value, shape in zip(node.outputs, bounds, strict=True):
            form = _form(value, "output") if shape is None else (numpy_dtype(value.dtype).name, shape)
            self.buffers[value] = Buffer(value.name, *form)
        return self.instantiate(self.recipes[key], node, arguments)

    def symbol(self, body: Graph) -> str:
        """A unique C identifier that tells what the group computes, and is no function of libm (pow, exp)."""
        ops = [n.op.lower() for n in body]
        return self.unique("_".join(ops)[:40].strip("_") if len(ops) > 1 else f"{ops[0]}_1")

    def unique(self, name: str) -> str:
        """``name``, with a number behind it where it is taken."""
        made, count = name, 1
        while made in self.symbols:
            count += 1
            made = f"{name}_{count}"
        self.symbols.add(made)
        return made

    def buffer(self, value: Value, what: str) -> Buffer:
        """A new buffer of the value's type."""
        return Buffer(value.name, *_form(value, what))

    def instantiate(self, recipe: Recipe, node: Node, arguments: list[Value]) -> list[Step]:
        temporaries: dict[Temporary, Buffer] = {}

        def buffer(role: Argument) -> Buffer:
            match role:
                case Input():
                    return self.read(arguments[role.index])
                case Output():
                    return self.buffers[node.outputs[role.index]]
                case Constant():
                    return self.constant(role.array, "constant", _digest(role.array))
                case Packed():
                    source = arguments[role.index].const
                    assert source is not None
                    key = (id(source), id(role))
                    if key not in self.constants:
                        packed = role.pack(source)
                        self.constant(packed, arguments[role.index].name, key)
                    return self.constants[key]
                case Temporary():
                    return temporaries.setdefault(role, Buffer("temporary", role.dtype, role.shape))
                case Scratch():
                    return Buffer("scratch", role.dtype, role.shape, "scratch")
                case Count():
                    value = node.outputs[role.index]
                    return self.counts.setdefault(value, Buffer(f"{value.name}_shape", "int64", (role.rank,)))

        return [Call(p.kernel, tuple(buffer(a) for a in p.args), p.reads, p.in_place) for p in recipe]


def _check_static(node: Node) -> None:
    """Refuse outputs whose shape depends on what only a run knows."""
    if node.op == "Fused":
        for inner in body_of(node):
            _check_static(inner)
        return
    for value in () if dynamic.dynamic(node) else node.outputs:
        if value.name and isinstance(value.type, TensorType) and not value.type.is_static:
            free = [v for v in node.inputs if v is not None and v.const is None]
            sizes = [v for v in free if v.type and v.tensor.dtype == "int64"] or free
            raise UnsupportedError(
                f"{node.label()}: the shape of {value.name!r} ({value.type}) depends on values that only a run knows: "
                f"if {', '.join(repr(v.name) for v in sizes)} can be constant, give it with --input-value"
            )


def as_body(node: Node) -> tuple[Graph, list[Value]]:
    """The body that computes ``node`` and the values of its inputs; a plain node becomes a body of one."""
    if node.op == "Fused":
        return body_of(node), [v for v in node.inputs if v is not None]
    body = Graph(node.op.lower(), node.graph.root().opset if node.graph else 0)
    arguments: dict[Value, Value] = {}
    inner: list[Value | None] = []
    for value in node.inputs:
        if value is not None and is_parameter(value):
            inner.append(Value(value.name, value.type, const=value.const))
        elif value is not None:
            if value not in arguments:
                arguments[value] = body.add_input(value.name, value.type)
            inner.append(arguments[value])
        else:
            inner.append(None)
    types = [v.type for v in node.outputs]
    made = body.create(
        node.op, inner, types, node.attrs, domain=node.domain, name=node.name,
        output_names=[v.name for v in node.outputs],
    )  # fmt: skip
    for value in made.outputs:
        body.add_output(value)
    return body, list(arguments)


def _form(value: Value, what: str) -> tuple[str, tuple[int, ...]]:
    """Run-time dtype and shape of a value."""
    kind = value.type
    if not isinstance(kind, TensorType) or kind.dtype == "string":
        raise UnsupportedError(f"{what} {value.name!r} is {kind}; only tensors of numbers can be compiled")
    if not kind.is_static:
        raise UnsupportedError(
            f"{what} {value.name!r} is {kind}: bind its dimensions with --input-dim or --input-shape"
        )
    assert kind.dtype in ONNX_CODES
    return numpy_dtype(kind.dtype).name, kind.dims


def _text(body: Graph) -> str:
    """What the body computes: its text, names left out, and the numbers in it."""
    names = [v.name for v in body.inputs]
    for index, value in enumerate(body.inputs):
        value.name = f"in{index}"
    numbers = (_digest(v.const) for v in body.constants() if v.const is not None and v.const.dtype != object)
    text = "\n".join([format_graph(body), *numbers])
    for value, name in zip(body.inputs, names, strict=True):
        value.name = name
    return text


def _digest(array: Array) -> str:
    return hashlib.sha256(f"{array.dtype}{array.shape}".encode() + array.tobytes()).hexdigest()
