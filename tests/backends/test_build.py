"""From a graph to an artifact: the same bytes whoever makes the machine code, and in which order."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnx.parser

from onyxc.backends import build
from onyxc.backends.artifact import manifest
from onyxc.backends.program import Kernel
from onyxc.backends.target import get
from onyxc.compiler.loader import load
from onyxc.compiler.transform import PassManager
from onyxc.passes import pipelines

LAYERS = 11  # each of its own shape, hence with its own kernel


def model() -> onnx.ModelProto:
    """Products with weights of 4 + i columns."""
    sizes = [4 + i for i in range(LAYERS + 1)]
    body = " ".join(f"x{i + 1} = MatMul(x{i}, w{i})" for i in range(LAYERS))
    made = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 20]>
        g (float[3, {sizes[0]}] x0) => (float[3, {sizes[-1]}] x{LAYERS}) {{ {body} }}"""
    )
    rng = np.random.default_rng(0)
    for i, shape in enumerate(pairwise(sizes)):
        made.graph.initializer.append(onnx.numpy_helper.from_array(rng.standard_normal(shape).astype("f4"), f"w{i}"))
    return made


def test_the_number_of_processes_does_not_matter(tmp_path: Path) -> None:
    graph, target = load(model()), get("x86-64-v3")
    PassManager(pipelines.compilation(2, "cpu", build.keep(), None)).run(graph)
    libraries = []
    for jobs in (1, 2, 5):
        out = tmp_path / str(jobs)
        build.build(graph, [target], out, name="m", jobs=jobs)
        made = manifest.read(out)
        libraries.append((out / made.library).read_bytes())
        assert made.kernels > 2 * build.BATCH
    assert libraries[0] == libraries[1] == libraries[2]


def test_batches_hold_each_kernel_once_in_order() -> None:
    begun = list[list[Kernel]]()
    batches, kernels = build._Batches(begun.append), [Kernel(f"k{i}") for i in range(2 * build.BATCH + 1)]
    batches.take(kernels[:3])
    batches.take(kernels)
    assert [len(batch) for batch in begun] == [build.BATCH] * 2
    batches.flush()
    batches.flush()
    assert [k for batch in begun for k in batch] == kernels
    assert begun == batches.begun
