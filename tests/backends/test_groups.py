"""Bodies as TE tensors and generic recipes: roles of arguments, outputs of every kind, several kernels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from onyxc.backends import groups, kinds
from onyxc.backends.kernels.generic import build_all
from onyxc.backends.recipe import Constant, Input, Output, Recipe, Temporary
from onyxc.backends.target import get
from onyxc.compiler.ir import infer
from onyxc.compiler.ir.graph import Graph, Value
from onyxc.compiler.ir.types import TensorType

TARGET = get("x86-64-v3")


def body(*shapes: tuple[int, ...]) -> tuple[Graph, list[Value]]:
    """An empty body with float32 inputs."""
    graph = Graph("body", 26)
    return graph, [graph.add_input(f"x{i}", TensorType("float32", s)) for i, s in enumerate(shapes)]


def recipe(graph: Graph, outputs: Sequence[Value]) -> Recipe:
    """The generic recipe of a finished body."""
    for value in outputs:
        graph.add_output(value)
    return groups.recipe("k", graph, TARGET, build_all)


def test_single_numbers_are_immediate() -> None:
    graph, (x,) = body((4, 4))
    y = infer.add(graph, "Mul", [x, graph.constant(np.float32(3), "three")]).output
    (piece,) = recipe(graph, [y])
    assert piece.args == (Input(0), Output(0))


def test_larger_constants_are_arguments() -> None:
    graph, (x,) = body((4, 4))
    y = infer.add(graph, "Mul", [x, graph.constant(np.arange(4, dtype=np.float32), "row")]).output
    (piece,) = recipe(graph, [y])
    (constant,) = [a for a in piece.args if isinstance(a, Constant)]
    np.testing.assert_array_equal(constant.array, [0, 1, 2, 3])
    assert piece.reads == 2


def test_an_output_that_is_an_argument_is_copied() -> None:
    graph, (x,) = body((4,))
    pieces = recipe(graph, [x, x])
    written = [a for p in pieces for a in p.args[p.reads :]]
    assert written == [Output(0), Output(1)]


def test_outputs_of_one_shape_share_a_kernel() -> None:
    graph, (x, y) = body((4, 4), (4, 4))
    a = infer.add(graph, "Add", [x, y]).output
    b = infer.add(graph, "Sub", [x, y]).output
    (piece,) = recipe(graph, [a, b])
    assert piece.args[piece.reads :] == (Output(0), Output(1))


def test_what_does_not_fit_one_nest_is_cut() -> None:
    graph, (x,) = body((128, 128))
    axes = graph.constant(np.array([0, 1], np.int64), "axes")
    mean = infer.add(graph, "ReduceMean", [x, axes], keepdims=1).output
    a = infer.add(graph, "Exp", [x]).output
    b = infer.add(graph, "ReduceMean", [a, axes], keepdims=1).output
    c = infer.add(graph, "Sub", [mean, b]).output
    d = infer.add(graph, "Mul", [x, c]).output
    pieces = recipe(graph, [d])
    written = [a for p in pieces for a in p.args[p.reads :]]
    assert written[-1] == Output(0)
    assert len(pieces) > 1
    assert all(isinstance(a, Temporary) for a in written[:-1])


@pytest.mark.parametrize("op", ["Relu", "Exp"])
def test_every_single_operator_has_a_recipe(op: str) -> None:
    graph, (x,) = body((3, 5))
    graph.add_output(infer.add(graph, op, [x]).output)
    (piece,) = kinds.recipe("k", graph, (False,), TARGET)
    assert piece.kernel.name == "k"
