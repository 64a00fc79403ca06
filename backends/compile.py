"""From a graph, passes done and shapes static, to a Program: one recipe a group, one buffer a value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onyxc.backends import control, kinds, origin, places
from onyxc.backends.bodies import as_body, check_static, digest, text_of
from onyxc.backends.interface import Group
from onyxc.backends.lowering import dynamic
from onyxc.backends.program import Buffer, Call, Copy, Kernel, Program, Step
from onyxc.backends.recipe import Argument, Constant, Count, Input, Output, Packed, Recipe, Scratch, Temporary
from onyxc.backends.target import Target
from onyxc.compiler.errors import OnyxcError, UnsupportedError
from onyxc.compiler.ir import facts
from onyxc.compiler.ir.graph import Array, Graph, Node, Value
from onyxc.compiler.ir.types import ONNX_CODES, TensorType, numpy_dtype

GATHERING = ("SequenceConstruct", "SequenceEmpty", "Optional")
_CONTROL = {"If": control.branch, "Loop": control.loop, "Scan": control.scan}


def to_program(graph: Graph, target: Target, name: str) -> Program:
    """The program of ``graph`` on ``target``.

    Raises:
        UnsupportedError: an operator has no lowering, or a shape is not static; the message names the node.
    """
    return Compiler(target, name).program(graph)


@dataclass(frozen=True)
class Source:
    """What a recipe is made of: its name, the group's body, and which of the body's inputs are constants."""

    name: str
    body: Graph
    constant: tuple[bool, ...]

    def recipe(self, target: Target) -> Recipe:
        """The kernels for ``target``."""
        return kinds.recipe(self.name, self.body, self.constant, target)


@dataclass
class Compiler:
    """Makes programs of graphs; equal groups get one recipe, by a text that tells what they compute.

    Who replaces one of ``recipes`` (`backends.replan` does) gets it into the next `program`.
    """

    target: Target
    name: str
    buffers: dict[Value, Buffer] = field(default_factory=dict)
    recipes: dict[str, Recipe] = field(default_factory=dict)
    sources: dict[str, Source] = field(default_factory=dict)
    constants: dict[Any, Buffer] = field(default_factory=dict)
    counts: dict[Value, Buffer] = field(default_factory=dict)
    kernels: dict[Any, Kernel] = field(default_factory=dict)  # of control flow
    symbols: set[str] = field(default_factory=set)
    made: Callable[[Recipe], None] = lambda recipe: None  # called with each new recipe
    places: dict[Value, places.Place] = field(default_factory=dict)

    def program(self, graph: Graph) -> Program:
        """The program of ``graph``."""
        self.buffers.clear()
        self.counts.clear()
        for value in graph.inputs:
            self.buffers[value] = Buffer(value.name, *_form(value, "input"), kind="input")
        groups, ends = _ends(graph)
        self.places = places.find(graph) if self.target.kind == "cpu" else {}
        steps = self.steps(graph)
        outputs, taken = [], set[Buffer]()
        for value, name in ends:
            buffer = self.read(value)
            made = Buffer(name, buffer.dtype, buffer.shape, kind="output")
            root, offset = buffer.root()
            if root.kind == "arena" and root.nbytes == made.nbytes and offset == 0 and root not in taken:
                root.base = made  # computed in place
            else:
                steps.append(Copy(buffer, made))
            taken.add(made)
            outputs.append(made)
        counts = {n: self.counts[v] for v, n in ends if v in self.counts}
        return Program(self.name, [self.buffers[v] for v in graph.inputs], outputs, steps, counts, gives=groups)

    # ---- values

    def read(self, value: Value) -> Buffer:
        """The buffer that holds ``value``."""
        if value not in self.buffers:
            if value.const is None:
                raise UnsupportedError(f"{value.name!r} is read before it is computed")
            self.buffers[value] = self.constant(value.const, value.name)
        return self.buffers[value]

    def constant(self, array: Array, name: str, key: Any = None) -> Buffer:
        """The buffer of a constant; ``key`` tells equal ones (default: the array itself)."""
        key = key or id(array)
        if key not in self.constants:
            if array.dtype == object:
                raise UnsupportedError(f"{name!r}: string tensors cannot be compiled")
            self.constants[key] = Buffer(name, array.dtype.name, array.shape, "constant", np.ascontiguousarray(array))
        return self.constants[key]

    # ---- steps

    def steps(self, graph: Graph) -> list[Step]:
        """What computes the nodes of ``graph``, in order."""
        made: list[Step] = []
        for node in graph:
            made += self.node(node)
        return made

    def node(self, node: Node) -> list[Step]:
        """What computes ``node``: nothing where its result only names or joins what lies somewhere already."""
        if node.is_op(*GATHERING):
            return []  # the caller's sequences are lists that the loader of the artifact makes
        for value in (*node.inputs, *node.outputs):
            if value is not None and not isinstance(value.type, TensorType):
                raise UnsupportedError(
                    f"{node.label()}: {value.name!r} is {value.type}; only sequences and optionals whose contents and "
                    "positions are known when compiling are supported"
                )
        if node.is_op(*_CONTROL):
            return _CONTROL[node.op](self, node)
        if node.is_op(*facts.VIEWS) and node.inputs[0] is not None:
            source = self.read(node.inputs[0])
            self.buffers[node.output] = Buffer(node.output.name, *_form(node.output, "output"), base=source)
            return []
        if node.is_op("Split", "Slice") and all(self.host(v) is node.inputs[0] for v in node.outputs):
            self.buffers.update({v: self.write(v) for v in node.outputs})
            return []
        if node.is_op("Concat") and all(self.host(v) is node.output for v in node.inputs if v):
            self.buffers[node.output] = self.write(node.output)
            return []
        return self.group(node)

    def group(self, node: Node) -> list[Step]:
        """The calls of the recipe that computes ``node``; it is made if no equal group came before."""
        body, arguments = as_body(node)
        constant = tuple(v.const is not None for v in arguments)
        self.note_strides(body, arguments, node.outputs)
        key = f"{constant}{places.strided(body)}\n{text_of(body)}"
        if key not in self.recipes:
            self.sources[key] = Source(self.symbol(body), body, constant)
            try:
                self.recipes[key] = self.sources[key].recipe(self.target)
            except OnyxcError:
                raise
            except Exception as error:  # a fault of ours or of TVM: say where
                check_static(node)
                raise RuntimeError(f"{node.label()}: {type(error).__name__}: {error}") from error
            self.made(self.recipes[key])
        bounds = dynamic.bound(node) if dynamic.dynamic(node) else [None] * len(node.outputs)
        for value, shape in zip(node.outputs, bounds, strict=True):
            self.buffers[value] = self.write(value, shape)
        return list(origin.trace(self.instantiate(self.recipes[key], node, arguments), self.recipes[key], body))

    def write(self, value: Value, bound: tuple[int, ...] | None = None) -> Buffer:
        """The buffer for a value that is computed next, at its place; ``bound``: its shape where the type knows none."""
        if value in self.buffers:
            return self.buffers[value]
        made, place = Buffer(value.name, *self.form(value, bound)), self.places.get(value)
        if place is not None:
            host = place.host
            if host not in self.buffers and host.const is None:
                self.buffers[host] = self.write(host)
            made.base, made.offset = self.read(host), place.offset * made.itemsize
            made.strides = None if places.is_dense(value.dims, place.strides) else place.strides
        return made

    def host(self, value: Value) -> Value | None:
        """What ``value`` lies inside of."""
        return self.places[value].host if value in self.places else None

    def form(self, value: Value, bound: tuple[int, ...] | None) -> tuple[str, tuple[int, ...]]:
        """dtype and shape of a computed value."""
        return _form(value, "output") if bound is None else (numpy_dtype(value.dtype).name, bound)

    def note_strides(self, body: Graph, arguments: list[Value], results: Sequence[Value]) -> None:
        """Tell the body's inputs and outputs how the values behind them lie."""
        pairs = [*zip(body.inputs, arguments, strict=True), *zip(body.outputs, results, strict=True)]
        for inner, value in pairs:
            place = self.places.get(value)
            places.note(inner, place.strides if place else None)

    def symbol(self, body: Graph) -> str:
        """A unique C identifier that tells what the group computes, and is no function of libm (pow, exp)."""
        ops = [n.op.lower() for n in body]
        return self.unique("_".join(ops)[:40].strip("_") if len(ops) > 1 else f"{ops[0]}_1")

    def unique(self, name: str) -> str:
        """``name``, with a number behind it where it is taken: not as parts of one group's kernels are numbered."""
        made, count = name, 1
        while made in self.symbols:
            count += 1
            made = f"{name}__{count}"
        self.symbols.add(made)
        return made

    def buffer(self, value: Value, what: str) -> Buffer:
        """A new buffer of the value's type."""
        return Buffer(value.name, *_form(value, what))

    def instantiate(self, recipe: Recipe, node: Node, arguments: list[Value]) -> list[Call]:
        """The calls of ``recipe`` with buffers in the places of roles; ``arguments``: the values of the body's inputs."""
        temporaries: dict[Temporary, Buffer] = {}

        def buffer(role: Argument) -> Buffer:
            match role:
                case Input():
                    return self.read(arguments[role.index])
                case Output():
                    return self.buffers[node.outputs[role.index]]
                case Constant():
                    return self.constant(role.array, "constant", digest(role.array))
                case Packed():
                    source = arguments[role.index].array
                    key = (id(source), role)
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


