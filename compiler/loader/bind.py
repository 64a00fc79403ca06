"""Fixing what a model leaves open: symbolic dimensions, shapes of inputs, inputs that become constants.

What sequences and optionals hold is settled here too:

    x: seq(float[]), shapes [(2,), (3,)]   ->   inputs x.0: float[2], x.1: float[3];  x = SequenceConstruct(x.0, x.1)
    x: optional(float[]), shape (2,)       ->   input x: float[2], which the operators on optionals take as well
    x: optional(...), None                 ->   no input;  x = Optional()

The operators that gather them go away when sequences are resolved (`passes/canonical/sequences.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onyxc.compiler.errors import OptionError
from onyxc.compiler.ir.types import DTYPES, numpy_dtype
from onyxc.compiler.loader.read import Source

Shape: TypeAlias = tuple[int, ...]
Contents: TypeAlias = Shape | list[Shape] | None  # of a tensor, of a sequence's elements, of what is missing


def bind(
    source: Source,
    dims: dict[str, int] | None = None,
    shapes: dict[str, Contents] | None = None,
    values: dict[str, Any] | None = None,
) -> None:
    """Fix symbolic dimensions by name, whole input shapes, and inputs that become constants.

    The shape of a sequence is the list of its elements' shapes; of an optional, None where it is missing.

    Raises:
        OptionError: a name is unknown or two values contradict each other.
    """
    graph = source.proto.graph
    inputs = {i.name: i for i in graph.input if i.name not in source.tensors}
    _bind_values(source, inputs, values or {})
    symbols: dict[str, int] = {}
    for name, contents in (shapes or {}).items():
        tensors = _settle(graph, _known(name, inputs, "--input-shape"), contents)
        inputs = {i.name: i for i in graph.input if i.name not in source.tensors}
        for part, shape in tensors:
            _bind_shape(inputs[part], shape, symbols)
    named = {d.dim_param for i in inputs.values() for d in i.type.tensor_type.shape.dim if d.dim_param} | set(symbols)
    for name, size in (dims or {}).items():
        if name not in named:
            raise OptionError(f"--input-dim {name}: no input has such a dimension; there are {_list(named)}")
        if symbols.setdefault(name, size) != size or size < 0:
            raise OptionError(f"dimension {name!r} cannot be {size}" + (f" and {symbols[name]}" if size >= 0 else ""))
    for value in [*graph.input, *graph.output]:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in symbols:
                dim.dim_value = symbols[dim.dim_param]


def _settle(graph: onnx.GraphProto, value: onnx.ValueInfoProto, contents: Contents) -> list[tuple[str, Shape]]:
    """Fix what the input ``value`` holds; returns the tensors that take its place, and their shapes.

    Raises:
        OptionError: the contents do not fit the input's type.
    """
    kind, name = value.type.WhichOneof("value"), value.name
    if kind == "optional_type":
        if contents is None:
            made = helper.make_node("Optional", [], [name], name=name)
            made.attribute.append(helper.make_attribute("type", value.type.optional_type.elem_type))
            _replace(graph, value, [], made)
            return []
        inner = onnx.TypeProto()
        inner.CopyFrom(value.type.optional_type.elem_type)
        value.type.CopyFrom(inner)
        return _settle(graph, value, contents)
    if kind == "sequence_type":
        shapes = _elements(name, contents)
        element = value.type.sequence_type.elem_type
        parts = [onnx.ValueInfoProto(name=f"{name}.{i}", type=element) for i in range(len(shapes))]
        for dim in (d for p in parts for d in p.type.tensor_type.shape.dim if d.dim_param):
            dim.Clear()  # each element has a size of its own
        made = helper.make_node("SequenceConstruct", [p.name for p in parts], [name], name=name)
        if not parts:
            made = helper.make_node("SequenceEmpty", [], [name], name=name, dtype=element.tensor_type.elem_type)
        _replace(graph, value, parts, made)
        return [(p.name, s) for p, s in zip(parts, shapes, strict=True)]
    if contents is None or any(not isinstance(n, int) for n in contents):
        raise OptionError(f"--input-shape {name}: the input is a tensor, it has one shape")
    return [(name, tuple(int(n) for n in contents if isinstance(n, int)))]


def _elements(name: str, contents: Contents) -> list[Shape]:
    shapes = [] if contents is None else list(contents)
    found = [tuple(s) for s in shapes if isinstance(s, Sequence)]
    if len(found) < len(shapes):
        raise OptionError(f"--input-shape {name}: the input is a sequence; give a shape for each of its elements")
    return found


def _replace(
    graph: onnx.GraphProto, value: onnx.ValueInfoProto, parts: list[onnx.ValueInfoProto], maker: onnx.NodeProto
) -> None:
    """Inputs ``parts`` in the place of ``value``, which ``maker``, the first node, now computes."""
    inputs = [new for old in graph.input for new in (parts if old.name == value.name else [old])]
    names = {i.name for i in inputs}
    if len(names) < len(inputs):
        raise OptionError(f"input {value.name!r} is a sequence, but other inputs have its elements' names")
    nodes = [maker, *graph.node]
    del graph.input[:]
    del graph.node[:]
    graph.input.extend(inputs)
    graph.node.extend(nodes)


def _bind_shape(value: onnx.ValueInfoProto, shape: tuple[int, ...], symbols: dict[str, int]) -> None:
    tensor, name = value.type.tensor_type, value.name
    if not tensor.HasField("shape"):
        for size in shape:
            tensor.shape.dim.add().dim_value = size
        return
    if len(shape) != len(tensor.shape.dim):
        raise OptionError(f"--input-shape {name}: {len(shape)} dimensions given, the input has {len(tensor.shape.dim)}")
    for dim, size in zip(tensor.shape.dim, shape, strict=True):
        if dim.HasField("dim_value") and dim.dim_value > 0 and dim.dim_value != size:
            raise OptionError(f"--input-shape {name}: dimension {dim.dim_value} of the model cannot become {size}")
        if dim.dim_param and symbols.setdefault(dim.dim_param, size) != size:
            raise OptionError(f"dimension {dim.dim_param!r} cannot be both {symbols[dim.dim_param]} and {size}")
        if size < 0:
            raise OptionError(f"--input-shape {name}: {size} is no size")
        dim.dim_value = size


def _bind_values(source: Source, inputs: dict[str, onnx.ValueInfoProto], values: dict[str, Any]) -> None:
    graph = source.proto.graph
    for name, value in values.items():
        tensor = _known(name, inputs, "--input-value").type.tensor_type
        dtype = numpy_dtype(DTYPES[tensor.elem_type])
        try:
            array = np.asarray(value).astype(dtype)
        except (ValueError, TypeError) as error:
            raise OptionError(f"--input-value {name}: {value!r} is no {dtype}") from error
        shape = [d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim]
        if tensor.HasField("shape") and (
            len(shape) != array.ndim or any(d not in (-1, n) for d, n in zip(shape, array.shape, strict=True))
        ):
            wanted = [d if d >= 0 else "?" for d in shape]
            raise OptionError(f"--input-value {name}: the input has shape {wanted}, the value {list(array.shape)}")
        graph.initializer.append(numpy_helper.from_array(array, name))
        graph.input.remove(inputs.pop(name))


def _known(name: str, inputs: dict[str, onnx.ValueInfoProto], option: str) -> onnx.ValueInfoProto:
    if name not in inputs:
        raise OptionError(f"{option} {name}: the model has no such input; there are {_list(inputs)}")
    return inputs[name]


def _list(names: Any) -> str:
    return ", ".join(map(repr, sorted(names))) or "none"
