"""An artifact against onnxruntime: outputs, or every inner tensor."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

from onyxc.compiler import driver, engines
from onyxc.compiler.compare import Difference, difference
from onyxc.compiler.errors import OptionError
from onyxc.compiler.ir.graph import Array
from onyxc.compiler.worker import Report

Execute = Callable[[Path, dict[str, Array]], list[Array]]


def outputs(model: str, folder: Path, feeds: list[dict[str, Array]], execute: Execute) -> list[Difference]:
    """Each output of the artifact against onnxruntime, for each set of inputs."""
    reference = engines.onnxruntime(model)
    names = [o["name"] for o in _manifest(folder)["outputs"]]
    quantized = _is_quantized(model)
    found = []
    for feed in feeds:
        pairs = zip(names, reference(feed), execute(folder, feed), strict=True)
        found += [difference(n, w, g, quantized) for n, w, g in pairs]
    return found


def every_tensor(
    model: str, folder: Path, work: Path, feeds: dict[str, Array], execute: Execute, report: Report
) -> list[Difference]:
    """Every inner tensor: the model is compiled once more with all of them as outputs, in the model's order."""
    manifest = _manifest(folder)
    made = driver.compile(
        model, target=manifest["target"], out=work / "every", every_tensor=True, report=report,
        input_shapes={i["name"]: tuple(i["shape"]) for i in manifest["inputs"]},
    )  # fmt: skip
    names = [o["name"] for o in _manifest(made.folder)["outputs"]]
    proto = onnx.load(model)
    known = {o.name for o in proto.graph.output}
    produced = {o for n in proto.graph.node for o in n.output if o}
    names_there = [n for n in names if n in produced or n in known]
    proto.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names_there if n not in known)
    wanted = dict(zip([o.name for o in proto.graph.output], engines.onnxruntime(_typed(proto))(feeds), strict=True))
    got = dict(zip(names, execute(made.folder, feeds), strict=True))
    order = {n: i for i, n in enumerate(o for node in proto.graph.node for o in node.output)}
    quantized = _is_quantized(model)
    return [difference(n, wanted[n], got[n], quantized) for n in sorted(names_there, key=lambda n: order.get(n, -1))]


def _typed(proto: onnx.ModelProto) -> onnx.ModelProto:
    """onnxruntime wants element types of outputs; shape inference knows them."""
    inferred = onnx.shape_inference.infer_shapes(proto)
    types = {v.name: v for v in [*inferred.graph.value_info, *inferred.graph.output]}
    for value in proto.graph.output:
        if not value.HasField("type") and value.name in types:
            value.CopyFrom(types[value.name])
    return proto


def _is_quantized(model: str) -> bool:
    proto = onnx.load(model, load_external_data=False)
    return any(n.op_type in ("QuantizeLinear", "QLinearConv", "QLinearMatMul") for n in proto.graph.node)


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "manifest.json").read_text())  # type: ignore[no-any-return]
    except (OSError, ValueError) as error:
        raise OptionError(f"{folder} is not an onyxc artifact (manifest.json: {error})") from error
