"""The pattern engine: what matches, what is safe, what is counted."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx.parser
import pytest

from onyxc.compiler.errors import PassError
from onyxc.compiler.ir.graph import Graph, Node, Value
from onyxc.compiler.ir.verify import verify
from onyxc.compiler.loader import load
from onyxc.compiler.patterns import match
from onyxc.compiler.rewrite import Builder, Constant, Maybe, Pattern, Refuse, Rule, apply_rules, kebab, rule


def graph(body: str, inputs: str = "float[2] x, float[2] z", outputs: str = "float[2] y", constants: str = "") -> Graph:
    head = '<ir_version: 10, opset_import: ["" : 26]>'
    return load(onnx.parser.parse_model(f"{head} g ({inputs}) => ({outputs}) <{constants}> {{ {body} }}"))


class ScaledRelu(Rule):
    """Mul(Relu(x), c) = Abs(x), which is wrong but easy to see."""

    def pattern(self, op: Pattern, x: Any, c: Constant) -> Any:
        return op.Mul(op.Relu(x, _name="relu"), c)

    def check(self, c: Value) -> None:
        if c.tensor.elements != 1:
            raise Refuse("the factor is not a scalar")

    def rewrite(self, op: Builder, x: Value) -> Value:
        return op.Abs(x)


def operators(g: Graph) -> list[str]:
    verify(g)
    return [n.op for n in g]


def test_commutative_operands_match_in_both_orders() -> None:
    for body in ("a = Relu(x) y = Mul(a, c)", "a = Relu(x) y = Mul(c, a)"):
        g = graph(body, constants="float c = {2}")
        assert apply_rules(g, [ScaledRelu()]).counts == {"scaled-relu": 1}
        assert operators(g) == ["Abs"]


def test_refusals_are_counted() -> None:
    g = graph("a = Relu(x) y = Mul(a, c)", constants="float[2] c = {2, 3}")
    result = apply_rules(g, [ScaledRelu()])
    assert not result.changed
    assert result.refused == {"scaled-relu: the factor is not a scalar": 1}
    assert operators(g) == ["Relu", "Mul"]


def test_inner_values_must_not_be_read_elsewhere() -> None:
    g = graph("a = Relu(x) y = Mul(a, c) w = Neg(a)", outputs="float[2] y, float[2] w", constants="float c = {2}")
    assert not apply_rules(g, [ScaledRelu()]).changed
    g = graph("a = Relu(x) y = Mul(a, c)", outputs="float[2] y, float[2] a", constants="float c = {2}")
    assert not apply_rules(g, [ScaledRelu()]).changed


def test_matches_stay_in_one_graph() -> None:
    branches = "then_branch = t () => (float[2] p) { p = Mul(a, c) }, else_branch = e () => (float[2] q) { q = Neg(x) }"
    g = graph(f"a = Relu(x) y = If (b) <{branches}>", inputs="float[2] x, bool b", constants="float c = {2}")
    assert not apply_rules(g, [ScaledRelu()]).changed
    branches = branches.replace("{ p =", "{ a = Relu(x) p =")
    g = graph(f"y = If (b) <{branches}>", inputs="float[2] x, bool b", constants="float c = {2}")
    assert apply_rules(g, [ScaledRelu()]).counts == {"scaled-relu": 1}
    verify(g)


def test_one_variable_is_one_value() -> None:
    class Square(Rule):
        """x * x = Abs(x)."""

        def pattern(self, op: Pattern, x: Any) -> Any:
            return op.Mul(x, x)

        def rewrite(self, op: Builder, x: Value) -> Value:
            return op.Abs(x)

    g = graph("a = Mul(x, z) y = Mul(a, a)")
    assert apply_rules(g, [Square()]).counts == {"square": 1}
    assert operators(g) == ["Mul", "Abs"]


def test_numbers_attributes_and_optional_inputs() -> None:
    class Half(Rule):
        """0.5 * Clip(Elu(x, alpha = 2), low) = x."""

        def pattern(self, op: Pattern, x: Any, low: Maybe) -> Any:
            return op.Mul(op.Clip(op.Elu(x, alpha=2.0), low), 0.5)

        def rewrite(self, op: Builder, x: Value, low: Value | None) -> Value:
            return op.Relu(x) if low is None else op.Neg(x)

    constants = "float h = {0.5}, float l = {0.1}, float t = {0.7}"
    for body, expected in (
        ("a = Elu <alpha = 2.0> (x) b = Clip(a) y = Mul(b, h)", ["Relu"]),
        ("a = Elu <alpha = 2.0> (x) b = Clip(a, l) y = Mul(h, b)", ["Neg"]),
        ("a = Elu <alpha = 1.0> (x) b = Clip(a, l) y = Mul(h, b)", ["Elu", "Clip", "Mul"]),
        ("a = Elu <alpha = 2.0> (x) b = Clip(a, l) y = Mul(t, b)", ["Elu", "Clip", "Mul"]),
        ("a = Elu <alpha = 2.0> (x) b = Clip(a, l, l) y = Mul(h, b)", ["Elu", "Clip", "Mul"]),
    ):
        g = graph(body, constants=constants)
        apply_rules(g, [Half()])
        assert operators(g) == expected


def test_several_outputs_and_operators() -> None:
    class Halves(Rule):
        """Concat(f(a), f(b)) of the halves of x = f(x), f = Relu or Neg."""

        def pattern(self, op: Pattern, x: Any, sizes: Maybe) -> Any:
            first, second = op.Split(x, sizes, _outputs=2)
            return op.Concat(op(("Relu", "Neg"), first, _name="f"), op(("Relu", "Neg"), second, _name="g"))

        def check(self, f: Node, g: Node) -> None:
            if f.op != g.op:
                raise Refuse("two operators")

        def rewrite(self, op: Builder, x: Value, f: Node) -> Value:
            return op.like(f, x)

    body = "a, b = Split <num_outputs = 2> (x) c = Neg(a) d = Neg(b) y = Concat <axis = 0> (c, d)"
    g = graph(body)
    assert apply_rules(g, [Halves()]).changed
    assert operators(g) == ["Neg"]
    g = graph(body.replace("Neg(b)", "Relu(b)"))
    assert apply_rules(g, [Halves()]).refused == {"halves: two operators": 1}
    g = graph(body.replace("(c, d)", "(d, c)"))
    assert not apply_rules(g, [Halves()]).changed


def test_rules_run_until_nothing_changes() -> None:
    @rule("Neg")
    def neg_to_abs(op: Builder, node: Node) -> Value | None:
        return op.Abs(node.inputs[0])

    @rule("Abs")
    def abs_abs(op: Builder, node: Node) -> Value | None:
        value = node.inputs[0]
        return value if value is not None and value.producer is not None and value.producer.is_op("Abs") else None

    g = graph("a = Abs(x) b = Neg(a) c = Neg(b) y = Neg(c)")
    assert apply_rules(g, [neg_to_abs, abs_abs]).counts == {"neg-to-abs": 3, "abs-abs": 3}
    assert operators(g) == ["Abs"]


def test_rules_without_end_are_stopped() -> None:
    @rule("Neg", "Abs")
    def swap(op: Builder, node: Node) -> Value | None:
        return op.Abs(node.inputs[0]) if node.op == "Neg" else op.Neg(node.inputs[0])

    with pytest.raises(PassError, match=r"do not come to an end.*swap"):
        apply_rules(graph("y = Neg(x)"), [swap])


def test_a_rule_must_keep_the_type() -> None:
    @rule("Neg")
    def flatten(op: Builder, node: Node) -> Value | None:
        return op.Unsqueeze(node.inputs[0], op.constant(np.array([0])))

    with pytest.raises(PassError, match=r"rule flatten would turn 'y' from f32\[2\] into f32\[1, 2\]"):
        apply_rules(graph("y = Neg(x)"), [flatten])


def test_errors_in_a_rule_name_it_and_the_node() -> None:
    @rule("Neg")
    def wrong(op: Builder, node: Node) -> Value | None:
        return op.Concat(node.inputs[0], axis=5)

    with pytest.raises(PassError, match=r"rule wrong at %y = Neg\(%x\)"):
        apply_rules(graph("y = Neg(x)"), [wrong])


def test_refusing_leaves_nothing_behind() -> None:
    @rule("Neg")
    def late(op: Builder, node: Node) -> Value | None:
        op.Relu(op.Abs(node.inputs[0]))
        raise Refuse("changed my mind")

    g = graph("y = Neg(x)")
    assert apply_rules(g, [late]).refused == {"late: changed my mind": 1}
    assert operators(g) == ["Neg"]


def test_a_refused_order_leaves_nothing_behind() -> None:
    class Late(Rule):
        """x + z = Abs(x), but only for the input called z."""

        def pattern(self, op: Pattern, x: Any, z: Any) -> Any:
            return op.Add(x, z)

        def rewrite(self, op: Builder, x: Value) -> Value:
            made = op.Abs(x)
            if x.name != "z":
                raise Refuse("another input")
            return made

    g = graph("y = Add(x, z)")
    assert apply_rules(g, [Late()]).changed
    assert operators(g) == ["Abs"]


def test_match_binds_names() -> None:
    g = graph("a = Relu(x) y = Mul(a, c)", constants="float c = {2}")
    relu, mul = g.nodes
    (bound,) = match(ScaledRelu.root, mul)
    assert bound["relu"] is relu
    assert bound["root"] is mul
    assert bound["x"] is g.inputs[0]


def test_names() -> None:
    assert kebab("FoldBatchNorm") == "fold-batch-norm"
    assert kebab("into_operator_before") == "into-operator-before"
    assert ScaledRelu.name == "scaled-relu"
