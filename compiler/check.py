"""Does each pass keep the results? An observer for `PassManager` that runs the model after every pass.

    PassManager(passes, observers=[NumericCheck(graph, 1e-4)]).run(graph)

Results are compared with those of the graph that the check was made from, on seeded random inputs, by onnxruntime, or
by onnx.reference where onnxruntime is missing or cannot run the model. An error is relative to the largest reference
value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx

from onyxc.compiler.errors import OptionError, PassError
from onyxc.compiler.ir.graph import Array, Graph
from onyxc.compiler.ir.types import TensorType, is_float, numpy_dtype
from onyxc.compiler.loader import to_model
from onyxc.compiler.transform import Pass

Feeds = dict[str, Any]
Runner = Callable[[onnx.ModelProto, Feeds], Sequence[Any]]


class NumericCheck:
    """Raises a `PassError` that names the first pass after which an output is off by more than ``tolerance``.

    ``inputs``: what to run on, where random numbers will not do (default: `random_inputs`).
    """

    def __init__(self, graph: Graph, tolerance: float, *, inputs: Feeds | None = None, seed: int = 0) -> None:
        self.tolerance = tolerance
        self.inputs = random_inputs(graph, seed) if inputs is None else inputs
        self.names = list(graph.output_names)
        model = to_model(graph)
        try:
            self.runner: Runner = run_onnxruntime
            self.expected = self.runner(model, self.inputs)
        except Exception:  # missing, or whatever onnxruntime raises for an operator that it lacks
            self.runner = run_reference
            self.expected = self.runner(model, self.inputs)

    def __call__(self, step: Pass, graph: Graph) -> None:
        """Compare the results of ``graph`` after ``step``."""
        try:
            found = self.runner(to_model(graph), self.inputs)
        except Exception as error:
            message = " ".join(str(error).split())[:400]
            raise PassError(f"pass {step}: the model can no longer be run: {message}") from error
        for name, wanted, got in zip(self.names, self.expected, found, strict=True):
            off = difference(wanted, got)
            if not off <= self.tolerance:
                raise PassError(f"pass {step}: output {name!r} is off by {off:.3g}, tolerance {self.tolerance:g}")


def difference(wanted: Any, found: Any) -> float:
    """Largest absolute difference over the largest reference value (at least 1e-6); infinite where kinds differ.

    Sequences count as their worst element; NaN equals NaN.
    """
    if isinstance(wanted, list) or isinstance(found, list):
        if not isinstance(wanted, list) or not isinstance(found, list) or len(wanted) != len(found):
            return float("inf")
        return max((difference(w, f) for w, f in zip(wanted, found, strict=True)), default=0.0)
    if wanted is None or found is None:
        return 0.0 if wanted is found else float("inf")
    wanted, found = np.asarray(wanted), np.asarray(found)
    if wanted.shape != found.shape or wanted.dtype != found.dtype:
        return float("inf")
    if wanted.dtype.kind in "OUSbc":
        return 0.0 if np.array_equal(wanted, found) else float("inf")
    a, b = wanted.astype(np.float64), found.astype(np.float64)
    differ = ~((a == b) | (np.isnan(a) & np.isnan(b)))
    scale = max(1e-6, float(np.max(np.abs(a[np.isfinite(a)]), initial=0)))
    a, b = a[differ], b[differ]
    return float(np.max(np.abs(a - b), initial=0)) / scale if np.all(np.isfinite(a) & np.isfinite(b)) else float("inf")


def random_inputs(graph: Graph, seed: int = 0) -> Feeds:
    """Seeded arrays for the inputs: normal floats, small integers; symbolic dimensions are 2, alike by name.

    Raises:
        OptionError: an input is not a tensor of known rank.
    """
    rng = np.random.default_rng(seed)
    made: Feeds = {}
    for value in graph.inputs:
        if not isinstance(value.type, TensorType) or value.type.shape is None:
            raise OptionError(f"input {value.name!r} of type {value.type}: random numbers need a tensor of known rank")
        made[value.name] = random_array(rng, value.dtype, [d if isinstance(d, int) else 2 for d in value.type.shape])
    return made


def random_array(rng: np.random.Generator, dtype: str, shape: Sequence[int]) -> Array:
    """A random array: normal floats, integers of 0 to 7 that stay inside narrow types, bools, letters."""
    if is_float(dtype):
        return rng.standard_normal(shape).astype(numpy_dtype(dtype))
    if dtype == "string":
        return rng.choice(np.array(list("abc"), object), shape)
    if dtype.startswith("complex"):
        return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(dtype)
    high = {"bool": 2, "int4": 7, "uint2": 4, "int2": 2}.get(dtype, 8)
    return rng.integers(0, high, shape).astype(numpy_dtype(dtype))


def run_onnxruntime(model: onnx.ModelProto, inputs: Feeds) -> Sequence[Any]:
    """Outputs by onnxruntime, one thread, without its own optimisations."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    results: Sequence[Any] = session.run(None, inputs)
    return results


def run_reference(model: onnx.ModelProto, inputs: Feeds) -> Sequence[Any]:
    """Outputs by onnx.reference."""
    from onnx.reference import ReferenceEvaluator

    results: Sequence[Any] = ReferenceEvaluator(model).run(None, inputs)
    return results
