"""Random graphs: whatever fuse-groups does, nothing is lost, nothing computed twice, and results stay."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from onyxc.compiler.compare import relative_error
from onyxc.compiler.engines import run_reference
from onyxc.compiler.inputs import graph_inputs
from onyxc.compiler.ir import facts, infer
from onyxc.compiler.ir.fused import body_of
from onyxc.compiler.ir.graph import Graph, Node, Value
from onyxc.compiler.ir.types import TensorType
from onyxc.compiler.ir.verify import verify
from onyxc.compiler.loader import to_model
from onyxc.passes.fuse.groups import BEFORE, TEMPLATES, FuseGroups
from onyxc.passes.fuse.hoist import HoistElementwise

SHAPES = ((4, 4), (1, 4), (4, 1))
UNARY = ("Relu", "Tanh", "Sigmoid", "Neg", "Abs")
BINARY = ("Add", "Mul", "Sub", "Max")


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Up to 14 operators on small matrices; some values are outputs besides being read."""
    graph = Graph("g", 26)
    values = [graph.add_input(f"x{i}", TensorType("float32", draw(st.sampled_from(SHAPES)))) for i in range(3)]
    weight = graph.constant(np.linspace(-1, 1, 16, dtype=np.float32).reshape(4, 4), "w")
    for _ in range(draw(st.integers(2, 14))):
        kind = draw(st.sampled_from(("unary", "binary", "binary", "product", "reduce", "softmax", "move", "number")))
        x = draw(st.sampled_from(values))
        values += _operator(draw, graph, kind, x, draw(st.sampled_from(values)), weight)
    computed = values[3:]
    unread = [v for v in computed if not v.uses]
    extra = draw(st.lists(st.sampled_from(computed), max_size=2, unique=True))
    for value in dict.fromkeys([*unread, *extra]):
        graph.add_output(value)
    return graph


def _operator(draw: st.DrawFn, graph: Graph, kind: str, x: Value, y: Value, weight: Value) -> list[Value]:
    def add(op: str, *inputs: Value, **attrs: object) -> list[Value]:
        options: dict[str, object] = dict(attrs)
        return [infer.add(graph, op, inputs, **options).output]  # type: ignore[arg-type]

    if kind == "unary":
        return add(draw(st.sampled_from(UNARY)), x)
    if kind == "binary":
        return add(draw(st.sampled_from(BINARY)), x, y)
    if kind == "number":
        return add("Mul", x, graph.constant(np.float32(0.5), "half"))
    if kind == "product":
        return add("MatMul", x, weight) if x.dims[1] == 4 else add("Relu", x)
    if kind == "softmax":
        return add("Softmax", x, axis=-1)
    if kind == "reduce":
        return add("ReduceMean", x, graph.constant(np.array([draw(st.integers(0, 1))], np.int64), "axes"), keepdims=1)
    if draw(st.booleans()):
        return add("Transpose", x, perm=(1, 0))
    shape = graph.constant(np.array(x.dims[::-1], np.int64), "shape")
    return add("Reshape", x, shape)


def _operators(graph: Graph) -> Counter[str]:
    return Counter(n.op for n in graph.walk() if n.op != "Fused")


def _groups(graph: Graph) -> list[Node]:
    return [n for n in graph if n.op == "Fused"]


@settings(max_examples=120, deadline=None)
@given(graphs())
def test_groups_keep_everything(graph: Graph) -> None:
    before, model = _operators(graph), to_model(graph)
    inputs = graph_inputs(graph)
    FuseGroups().run(graph)
    verify(graph)  # order, hence no cycle; types; arity
    assert _operators(graph) == before
    for node in _groups(graph):
        body = body_of(node)
        assert len(body.outputs) == 1
        assert len(body) > 1
        _check_body(body)
    for wanted, got in zip(run_reference(model, inputs), run_reference(to_model(graph), inputs), strict=True):
        assert relative_error(wanted, got) <= 1e-5
    assert FuseGroups().run(graph).counts == {}


def _check_body(body: Graph) -> None:
    """Every value inside is used; a value that is read at several places is read at one shape, with one index."""
    for node in body:
        assert all(v.uses for v in node.outputs)
        if node.is_op(*BEFORE) and facts.key(body.nodes[0]) not in TEMPLATES:
            source = node.inputs[0]
            assert source is not None
            assert source.producer is None or source.only_user is node or node.op == "Concat"
    anchors = [n for n in body if facts.key(n) in facts.ANCHORS]
    assert len(anchors) <= 1


@settings(max_examples=60, deadline=None)
@given(graphs())
def test_hoisting_keeps_results(graph: Graph) -> None:
    model, inputs = to_model(graph), graph_inputs(graph)
    HoistElementwise().run(graph)
    verify(graph)
    for wanted, got in zip(run_reference(model, inputs), run_reference(to_model(graph), inputs), strict=True):
        assert relative_error(wanted, got) <= 1e-5


def test_the_limit_holds() -> None:
    graph = Graph("g", 26)
    x = graph.add_input("x", TensorType("float32", (4,)))
    for _ in range(20):
        x = infer.add(graph, "Tanh", [x]).output
    graph.add_output(x)
    FuseGroups(limit=6).run(graph)
    assert [len(body_of(n)) for n in _groups(graph)] == [6, 6, 6, 2]
