"""Pattern rewriting: rules as small classes, and the engine that applies them until nothing changes.

A rule says what it looks for, when it refuses, and what it puts there:

    class ConvScale(Rule):
        '''Mul(Conv(x, w), c) = Conv(x, w * c).'''

        def pattern(self, op: Pattern, x: Any, w: Constant, c: Constant) -> Any:
            return op.Mul(op.Conv(x, w, _name="conv"), c)

        def check(self, w: Value, c: Value) -> None:
            if c.tensor.elements != 1:
                raise Refuse("the factor is not a scalar")

        def rewrite(self, op: Builder, x: Value, w: Value, c: Value, conv: Node) -> Value:
            return op.like(conv, x, op.constant(w.const * c.const))

The parameters of ``pattern`` stand for values: ``Any`` for any, `Constant` for a constant, `Maybe` for an input that
may be left out. Plain numbers stand for constants whose elements all equal them; keywords are attributes that must be
equal; ``_name`` gives a node a name. ``check`` and ``rewrite`` take those of the bound names that they need, ``root``
among them: the node at the bottom. A rule that looks at one node only is a function under `rule`.

The engine keeps rewriting safe: values inside a match have no readers outside it; nodes of one match lie in one graph;
new nodes go in front of the root; the new type must agree with the old; nodes that nothing reads any more are erased.
"""

from __future__ import annotations

import inspect
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from onyxc.compiler.errors import OnyxcError, PassError
from onyxc.compiler.ir import infer
from onyxc.compiler.ir.graph import Graph, Node, Value
from onyxc.compiler.ir.types import TensorType, Type
from onyxc.compiler.patterns import Application, Bound, Constant, Maybe, Pattern, Variable, match
from onyxc.compiler.transform import Pass, PassResult

__all__ = ["Builder", "Constant", "Maybe", "Pattern", "Refuse", "Rule", "RulePass", "apply_rules", "kebab", "rule"]


class Refuse(Exception):  # noqa: N818 - it reads as a verb: raise Refuse("why")
    """A rule's reason not to rewrite what its pattern found."""


class Builder:
    """Makes nodes in front of ``before``: ``op.Relu(x)`` gives the output, ``op.node("Relu", x)`` the node."""

    def __init__(self, graph: Graph, before: Node | None) -> None:
        self.graph, self.before, self.made = graph, before, list[Node]()

    def node(self, op: str, *inputs: Value | None, outputs: int = 1, domain: str = "", **attrs: Any) -> Node:
        """A new node with default attributes and inferred types."""
        made = infer.add(self.graph, op, inputs, self.before, outputs=outputs, domain=domain, **attrs)
        self.made.append(made)
        return made

    def like(self, node: Node, *inputs: Value | None, **changes: Any) -> Value:
        """The output of ``node``'s operator and attributes, some of them changed, on other inputs."""
        attrs: dict[str, Any] = {**node.attrs, **changes}
        return self.node(node.op, *inputs, outputs=len(node.outputs), domain=node.domain, **attrs).output

    def undo(self) -> None:
        """Erase what was made."""
        while self.made:
            self.graph.erase(self.made.pop())

    def constant(self, array: Any, name: str = "const", dtype: str | None = None) -> Value:
        """A new constant."""
        return self.graph.constant(array, name, dtype)

    def __getattr__(self, op: str) -> Callable[..., Value]:
        if op.startswith("_"):
            raise AttributeError(op)
        return lambda *inputs, **attrs: self.node(op, *inputs, **attrs).output


# ---- rules


def kebab(name: str) -> str:
    """ConvScale or conv_scale -> conv-scale."""
    spaced = "".join(f"-{c}" if c.isupper() and i and not name[i - 1].isupper() else c for i, c in enumerate(name))
    return spaced.strip("_").replace("_", "-").lower()


