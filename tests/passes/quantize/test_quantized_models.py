"""Small networks quantized by onnxruntime's own tool: every inner code as its optimized kernels compute it."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx import numpy_helper

from onyxc.compiler.ir.reference import evaluate
from onyxc.compiler.loader import load
from onyxc.compiler.transform import PassManager
from onyxc.passes.quantize.canonical_integer import CanonicalInteger
from onyxc.passes.quantize.fold_fake_quant import FoldFakeQuant

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from onnxruntime import quantization

NETWORK = """<ir_version: 10, opset_import: ["" : 17]>
net (float[1,3,16,16] x) => (float[1,10] y) {
  a = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(x, w0, b0)
  ar = Relu(a)
  d = Conv<pads = [1, 1, 1, 1], group = 8>(ar, w1, b1)
  dr = Clip(d, low, high)
  p = Conv(dr, w2, b2)
  s = Add(p, ar)
  sr = Relu(s)
  l = Conv(sr, w3, b3)
  lr = Relu(l)
  r = Conv<pads = [1, 1, 1, 1]>(sr, w4, b4)
  rs = Sigmoid(r)
  c = Concat<axis = 1>(lr, rs)
  m = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(c)
  v = AveragePool<kernel_shape = [2, 2]>(m)
  g = GlobalAveragePool(v)
  f = Flatten(g)
  y = Gemm<transB = 1>(f, w5, b5)
}"""
SHAPES = {
    "w0": (8, 3, 3, 3),
    "w1": (8, 1, 3, 3),
    "w2": (8, 8, 1, 1),
    "w3": (6, 8, 1, 1),
    "w4": (4, 8, 3, 3),
    "w5": (10, 10),
}


def network() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    made = onnx.parser.parse_model(NETWORK)
    arrays: dict[str, Any] = {"low": np.float32(0), "high": np.float32(6)}
    for name, shape in SHAPES.items():
        arrays[name] = rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape).astype(np.float32)
        arrays["b" + name[1:]] = rng.normal(0, 0.2, shape[0]).astype(np.float32)
    made.graph.initializer.extend(numpy_helper.from_array(np.asarray(a), n) for n, a in arrays.items())
    return made


class Samples(quantization.CalibrationDataReader):
    def __init__(self) -> None:
        rng = np.random.default_rng(1)
        self.batches = iter([{"x": rng.normal(size=(1, 3, 16, 16)).astype(np.float32)} for _ in range(4)])

    def get_next(self) -> Any:
        return next(self.batches, None)


def quantized(tmp_path: Path, form: str, per_channel: bool, activations: str, weights: str) -> onnx.ModelProto:
    kinds = quantization.QuantType
    logging.getLogger().setLevel(logging.ERROR)
    onnx.save(network(), tmp_path / "float.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantization.quantize_static(
            tmp_path / "float.onnx",
            tmp_path / "int8.onnx",
            Samples(),
            quant_format=quantization.QuantFormat[form],
            per_channel=per_channel,
            activation_type=kinds[activations],
            weight_type=kinds[weights],
        )
    return onnx.load(tmp_path / "int8.onnx")


@pytest.mark.parametrize(
    ("form", "per_channel", "activations", "weights"),
    [
        ("QDQ", True, "QUInt8", "QInt8"),
        ("QDQ", False, "QUInt8", "QUInt8"),
        ("QDQ", True, "QInt8", "QInt8"),
        ("QOperator", True, "QUInt8", "QInt8"),
    ],
)
def test_every_code(tmp_path: Path, form: str, per_channel: bool, activations: str, weights: str) -> None:
    made = quantized(tmp_path, form, per_channel, activations, weights)
    kind = {"QUInt8": onnx.TensorProto.UINT8, "QInt8": onnx.TensorProto.INT8}[activations]
    for node in made.graph.node:
        if node.op_type in ("QuantizeLinear", "QLinearConv") and node.output[0][0] not in "fy":  # maps of rank 4
            made.graph.output.append(onnx.helper.make_tensor_value_info(node.output[0], kind, [None] * 4))
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {"x": np.random.default_rng(2).normal(size=(1, 3, 16, 16)).astype(np.float32)}
    wanted = dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))
    graph = load(made)
    PassManager([CanonicalInteger(), FoldFakeQuant()]).run(graph)
    got = evaluate(graph, feeds)
    counted = 0
    for name, w in wanted.items():
        np.testing.assert_array_equal(got[name], w, err_msg=name)
        counted += w.size
    assert counted > 2000
    floats = {n.op for n in graph if n.domain == ""} & {"Conv", "Gemm", "Sigmoid", "Relu", "Clip", "AveragePool"}
    assert not floats
