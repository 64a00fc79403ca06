"""The stable text form: golden tests compare it and ``onyxc show`` prints it.

    graph g(%x: f32[2, 3]) {
      @b: f32[3] = 9f86d081
      %0 = Add(%x, @b) : f32[2, 3]
      return %0
    }

Inner values are numbered in order; inputs keep their names; small constants show their numbers, big ones a
short digest. Attributes are sorted. Nothing depends on addresses or on the order of hashing.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from onyxc.compiler.ir.graph import Attribute, Graph, Node, Value

SMALL = 8  # constants of at most this many elements are printed in full


def digest(array: np.ndarray[Any, Any]) -> str:
    """Eight hexadecimal digits of the SHA-256 of an array's bytes (of its text, for strings)."""
    data = repr(array.tolist()).encode() if array.dtype == object else np.ascontiguousarray(array).tobytes()
    return hashlib.sha256(data).hexdigest()[:8]


def format_array(array: np.ndarray[Any, Any]) -> str:
    """The numbers of a small array, the digest of a big one."""
    if array.size > SMALL:
        return digest(array)
    plain = array if array.dtype == object or array.dtype.kind in "biufcUS" else array.astype(np.float32)
    return repr(plain.tolist())


class _Names:
    """Short names of values, given in the order of printing."""

    def __init__(self, origin: bool = False) -> None:
        self.given: dict[Value, str] = {}
        self.origin, self.counts = origin, {"%": 0, "@": 0}

    def __call__(self, value: Value | None) -> str:
        if value is None:
            return "_"
        if value not in self.given:
            sign = "@" if value.const is not None else "%"
            self.given[value] = f"{sign}{value.name if self.origin else self.counts[sign]}"
            self.counts[sign] += 1
        return self.given[value]

    def input(self, value: Value) -> str:
        self.given[value] = f"%{value.name}"
        return self.given[value]


def format_graph(graph: Graph, *, names: bool = False) -> str:
    """The text of a graph; ``names``: show the model's own names instead of numbers."""
    return "\n".join(_graph_lines(graph, _Names(names), f"graph {graph.name}")) + "\n"


def format_node(node: Node) -> str:
    """One node, values by their own names."""
    return "\n".join(_node_lines(node, _Names(origin=True)))


def _graph_lines(graph: Graph, names: _Names, head: str) -> list[str]:
    inputs = ", ".join(f"{names.input(v)}: {v.type}" for v in graph.inputs)
    lines = [f"{head}({inputs}) {{"]
    for value in graph.constants():
        known = value in names.given
        if not known:
            facts = "".join(f" {k}" for k in sorted(value.facts))
            lines.append(f"  {names(value)}: {value.type} = {format_array(value.array)}{facts}")
    for node in graph:
        lines += ["  " + line for line in _node_lines(node, names)]
    lines += [f"  return {', '.join(names(v) for v in graph.outputs)}", "}"]
    return lines


def _node_lines(node: Node, names: _Names) -> list[str]:
    arguments = ", ".join(names(v) for v in node.inputs)
    plain = {k: v for k, v in sorted(node.attrs.items()) if not isinstance(v, Graph)}
    attrs = f" {{{', '.join(f'{k}={_format_attribute(v)}' for k, v in plain.items())}}}" if plain else ""
    op = f"{node.domain}.{node.op}" if node.domain else node.op
    inner: list[str] = []
    for key, value in sorted(node.attrs.items()):
        if isinstance(value, Graph):
            inner += ["  " + line for line in _graph_lines(value, names, key)]
    results = ", ".join(names(v) for v in node.outputs)
    types = ", ".join(str(v.type) for v in node.outputs)
    return [f"{results} = {op}({arguments}){attrs} : {types}", *inner]


def _format_attribute(value: Attribute) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype.name}{list(value.shape)}={format_array(value)}"
    if isinstance(value, tuple):
        return f"[{', '.join(_format_attribute(v) for v in value)}]"
    if isinstance(value, float):
        return repr(float(np.float32(value))) if value == value else "nan"
    return repr(value) if isinstance(value, str | bytes) else str(value)
