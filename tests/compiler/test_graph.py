"""The graph keeps its promises whatever a pass does to it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onyxc.compiler.compare import relative_error
from onyxc.compiler.engines import run_reference
from onyxc.compiler.ir import infer
from onyxc.compiler.ir.copying import inline
from onyxc.compiler.ir.graph import Graph, Value
from onyxc.compiler.ir.types import TensorType
from onyxc.compiler.ir.verify import VerifyError, verify
from onyxc.compiler.loader import load, to_model

SHAPE = TensorType("float32", (2, 3))


def small(*ops: str) -> Graph:
    """x through unary operators to y."""
    graph = Graph(opset=26)
    value = graph.add_input("x", SHAPE)
    for op in ops:
        value = infer.add(graph, op, [value]).output
    graph.add_output(value, "y")
    return graph


@st.composite
def edits(draw: st.DrawFn) -> list[tuple[str, int, int]]:
    kinds = st.sampled_from(["insert", "replace", "reroute", "erase", "move", "branch", "clone"])
    return draw(st.lists(st.tuples(kinds, st.integers(0, 99), st.integers(0, 99)), max_size=30))


def _apply(graph: Graph, kind: str, a: int, b: int) -> Graph:
    nodes = graph.nodes
    node = nodes[a % len(nodes)] if nodes else None
    before = nodes[: a % len(nodes)] if nodes else []
    values: list[Value] = [graph.inputs[0], *(v for n in before for v in n.outputs if v.type == SHAPE)]
    source = values[b % len(values)]
    if kind == "insert" or node is None:
        infer.add(graph, ["Add", "Mul", "Sub"][b % 3], [source, values[a % len(values)]], before=node)
    elif kind == "replace":
        graph.replace(node, [source])
    elif kind == "reroute":
        for value in node.outputs:
            graph.replace_uses(value, source)
    elif kind == "erase" and not any(v.uses for v in node.outputs):
        graph.erase(node)
    elif kind == "move" and not any(v.uses for v in node.outputs):
        graph.move_before(node, None)
    elif kind == "branch":
        condition = graph.constant(np.array(b % 2 == 0), "condition")
        inner = small("Neg")
        branches = {}
        for name in ("then_branch", "else_branch"):
            branch = Graph(name)
            (result,) = inline(inner, [source], branch, None)
            branch.add_output(result)
            branches[name] = branch
        graph.create("If", [condition], [SHAPE], dict(branches), before=node)
        for branch in branches.values():
            for made in branch:
                made.output.name = graph.fresh_name(made.output.name)
    elif kind == "clone":
        return graph.clone()
    return graph


@settings(max_examples=60, deadline=None)
@given(edits())
def test_edits_keep_the_graph_valid(steps: list[tuple[str, int, int]]) -> None:
    graph = small("Relu", "Neg", "Abs")
    for step in steps:
        graph = _apply(graph, *step)
        verify(graph)
    x = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)
    model = to_model(graph)
    again = load(model)
    verify(again)
    assert [str(v.type) for v in again.outputs] == [str(v.type) for v in graph.outputs]
    with np.errstate(all="ignore"):
        first, second = (run_reference(m, {"x": x}) for m in (model, to_model(again)))
    assert relative_error(list(first), list(second)) == 0


def test_uses_follow_every_change() -> None:
    graph = small("Relu", "Neg")
    relu, neg = graph.nodes
    x = graph.inputs[0]
    assert relu.output.only_user is neg
    with pytest.raises(ValueError, match="still read"):
        graph.erase(relu)
    graph.replace(relu, [x])
    assert list(x.uses) == [(neg, 0)]
    graph.set_inputs(neg, [x, x])
    assert x.only_user is None
    assert x.users == [neg]
    assert neg.output.is_output


def test_names_stay_unique() -> None:
    graph = small("Relu")
    names = {graph.fresh_name("relu") for _ in range(5)} | {graph.fresh_name("x")}
    assert len(names) == 6
    assert not names & {"x", "relu"}


def test_nodes_may_go_while_walked() -> None:
    graph = small("Relu", "Relu", "Neg")
    for node in graph:
        if node.op == "Relu":
            assert node.inputs[0] is not None
            graph.replace(node, [node.inputs[0]])
    assert [n.op for n in graph] == ["Neg"]
    verify(graph)


def test_constants_are_read_only_copies() -> None:
    array = np.zeros(3, np.float32)
    value = Graph().constant(array[:2])
    array[0] = 1
    assert value.const is not None
    assert value.const[0] == 0
    with pytest.raises(ValueError, match="read-only"):
        value.const[0] = 1


def test_clone_is_independent() -> None:
    graph = small("Relu", "Neg")
    text = str(graph)
    copy = graph.clone()
    copy.replace(copy.nodes[0], [copy.inputs[0]])
    assert str(graph) == text
    verify(copy)


def test_verifier_names_the_node() -> None:
    graph = small("Relu", "Neg")
    graph.move_before(graph.nodes[1], graph.nodes[0])
    with pytest.raises(VerifyError, match=r"Neg.*used before it is defined(.|\n)*> %neg = Neg"):
        verify(graph)


def test_verifier_keeps_facts() -> None:
    graph = small("Relu")
    weight = graph.constant(np.array([0.0, 1.0, 2.0], np.float32), "w")
    graph.set_output(0, infer.add(graph, "Add", [graph.nodes[0].output, weight]).output)
    weight.facts["sparsity"] = np.array([True, False, True])
    with pytest.raises(VerifyError, match="'w' was pruned"):
        verify(graph)
    weight.facts = {"palette": np.array([0.0, 1.0], np.float32)}
    with pytest.raises(VerifyError, match="'w' was clustered"):
        verify(graph)


def test_types_merge() -> None:
    old, new = TensorType("float32", ("N", 3, "?")), TensorType("int64", (2, "M", "K"))
    assert infer.merge(old, new) == TensorType("int64", (2, 3, "K"))
    assert infer.merge(old, TensorType("int64", None)) == TensorType("int64", ("N", 3, "?"))


def test_no_inputs_are_left_out_at_the_end() -> None:
    graph = small("Relu")
    x = graph.inputs[0]
    clip = infer.add(graph, "Clip", [x, None, None])
    assert clip.inputs == (x,)
    assert infer.add(graph, "Clip", [x, None, x]).inputs == (x, None, x)


def test_accessors_say_what_is_missing() -> None:
    graph = small("Relu")
    (relu,) = graph.nodes
    assert relu.operand() is graph.inputs[0]
    assert relu.owner is graph
    with pytest.raises(ValueError, match=r"Relu .* has no input 1"):
        relu.operand(1)
    with pytest.raises(ValueError, match="x is not a constant"):
        _ = relu.operand().array
    relu.attrs["body"] = 1
    with pytest.raises(TypeError, match=r"'body' of Relu .* is not a graph"):
        relu.subgraph("body")
    graph.replace(relu, [graph.inputs[0]])
    with pytest.raises(ValueError, match="in no graph"):
        _ = relu.owner
