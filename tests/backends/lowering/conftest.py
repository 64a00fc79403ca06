"""Graphs lowered, compiled to one library a batch, run and compared: onnx's node cases, or graphs made by tests."""

from __future__ import annotations

import ctypes
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tvm import te

from onyxc.backends.kernels.generic import build_all, key
from onyxc.backends.lowering.registry import lower, storage
from onyxc.backends.target import Target, host
from onyxc.compiler.ir.graph import Graph, Value
from onyxc.compiler.ir.types import numpy_dtype
from onyxc.compiler.loader import load

sys.path.insert(0, str(Path(__file__).parent))

from lowering_tools import Array, aligned, difference, link, promote, suite, to_array

Job = tuple[str, Callable[[], Graph], Sequence[Array], Sequence[Array], float, float]

# Operands that are constants in real models, but run-time inputs in the suite: operator -> input slots.
PARAMETERS: dict[str, tuple[int, ...]] = {
    "Reshape": (1,), "Expand": (1,), "Tile": (1,), "Slice": (1, 2, 3, 4), "Pad": (1, 3), "Resize": (1, 2, 3),
    "Upsample": (1,), "Squeeze": (1,), "Unsqueeze": (1,), "Split": (1,), "ConstantOfShape": (0,),
    "CenterCropPad": (1,), "Dropout": (1, 2), "Pow": (1,),
}  # fmt: skip


# ---- from a graph to numbers


@dataclass
class Task:
    """A graph on its way. ``error`` says what went wrong first."""

    name: str
    error: str = ""
    inputs: list[Any] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    dtypes: list[str] = field(default_factory=list)
    arrays: list[Array] = field(default_factory=list)
    pieces: list[Any] = field(default_factory=list)
    inner: list[Any] = field(default_factory=list)

    def attempt(self, action: Callable[[], None]) -> None:
        """Run ``action``; what it raises becomes the error."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                action()
        except Exception as error:
            lines = [x for x in str(error).strip().splitlines() if x.strip()] or [""]
            frame = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(frame.filename).name}:{frame.lineno}"
            self.error = f"{type(error).__name__}: {lines[0]} | {lines[-1]} ({where})"[:400]


def express(graph: Graph) -> tuple[dict[Value, Any], dict[Value, Any]]:
    """The TE tensor of every value, and of those that are placeholders."""
    tensors: dict[Value, Any] = {}
    leaves: dict[Value, Any] = {}

    def tensor(value: Value | None) -> Any:
        if value is None:
            return None
        if value not in tensors:
            tensors[value] = leaves[value] = te.placeholder(value.dims, storage(value.dtype), name="x")
        return tensors[value]

    for value in graph.inputs:
        tensor(value)
    for node in graph:
        made = lower(node, [tensor(v) for v in node.inputs])
        tensors.update(zip(node.outputs, made, strict=False))
    return tensors, leaves


def prepare(task: Task, graph: Graph, arrays: Sequence[Array], name: str, target: Target) -> None:
    """From the graph to kernels."""
    tensors, leaves = express(graph)
    given: dict[Value, Any] = dict(zip(graph.inputs, arrays, strict=True))
    task.inputs = list(leaves.values())
    task.arrays = [given.get(v, v.const) for v in leaves]
    task.outputs = [tensors[v] for v in graph.outputs]
    task.dtypes = [v.dtype for v in graph.outputs]
    for tensor, value in zip(task.outputs, graph.outputs, strict=True):
        made = (tuple(int(d) for d in tensor.shape), str(tensor.dtype))
        wanted = (value.dims if value.tensor.is_static else made[0], storage(value.dtype))
        assert made == wanted, f"made {made}, wanted {wanted}"
    task.pieces, task.inner = build_all(name, task.inputs, task.outputs, target)


def _memory(tensor: Any) -> Array:
    return aligned([int(d) for d in tensor.shape], numpy_dtype(str(tensor.dtype)))


def execute(task: Task, library: ctypes.CDLL) -> list[Array]:
    """The outputs, by the compiled kernels."""
    memory: dict[Any, Array] = {}
    for tensor, array in zip(task.inputs, task.arrays, strict=True):
        memory[key(tensor)] = _memory(tensor)
        memory[key(tensor)][...] = np.asarray(array).view(memory[key(tensor)].dtype)
    for tensor in (*task.inner, *task.outputs):
        memory.setdefault(key(tensor), _memory(tensor))
    for piece in task.pieces:
        pointers = [ctypes.c_void_p(memory[key(t)].ctypes.data) for t in piece.args]
        getattr(library, piece.kernel.name)(*pointers, ctypes.c_int32(0), ctypes.c_int32(piece.kernel.tasks))
    return [memory[key(t)].view(numpy_dtype(d)) for t, d in zip(task.outputs, task.dtypes, strict=True)]


def run_jobs(jobs: Sequence[Job], folder: Path, target: Target | None = None) -> dict[str, str]:
    """What went wrong with each job, compiled for this machine or another target that it runs; empty texts: nothing."""
    target = target or host()
    tasks = [Task(job[0]) for job in jobs]
    for number, (task, job) in enumerate(zip(tasks, jobs, strict=True)):
        task.attempt(lambda t=task, j=job, n=number: prepare(t, j[1](), j[2], f"k{n}", target))  # type: ignore[misc]
    kernels = [p.kernel for t in tasks for p in t.pieces]
    library = link(kernels, target, folder)

    def check(task: Task, job: Job) -> None:
        results = execute(task, library)
        assert len(results) == len(job[3])
        for got, want in zip(results, job[3], strict=True):
            task.error = task.error or difference(got, np.asarray(want), job[4], job[5])

    for task, job in zip(tasks, jobs, strict=True):
        if not task.error:
            task.attempt(lambda t=task, j=job: check(t, j))  # type: ignore[misc]
    return {t.name: t.error for t in tasks}


# ---- onnx's node cases


def job_of(test: Any) -> Job:
    """A conformance case as a job."""
    inputs, outputs = ([to_array(a) for a in arrays] for arrays in test.data_sets[0])
    model, left = promote(test.model, inputs, PARAMETERS)

    def graph() -> Graph:
        return load(model, input_shapes={v.name: a.shape for v, a in zip(model.graph.input, left, strict=True)})

    return test.name, graph, left, outputs, test.rtol, test.atol


@pytest.fixture
def conformance(tmp_path: Path) -> Callable[[str], dict[str, str]]:
    """``conformance(op)``: what went wrong with each case of an operator."""
    return lambda op: run_jobs([job_of(t) for t in suite()[op]], tmp_path)


@pytest.fixture
def compare(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """``compare(jobs)``, ``compare(jobs, target)``: what went wrong with each job."""
    return lambda jobs, target=None: run_jobs(jobs, tmp_path, target)
