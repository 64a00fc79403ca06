"""Reading model files: bytes to a checked ModelProto whose big tensors are set aside.

Big initializers are taken out of the proto (they become graph inputs of the same name) so that the checker,
the version converter and shape inference never copy weights; `Source.tensors` holds them, memory-mapped
where they live in an external file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper, version_converter

from onyxc.compiler.errors import ModelError
from onyxc.compiler.ir import schema
from onyxc.compiler.ir.graph import Array
from onyxc.compiler.ir.types import DTYPES, itemsize, numpy_dtype
from onyxc.compiler.loader import contrib, old

SET_ASIDE = 1024  # elements; smaller tensors stay in the proto, where inference can read them
SCAN_CHANGED = 9  # opset from which Scan has no batch dimension; the converter silently takes one for the other
IR_VERSION = 10  # inputs and initializers are separate things from 4 on


@dataclass
class Source:
    """A model and its tensors. ``folder``: where external data may lie (None: nowhere)."""

    proto: onnx.ModelProto
    folder: Path | None = None
    tensors: dict[str, Array] = field(default_factory=dict)


def read(model: str | Path | bytes | onnx.ModelProto) -> Source:
    """Parse, check and upgrade a model; a ModelProto argument is copied, not changed.

    Raises:
        ModelError: the file is missing, truncated, not ONNX, invalid or of an opset that cannot be upgraded.
    """
    source = _parse(model)
    _set_aside(source)
    _check(source.proto)
    source.proto = _inline_functions(source.proto)
    source.proto = _upgrade(source.proto)
    return source


def _parse(model: str | Path | bytes | onnx.ModelProto) -> Source:
    if isinstance(model, onnx.ModelProto):
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        return Source(copy)
    folder = None
    if isinstance(model, str | Path):
        path = Path(model)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ModelError(f"cannot read {path}: {error.strerror or error}") from error
        folder = path.resolve().parent
    else:
        path, data = Path("<bytes>"), bytes(model)
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except (DecodeError, ValueError) as error:
        raise ModelError(f"{path} is not an ONNX model, or it is truncated (protobuf cannot be parsed)") from error
    if not proto.HasField("graph") or not proto.opset_import:
        raise ModelError(f"{path} is not an ONNX model (it has no graph or no opset_import)")
    return Source(proto, folder)


# ---- tensors


def _set_aside(source: Source) -> None:
    graph = source.proto.graph
    declared = {i.name for i in graph.input}
    seen: set[str] = set()
    kept: list[TensorProto] = []
    for tensor in graph.initializer:
        if tensor.name in seen:
            raise ModelError(f"two initializers are called {tensor.name!r}")
        seen.add(tensor.name)
        if tensor.data_type not in DTYPES or any(d < 0 for d in tensor.dims):
            raise ModelError(f"initializer {tensor.name!r} has an unknown element type or a negative dimension")
        external = tensor.data_location == TensorProto.EXTERNAL
        if not external and prod(tensor.dims) < SET_ASIDE:
            _inline_array(tensor)
            kept.append(tensor)
            continue
        source.tensors[tensor.name] = _external_array(tensor, source.folder) if external else _inline_array(tensor)
        if tensor.name not in declared:
            made = helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            graph.input.append(made)
    del graph.initializer[:]
    graph.initializer.extend(kept)
    names = {t.name for t in kept}
    inputs = [i for i in graph.input if i.name not in names]
    del graph.input[:]
    graph.input.extend(inputs)
    source.proto.ir_version = max(source.proto.ir_version, IR_VERSION)


def _inline_array(tensor: TensorProto) -> Array:
    try:
        array: Array = numpy_helper.to_array(tensor)
    except (ValueError, TypeError) as error:
        shape = list(tensor.dims)
        raise ModelError(f"initializer {tensor.name!r}: its data do not fill its shape {shape} ({error})") from error
    if array.flags.writeable:
        array.flags.writeable = False
    return array


def _external_array(tensor: TensorProto, folder: Path | None) -> Array:
    """The memory-mapped data of an external tensor; only files inside the model's own folder are opened."""
    entries = {e.key: e.value for e in tensor.external_data}
    location = entries.get("location", "")
    where = f"external data of {tensor.name!r}"
    if folder is None:
        raise ModelError(f"{where}: a model given as bytes or ModelProto has no folder; load it by its path")
    path = Path(location)
    if not location or path.is_absolute() or ".." in path.parts:
        raise ModelError(f"{where}: location {location!r} must be a file inside the model's folder")
    full = folder / path
    if not full.resolve().is_relative_to(folder):
        raise ModelError(f"{where}: {location!r} leads out of the model's folder")
    if not full.is_file():
        raise ModelError(f"{where}: there is no file {full}")
    dtype, dims = DTYPES[tensor.data_type], tuple(tensor.dims)
    size = prod(dims) * itemsize(dtype)
    packed = {"uint4": 2, "int4": 2, "float4_e2m1fn": 2, "uint2": 4, "int2": 4}.get(dtype, 1)
    size = -(-size // packed)
    try:
        offset = int(entries.get("offset", "0"))
        length = int(entries.get("length", str(size)))
    except ValueError as error:
        raise ModelError(f"{where}: offset and length must be numbers") from error
    if length != size or offset < 0 or offset + size > full.stat().st_size:
        raise ModelError(f"{where}: {location!r} is too short or its length is not the {size} bytes of {list(dims)}")
    if dtype == "string":
        raise ModelError(f"{where}: strings cannot be external")
    if size == 0:
        return np.zeros(dims, numpy_dtype(dtype))
    if packed > 1:
        raw = np.memmap(full, np.uint8, "r", offset, (size,)).tobytes()
        return _inline_array(TensorProto(name=tensor.name, data_type=tensor.data_type, dims=dims, raw_data=raw))
    return np.memmap(full, np.uint8, "r", offset, (size,)).view(numpy_dtype(dtype)).reshape(dims)


# ---- the proto


def _check(proto: onnx.ModelProto) -> None:
    """By onnx's checker, which, unlike onnxruntime, wants a shape for every output: those without are not shown to it."""
    outputs = proto.graph.output
    shaped = [o for o in outputs if not o.type.HasField("tensor_type") or o.type.tensor_type.HasField("shape")]
    if len(shaped) < len(outputs):
        whole, proto = proto, onnx.ModelProto()
        proto.CopyFrom(whole)
        del proto.graph.output[:]
        proto.graph.output.extend(shaped)
    try:
        onnx.checker.check_model(proto)
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        first = str(error).strip().splitlines()
        raise ModelError(f"the model is invalid: {' '.join(first[:2])}") from error


def _inline_functions(proto: onnx.ModelProto) -> onnx.ModelProto:
    contrib.add_functions(proto)
    if not proto.functions:
        return proto
    try:
        return onnx.inliner.inline_local_functions(proto)
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"the model's functions cannot be expanded: {' '.join(str(error).split())}") from error


