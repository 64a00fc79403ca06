"""Passes alone and in order; what the manager reports, checks and refuses."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import onnx.parser
import pytest

from onyxc.compiler.check import NumericCheck
from onyxc.compiler.errors import PassError
from onyxc.compiler.ir import infer
from onyxc.compiler.ir.fused import fuse
from onyxc.compiler.ir.graph import Graph
from onyxc.compiler.loader import load
from onyxc.compiler.transform import GraphPass, Pass, PassManager, PassResult
from onyxc.passes import parse

MODEL = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 26]>
g (float[N, 2] x) => (float[N, 2] y) <float[2, 2] w = {1, 2, 3, 4}> { a = MatMul(x, w) b = Relu(a) y = Identity(b) }""")


@dataclass(frozen=True)
class Rename(Pass):
    """Relu becomes another operator."""

    to: str = "Relu"

    name: ClassVar[str] = "rename"

    def run(self, graph: Graph) -> PassResult:
        """Replace every Relu."""
        for node in graph:
            if node.is_op("Relu"):
                graph.replace(node, infer.add(graph, self.to, node.inputs, before=node).outputs)
        return PassResult({"relu": 1})


@dataclass(frozen=True)
class Break(Pass):
    """Puts the nodes into the wrong order."""

    name: ClassVar[str] = "break"

    def run(self, graph: Graph) -> PassResult:
        """The last node becomes the first."""
        graph.move_before(graph.nodes[-1], graph.nodes[0])
        return PassResult({"moved": 1})


@dataclass(frozen=True)
class Count(GraphPass):
    """Counts nodes."""

    name: ClassVar[str] = "count"

    def rewrite(self, graph: Graph) -> Counter[str]:
        """The nodes of ``graph`` alone, by operator."""
        return Counter(n.op for n in graph)


def test_a_pass_over_inner_graphs() -> None:
    graph = load(
        onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 26]>
    g (bool c, float[2] x) => (float[2] y) {
        a = Neg(x)
        b = Abs(a)
        y = If(c) <then_branch = t () => (float[2] p) { p = Relu(b) }, else_branch = e () => (float[2] q) { q = Neg(b) }>
    }""")
    )
    fuse(graph, graph.nodes[:2])
    assert Count().run(graph).counts == {"Fused": 1, "If": 1, "Relu": 1, "Neg": 1}


def test_a_pass_alone() -> None:
    before = MODEL.SerializeToString()
    made = parse("no-ops")(MODEL)
    assert [n.op_type for n in made.graph.node] == ["MatMul", "Relu"]
    assert made.graph.output[0].name == "y"
    assert MODEL.SerializeToString() == before
    graph = load(MODEL)
    assert len(parse("no-ops")(graph)) == 2
    assert len(graph) == 3


def test_records() -> None:
    manager = PassManager([parse("no-ops"), Rename("Abs")])
    first, second = manager.run(load(MODEL, input_dims={"N": 3}))
    assert (first.name, first.counts) == ("no-ops", {"identity": 1})
    assert (first.before.nodes, first.after.nodes, second.after.nodes) == (3, 2, 2)
    assert (first.before.parameters, first.before.flops) == (4, 24)
    assert second.name == "rename{to=Abs}"


def test_a_broken_graph_names_the_pass() -> None:
    with pytest.raises(PassError, match=r"pass break: .*used before(.|\n)*\(after rename\{to=Abs\}, no-ops\)"):
        PassManager([Rename("Abs"), parse("no-ops"), Break()]).run(load(MODEL))


def test_numeric_check_names_the_pass() -> None:
    graph = load(MODEL)
    check = NumericCheck(graph, 1e-6)
    PassManager([Rename("Relu"), parse("no-ops")], [check]).run(graph)
    with pytest.raises(PassError, match=r"pass rename\{to=Abs\}: output 'y' is off by .*, tolerance 1e-06"):
        PassManager([parse("dead-code"), Rename("Abs"), parse("no-ops")], [check]).run(graph)


def test_numeric_check_without_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    graph = load(MODEL)
    check = NumericCheck(graph, 1e-6)
    assert check.runner.__name__ == "run_reference"
    PassManager([parse("no-ops")], [check]).run(graph)
