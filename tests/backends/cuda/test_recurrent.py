"""The recurrent kernel, emulated, against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper

from onyxc.backends.cuda import nvrtc, recurrent
from onyxc.backends.cuda.emulator.device import Device
from onyxc.backends.program import Kernel
from onyxc.compiler.ir.graph import Node
from onyxc.compiler.loader import load

STEPS, BATCH, INPUTS, HIDDEN = 5, 3, 20, 24
Feeds = dict[str, np.ndarray[Any, Any]]

CASES = {
    "lstm": ("LSTM", "forward", {}, "XWRB", "Y Yh Yc"),
    "lstm-all": ("LSTM", "bidirectional", {}, "XWRBLhcP", "Y Yh Yc"),
    "lstm-clip": ("LSTM", "reverse", {"clip": 0.5}, "XWRB", "- Yh Yc"),
    "lstm-bare": ("LSTM", "forward", {}, "XWR", "Y"),
    "lstm-coupled": ("LSTM", "forward", {"input_forget": 1}, "XWRB", "Y Yh"),
    "gru": ("GRU", "forward", {}, "XWRB", "Y Yh"),
    "gru-linear": ("GRU", "bidirectional", {"linear_before_reset": 1}, "XWRBLh", "Y Yh"),
    "gru-state": ("GRU", "reverse", {}, "XWR-Lh", "- Yh"),
    "rnn": ("RNN", "bidirectional", {"activations": ["Relu", "Relu"]}, "XWRB", "Y Yh"),
}


def model(op: str, direction: str, attributes: dict[str, Any], inputs: str, outputs: str) -> tuple[ModelProto, Feeds]:
    """A model of one node; ``inputs``: a letter each in the operator's order, - for one that is left out."""
    gates, d = {"LSTM": 4, "GRU": 3, "RNN": 1}[op], 2 if direction == "bidirectional" else 1
    shapes = {
        "X": (STEPS, BATCH, INPUTS),
        "W": (d, gates * HIDDEN, INPUTS),
        "R": (d, gates * HIDDEN, HIDDEN),
        "B": (d, 2 * gates * HIDDEN),
        "h": (d, BATCH, HIDDEN),
        "c": (d, BATCH, HIDDEN),
        "P": (d, 3 * HIDDEN),
    }
    random = np.random.default_rng(1)
    lengths = np.array([5, 2, 4], np.int32)
    feeds: Feeds = {
        n: lengths if n == "L" else random.normal(size=shapes[n]).astype(np.float32) * np.float32(0.3)
        for n in inputs
        if n != "-"
    }
    names = [n if n != "-" else "" for n in inputs]
    results = [n if n != "-" else "" for n in outputs.split()]
    node = helper.make_node(op, names, results, hidden_size=HIDDEN, direction=direction, **attributes)
    kinds = {n: TensorProto.INT32 if n == "L" else TensorProto.FLOAT for n in feeds}
    shape = {"Y": (STEPS, d, BATCH, HIDDEN), "Yh": (d, BATCH, HIDDEN), "Yc": (d, BATCH, HIDDEN)}
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info(n, kinds[n], a.shape) for n, a in feeds.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape[n]) for n in results if n],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), feeds


def node_of(proto: ModelProto) -> Node:
    (node,) = list(load(proto))
    return node


@pytest.fixture(scope="module")
def kernels() -> dict[str, Kernel]:
    made = {name: recurrent.build(name.replace("-", "_"), node_of(model(*case)[0])) for name, case in CASES.items()}
    return {name: kernel for name, kernel in made.items() if kernel is not None}


@pytest.fixture(scope="module")
def device(kernels: dict[str, Kernel]) -> Device:
    return Device(list(kernels.values()))


@pytest.mark.parametrize("name", CASES)
def test_emulated(name: str, kernels: dict[str, Kernel], device: Device) -> None:
    proto, feeds = model(*CASES[name])
    expected = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, feeds)
    inputs = [device.upload(a) for a in feeds.values()]
    outputs = [device.upload(np.full_like(e, np.nan)) for e in expected]
    device.launch(kernels[name], [*inputs, *outputs])
    for place, reference in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(device.download(place, np.empty_like(reference)), reference, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not nvrtc.available(), reason="NVRTC is not installed (extra onyxc[cuda])")
def test_cubin(kernels: dict[str, Kernel]) -> None:
    made = nvrtc.compile_source("\n".join(k.source for k in kernels.values()), "sm_75")
    assert all(u.stack_bytes == 0 for u in made.usage.values())
    assert len(made.usage) == len(CASES)


def test_unusual_activations_are_left_to_the_imperative_kernel() -> None:
    proto, _ = model("RNN", "forward", {"activations": ["Softsign"]}, "XWRB", "Y")
    assert recurrent.build("rnn", node_of(proto)) is None
