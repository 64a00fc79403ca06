"""Operators through the recipes that the compiler uses: all kernels in one library, called from numpy."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from lowering_tools import Array, aligned, difference, link, promote, suite, to_array

from onyxc.backends import kinds
from onyxc.backends.bodies import as_body
from onyxc.backends.lowering import dynamic
from onyxc.backends.recipe import Constant, Count, Input, Output, Packed, Temporary
from onyxc.backends.target import Target, host
from onyxc.compiler.ir import infer
from onyxc.compiler.ir.graph import Graph, Node, Value
from onyxc.compiler.ir.types import numpy_dtype
from onyxc.compiler.loader import load

# Operands that are constants in real models, but run-time inputs in the suite: operator -> input slots.
PARAMETERS: dict[str, tuple[int, ...]] = {
    "AffineGrid": (1,), "Col2Im": (1, 2), "CumProd": (1,), "CumSum": (1,), "DFT": (1, 2), "MaxUnpool": (2,),
    "OneHot": (1,), "Range": (0, 1, 2), "STFT": (1, 3), "TopK": (1,),
}  # fmt: skip
_numbers = itertools.count()


@dataclass
class Case:
    """A model of one operator with what goes in and what should come out."""

    name: str
    model: onnx.ModelProto
    inputs: list[Any]
    expected: list[Any]
    rtol: float = 1e-3
    atol: float = 1e-7


def cases(op: str) -> list[Case]:
    """onnx's node conformance cases of an operator."""
    return [
        Case(test.name, test.model, inputs, expected, test.rtol, test.atol)
        for test in suite()[op]
        for inputs, expected in test.data_sets
    ]


def placed(values: Array) -> Array:
    """A copy of ``values`` in such an array."""
    made = aligned(values.shape, values.dtype)
    made[...] = values
    return made


def bound(case: Case) -> tuple[Graph, list[Array]]:
    """The graph of the case, parameters made constants, and the inputs that are left."""
    model, left = promote(case.model, [np.asarray(to_array(v)) for v in case.inputs], PARAMETERS)
    return load(model, input_shapes={v.name: a.shape for v, a in zip(model.graph.input, left, strict=True)}), left


@dataclass
class Job:
    """A case on its way."""

    case: Case
    graph: Graph = field(default_factory=Graph)
    inputs: list[Array] = field(default_factory=list)
    recipes: list[tuple[Node, list[Value], Any]] = field(default_factory=list)
    error: str = ""

    def lower(self, target: Target) -> None:
        """Kernels for every node."""
        self.graph, self.inputs = bound(self.case)
        for node in self.graph:
            infer.refine(node, self.graph.opset)  # onnx's inference of whole models misses STFT's default of onesided
            body, arguments = as_body(node)
            constant = tuple(v.const is not None for v in arguments)
            recipe = kinds.recipe(f"k{next(_numbers)}", body, constant, target)
            self.recipes.append((node, arguments, recipe))

    def run(self, library: ctypes.CDLL) -> list[Array]:
        """The outputs; those of a size that depends on data cut to their real shape."""
        memory: dict[Value, Array] = dict(zip(self.graph.inputs, map(placed, self.inputs), strict=True))
        counts: dict[Value, Array] = {}
        for node, arguments, recipe in self.recipes:
            if dynamic.dynamic(node):
                shapes = dynamic.bound(node)
            else:
                shapes = [v.dims if v.name else () for v in node.outputs]  # what is left out is not written
            for value, shape in zip(node.outputs, shapes, strict=True):
                memory[value] = aligned(shape, numpy_dtype(value.dtype))
            temporaries: dict[Temporary, Array] = {}
            for piece in recipe:
                args = []
                for role in piece.args:
                    match role:
                        case Input():
                            value = arguments[role.index]
                            if value not in memory:
                                assert value.const is not None
                                memory[value] = placed(value.const)
                            args.append(memory[value])
                        case Output():
                            args.append(memory[node.outputs[role.index]])
                        case Count():
                            counts[node.outputs[role.index]] = aligned((role.rank,), np.dtype(np.int64))
                            args.append(counts[node.outputs[role.index]])
                        case Constant():
                            args.append(placed(role.array))
                        case Packed():
                            source = arguments[role.index].const
                            assert source is not None
                            args.append(placed(role.pack(source)))
                        case Temporary():
                            if role not in temporaries:
                                temporaries[role] = aligned(role.shape, numpy_dtype(role.dtype))
                            args.append(temporaries[role])
                pointers = [ctypes.c_void_p(a.ctypes.data) for a in args]
                cuts = [0, piece.kernel.tasks // 2, piece.kernel.tasks]
                for begin, end in reversed(list(itertools.pairwise(cuts))):
                    getattr(library, piece.kernel.name)(*pointers, ctypes.c_int32(begin), ctypes.c_int32(end))
        results = []
        for value in self.graph.outputs:
            made = memory[value]
            if value in counts:
                shape = tuple(int(n) for n in counts[value])
                made = made.reshape(-1)[: prod(shape)].reshape(shape)
            results.append(made)
        return results


def run_all(chosen: Sequence[Case], folder: Path, target: Target) -> dict[str, str]:
    """What went wrong with each case; an empty text where nothing did."""
    jobs = [Job(c) for c in chosen]

    def attempt(job: Job, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except Exception as error:
            job.error = f"{type(error).__name__}: {str(error).strip()[-300:]}"
            return None

    for job in jobs:
        attempt(job, lambda j=job: j.lower(target))  # type: ignore[misc]
    ready = [j for j in jobs if not j.error]
    kernels = [piece.kernel for j in ready for _, _, recipe in j.recipes for piece in recipe]
    library = link(kernels, target, folder)
    for job in ready:
        results = attempt(job, lambda j=job: j.run(library)) or []  # type: ignore[misc]
        for got, want in zip(results, map(to_array, job.case.expected), strict=not job.error):
            job.error = job.error or difference(got, np.asarray(want), job.case.rtol, job.case.atol)
    found: dict[str, str] = {}
    for job in jobs:
        found[job.case.name] = found.get(job.case.name) or job.error
    return found


@pytest.fixture
def conformance(tmp_path: Path) -> Callable[[str], dict[str, str]]:
    """``conformance("LSTM GRU")``: what went wrong with each case of some operators."""
    return lambda ops: run_all([c for op in ops.split() for c in cases(op)], tmp_path, host())


@pytest.fixture
def run_model(tmp_path: Path) -> Callable[..., list[Array]]:
    """``run_model(model, inputs, target)``: the outputs of a model, inputs in order."""

    def run(model: onnx.ModelProto, inputs: Sequence[Array], target: Target | None = None) -> list[Array]:
        job, chosen = Job(Case("model", model, list(inputs), [])), target or host()
        job.lower(chosen)
        kernels = [piece.kernel for _, _, recipe in job.recipes for piece in recipe]
        return job.run(link(kernels, chosen, tmp_path))

    return run


@pytest.fixture
def compare(tmp_path: Path) -> Callable[[Sequence[tuple[str, onnx.ModelProto, list[Array], list[Array]]]], None]:
    """Compile and run many models (name, model, inputs, expected) at once; every one must agree to 1e-5."""

    def check(models: Sequence[tuple[str, onnx.ModelProto, list[Array], list[Array]]]) -> None:
        cases = [Case(name, model, inputs, expected, 1e-5, 5e-6) for name, model, inputs, expected in models]
        wrong = {name: error for name, error in run_all(cases, tmp_path, host()).items() if error}
        assert not wrong, wrong

    return check
