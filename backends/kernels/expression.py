"""Walking and rebuilding TIR expressions in Python: substitution, free variables, affine indices.

TVM 0.27 exposes no expression mutator for TIR to Python; the handful of node types that kernels are made
of are listed here once, in `operands` and `rebuild`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import tvm
from tvm import tirx
from tvm.ir import Call, Op
from tvm.ir.expr import TensorLoad
from tvm.tirx import expr as nodes

Expr = Any  # tvm.ir.Expr: TVM is untyped
Var = Any  # tirx.Var

BINARY = (
    *(nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.Mod, nodes.FloorDiv, nodes.FloorMod),
    *(nodes.Min, nodes.Max, nodes.EQ, nodes.NE, nodes.LT, nodes.LE, nodes.GT, nodes.GE, nodes.And, nodes.Or),
    *(nodes.BitwiseAnd, nodes.BitwiseOr, nodes.BitwiseXor, nodes.LShift, nodes.RShift),
)
COMPARISONS = (nodes.EQ, nodes.NE, nodes.LT, nodes.LE, nodes.GT, nodes.GE)
WIDENED = ("float16", "bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz")


def dtype_of(expr: Expr) -> str:
    """``float32``, ``int32x16``, ``bool``, ..."""
    return str(expr.ty.dtype)


@lru_cache(maxsize=64)
def operator(name: str) -> Any:
    """The TVM operator called ``name``."""
    return Op.get(name)


def identity(expr: Expr) -> int:
    """What tells nodes apart while they live; hash and == of constants go by value, whatever their dtype."""
    return int(expr.__chandle__())


def is_call(expr: Expr, *names: str) -> bool:
    """Whether ``expr`` calls one of the operators ``names`` (``te.tensor_load``, ``prim.if_then_else``, ...)."""
    return isinstance(expr, Call) and isinstance(expr.op, Op) and expr.op.name in names


def is_load(expr: Expr) -> bool:
    """Whether ``expr`` reads a buffer."""
    return isinstance(expr, TensorLoad)


def is_guard(expr: Expr) -> bool:
    """Whether ``expr`` is the lazy conditional, whose branches may be invalid where they are not taken."""
    return is_call(expr, "prim.if_then_else", "tirx.if_then_else")


def guard(condition: Expr, then: Expr, otherwise: Expr) -> Expr:
    """The lazy conditional."""
    return tirx.if_then_else(condition, then, otherwise)


def operands(expr: Expr) -> Sequence[Expr]:
    """The direct subexpressions that `rebuild` takes back in the same order."""
    if isinstance(expr, BINARY):
        return (expr.a, expr.b)
    if isinstance(expr, nodes.Not | nodes.BitwiseNot):
        return (expr.a,)
    if isinstance(expr, nodes.Cast):
        return (expr.value,)
    if isinstance(expr, nodes.Select):
        return (expr.condition, expr.true_value, expr.false_value)
    if isinstance(expr, nodes.Let):
        return (expr.value, expr.body)
    if isinstance(expr, nodes.Ramp):
        return (expr.base, expr.stride)
    if isinstance(expr, nodes.Broadcast):
        return (expr.value,)
    if is_load(expr):
        return tuple(expr.indices)
    if isinstance(expr, Call):
        return tuple(a for a in expr.args if not isinstance(a, tvm.te.Tensor))
    return ()


def rebuild(expr: Expr, parts: Sequence[Expr]) -> Expr:
    """``expr`` with its `operands` replaced."""
    if isinstance(expr, nodes.Cast):
        return nodes.Cast(expr.ty, parts[0])
    if isinstance(expr, nodes.Let):
        return nodes.Let(expr.var, *parts)
    if isinstance(expr, nodes.Ramp | nodes.Broadcast):
        return type(expr)(*parts, expr.lanes)
    if is_load(expr):
        return tirx.BufferLoad(expr.source, list(parts))
    if isinstance(expr, Call):
        rest = iter(parts)
        args = [a if isinstance(a, tvm.te.Tensor) else next(rest) for a in expr.args]
        if is_guard(expr):
            return guard(*args)
        # a function of narrow floats is one of float32 once its arguments are
        widened = dtype_of(expr) in WIDENED and any(dtype_of(p) == "float32" for p in parts)
        return Call(expr.op, args, attrs=expr.attrs, ret_ty=tvm.ir.PrimType("float32") if widened else expr.ty)
    return type(expr)(*parts)


def walk(expr: Expr) -> Iterator[Expr]:
    """All nodes of the expression, each shared one once."""
    stack, seen = [expr], set[int]()
    while stack:
        node = stack.pop()
        if identity(node) in seen:
            continue
        seen.add(identity(node))
        yield node
        stack += reversed(operands(node))


def occurrences(expr: Expr) -> Iterator[Expr]:
    """All nodes of the expression as a tree: shared ones as often as they occur."""
    yield expr
    for part in operands(expr):
        yield from occurrences(part)


def multiplicities(expr: Expr) -> list[tuple[Expr, int]]:
    """Every node once, with how often it occurs in the expression as a tree.

    TVM's passes and LLVM's input see the tree, in which nodes that Python code shares occur again and again.
    """
    order: list[Expr] = []  # children before parents
    seen: set[int] = set()

    def visit(node: Expr) -> None:
        if identity(node) not in seen:
            seen.add(identity(node))
            for part in operands(node):
                visit(part)
            order.append(node)

    visit(expr)
    times = dict.fromkeys(map(identity, order), 0)
    times[identity(expr)] = 1
    for node in reversed(order):
        for part in operands(node):
            times[identity(part)] += times[identity(node)]
    return [(node, times[identity(node)]) for node in order]


def free_vars(*exprs: Expr) -> set[Var]:
    """The variables read by ``exprs`` and not bound inside."""
    found: set[Var] = set()
    for expr in exprs:
        bound = {n.var for n in walk(expr) if isinstance(n, nodes.Let)}
        found |= {n for n in walk(expr) if isinstance(n, tirx.Var)} - bound
    return found


def transform(expr: Expr, visit: Callable[[Expr], Expr | None]) -> Expr:
    """Rebuild ``expr`` top down: where ``visit`` answers, its answer replaces the node and is not entered.

    A Let that is entered gets a variable of its own: two versions of one expression may meet in a function.
    """
    memo: dict[int, tuple[Expr, Expr]] = {}  # with the old node, to keep its identity taken
    fresh: dict[Var, Var] = {}  # of the Lets around the node

    def go(node: Expr) -> Expr:
        known = memo.get(identity(node))
        if known is not None:
            return known[1]
        made = fresh.get(node) if isinstance(node, tirx.Var) else None
        if made is None:
            made = visit(node)
        if made is None and isinstance(node, nodes.Let):
            fresh[node.var] = tirx.Var(node.var.name, dtype_of(node.var))
            made = nodes.Let(fresh[node.var], go(node.value), go(node.body))
        if made is None:
            old = operands(node)
            new = [go(o) for o in old]
            same = all(a is b or a.same_as(b) for a, b in zip(old, new, strict=True))
            made = node if same else rebuild(node, new)
        memo[identity(node)] = (node, made)
        return made

    return go(expr)


def substitute(expr: Expr, env: Mapping[Var, Expr]) -> Expr:
    """``expr`` with variables replaced."""
    return transform(expr, lambda node: env.get(node) if isinstance(node, tirx.Var) else None)


def narrow(index: Expr) -> Expr:
    """An index computed in int32: kernels address less than 2^31 elements, and 64-bit division is slow."""

    def visit(node: Expr) -> Expr | None:
        kind = dtype_of(node)
        if kind == "int32":
            return node
        if isinstance(node, nodes.IntImm) and kind != "bool":
            return tirx.const(max(-(2**31), min(2**31 - 1, int(node.value))), "int32")
        if isinstance(node, nodes.Cast) and dtype_of(node.value).startswith(("int", "uint")):
            return go(node.value)
        if is_load(node) or isinstance(node, nodes.Cast | Call | tirx.Var | nodes.Let):
            if is_guard(node):
                condition, then, otherwise = node.args
                return guard(condition, go(then), go(otherwise))
            return nodes.Cast("int32", node)
        if isinstance(node, nodes.Select):
            return nodes.Select(node.condition, go(node.true_value), go(node.false_value))
        return None

    def go(expr: Expr) -> Expr:
        return transform(expr, visit)

    return go(index)


@dataclass
class Affine:
    """``sum(coefficient * var) + constant + sum(rest)``."""

    coefficients: dict[Var, int] = field(default_factory=dict)
    constant: int = 0
    rest: list[Expr] = field(default_factory=list)  # terms that are not affine


def affine(expr: Expr) -> Affine:
    """Take an integer expression apart into its affine and its other terms."""
    made = Affine()

    def add(node: Expr, factor: int) -> None:
        if isinstance(node, nodes.IntImm):
            made.constant += factor * int(node.value)
        elif isinstance(node, tirx.Var):
            made.coefficients[node] = made.coefficients.get(node, 0) + factor
        elif isinstance(node, nodes.Add | nodes.Sub):
            add(node.a, factor)
            add(node.b, factor if isinstance(node, nodes.Add) else -factor)
        elif isinstance(node, nodes.Mul) and isinstance(node.b, nodes.IntImm):
            add(node.a, factor * int(node.b.value))
        elif isinstance(node, nodes.Mul) and isinstance(node.a, nodes.IntImm):
            add(node.b, factor * int(node.a.value))
        else:
            made.rest.append(node)

    add(expr, 1)
    return made
