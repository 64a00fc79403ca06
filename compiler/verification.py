"""An artifact against onnxruntime: outputs, or every inner tensor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnx

from onyxc import passes
from onyxc.backends.artifact import manifest
from onyxc.backends.artifact.manifest import Manifest
from onyxc.backends.runtime.groups import arrays, gathered
from onyxc.compiler import driver, worker
from onyxc.compiler.compare import Difference, difference
from onyxc.compiler.engines import Feeds, OnnxRuntime
from onyxc.compiler.errors import ModelError, OptionError
from onyxc.compiler.ir.graph import Array
from onyxc.compiler.transform import Pass

Execute = Callable[[Path, Feeds], list[Array]]

QUANTIZED = {"QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul"}


def outputs(model: str, folder: Path, feeds: Sequence[Feeds], execute: Execute) -> list[Difference]:
    """Each output of the artifact against onnxruntime, for each set of inputs.

    Raises:
        OptionError: the artifact is not of this model.
    """
    found = manifest.read(folder)
    reference = OnnxRuntime(model, values=input_values(found))
    _check_names(model, folder, found, reference)
    quantized = _is_quantized(onnx.load(model, load_external_data=False))
    return [
        difference(tensor.name, wanted, got, quantized)
        for feed in feeds
        for tensor, wanted, got in zip(found.outputs, arrays(reference(feed)), arrays(execute(folder, feed)), strict=True)
    ]


def every_tensor(
    model: str, folder: Path, work: Path, feeds: Feeds, execute: Execute, report: worker.Report = worker.quiet
) -> list[Difference]:
    """Every inner tensor, in the model's order, then the artifact's outputs.

    For the inner tensors the model is compiled once more in the same way, with all of them as outputs.
    """
    found = manifest.read(folder)
    values = input_values(found)
    ends = outputs(model, folder, [feeds], execute)
    made = driver.compile(
        model, target=found.target, out=work / "every", every_tensor=True, report=report,
        level=_options(found).get("level", 2), passes=_passes(found), input_values=values,
        input_shapes=gathered(found.takes, {i.name: i.shape for i in found.inputs}),
    )  # fmt: skip
    results = arrays(execute(made.folder, feeds))
    got = dict(zip([o.name for o in manifest.read(made.folder).outputs], results, strict=True))
    proto = onnx.load(model)
    known = {o.name for o in proto.graph.output}
    order = [name for node in proto.graph.node for name in node.output if name in got and name not in known]
    _expose(proto, order)
    reference = OnnxRuntime(proto, values=values)
    wanted = dict(zip(reference.outputs, reference(feeds), strict=True))
    quantized = _is_quantized(proto)
    return [difference(name, wanted[name], got[name], quantized) for name in order] + ends


def input_values(found: Manifest) -> dict[str, Any]:
    """The inputs that were made constants when the artifact was compiled."""
    return dict(_options(found).get("input_values", {}))


def _options(found: Manifest) -> dict[str, Any]:
    return dict(found.info.get("options", {}))


def _passes(found: Manifest) -> list[Pass] | None:
    texts = _options(found).get("passes")
    return None if texts is None else [passes.parse(text) for text in texts]


def _check_names(model: str, folder: Path, found: Manifest, reference: OnnxRuntime) -> None:
    sides = (
        ("inputs", found.inputs, reference.inputs, found.takes),
        ("outputs", found.outputs, reference.outputs, found.gives),
    )
    for side, tensors, names, groups in sides:
        parts = {group.name: group.tensors for group in groups}
        mine, theirs = [t.name for t in tensors], [part for name in names for part in parts.get(name, (name,))]
        if mine != theirs:
            raise OptionError(
                f"{folder} is not compiled from {model}: its {side} are {', '.join(mine) or 'none'}, "
                f"the model's are {', '.join(theirs) or 'none'}"
            )


def _expose(proto: onnx.ModelProto, names: Sequence[str]) -> None:
    """Make inner tensors outputs; onnxruntime wants their element types, which shape inference knows."""
    try:
        inferred = onnx.shape_inference.infer_shapes(proto)
    except (onnx.shape_inference.InferenceError, ValueError) as error:  # above 2 GiB
        raise ModelError(f"the types of inner tensors cannot be inferred: {error}") from error
    types = {v.name: v for v in inferred.graph.value_info}
    proto.graph.output.extend(types.get(n, onnx.ValueInfoProto(name=n)) for n in names)


def _is_quantized(proto: onnx.ModelProto) -> bool:
    return any(n.op_type in QUANTIZED for n in proto.graph.node)
