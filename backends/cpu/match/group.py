"""A fused group as the templates see it: an anchor, the operands it reads, and the epilogue behind it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from onyxc.backends.cpu.epilogue import Epilogue, Operand
from onyxc.backends.cpu.shapes import Strides
from onyxc.backends.cpu.vectors import cast, fill, hold, lanes_of
from onyxc.backends.kernels.expression import multiplicities
from onyxc.backends.lowering import registry
from onyxc.backends.lowering.scalar import bits
from onyxc.backends.places import dense, strides_of
from onyxc.backends.recipe import Argument, Constant, Input, Packed
from onyxc.compiler.ir import facts
from onyxc.compiler.ir.graph import Array, Graph, Node, Value

# nodes of an epilogue's expression that are kept as they are: TVM's passes see shared parts again and again
LARGEST_TREE, SMALL_TREE = 100, 3
LOOKUP, TABLE = "onyxc.Lookup", 256  # entries
EIGHT_BIT = ("int8", "uint8")
OPERANDS = ("float32", "int32", *EIGHT_BIT)


class AnchoredGroup:
    """A body as anchor and epilogue; around a matrix product, Transposes of its operands and of its result."""

    def __init__(
        self,
        body: Graph,
        anchor: Node,
        rest: list[Node],
        constant: tuple[bool, ...],
        before: list[Node],
        after: Node | None,
    ) -> None:
        self.body, self.anchor, self.rest, self.after = body, anchor, rest, after
        self.moved = {n.output: n for n in before}
        self.constant = {v for v, c in zip(body.inputs, constant, strict=True) if c}
        self.shape = anchor.output.dims
        self.start = anchor.output  # what the nodes of ``rest`` begin with

    def role(self, value: Value) -> Argument:
        """The argument that stands for a value of the body."""
        if value.const is not None:
            return Constant(value.const)
        return Input(self.body.inputs.index(value))

    def input(self, index: int) -> Value:
        """An input of the anchor that is there."""
        return self.anchor.operand(index)

    def operand(self, index: int) -> tuple[Value, tuple[int, ...]]:
        """An input of the anchor as it lies in memory, and its element strides as the anchor sees it."""
        value = self.input(index)
        node = self.moved.get(value)
        if node is None or node.inputs[0] is None:
            return value, dense(value.dims)
        source = node.inputs[0]
        return source, tuple(dense(source.dims)[a] for a in _permutation(node))

    def result_strides(self) -> tuple[int, ...]:
        """Element strides of the result along the anchor's output dimensions."""
        if self.after is None:
            return dense(self.shape)
        perm, stored = _permutation(self.after), dense(self.after.output.dims)
        return tuple(stored[perm.index(axis)] for axis in range(len(perm)))

    @property
    def y_strides(self) -> tuple[int, ...]:
        """Element strides of the result in memory."""
        return strides_of(self.body.outputs[0])

    def spread(self, value: Value) -> Strides:
        """Element strides (n, h, w, c) of an operand, broadcast to the anchor's output."""
        return four(broadcast_strides(value.dims, self.shape, strides_of(value)))

    def is_constant(self, value: Value) -> bool:
        """Whether the value is known at compile time."""
        return value.const is not None or value in self.constant

    def packed(self, value: Value, pack: Callable[[Array], Array]) -> Argument:
        """The constant ``value`` in the form that ``pack`` makes of it."""
        if value.const is not None:
            return Constant(pack(value.const))
        return Packed(self.body.inputs.index(value), pack)

    def operands(self) -> list[Value] | None:
        """Values that the epilogue reads beside the accumulator; None when one has an unfit dtype."""
        found: dict[Value, None] = {}
        inner = {self.start, *(n.output for n in self.rest)}
        for node in self.rest:
            for value in node.inputs:
                if value is not None and value not in inner and not is_number(value):
                    if value.dtype not in OPERANDS:
                        return None
                    found[value] = None
        return list(found)

    def epilogue(self, operands: list[Value], strides: Sequence[tuple[int, ...]]) -> Epilogue:
        """The nodes behind the anchor as an expression on vectors."""
        start, rest = self.start, self.rest

        def apply(acc: Any, loaded: list[Any]) -> Any:
            env: dict[Value, Any] = {start: acc, **dict(zip(operands, loaded, strict=True))}
            lanes = lanes_of(acc)
            for node in rest:
                arguments = []
                for value in node.inputs:
                    if value is None:
                        continue
                    if value not in env:
                        env[value] = fill(registry.const(value.array.reshape(()).item(), value.dtype), lanes)
                    arguments.append(env[value])
                if facts.key(node) == LOOKUP:
                    x, table = arguments
                    env[node.output] = table[cast(bits(x, "uint8"), "int32")]
                else:
                    dear = node.is_op(*facts.DEAR)
                    given = [hold(a) if dear and _size(a) > SMALL_TREE else a for a in arguments]
                    env[node.output] = registry.ELEMENTWISE[node.domain, node.op](node, *given)
                    if node is not rest[-1] and (dear or _size(env[node.output]) > LARGEST_TREE):
                        env[node.output] = hold(env[node.output])
            return env[rest[-1].output] if rest else acc

        tables = {n.inputs[1]: TABLE for n in rest if facts.key(n) == LOOKUP}
        made = tuple(Operand(v.dtype, s, tables.get(v, 0)) for v, s in zip(operands, strides, strict=True))
        return Epilogue(made, apply, self.body.outputs[0].dtype)


