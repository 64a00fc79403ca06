"""A node as a body, the graph of a group: what recipes are made of, and a text that tells equal ones."""

from __future__ import annotations

import hashlib

from onyxc.backends.lowering import dynamic
from onyxc.compiler.errors import UnsupportedError
from onyxc.compiler.ir.fused import body_of, is_parameter
from onyxc.compiler.ir.graph import Array, Graph, Node, Value
from onyxc.compiler.ir.text import format_graph
from onyxc.compiler.ir.types import TensorType


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


def text_of(body: Graph) -> str:
    """What the body computes: its text, names left out, and the numbers in it."""
    names = [v.name for v in body.inputs]
    for index, value in enumerate(body.inputs):
        value.name = f"in{index}"
    numbers = (digest(v.const) for v in body.constants() if v.const is not None and v.const.dtype != object)
    made = "\n".join([format_graph(body), *numbers])
    for value, name in zip(body.inputs, names, strict=True):
        value.name = name
    return made


def digest(array: Array) -> str:
    """What tells an array from others: dtype, shape, contents."""
    return hashlib.sha256(f"{array.dtype}{array.shape}".encode() + array.tobytes()).hexdigest()


def check_static(node: Node) -> None:
    """Refuse outputs whose shape depends on what only a run knows."""
    if node.op == "Fused":
        for inner in body_of(node):
            check_static(inner)
        return
    for value in () if dynamic.dynamic(node) else node.outputs:
        if value.name and isinstance(value.type, TensorType) and not value.type.is_static:
            free = [v for v in node.inputs if v is not None and v.const is None]
            sizes = [v for v in free if v.type and v.tensor.dtype == "int64"] or free
            raise UnsupportedError(
                f"{node.label()}: the shape of {value.name!r} ({value.type}) depends on values that only a run knows: "
                f"if {', '.join(repr(v.name) for v in sizes)} can be constant, give it with --input-value"
            )
