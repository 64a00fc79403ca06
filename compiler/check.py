"""Does each pass keep the results? An observer for `PassManager` that runs the model after every pass.

    PassManager(passes, observers=[NumericCheck(graph, 1e-4)]).run(graph)

Results are compared with those of the graph that the check was made from, on seeded random inputs, by onnxruntime, or
by onnx.reference where onnxruntime is missing or cannot run the model.
"""

from __future__ import annotations

from onyxc.compiler.compare import relative_error
from onyxc.compiler.engines import Feeds, run_onnxruntime, run_reference
from onyxc.compiler.errors import PassError
from onyxc.compiler.inputs import graph_inputs
from onyxc.compiler.ir.graph import Graph
from onyxc.compiler.loader import to_model
from onyxc.compiler.transform import Pass


class NumericCheck:
    """Raises a `PassError` that names the first pass after which an output is off by more than ``tolerance``.

    ``tolerance``: error over the range of the output. ``inputs``: what to run on, where random numbers will not do.
    """

    def __init__(self, graph: Graph, tolerance: float, *, inputs: Feeds | None = None, seed: int = 0) -> None:
        self.tolerance = tolerance
        self.inputs = graph_inputs(graph, seed) if inputs is None else inputs
        self.names = list(graph.output_names)
        model = to_model(graph)
        try:
            self.runner = run_onnxruntime
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
            raise PassError(f"pass {step.label()}: the model can no longer be run: {message}") from error
        for name, wanted, got in zip(self.names, self.expected, found, strict=True):
            off = relative_error(wanted, got)
            if not off <= self.tolerance:
                raise PassError(f"pass {step.label()}: output {name!r} is off by {off:.3g}, tolerance {self.tolerance:g}")
