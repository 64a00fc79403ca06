"""Operator schemas: read from onnx.defs; ours, of domain ``onyxc``, are in a table of the same use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, numpy_helper

from onyxc.compiler.ir.graph import Attribute, Graph, Node, Value
from onyxc.compiler.ir.proto import type_from_proto
from onyxc.compiler.ir.types import Type

DOMAIN = "onyxc"
OPSET = 26  # the newest that onnxruntime 1.32 and onnx.version_converter both know well
Inference = Callable[[Node], tuple[Type, ...]]

# Our own operators: name -> rule that gives the output types from the inputs and attributes.
OWN: dict[str, Inference] = {}

# Name -> function (node, body, inputs) that appends standard operators to ``body`` and returns their result.
Decomposition = Callable[[Node, Graph, Sequence[Value]], Value]
DECOMPOSITIONS: dict[str, Decomposition] = {}


def own(name: str) -> Callable[[Inference], Inference]:
    """Register the type rule of an operator of domain ``onyxc``."""

    def register(rule: Inference) -> Inference:
        OWN[name] = rule
        return rule

    return register


def decomposition(name: str) -> Callable[[Decomposition], Decomposition]:
    """Register how an operator of domain ``onyxc`` is written in standard operators."""

    def register(rule: Decomposition) -> Decomposition:
        DECOMPOSITIONS[name] = rule
        return rule

    return register


def decomposed(node: Node, opset: int) -> Graph:
    """An operator of ours in standard operators; the graph's inputs are those of the node."""
    made = Graph(node.op, opset)
    inputs = [made.add_input(v.name, v.type) for v in node.inputs if v is not None]
    made.add_output(DECOMPOSITIONS[node.op](node, made, inputs))
    return made


@cache
def find(op: str, opset: int, domain: str = "") -> Any | None:
    """The onnx.defs schema of an operator at an opset version, or None."""
    try:
        return onnx.defs.get_schema(op, opset, domain)
    except onnx.defs.SchemaError:
        return None


def from_proto(attribute: AttributeProto) -> Attribute:
    """The plain Python value of an ONNX attribute (graphs excepted: the loader makes those)."""
    value = onnx.helper.get_attribute_value(attribute)
    kind = attribute.type
    if kind == AttributeProto.STRING:
        return _text(value)
    if kind == AttributeProto.STRINGS:
        return tuple(_text(v) for v in value)
    if kind == AttributeProto.TENSOR:
        array: np.ndarray[Any, Any] = numpy_helper.to_array(value)
        array.flags.writeable = False
        return array
    if kind in (AttributeProto.INTS, AttributeProto.FLOATS):
        return tuple(value)
    if kind in (AttributeProto.INT, AttributeProto.FLOAT):
        return float(value) if kind == AttributeProto.FLOAT else int(value)
    if kind == AttributeProto.TYPE_PROTO:
        return type_from_proto(value)
    raise ValueError(f"attribute {attribute.name!r} of kind {AttributeProto.AttributeType.Name(kind)}")


def _text(value: bytes) -> str | bytes:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


@cache
def defaults(op: str, opset: int, domain: str = "") -> dict[str, Attribute]:
    """Default attributes by the schema; the loader fills them in once."""
    schema = find(op, opset, domain)
    if schema is None:
        return {}
    return {name: from_proto(a.default_value) for name, a in schema.attributes.items() if a.default_value.name}


def to_python(attrs: dict[str, Any]) -> dict[str, Attribute]:
    """Attributes as given by a caller, lists made tuples and numpy scalars plain."""
    return {k: _plain(v) for k, v in attrs.items() if v is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_plain(v) for v in value)
    return value.item() if isinstance(value, np.generic) else value
