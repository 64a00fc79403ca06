"""Groups of several convolutions: one kernel where the images between are large, else one after the other."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest

from onyxc.backends.compile import to_program
from onyxc.backends.target import get
from onyxc.compiler.driver import compile
from onyxc.compiler.engines import run_onnxruntime
from onyxc.compiler.ir import facts
from onyxc.compiler.ir.fused import body_of
from onyxc.compiler.loader import load
from onyxc.compiler.transform import PassManager
from onyxc.passes.pipelines import finish

BLOCK = """<ir_version: 10, opset_import: ["" : 26]> g (float[{n},16,{h},48] x) => (float[{n},16,{h},48] y) {{
  a = Conv(x, w0, b0)
  b = Clip(a, zero, six)
  c = Conv<group=40, pads=[1,1,1,1]>(b, w1, b1)
  d = HardSwish(c)
  e = Conv(d, w2, b2)
  y = Add(e, x)
}}"""
SHAPES = {"w0": (40, 16, 1, 1), "b0": (40,), "w1": (40, 1, 3, 3), "b1": (40,), "w2": (16, 40, 1, 1), "b2": (16,)}


def block(height: int, batch: int = 1) -> onnx.ModelProto:
    """An inverted residual on images of ``height`` x 48 with 16 -> 40 -> 16 channels."""
    model = onnx.parser.parse_model(BLOCK.format(n=batch, h=height))
    rng = np.random.default_rng(0)
    for name, shape in SHAPES.items():
        array = rng.standard_normal(shape).astype(np.float32) / 3
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    for name, value in (("zero", 0), ("six", 6)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(value), name))
    return model


@pytest.mark.parametrize(("height", "count"), [(48, 1), (36, 3)])
def test_kernels(height: int, count: int) -> None:
    graph = load(block(height))
    PassManager(finish(2)).run(graph)
    kernels = to_program(graph, get("x86-64-v3"), "m").kernels()
    notes = [k.note for k in kernels if "transpose" not in k.name]
    assert len(notes) == count
    assert ("chain of 3" in notes[0]) == (count == 1)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("height", "batch"), [(50, 2), (36, 1)])
def test_results(height: int, batch: int, threads: int) -> None:
    model = block(height, batch)
    feeds = {"x": np.random.default_rng(1).standard_normal((batch, 16, height, 48)).astype(np.float32)}
    made = compile(model, target="x86-64-v3", threads=threads).run(feeds)
    np.testing.assert_allclose(made[0], run_onnxruntime(model, feeds)[0], rtol=1e-4, atol=1e-4)


def test_large_products_in_a_group_by_fewer_multiplications() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 26]> g (float[1,320,14,14] x) => (float[1,320,14,14] y) {
          a = Conv(x, w0)
          b = Relu(a)
          c = Conv(b, w1)
          y = Add(c, x)
        }"""
    )
    rng = np.random.default_rng(0)
    for name, shape in (("w0", (1280, 320, 1, 1)), ("w1", (320, 1280, 1, 1))):
        array = (rng.standard_normal(shape) / np.sqrt(shape[1])).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    graph = load(model)
    PassManager(finish(2)).run(graph)
    groups = [[facts.key(n) for n in body_of(node)] for node in graph if node.op == "Fused"]
    assert [keys.count("onyxc.Conv") for keys in groups if "onyxc.Conv" in keys] == [2]
    notes = [k.note for k in to_program(graph, get("x86-64-v4"), "m").kernels()]
    assert sum("products" in note for note in notes) == 2
    feeds = {"x": rng.standard_normal((1, 320, 14, 14)).astype(np.float32)}
    np.testing.assert_allclose(compile(model).run(feeds)[0], run_onnxruntime(model, feeds)[0], rtol=1e-4, atol=1e-4)