def _ends(graph: Graph) -> tuple[list[Group], list[tuple[Value, str]]]:
    """What the graph returns, and the tensors of which it consists, by name; no groups if these are all tensors."""
    groups, ends = list[Group](), list[tuple[Value, str]]()
    for value, name in zip(graph.outputs, graph.output_names, strict=True):
        while value.producer is not None and value.producer.is_op("Optional") and value.producer.input(0) is not None:
            value = value.producer.inputs[0] or value
        maker = value.producer
        if maker is None or not maker.is_op(*GATHERING):
            groups.append(Group(name, "tensor"))
            ends.append((value, name))
        elif maker.op == "Optional":
            groups.append(Group(name, "nothing", 0))
        else:
            parts = [v for v in maker.inputs if v is not None]
            groups.append(Group(name, "sequence", len(parts)))
            ends += zip(parts, groups[-1].tensors, strict=True)
    return ([] if all(g.kind == "tensor" for g in groups) else groups), ends


def _form(value: Value, what: str) -> tuple[str, tuple[int, ...]]:
    """Run-time dtype and shape of a value."""
    kind = value.type
    if not isinstance(kind, TensorType) or kind.dtype == "string":
        raise UnsupportedError(f"{what} {value.name!r} is {kind}; only tensors of numbers can be compiled")
    if not kind.is_static:
        raise UnsupportedError(f"{what} {value.name!r} is {kind}: bind its dimensions with --input-dim or --input-shape")
    assert kind.dtype in ONNX_CODES
    return numpy_dtype(kind.dtype).name, kind.dims
