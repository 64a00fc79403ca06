"""Types and attributes between our IR and onnx protobufs."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, TypeProto, helper, numpy_helper

from onyxc.compiler.ir.graph import Attribute, Node
from onyxc.compiler.ir.types import DTYPES, ONNX_CODES, OptionalType, SequenceType, TensorType, Type


def type_from_proto(proto: TypeProto) -> Type:
    """Our type of an ONNX TypeProto; an unset dimension becomes the symbol ``?``."""
    kind = proto.WhichOneof("value")
    if kind == "sequence_type":
        return SequenceType(type_from_proto(proto.sequence_type.elem_type))
    if kind == "optional_type":
        return OptionalType(type_from_proto(proto.optional_type.elem_type))
    if kind != "tensor_type":
        raise ValueError(f"values of kind {kind} are not supported")
    tensor = proto.tensor_type
    if tensor.elem_type not in DTYPES:
        raise ValueError(f"element type {tensor.elem_type} is unknown")
    if not tensor.HasField("shape"):
        return TensorType(DTYPES[tensor.elem_type], None)
    shape = tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in tensor.shape.dim)
    return TensorType(DTYPES[tensor.elem_type], shape)


def type_to_proto(type: Type) -> TypeProto:
    """The ONNX TypeProto of our type."""
    if isinstance(type, SequenceType):
        return helper.make_sequence_type_proto(type_to_proto(type.element))
    if isinstance(type, OptionalType):
        return helper.make_optional_type_proto(type_to_proto(type.element))
    shape = None if type.shape is None else [None if d == "?" else d for d in type.shape]
    return helper.make_tensor_type_proto(ONNX_CODES[type.dtype], shape)


def tensor_to_proto(array: np.ndarray[Any, Any], name: str = "", dtype: str | None = None) -> TensorProto:
    """A TensorProto of an array; objects become strings."""
    if dtype == "string" or array.dtype == object or array.dtype.kind in "US":
        values = [v if isinstance(v, bytes) else str(v).encode() for v in array.ravel()]
        return helper.make_tensor(name, TensorProto.STRING, array.shape, values)
    return numpy_helper.from_array(np.asarray(array, order="C"), name)


def attribute_to_proto(name: str, value: Attribute, schema: Any | None = None) -> AttributeProto:
    """An AttributeProto of a plain value; the schema settles the kind of empty lists and of whole floats."""
    kind = schema.attributes[name].type.value if schema is not None and name in schema.attributes else None
    if isinstance(value, np.ndarray):
        return helper.make_attribute(name, tensor_to_proto(value))
    if isinstance(value, TensorType | SequenceType | OptionalType):
        return helper.make_attribute(name, type_to_proto(value))
    if isinstance(value, tuple):
        if kind == AttributeProto.FLOATS:
            value = tuple(float(v) for v in value)
        return helper.make_attribute(name, list(value), attr_type=kind or (AttributeProto.INTS if not value else None))
    if kind == AttributeProto.FLOAT and isinstance(value, int):
        value = float(value)
    return helper.make_attribute(name, value)


def node_to_proto(node: Node, schema: Any | None = None) -> onnx.NodeProto:
    """The NodeProto without inner graphs; inputs and outputs by value name."""
    proto = onnx.NodeProto(op_type=node.op, domain=node.domain, name=node.name)
    proto.input.extend("" if v is None else v.name for v in node.inputs)
    proto.output.extend(v.name for v in node.outputs)
    for name, value in sorted(node.attrs.items()):
        if name not in {n for n, v in node.attrs.items() if v.__class__.__name__ == "Graph"}:
            proto.attribute.append(attribute_to_proto(name, value, schema))
    return proto
