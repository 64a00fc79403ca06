"""Counting the zeros of weights once."""

from __future__ import annotations

import numpy as np
import onnx.parser

from onyxc.compiler.ir.statistics import Zeros, measure
from onyxc.compiler.loader import load

MODEL = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 26]>
g (float[N, 2] x) => (float[N, 2] y) <float[2, 2] w = {0, 2, 0, 4}, float[2] b = {0, 1}>
{ a = MatMul(x, w) y = Add(a, b) }""")


def test_a_counter_does_not_change_the_numbers() -> None:
    graph, counter = load(MODEL), Zeros()
    assert measure(graph).zeros == 3
    assert [measure(graph, counter) for _ in range(2)] == [measure(graph)] * 2
    assert len(counter.known) == 2


def test_an_array_in_the_place_of_another_is_counted() -> None:
    counter = Zeros()
    for size in range(1, 200):  # their ids come again
        assert counter.count(np.zeros(size)) == size
        assert counter.count(np.ones(size)) == 0
