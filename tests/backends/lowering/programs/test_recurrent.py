"""LSTM, GRU and RNN against onnxruntime, where the conformance suite has no case: every option, several shapes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from onyxc.backends import kinds
from onyxc.backends.bodies import as_body
from onyxc.backends.recipe import Packed
from onyxc.backends.target import PRESETS, host
from onyxc.compiler.loader import load

Array = np.ndarray[Any, Any]
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
LEVELS = ("x86-64-v2", "x86-64-v3", "x86-64-v4")


@dataclass
class Network:
    """A recurrent node: its sizes, which optional inputs it has, and attributes."""

    op: str
    steps: int = 5
    batch: int = 3
    inputs: int = 7
    hidden: int = 19
    optional: str = "B"  # of B (bias), S (lengths), H, C (first state), P (peepholes)
    outputs: int = 3
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What a message calls it."""
        sizes = (self.steps, self.batch, self.inputs, self.hidden)
        return f"{self.op}{sizes} {self.optional} {self.attributes}"

    def arrays(self) -> dict[str, Array]:
        """Random inputs."""
        rng = np.random.default_rng(self.hidden)
        directions = 2 if self.attributes.get("direction") == "bidirectional" else 1
        rows = GATES[self.op] * self.hidden
        state = (directions, self.batch, self.hidden)
        shapes = {
            "X": (self.steps, self.batch, self.inputs), "W": (directions, rows, self.inputs),
            "R": (directions, rows, self.hidden), "B": (directions, 2 * rows), "H": state, "C": state,
            "P": (directions, 3 * self.hidden),
        }  # fmt: skip
        made = {
            key: rng.normal(0, 0.3 if self.hidden < 50 else 0.05, shape).astype(np.float32)
            for key, shape in shapes.items()
            if key in "XWR" or key in self.optional
        }
        if "S" in self.optional:
            made["S"] = rng.integers(1, self.steps + 1, self.batch).astype(np.int32)
        return made

    def model(self, arrays: dict[str, Array], constant: str = "") -> onnx.ModelProto:
        """The model of one node; the outputs after the first ``outputs`` are left out; ``constant`` weights."""
        names = [key if key in arrays else "" for key in ("XWRBSHCP" if self.op == "LSTM" else "XWRBSH")]
        results = ["Y", "Y_h", "Y_c"][: min(self.outputs, 3 if self.op == "LSTM" else 2)]
        node = helper.make_node(self.op, names, results, hidden_size=self.hidden, **self.attributes)
        inputs = [
            helper.make_tensor_value_info(key, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for key, a in arrays.items()
            if key not in constant
        ]
        weights = [numpy_helper.from_array(arrays[key], key) for key in constant]
        outputs = [helper.make_tensor_value_info(r, 1, [None] * (4 if r == "Y" else 3)) for r in results]
        graph = helper.make_graph([node], "recurrent", inputs, outputs, weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def expected(model: onnx.ModelProto, arrays: dict[str, Array]) -> list[Array]:
    """What onnxruntime answers."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, arrays)


BOTH = {"direction": "bidirectional"}
NETWORKS = [
    *(Network(op, optional="BSH", attributes=BOTH) for op in ("GRU", "RNN")),
    Network("LSTM", optional="BSHCP", attributes=BOTH),
    *(Network(op, optional="S", attributes={"direction": "reverse"}) for op in GATES),
    *(Network(op, hidden=5, inputs=33, attributes={"clip": 0.4}) for op in GATES),
    *(Network(op, hidden=1, inputs=1, outputs=1) for op in GATES),
    *(Network(op, batch=1, hidden=32, inputs=40, optional="BHC") for op in GATES),
    Network("LSTM", optional="BP", attributes={"input_forget": 1}),
    Network("LSTM", optional="BC", hidden=8, inputs=257, batch=1, steps=2),
    Network("GRU", optional="BSH", attributes={**BOTH, "linear_before_reset": 1, "clip": 0.5}),
    Network("GRU", optional="", attributes={"linear_before_reset": 1}),
    Network("LSTM", steps=70, batch=4, hidden=128, inputs=3),  # more than a chunk of steps
    Network(
        "LSTM",
        attributes={
            **BOTH, "activations": ["HardSigmoid", "Softsign", "Relu", "Sigmoid", "LeakyRelu", "Tanh"],
            "activation_alpha": [0.3, 0.05], "activation_beta": [0.4],
        },
    ),
    Network("GRU", attributes={**BOTH, "activations": ["HardSigmoid", "Softsign", "Sigmoid", "Softplus"],
                               "activation_alpha": [0.3], "activation_beta": [0.4]}),
    Network("RNN", attributes={**BOTH, "activations": ["Affine", "ScaledTanh"],
                               "activation_alpha": [0.3, 1.1], "activation_beta": [0.2, 0.6]}),
    Network("RNN", attributes={**BOTH, "activations": ["Elu", "ThresholdedRelu"], "activation_alpha": [0.3, 0.1]}),
]  # fmt: skip


def test_agrees_with_onnxruntime(compare: Callable[..., None]) -> None:
    cases = []
    for network in NETWORKS:
        arrays = network.arrays()
        model = network.model(arrays)
        want = expected(model, arrays)
        cases.append((network.name, model, list(arrays.values()), want))
        given = [a for key, a in arrays.items() if key not in "WR"]
        cases.append((f"{network.name} in panels", network.model(arrays, "WR"), given, want))
    compare(cases)


@pytest.mark.parametrize("constant", ["", "W", "R", "WR"])
def test_constant_weights_are_packed(constant: str, run_model: Callable[..., list[Array]]) -> None:
    network = Network("LSTM", steps=9, batch=5, hidden=48, inputs=20, optional="BH", attributes=BOTH)
    arrays = network.arrays()
    model = network.model(arrays, constant)
    results = run_model(model, [a for key, a in arrays.items() if key not in constant])
    for got, want in zip(results, expected(network.model(arrays), arrays), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=2e-6)
    (node,) = (load(model)).nodes
    body, arguments = as_body(node)
    known = tuple(v.const is not None for v in arguments)
    (piece,) = kinds.recipe("k", body, known, host())
    assert sum(isinstance(role, Packed) for role in piece.args) == len(constant)


@pytest.mark.parametrize("level", LEVELS)
def test_every_vector_width(level: str, run_model: Callable[..., list[Array]]) -> None:
    if not host().name.startswith("x86") or level > host().name:
        pytest.skip(f"this machine does not run {level}")
    network = Network("LSTM", optional="BSHCP", attributes=BOTH)
    arrays = network.arrays()
    want = expected(network.model(arrays), arrays)
    for constant in ("", "WR"):
        given = [a for key, a in arrays.items() if key not in constant]
        results = run_model(network.model(arrays, constant), given, PRESETS[level])
        for got, expected_one in zip(results, want, strict=True):
            np.testing.assert_allclose(got, expected_one, rtol=1e-5, atol=2e-6)


def test_float64_and_float16(run_model: Callable[..., list[Array]]) -> None:
    network = Network("GRU", optional="BH")
    arrays = network.arrays()
    (want, *_) = expected(network.model(arrays), arrays)
    for kind, tolerance in ((np.float64, 2e-6), (np.float16, 5e-3)):
        changed = {key: a.astype(kind) for key, a in arrays.items()}
        model = network.model(changed)
        for output in model.graph.output:
            output.type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
        (got, *_) = run_model(model, list(changed.values()))
        assert got.dtype == kind
        np.testing.assert_allclose(got, want, atol=tolerance, rtol=tolerance)


def test_batch_first_is_the_same_network(run_model: Callable[..., list[Array]]) -> None:
    network = Network("LSTM", optional="BSHC", attributes=BOTH)
    arrays = network.arrays()
    want = expected(network.model(arrays), arrays)
    turned = {key: a.swapaxes(0, 1) if key in "XHC" else a for key, a in arrays.items()}
    network.attributes = {**BOTH, "layout": 1}
    got = run_model(network.model(turned), list(turned.values()))
    np.testing.assert_allclose(got[0].transpose(1, 2, 0, 3), want[0], rtol=1e-5, atol=2e-6)
    for mine, other in zip(got[1:], want[1:], strict=True):
        np.testing.assert_allclose(mine.swapaxes(0, 1), other, rtol=1e-5, atol=2e-6)
