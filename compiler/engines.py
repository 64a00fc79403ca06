"""Reference engines behind one form: a function from arrays by name to the list of outputs."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onyxc.compiler.errors import ModelError, OptionError
from onyxc.compiler.ir.graph import Array

Run = Callable[[dict[str, Array]], list[Array]]


def onnxruntime(model: str | Path | onnx.ModelProto, threads: int = 1) -> Run:
    """onnxruntime on the CPU.

    Raises:
        ModelError: onnxruntime cannot load the model.
    """
    import onnxruntime as ort

    ort.set_default_logger_severity(3)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else str(model)
    try:
        session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exception classes are many
        raise ModelError(f"onnxruntime cannot load the model: {error}") from error
    return lambda feeds: session.run(None, feeds)


def openvino(model: str | Path, threads: int, shapes: dict[str, Sequence[int]]) -> Run:
    """OpenVINO on the CPU, with the latency hint and fp32.

    Raises:
        OptionError: OpenVINO is not installed.
    """
    if importlib.util.find_spec("openvino") is None:
        raise OptionError("openvino is not installed: pip install openvino")
    import openvino as ov

    core = ov.Core()
    read = core.read_model(str(model))
    names = {port: next(n for n in port.names if n in shapes) for port in read.inputs}
    if any(port.partial_shape.is_dynamic for port in read.inputs):
        read.reshape({port: ov.PartialShape(list(shapes[n])) for port, n in names.items()})
    hints = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
    compiled = core.compile_model(read, "CPU", {**hints, "INFERENCE_PRECISION_HINT": "f32"})
    request = compiled.create_infer_request()
    order = [next(n for n in port.names if n in shapes) for port in compiled.inputs]

    def run(feeds: dict[str, Array]) -> list[Array]:
        result = request.infer([feeds[n] for n in order])
        return [result[port] for port in compiled.outputs]

    return run


def random_inputs(specs: Sequence[Any], seed: int = 0) -> dict[str, Array]:
    """Seeded inputs for specs with name, dtype and shape: normal floats, 8-bit over their range, other integers 0 to 9."""
    rng, made = np.random.default_rng(seed), {}
    for spec in specs:
        dtype = np.dtype(spec.dtype) if spec.dtype != "bfloat16" else _bfloat16()
        if dtype.kind in "iu":
            info = np.iinfo(dtype)
            low, high = (info.min, info.max) if dtype.itemsize == 1 else (0, 9)
            made[spec.name] = rng.integers(low, high, spec.shape, dtype, endpoint=True)
        elif dtype.kind == "b":
            made[spec.name] = rng.integers(0, 2, spec.shape).astype(bool)
        else:
            made[spec.name] = rng.standard_normal(spec.shape).astype(dtype)
    return made


def _bfloat16() -> Any:
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)
