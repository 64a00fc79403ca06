"""What the rules of this folder ask of arithmetic: numbers, factors, polynomials, means."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

import numpy as np

from onyxc.compiler.ir.graph import Node, Value
from onyxc.compiler.ir.types import is_float

TOLERANCE = 1e-6  # relative, of the constants in a form


def near(found: float, wanted: float) -> bool:
    """Whether two numbers agree, as far as float32 constants tell."""
    return abs(found - wanted) <= TOLERANCE * max(abs(wanted), 1e-3)


def number(value: Value | None) -> float | None:
    """The number that a constant is, whatever its shape; None when its elements differ or it is no float constant."""
    if value is None or value.const is None or not is_float(value.dtype) or not value.const.size:
        return None
    first = float(value.const.reshape(-1)[0])
    return first if value.const.size == 1 or bool(np.all(value.const == value.const.reshape(-1)[0])) else None


def made_by(value: Value | None, *ops: str) -> Node | None:
    """The node of one of the operators ``ops`` that makes the value."""
    node = None if value is None else value.producer
    return node if node is not None and node.is_op(*ops) else None


def pair(node: Node) -> tuple[tuple[Value, Value], tuple[Value, Value]]:
    """The operands of a commutative node, in both orders."""
    a, b = node.operand(0), node.operand(1)
    return (a, b), (b, a)


def plus(value: Value | None, wanted: float) -> Value | None:
    """x of x + wanted."""
    node = made_by(value, "Add")
    for a, b in pair(node) if node is not None else ():
        found = number(b)
        if found is not None and near(found, wanted):
            return a
    return None


def times(value: Value) -> tuple[float, Value]:
    """(c, x) with c * x equal to the value."""
    node = made_by(value, "Mul", "Div", "Neg")
    if node is not None:
        if node.op == "Neg" and node.inputs[0] is not None:
            factor, rest = times(node.inputs[0])
            return -factor, rest
        for a, b in pair(node) if node.op == "Mul" else pair(node)[:1]:
            found = number(b)
            if found is not None and (node.op == "Mul" or found):
                factor, rest = times(a)
                return factor * (found if node.op == "Mul" else 1 / found), rest
    return 1.0, value


@dataclass
class Product:
    """scale * product(factors)."""

    scale: float = 1.0
    factors: list[Value] = field(default_factory=list)


def product(node: Node) -> Product:
    """The factors of a tree of Mul (and Div by numbers): inner products that only the tree reads are taken apart."""
    made = Product()

    def add(value: Value, inner: bool) -> None:
        known = number(value)
        source = made_by(value, "Mul", "Div")
        if known is not None:
            made.scale *= known
        elif source is not None and (not inner or value.only_user is not None):
            a, b = pair(source)[0]
            divisor = number(b) if source.op == "Div" else None
            if source.op == "Mul":
                add(a, True)
                add(b, True)
            elif divisor:
                made.scale /= divisor
                add(a, True)
            else:
                made.factors.append(value)
        else:
            made.factors.append(value)

    add(node.output, False)
    return made


Polynomial = dict[int, float]  # power -> coefficient


def polynomial(value: Value, x: Value, depth: int = 8) -> Polynomial | None:
    """``value`` as a polynomial in ``x``, None when it is not one."""
    known = number(value)
    if value is x:
        return {1: 1.0}
    if known is not None:
        return {0: known}
    node = made_by(value, "Add", "Sub", "Mul", "Div", "Pow", "Neg")
    if node is None or depth == 0:
        return None
    parts = [polynomial(v, x, depth - 1) for v in node.inputs if v is not None]
    if any(p is None for p in parts):
        return None
    a, *rest = (p for p in parts if p is not None)
    if node.op == "Neg":
        return {n: -c for n, c in a.items()}
    (b,) = rest
    if node.op in ("Add", "Sub"):
        sign = 1 if node.op == "Add" else -1
        return {n: a.get(n, 0) + sign * b.get(n, 0) for n in a.keys() | b.keys()}
    if node.op == "Mul":
        return _multiplied(a, b)
    if b.keys() != {0}:
        return None
    if node.op == "Div":
        return {n: c / b[0] for n, c in a.items()} if b[0] else None
    if b[0] not in (1, 2, 3):
        return None
    power = a
    for _ in range(int(b[0]) - 1):
        power = _multiplied(power, a)
    return power


def _multiplied(a: Polynomial, b: Polynomial) -> Polynomial:
    made: Polynomial = {}
    for n, c in a.items():
        for m, d in b.items():
            made[n + m] = made.get(n + m, 0) + c * d
    return made


def same_polynomial(found: Polynomial | None, wanted: Polynomial) -> bool:
    """Whether all coefficients agree."""
    if found is None:
        return False
    return all(near(found.get(n, 0), wanted.get(n, 0)) for n in found.keys() | wanted.keys())


# ---- means over axes


def through_reshape(value: Value | None) -> Value | None:
    """What a value is a reshaped form of."""
    node = made_by(value, "Reshape", "Unsqueeze", "Squeeze")
    return value if node is None else through_reshape(node.inputs[0])


def mean(value: Value | None, loose: bool = False) -> tuple[Value, tuple[int, ...]] | None:
    """(x, axes) of the mean of x, be it a ReduceMean or a sum over a count; ``loose``: the axes may be gone."""
    bare = through_reshape(value)
    if bare is None or value is None:
        return None
    factor, source = times(bare)
    node = made_by(source, "ReduceMean", "ReduceSum")
    x = node.inputs[0] if node is not None else None
    found = reduced(node, value, loose) if node is not None else None
    if node is None or x is None or x.tensor.shape is None or found is None:
        return None
    if node.op == "ReduceMean":
        return (x, found) if factor == 1 else None
    sizes = [d for a in found if isinstance(d := x.tensor.shape[a], int) and d]
    whole = len(sizes) == len(found) and near(factor * prod(sizes), 1.0)
    return (x, found) if whole else None


def reduced(node: Node, value: Value | None = None, loose: bool = False) -> tuple[int, ...] | None:
    """The axes of a reduction with constant axes whose result (or ``value``, a reshaped form of it) keeps them."""
    x, axes = node.inputs[0], node.const(1)
    shape = x.tensor.shape if x is not None else None
    result = (value or node.output).tensor.shape
    if shape is None or result is None or (node.input(1) is not None and axes is None):
        return None
    if axes is None or not axes.size:
        if node.attrs.get("noop_with_empty_axes"):
            return None
        axes = np.arange(len(shape))
    found = tuple(sorted(int(a) % len(shape) for a in np.atleast_1d(axes)))
    kept = tuple(1 if a in found else d for a, d in enumerate(shape))
    gone = tuple(d for a, d in enumerate(shape) if a not in found)
    return found if result == kept or (loose and result == gone) else None