class Rule:
    """One rewriting; see the module's text. Its name is the class's, in kebab case."""

    name: str = ""
    ops: frozenset[str] = frozenset()  # operators of the root
    root: Application
    pattern: Callable[..., Any]
    check: Callable[..., None]
    rewrite: Callable[..., Value | Sequence[Value]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.name = cls.__dict__.get("name") or kebab(cls.__name__)
        if "pattern" not in cls.__dict__:
            return
        parameters = list(inspect.signature(cls.pattern).parameters.values())[2:]
        kinds = {"Constant": Constant, "Maybe": Maybe}
        made = [kinds.get(str(p.annotation).rpartition(".")[2], Variable)(p.name) for p in parameters]
        root = cls.pattern(object.__new__(cls), Pattern(), *made)
        cls.root = root[0].application if isinstance(root, tuple) else root
        cls.ops = frozenset(cls.root.ops)

    def apply(self, node: Node, op: Builder) -> Sequence[Value] | None:
        """The values that replace ``node``'s outputs; None: the pattern does not fit.

        Raises:
            Refuse: the pattern fits, but the rule does not apply.
        """
        refusal: Refuse | None = None
        for bound in match(self.root, node):
            try:
                if hasattr(self, "check"):
                    _call(self.check, bound)
                made = _call(self.rewrite, {**bound, "op": op})
                return [made] if isinstance(made, Value) else list(made)
            except Refuse as reason:
                op.undo()
                refusal = refusal or reason
        if refusal is not None:
            raise refusal
        return None


class FunctionRule(Rule):
    """A rule on one node, made by `rule`."""

    def __init__(self, name: str, ops: Iterable[str], function: Callable[..., Value | None]) -> None:
        self.name, self.ops, self.function = name, frozenset(ops), function

    def apply(self, node: Node, op: Builder) -> Sequence[Value] | None:
        """The function's answer."""
        made = self.function(op, node) if node.domain == "" else None
        return None if made is None else [made, *node.outputs[1:]]


def rule(*ops: str) -> Callable[[Callable[[Builder, Node], Value | None]], FunctionRule]:
    """Make a rule of a function that gets one node of operators ``ops`` and returns what replaces its first output."""
    return lambda function: FunctionRule(kebab(function.__name__), ops, function)


def _call(method: Callable[..., Any], bound: Bound) -> Any:
    return method(**{name: bound[name] for name in inspect.signature(method).parameters})


# ---- the engine


@dataclass(frozen=True)
class RulePass(Pass):
    """A pass that applies ``rules`` to every node, inner graphs included, until none applies."""

    rules: ClassVar[tuple[Rule, ...]] = ()

    def active(self) -> Iterable[Rule]:
        """The rules to run; subclasses choose by their options."""
        return self.rules

    def run(self, graph: Graph) -> PassResult:
        """Rewrite ``graph`` in place."""
        return apply_rules(graph, self.active())


def apply_rules(graph: Graph, rules: Iterable[Rule]) -> PassResult:
    """Apply ``rules`` (earlier ones first at each node) until nothing changes; hits and refusals are counted.

    Raises:
        PassError: the rules never come to an end.
    """
    by_op: dict[str, list[Rule]] = {}
    for each in rules:
        for name in each.ops:
            by_op.setdefault(name, []).append(each)
    engine = _Engine(by_op, deque(graph.walk()))
    engine.run()
    return PassResult(dict(engine.counts), dict(engine.refused))


class _Engine:
    def __init__(self, rules: dict[str, list[Rule]], work: deque[Node]) -> None:
        self.rules, self.work, self.queued = rules, work, set(work)
        self.counts, self.refused = Counter[str](), Counter[str]()
        self.limit = 1000 + 20 * len(work)

    def run(self) -> None:
        while self.work:
            node = self.work.popleft()
            self.queued.discard(node)
            if node.graph is None or not _attached(node.graph):
                continue
            for each in self.rules.get(node.op, ()):
                if self._try(each, node):
                    self.counts[each.name] += 1
                    break
            if self.counts.total() > self.limit:
                raise PassError(f"the rules do not come to an end; most applied: {self.counts.most_common(3)}")

    def _try(self, each: Rule, node: Node) -> bool:
        op = Builder(node.owner, node)
        try:
            values = each.apply(node, op)
        except Refuse as reason:
            self.refused[f"{each.name}: {reason}"] += 1
            values = None
        except OnyxcError as error:
            raise PassError(f"rule {each.name} at {node!r}: {error}") from error
        if values is None:
            op.undo()
            return False
        self._replace(each, node, values)
        for made in op.made:
            self._push(made)
        return True

    def _replace(self, each: Rule, node: Node, values: Sequence[Value]) -> None:
        graph = node.owner
        for old, new in zip(node.outputs, values, strict=True):
            if old is new:
                if old.uses:
                    raise PassError(f"rule {each.name} keeps {old.name!r} of the node that it replaces: {node!r}")
                continue
            new.type = _joined(each, old, new)
            for user in old.users:
                self._push(user)
            graph.replace_uses(old, new)
        self._erase(node)

    def _erase(self, node: Node) -> None:
        """Erase a node, then whatever nothing reads any more."""
        if node.graph is None or any(v.uses for v in node.outputs):
            self._push(node)
            return
        inputs = [v for v in node.inputs if v is not None]
        node.graph.erase(node)
        for value in inputs:
            if value.producer is not None:
                self._erase(value.producer)
            for user in value.users:
                self._push(user)

    def _push(self, node: Node) -> None:
        if node not in self.queued:
            self.queued.add(node)
            self.work.append(node)


def _attached(graph: Graph) -> bool:
    """Whether the graph is still part of a model (it may have gone with the node that held it)."""
    return graph.parent is None or (graph.parent.graph is not None and _attached(graph.parent.graph))


def _joined(each: Rule, old: Value, new: Value) -> Type:
    """The type that says all that both say."""
    a, b = old.type, new.type
    if isinstance(a, TensorType) and isinstance(b, TensorType):
        clash = a.dtype != b.dtype
        if a.shape is not None and b.shape is not None:
            pairs = list(zip(a.shape, b.shape, strict=False))
            clash |= len(a.shape) != len(b.shape)
            clash |= any(isinstance(x, int) and isinstance(y, int) and x != y for x, y in pairs)
        if clash:
            raise PassError(f"rule {each.name} would turn {old.name!r} from {a} into {b}")
        return b if new.producer is None else infer.merge(b, a)
    return b
