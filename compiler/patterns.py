"""Patterns of operators and values, and how they are found in a graph; `rewrite` says how rules write them.

A match is safe to replace: its nodes lie in one graph, and values inside it have no readers outside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onyxc.compiler.ir import facts
from onyxc.compiler.ir.graph import Node, Value
from onyxc.compiler.ir.types import is_float

Bound = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Variable:
    """Any value; the same variable twice means the same value twice."""

    name: str

    def accepts(self, value: Value | None) -> bool:
        """Whether the variable may stand for ``value``."""
        return value is not None


class Constant(Variable):
    """A constant."""

    def accepts(self, value: Value | None) -> bool:
        """Whether it is one."""
        return value is not None and value.const is not None


class Maybe(Variable):
    """A value, or None where an optional input is left out."""

    def accepts(self, value: Value | None) -> bool:
        """Always."""
        return True


@dataclass(frozen=True, eq=False)
class Application:
    """An operator (one of several) on argument patterns."""

    ops: tuple[str, ...]
    domain: str
    arguments: tuple[Any, ...]
    attrs: dict[str, Any]
    name: str
    shared: bool


@dataclass(frozen=True, eq=False)
class Result:
    """Output ``index`` of an application with several outputs."""

    application: Application
    index: int


class Pattern:
    """Builds patterns: ``op.Conv(x, w)``, or ``op(("Relu", "Clip"), x)`` for one of several operators.

    ``_name``: bind the node; ``_outputs``: give that many `Result`; ``_shared``: its outputs may have readers outside
    the match (it is then not erased); ``_domain``.
    """

    def __call__(
        self,
        ops: str | tuple[str, ...],
        *arguments: Any,
        _name: str = "",
        _outputs: int = 1,
        _shared: bool = False,
        _domain: str = "",
        **attrs: Any,
    ) -> Any:
        """A pattern of one node."""
        names = (ops,) if isinstance(ops, str) else ops
        made = Application(names, _domain, arguments, attrs, _name, _shared)
        return made if _outputs == 1 else tuple(Result(made, i) for i in range(_outputs))

    def __getattr__(self, op: str) -> Callable[..., Any]:
        if op.startswith("_"):
            raise AttributeError(op)
        return lambda *arguments, **keywords: self(op, *arguments, **keywords)


Nodes = dict[Application, Node]


# ---- matching


def match(root: Application, node: Node) -> Iterator[Bound]:
    """Ways in which the pattern ``root`` fits ``node``: names to values and nodes."""
    for bound, nodes in _match_node(root, node, {}, {}):
        if _closed(node, nodes):
            yield {**bound, "root": node}


def _match_node(pattern: Application, node: Node, bound: Bound, nodes: Nodes) -> Iterator[tuple[Bound, Nodes]]:
    if pattern in nodes:
        if nodes[pattern] is node:
            yield bound, nodes
        return
    if node.op not in pattern.ops or node.domain != pattern.domain:
        return
    if any(not _equal(node.attrs.get(key), value) for key, value in pattern.attrs.items()):
        return
    count = max(len(pattern.arguments), len(node.inputs))
    arguments = [*pattern.arguments, *[None] * (count - len(pattern.arguments))]
    inputs = [node.input(i) for i in range(count)]
    nodes = {**nodes, pattern: node}
    bound = {**bound, pattern.name: node} if pattern.name else bound
    yield from _match_all(arguments, inputs, bound, nodes)
    if facts.key(node) in facts.COMMUTATIVE and count == 2:
        yield from _match_all(arguments, inputs[::-1], bound, nodes)


def _match_all(
    patterns: Sequence[Any], values: Sequence[Value | None], bound: Bound, nodes: Nodes
) -> Iterator[tuple[Bound, Nodes]]:
    if not patterns:
        yield bound, nodes
        return
    for more in _match_value(patterns[0], values[0], bound, nodes):
        yield from _match_all(patterns[1:], values[1:], *more)


def _match_value(pattern: Any, value: Value | None, bound: Bound, nodes: Nodes) -> Iterator[tuple[Bound, Nodes]]:
    if isinstance(pattern, Variable):
        if pattern.name in bound:
            if bound[pattern.name] is value:
                yield bound, nodes
        elif pattern.accepts(value):
            yield {**bound, pattern.name: value}, nodes
    elif isinstance(pattern, Application | Result):
        index = pattern.index if isinstance(pattern, Result) else 0
        if value is not None and value.producer is not None and value.index == index:
            application = pattern.application if isinstance(pattern, Result) else pattern
            yield from _match_node(application, value.producer, bound, nodes)
    elif pattern is None:
        if value is None:
            yield bound, nodes
    elif value is not None and _filled(value, pattern):
        yield bound, nodes


def _filled(value: Value, number: float) -> bool:
    """Whether a constant's elements all equal ``number``, as exactly as its type can say."""
    if value.const is None or value.const.size == 0 or value.const.dtype == object:
        return False
    data = value.const.astype(np.float64)
    tolerance = {"float16": 1e-3, "bfloat16": 8e-3}.get(value.dtype, 2e-7) if is_float(value.dtype) else 0.0
    return bool(np.all(np.abs(data - number) <= tolerance * abs(number)))


def _equal(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, list):
        wanted = tuple(wanted)
    return bool(found == wanted)


def _closed(root: Node, nodes: Nodes) -> bool:
    """Whether all nodes lie in one graph and only nodes of the match read what is inside it."""
    inside = set(nodes.values())
    for pattern, node in nodes.items():
        if node.graph is not root.graph:
            return False
        if node is root or pattern.shared:
            continue
        if any(user not in inside for value in node.outputs for user, _ in value.uses):
            return False
    return True
