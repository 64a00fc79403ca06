"""Reference engines behind one form: a function from arrays by name to the list of outputs."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onyxc.compiler.errors import ModelError, OptionError
from onyxc.compiler.ir.graph import Array

Feeds = dict[str, Any]  # arrays by name; lists of arrays for sequences
Run = Callable[[Feeds], list[Array]]


class OnnxRuntime:
    """A model in onnxruntime on the CPU; ``inputs`` and ``outputs`` are the names.

    ``values``: inputs that are always the same (`--input-value`); the calls leave them out. ``optimized``: with
    onnxruntime's own graph optimisations.

    Raises:
        ModelError: onnxruntime cannot load the model.
    """

    def __init__(
        self,
        model: str | Path | onnx.ModelProto,
        threads: int = 1,
        values: Mapping[str, Any] | None = None,
        *,
        optimized: bool = True,
    ) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = threads
        options.log_severity_level = 4
        if not optimized:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else str(model)
        try:
            self._session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own exception classes are many
            raise ModelError(f"onnxruntime cannot load the model: {_line(error)}") from error
        given = self._session.get_inputs()
        self.inputs = [i.name for i in given if i.name not in (values or {})]
        self.outputs = [o.name for o in self._session.get_outputs()]
        self._values = {i.name: _constant((values or {})[i.name], i) for i in given if i.name in (values or {})}

    def __call__(self, feeds: Feeds) -> list[Array]:
        """The outputs, in graph order.

        Raises:
            ModelError: onnxruntime refuses the inputs, for example because an index is out of range.
        """
        try:
            found: list[Array] = self._session.run(None, {**feeds, **self._values} if self._values else feeds)
        except Exception as error:
            raise ModelError(f"onnxruntime cannot run the model on these inputs: {_line(error)}") from error
        return found


def _constant(value: Any, wanted: Any) -> Array:
    """``value`` as the array that onnxruntime's input takes, of its rank if that is known."""
    names = {"float": "float32", "double": "float64"}
    kind = wanted.type.removeprefix("tensor(").removesuffix(")")
    array = np.asarray(value, np.dtype(names.get(kind, kind)))
    shape = wanted.shape
    return array.reshape(shape) if array.size == 1 and all(d == 1 for d in shape) else array


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:600]


class OpenVino:
    """A model in OpenVINO on the CPU, with the latency hint and fp32, for inputs of ``shapes``.

    Raises:
        OptionError: OpenVINO is not installed.
        ModelError: it cannot load the model.
    """

    def __init__(
        self,
        model: str | Path,
        threads: int,
        shapes: Mapping[str, Sequence[int]],
        values: Mapping[str, Any] | None = None,
    ) -> None:
        if importlib.util.find_spec("openvino") is None:
            raise OptionError("openvino is not installed: pip install openvino")
        import openvino as ov

        self._values = {n: np.asarray(v) for n, v in (values or {}).items()}
        known = {**shapes, **{n: v.shape for n, v in self._values.items()}}
        hints = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
        try:
            core = ov.Core()
            read = core.read_model(str(model))
            names = {port: next(n for n in port.names if n in known) for port in read.inputs}
            if any(port.partial_shape.is_dynamic for port in read.inputs):
                read.reshape({port: ov.PartialShape(list(known[n])) for port, n in names.items()})
            compiled = core.compile_model(read, "CPU", {**hints, "INFERENCE_PRECISION_HINT": "f32"})
        except (RuntimeError, StopIteration) as error:
            raise ModelError(f"openvino cannot load the model: {_line(error)}") from error
        self._request = compiled.create_infer_request()
        self._order = [next(n for n in port.names if n in known) for port in compiled.inputs]
        self._ports = compiled.outputs

    def __call__(self, feeds: Feeds) -> list[Array]:
        """The outputs, in graph order."""
        result = self._request.infer([feeds[n] if n in feeds else self._values[n] for n in self._order])
        return [result[port] for port in self._ports]


def run_onnxruntime(model: onnx.ModelProto, feeds: Feeds) -> list[Any]:
    """Outputs by onnxruntime without its own optimisations."""
    return OnnxRuntime(model, optimized=False)(feeds)


def run_reference(model: onnx.ModelProto, feeds: Feeds) -> list[Any]:
    """Outputs by onnx.reference."""
    from onnx.reference import ReferenceEvaluator

    return list(ReferenceEvaluator(model).run(None, feeds))
