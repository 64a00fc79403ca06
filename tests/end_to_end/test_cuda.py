"""CUDA artifacts of whole models, run to the end by the emulated driver on the very source that NVRTC compiled."""

from __future__ import annotations

from pathlib import Path

import graphs
import numpy as np
import onnx
import pytest

import onyxc.compiler.demo
from onyxc.backends import build, runtime, target
from onyxc.backends.artifact.level import Level
from onyxc.backends.artifact.write import write
from onyxc.backends.compile import to_program
from onyxc.backends.cuda import host, nvrtc
from onyxc.backends.cuda.emulator import ENVIRONMENT, build_driver
from onyxc.compiler.compare import difference
from onyxc.compiler.engines import OnnxRuntime
from onyxc.compiler.inputs import random_inputs
from onyxc.compiler.loader import load
from onyxc.compiler.transform import PassManager
from onyxc.passes import pipelines

pytestmark = pytest.mark.skipif(not nvrtc.available(), reason="NVRTC is not installed (extra onyxc[cuda])")
TARGET = target.get("cuda:sm_80")


def digits() -> onnx.ModelProto:
    """The demo model at batch size one."""
    model = onnx.load(Path(onyxc.compiler.demo.__file__).parent / "digits.onnx")
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    return model


def emulated(model: onnx.ModelProto, folder: Path, monkeypatch: pytest.MonkeyPatch) -> runtime.Model:
    """The model's CUDA artifact, loaded over the emulated driver."""
    graph = load(model)
    PassManager(pipelines.compilation(2, "cuda", build.keep())).run(graph)
    program = to_program(graph, TARGET, "model")
    write([Level(TARGET, program)], folder / "artifact", body=host.cuda_body(program, TARGET))
    monkeypatch.setenv(ENVIRONMENT, str(build_driver([host.source(program)], folder)))
    return runtime.load(folder / "artifact")


@pytest.mark.parametrize("name", ["digits", *graphs.SMALL])
def test_agrees_with_onnxruntime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    model = digits() if name == "digits" else getattr(graphs, name)()
    artifact, reference = emulated(model, tmp_path, monkeypatch), OnnxRuntime(model)
    quantized = any(n.op_type == "QuantizeLinear" for n in model.graph.node)
    for seed in range(2):
        feeds = random_inputs(artifact.inputs, seed)
        for output, wanted, got in zip(reference.outputs, reference(feeds), artifact.run(feeds), strict=True):
            found = difference(output, wanted, got, quantized)
            assert found.ok, found


def test_rebuilding_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = []
    for turn in ("one", "two"):
        (tmp_path / turn).mkdir()
        emulated(graphs.residual(), tmp_path / turn, monkeypatch)
        files.append({f.name: f.read_bytes() for f in (tmp_path / turn / "artifact").iterdir()})
    assert files[0] == files[1]


def test_a_light_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = graphs.light("squeezenet")
    artifact = emulated(model, tmp_path, monkeypatch)
    feeds = random_inputs(artifact.inputs)
    np.testing.assert_allclose(artifact.run(feeds)[0], OnnxRuntime(model)(feeds)[0], rtol=1e-3, atol=1e-6)
