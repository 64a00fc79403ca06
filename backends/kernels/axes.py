"""Decisions about the axes of a `Nest`: which merge, where conditions change, which one becomes the vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import tvm
from tvm import tirx
from tvm.tirx import expr as nodes

from onyxc.backends.kernels.expression import (
    COMPARISONS,
    Expr,
    Var,
    affine,
    dtype_of,
    free_vars,
    identity,
    is_guard,
    is_load,
    operands,
    substitute,
    walk,
)
from onyxc.backends.kernels.nest import Nest, Scope, expressions, rewrite


class Accesses:
    """How variables are used: ``strides`` of every buffer access, and the variables used in any other way."""

    def __init__(self, exprs: Sequence[Expr]) -> None:
        self.strides: list[dict[Var, int]] = []
        self.tangled: set[Var] = set()
        seen: set[int] = set()
        for expr in exprs:
            self._visit(expr, seen)

    def _visit(self, expr: Expr, seen: set[int]) -> None:
        if identity(expr) in seen:
            return
        seen.add(identity(expr))
        if isinstance(expr, tirx.Var):
            self.tangled.add(expr)
        elif is_load(expr):
            terms = affine(expr.indices[0])
            self.strides.append(terms.coefficients)
            for term in terms.rest:
                self._visit(term, seen)
        else:
            for part in operands(expr):
                self._visit(part, seen)

    def mergeable(self, outer: Var, inner: Var, extent: int) -> bool:
        """Whether outer and inner may be one axis: every access moves ``extent`` inner steps an outer one."""
        if outer in self.tangled or inner in self.tangled:
            return False
        return all(s.get(outer, 0) == extent * s.get(inner, 0) for s in self.strides)


def collapse(nest: Nest) -> None:
    """Merge adjacent axes that every access walks as one, in place: [512,7,7]*[512,1,1] is 512x49."""
    exprs = expressions(nest)
    accesses = Accesses(exprs)
    accesses.strides.append(dict(zip(nest.scope.axes, nest.steps, strict=True)))
    env: dict[Var, Expr] = {}
    for scope in (nest.scope, *(f.scope for f in nest.folds)):
        at = len(scope.axes) - 2
        while at >= 0:
            outer, inner = scope.axes[at], scope.axes[at + 1]
            tied = any(len({outer, inner} & free_vars(*f.indices)) == 1 for f in nest.folds)
            if accesses.mergeable(outer, inner, scope.extents[at + 1]) and not tied:
                env[outer] = tirx.const(0, "int32")
                scope.extents[at : at + 2] = [scope.extents[at] * scope.extents[at + 1]]
                scope.axes[at : at + 2] = [inner]
                if scope is nest.scope:
                    del nest.steps[at]
            at -= 1
    if env:
        rewrite(nest, env)


def across_rows(nest: Nest, lanes: int, dear: bool) -> None:
    """Let the vector run across rows that are much shorter than one, in place, where there are many of them.

    [4420, 2] with an exponential (``dear``), or a softmax along so few elements: the last two axes change places.
    """
    scope, length = nest.scope, lanes if nest.folds else lanes // 4
    if len(scope.axes) < 2 or scope.extents[-1] > length or scope.extents[-2] < 2 * lanes:
        return
    row, column = scope.axes[-2:]
    for fold in nest.folds:
        depends = free_vars(*fold.indices)
        if row not in depends or column in depends or len(fold.results) > 1:
            return
        if prod(fold.scope.extents) > lanes:
            return
    if nest.folds or dear:
        for values in (scope.axes, scope.extents, nest.steps):
            values[-2:] = reversed(values[-2:])
        nest.short, nest.stash = True, None


def _bounds(coefficients: Mapping[Var, int], ranges: Mapping[Var, int]) -> tuple[int, int] | None:
    low = high = 0
    for var, factor in coefficients.items():
        if var not in ranges:
            return None
        reach = factor * (ranges[var] - 1)
        low, high = low + min(0, reach), high + max(0, reach)
    return low, high


def _cuts_of(comparison: Any, var: Var, ranges: Mapping[Var, int]) -> set[int]:
    """Values of ``var`` from which on ``comparison`` is surely true, or no longer surely false."""
    if dtype_of(comparison.a) != "int32":
        return set()
    terms = affine(comparison.a - comparison.b)
    factor = terms.coefficients.pop(var, 0)
    bounds = _bounds(terms.coefficients, ranges)
    if not factor or terms.rest or bounds is None:
        return set()
    # the comparison asks on which side of ``level`` factor * var + rest lies, rest within bounds
    levels = [0] if isinstance(comparison, nodes.LT | nodes.GE) else [1]
    levels = [0, 1] if isinstance(comparison, nodes.EQ | nodes.NE) else levels
    edges = [level - b - terms.constant for level in levels for b in bounds]
    return {-(-e // factor) if factor > 0 else e // factor + 1 for e in edges}


def cuts(exprs: Sequence[Expr], var: Var, extent: int, ranges: Mapping[Var, int]) -> list[int]:
    """Boundaries 0 = b0 < b1 < ... = extent between which the conditions on ``var`` do not change.

    Padding and Concat guard accesses by conditions on the vector axis, Resize limits its indices; cut there, the inside
    runs as plain vectors. Any cuts are right, these are the useful ones; too many are none.
    """
    found: set[int] = set()
    for expr in exprs:
        for node in walk(expr):
            if is_load(node):
                for part in walk(node.indices[0]):
                    if isinstance(part, nodes.Min | nodes.Max) and free_vars(part) == {var}:
                        found |= _change(part, var, extent)
            if is_guard(node):
                for part in walk(node.args[0]):
                    if isinstance(part, COMPARISONS):
                        found |= _cuts_of(part, var, ranges)
    inside = sorted(c for c in found if 0 < c < extent)
    if len(inside) > 12:
        return [0, extent]
    return [0, *inside, extent]


def _change(limit: Expr, var: Var, extent: int) -> set[int]:
    """Where the other operand of a minimum or maximum becomes its value, if that happens once."""
    analyzer = tvm.sym.Analyzer()

    def first(at: int) -> bool:
        return bool(analyzer.can_prove(substitute(limit.a < limit.b, {var: tirx.const(at, "int32")})))

    low, high = 0, extent - 1
    if first(low) == first(high):
        return set()
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if first(middle) == first(0) else (low, middle)
    return {high}


def friendliness(exprs: Sequence[Expr], var: Var) -> int:
    """How many more accesses are contiguous or constant along ``var`` than are not."""
    accesses = Accesses(exprs)
    score = sum(1 if strides.get(var, 0) in (0, 1) else -2 for strides in accesses.strides)
    return score - 2 * (var in accesses.tangled and gathers(exprs, var))


def transposed(nest: Nest) -> int | None:
    """The axis along which an access is contiguous that strides along the last one; None without such.

    Such an access touches as many cache lines as there are lanes, and the next steps of that axis use the rest
    of those lines: it should be the innermost loop.
    """
    axes = nest.scope.axes
    for strides in Accesses(expressions(nest)).strides:
        if axes and strides.get(axes[-1], 0) not in (0, 1):
            for at, axis in enumerate(axes[:-1]):
                if strides.get(axis, 0) == 1:
                    return at
    return None


def gathers(exprs: Sequence[Expr], var: Var) -> bool:
    """Whether an index depends on ``var`` in a way that is not affine."""
    for expr in exprs:
        for node in walk(expr):
            if is_load(node) and any(var in free_vars(t) for t in affine(node.indices[0]).rest):
                return True
    return False


def safe_everywhere(expr: Expr, ranges: Mapping[Var, int]) -> bool:
    """Whether ``expr`` may be evaluated where its guard does not hold: no stray access, no division by zero."""
    for node in walk(expr):
        if isinstance(node, nodes.Div | nodes.Mod | nodes.FloorDiv | nodes.FloorMod):
            if dtype_of(node).startswith(("int", "uint")) and not isinstance(node.b, nodes.IntImm):
                return False
        elif is_load(node):
            terms = affine(node.indices[0])
            bounds = _bounds(terms.coefficients, ranges)
            size = int(node.source.shape[0])
            if terms.rest or bounds is None or bounds[0] + terms.constant < 0:
                return False
            if bounds[1] + terms.constant >= size:
                return False
    return True


def scope_ranges(*scopes: Scope) -> dict[Var, int]:
    """Extent of every axis of ``scopes``."""
    return {v: n for s in scopes for v, n in zip(s.axes, s.extents, strict=True)}