def _permutation(node: Node) -> tuple[int, ...]:
    """The axes of a Transpose; by default in reverse."""
    return node.integers("perm", tuple(range(len(node.output.dims)))[::-1])


def is_expression(node: Node) -> bool:
    """Whether the node can be computed on a vector in registers."""
    return (node.domain, node.op) in registry.ELEMENTWISE or facts.key(node) == LOOKUP


def _size(expr: Any) -> int:
    """Nodes of an expression as a tree."""
    return sum(times for _, times in multiplicities(expr))


def is_number(value: Value) -> bool:
    """Whether the value is one constant number."""
    return value.const is not None and value.const.size == 1


def broadcast_strides(
    dims: tuple[int, ...], shape: tuple[int, ...], strides: tuple[int, ...] | None = None
) -> tuple[int, ...]:
    """Element strides of a tensor (default: a dense one) of ``dims`` when it is broadcast to ``shape``."""
    missing = len(shape) - len(dims)
    full, steps = (1,) * missing + dims, (0,) * missing + (strides or dense(dims))
    return tuple(0 if d == 1 and s != 1 else step for d, s, step in zip(full, shape, steps, strict=True))


def four(strides: tuple[int, ...]) -> Strides:
    """Strides of up to three leading dimensions and the channel as (n, h, w, c)."""
    n, h, w, c = (0,) * (4 - len(strides)) + strides
    return n, h, w, c


def supported(group: AnchoredGroup) -> bool:
    """Whether both operands of a product are float32 or both 8-bit, the second one constant."""
    x, w = group.input(0), group.input(1)
    floats = x.dtype == w.dtype == "float32"
    integers = x.dtype in EIGHT_BIT and w.dtype in EIGHT_BIT
    return (floats or integers) and group.is_constant(w)


def zero_points(group: AnchoredGroup) -> tuple[int, Array] | None:
    """The input's zero point and the weights' zero points, where both are known."""
    points = []
    for index in (2, 3):
        value = group.anchor.input(index)
        if value is None:
            points.append(np.zeros((), np.int32))
        elif value.const is None:
            return None
        else:
            points.append(value.const.astype(np.int32))
    if points[0].size != 1:
        return None
    return int(points[0].reshape(())), points[1].reshape(-1) if points[1].size > 1 else points[1].reshape(())
