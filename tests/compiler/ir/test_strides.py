"""Views of moved tensors against numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from onyxc.compiler.ir import infer
from onyxc.compiler.ir.graph import Graph, Value
from onyxc.compiler.ir.strides import View, view
from onyxc.compiler.ir.types import TensorType

Make = Callable[[Graph, Value], Value]


def reshape(graph: Graph, x: Value, *dims: int) -> Value:
    """A Reshape of ``x``."""
    return infer.add(graph, "Reshape", [x, graph.constant(np.array(dims, np.int64))]).output


def turn(graph: Graph, x: Value, *perm: int) -> Value:
    """A Transpose of ``x``."""
    return infer.add(graph, "Transpose", [x], perm=perm).output


def part(graph: Graph, x: Value, index: int) -> Value:
    """One of three parts of the last axis."""
    sizes = graph.constant(np.array([4, 4, 4], np.int64))
    return infer.add(graph, "Split", [x, sizes], outputs=3, axis=-1).outputs[index]


def cut(graph: Graph, x: Value, first: int, last: int, axis: int, step: int) -> Value:
    """A Slice of ``x``."""
    numbers = [graph.constant(np.array([n], np.int64)) for n in (first, last, axis, step)]
    return infer.add(graph, "Slice", [x, *numbers]).output


CASES: dict[str, tuple[Make, bool]] = {
    "nothing": (lambda g, x: x, True),
    "heads": (lambda g, x: turn(g, reshape(g, x, 2, 5, 3, 4), 0, 2, 3, 1), True),
    "heads of a part": (lambda g, x: turn(g, reshape(g, part(g, x, 1), 2, 5, 2, 2), 0, 2, 1, 3), True),
    "merged again": (lambda g, x: reshape(g, reshape(g, x, 2, 5, 3, 4), 10, 12), True),
    "ones": (lambda g, x: reshape(g, turn(g, x, 2, 0, 1), 12, 1, 2, 5, 1), True),
    "slice": (lambda g, x: cut(g, cut(g, x, -3, 99, 1, 1), 1, 12, 2, 3), True),
    "backwards": (lambda g, x: cut(g, x, 4, 0, 1, -1), False),
    "rows of a part merged with them": (lambda g, x: reshape(g, part(g, x, 1), 2, 20), False),
    "turned and merged": (lambda g, x: reshape(g, turn(g, x, 0, 2, 1), 2, 60), False),
}


@pytest.mark.parametrize("name", CASES)
def test_view(name: str) -> None:
    make, seen = CASES[name]
    graph = Graph("g", 21)
    x = graph.add_input("x", TensorType("float32", (2, 5, 12)))
    value = make(graph, x)
    graph.add_output(value)
    found = view(value, graph.nodes)
    assert (found is not None) == seen
    if found is None:
        return
    assert found.source is x
    array = np.arange(120, dtype=np.float32)
    lies = np.lib.stride_tricks.as_strided(array[found.start :], value.dims, [4 * s for s in found.strides])
    np.testing.assert_array_equal(lies, _computed(graph, array.reshape(x.dims)))


def _computed(graph: Graph, x: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    from onyxc.compiler.check import run_reference
    from onyxc.compiler.loader import to_model

    return np.asarray(run_reference(to_model(graph), {"x": x})[0])


def test_rows_that_lie_apart() -> None:
    graph = Graph("g", 21)
    x = graph.add_input("x", TensorType("float32", (2, 5, 12)))
    heads = reshape(graph, x, 2, 5, 3, 4)
    assert view(heads, graph.nodes, pitch=2) == View(x, 0, (120, 24, 4, 1))
    assert view(reshape(graph, heads, 2, 60), graph.nodes, pitch=2) is None


def test_nodes_outside_are_not_looked_through() -> None:
    graph = Graph("g", 21)
    x = graph.add_input("x", TensorType("float32", (2, 5, 12)))
    moved = turn(graph, x, 0, 2, 1)
    assert view(moved, []) == View(moved, 0, (60, 5, 1))