def _upgrade(proto: onnx.ModelProto) -> onnx.ModelProto:
    """To opset `schema.OPSET`; newer models stay; where every operator kept its meaning only the number changes."""
    versions = {o.domain if o.domain != "ai.onnx" else "": o.version for o in proto.opset_import}
    version = versions.get("")
    newest = onnx.defs.onnx_opset_version()
    if version is not None and not 0 < version <= newest:
        raise ModelError(f"the model's opset is {version}; the installed onnx package knows 1 to {newest}")
    if version is None or version >= schema.OPSET:
        return proto
    if version < old.PRELU_CHANGED:
        old.channel_slopes(proto)
    if _unchanged(proto.graph, version):
        for entry in proto.opset_import:
            if entry.domain in ("", "ai.onnx"):
                entry.version = schema.OPSET
        return proto
    if version < SCAN_CHANGED and any(n.op_type == "Scan" for n in proto.graph.node):
        raise ModelError(f"Scan of opset {version} cannot be upgraded to {schema.OPSET}; export with a newer opset")
    try:
        return version_converter.convert_version(proto, schema.OPSET)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"the model's opset {version} cannot be upgraded to {schema.OPSET}: {reason}") from error


def _unchanged(graph: onnx.GraphProto, version: int) -> bool:
    for node in graph.node:
        if node.domain in ("", "ai.onnx"):
            old, new = schema.find(node.op_type, version), schema.find(node.op_type, schema.OPSET)
            if old is None or new is None or old.since_version != new.since_version:
                return False
        if any(not _unchanged(a.g, version) for a in node.attribute if a.HasField("g")):
            return False
    return True
