"""Reductions along axes, and ArgMax / ArgMin. 16-bit floats are summed in float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from tvm import te, tirx

from onyxc.backends.lowering.registry import axes, lowers, parameter
from onyxc.backends.lowering.scalar import (
    absolute,
    attr,
    cast,
    element,
    highest,
    is_floating,
    like,
    lowest,
    select,
    wide,
)
from onyxc.backends.lowering.tensors import Inputs, at, compute, filled, needed, shape_of
from onyxc.compiler.ir.graph import Node

Expr = Any
FEW = 16  # elements, of the longest vector


def total(source: Expr, axis: Any) -> Expr:
    """The sum over ``axis``."""
    return te.sum(source, axis=axis)


LARGEST = te.comm_reducer(lambda a, b: tirx.max(a, b), lowest, name="max")
SMALLEST = te.comm_reducer(lambda a, b: tirx.min(a, b), highest, name="min")
PRODUCT = te.comm_reducer(lambda a, b: a * b, lambda dtype: tirx.const(1, dtype), name="product")


def fold(
    x: Any,
    along: Sequence[int],
    combine: Callable[..., Expr],
    source: Callable[[Expr, tuple[Expr, ...]], Expr] = lambda value, _: value,
    keep: bool = True,
    name: str = "fold",
) -> Any:
    """``combine`` over the axes ``along`` of ``source(element, index)``; kept axes have extent 1."""
    old = shape_of(x)
    inner = _inner(old, along)
    if inner:
        first = fold(x, [a for a in along if a not in inner], combine, source, name=f"{name}_outer")
        return fold(first, [*along], combine, keep=keep, name=name)
    reduced = {a: te.reduce_axis((0, old[a]), f"r{a}") for a in sorted(along)}
    shape = [1 if a in reduced else d for a, d in enumerate(old) if keep or a not in reduced]

    def value(*index: Expr) -> Expr:
        rest = iter(index)
        full = []
        for a in range(len(old)):
            if a in reduced:
                full.append(reduced[a].var)
                if keep:
                    next(rest)
            else:
                full.append(next(rest))
        return combine(source(at(x, full), tuple(full)), axis=list(reduced.values()))

    return compute(shape, value, name)


def _inner(shape: Sequence[int], along: Sequence[int]) -> list[int]:
    """The last axes, if they are better reduced by themselves: few elements behind an axis that stays.

    [N, H, W, groups, channels] along H, W and channels: along H and W whole vectors of groups and channels are summed.
    """
    start = len(shape)
    while start and (start - 1 in along or shape[start - 1] == 1):
        start -= 1
    inner = [a for a in range(start, len(shape)) if a in along]
    outer = [a for a in along if a < start]
    few = 1 < prod(shape[a] for a in inner) < FEW
    return inner if few and prod(shape[a] for a in outer) > 1 else []


@dataclass(frozen=True)
class Rule:
    """``after(combine(before(x)))``; ``empty``: the result over no elements; ``real``: integers become float64."""

    combine: Callable[..., Expr]
    before: Callable[[Expr], Expr] = lambda x: x
    after: Callable[[Expr, int], Expr] = lambda x, count: x
    empty: float = 0.0
    real: bool = False


def _mean(value: Expr, count: int) -> Expr:
    return value / like(value, count) if is_floating(value) else tirx.truncdiv(value, like(value, count))


RULES: dict[str, Rule] = {
    "ReduceSum": Rule(te.sum),
    "ReduceMean": Rule(te.sum, after=_mean, empty=float("nan")),
    "ReduceMax": Rule(LARGEST, empty=float("-inf")),
    "ReduceMin": Rule(SMALLEST, empty=float("inf")),
    "ReduceProd": Rule(PRODUCT, empty=1.0),
    "ReduceL1": Rule(te.sum, before=absolute),
    "ReduceL2": Rule(te.sum, before=lambda x: x * x, after=lambda x, _: tirx.sqrt(x), real=True),
    "ReduceSumSquare": Rule(te.sum, before=lambda x: x * x),
    "ReduceLogSum": Rule(te.sum, after=lambda x, _: tirx.log(x), empty=float("-inf"), real=True),
    "ReduceLogSumExp": Rule(te.sum, empty=float("-inf"), real=True),
}


def reduced_axes(node: Node, rank: int) -> tuple[int, ...] | None:
    """The axes to reduce; None: nothing is reduced."""
    given = parameter(node, 1, "axes")
    if given is None or not given.size:
        return None if attr(node, "noop_with_empty_axes") else tuple(range(rank))
    return axes(given, rank)


@lowers(*RULES)
def reduce(node: Node, inputs: Inputs) -> list[Any]:
    """Any of `RULES` along constant axes."""
    x, rule, kind = needed(node, inputs), RULES[node.op], node.output.dtype
    shape = shape_of(x)
    along = reduced_axes(node, len(shape))
    if along is None:
        rule, along = Rule(rule.combine, rule.before, rule.after, rule.empty, rule.real), ()
    count = prod(shape[a] for a in along)
    if not count:
        return [filled(node.output.dims, _empty(rule.empty, kind), kind, "empty")]
    x = _prepared(x, rule)
    if node.op == "ReduceLogSumExp":
        return [_log_sum_exp(x, along, node.output.dims, kind)]
    if not along:
        return [compute(shape, lambda *i: _finish(rule.after(rule.before(at(x, i)), 1), kind), node.op.lower())]
    keep = bool(attr(node, "keepdims", 1))
    folded = fold(x, along, rule.combine, lambda v, _: rule.before(v), keep, node.op.lower())
    return [compute(node.output.dims, lambda *i: _finish(rule.after(at(folded, i), count), kind), "reduced")]


def _prepared(x: Any, rule: Rule) -> Any:
    """``x`` in the type in which it is reduced."""
    kind = str(x.dtype)

    def value(v: Expr) -> Expr:
        v = wide(v)
        if element(v) == "bool":
            return cast(v, "uint8")
        return cast(v, "float64") if rule.real and not is_floating(v) else v

    if kind in ("float32", "float64") or (not rule.real and kind not in ("float16", "bfloat16", "bool")):
        return x
    return compute(shape_of(x), lambda *i: value(at(x, i)), "wide")


def _finish(value: Expr, kind: str) -> Expr:
    return tirx.NE(value, like(value, 0)) if kind == "bool" else cast(value, kind)


def _empty(value: float, kind: str) -> float | int | bool:
    if kind == "bool":
        return value > 0
    if kind.startswith(("float", "bfloat")):
        return value
    limits = np.iinfo(kind)
    return int(limits.min if value == float("-inf") else limits.max if value == float("inf") else np.nan_to_num(value))


def _log_sum_exp(x: Any, along: Sequence[int], shape: Sequence[int], kind: str) -> Any:
    """log(sum(exp(x))) with the largest element taken out first."""
    if not along:
        return compute(shape, lambda *i: cast(at(x, i), kind), "log_sum_exp")
    peak = fold(x, along, LARGEST, name="peak")

    def finite(index: Sequence[Expr]) -> Expr:
        value = at(peak, [0 if a in along else v for a, v in enumerate(index)])
        return select(tirx.abs(value) < like(value, float("inf")), value, like(value, 0))

    powers = fold(x, along, te.sum, lambda v, index: tirx.exp(v - finite(index)), name="powers")
    kept = shape_of(powers)

    def element_(*index: Expr) -> Expr:
        full = list(index) if len(index) == len(kept) else _spread(index, along, len(kept))
        return cast(tirx.log(at(powers, full)) + finite(full), kind)

    return compute(shape, element_, "log_sum_exp")


def _spread(index: Sequence[Expr], along: Sequence[int], rank: int) -> list[Expr]:
    rest = iter(index)
    return [tirx.const(0, "int32") if a in along else next(rest) for a in range(rank)]


def arg_reducer(largest: bool, last: bool) -> Any:
    """A reducer of (index, value) pairs; among equal values the first, or the last, index."""

    def combine(left: Any, right: Any) -> tuple[Expr, Expr]:
        better = left[1] > right[1] if largest else left[1] < right[1]
        order = left[0] > right[0] if last else left[0] < right[0]
        keep = tirx.Or(better, tirx.And(tirx.EQ(left[1], right[1]), order))
        return tirx.Select(keep, left[0], right[0]), tirx.Select(keep, left[1], right[1])

    def identity(index: str, value: str) -> tuple[Expr, Expr]:
        worst = tirx.min_value(value) if largest else tirx.max_value(value)
        if value.startswith("float"):
            worst = tirx.const(float("-inf") if largest else float("inf"), value)
        return tirx.const(-1 if last else 2**31 - 1, index), worst

    return te.comm_reducer(combine, identity, name="arg")


@lowers("ArgMax", "ArgMin")
def arg(node: Node, inputs: Inputs) -> list[Any]:
    """The index of the largest (smallest) element along one axis."""
    x = needed(node, inputs)
    old = shape_of(x)
    (axis,) = axes(attr(node, "axis", 0), len(old))
    r = te.reduce_axis((0, old[axis]), "r")
    reducer = arg_reducer(node.op == "ArgMax", bool(attr(node, "select_last_index")))
    kept = [d for a, d in enumerate(old) if a != axis]

    def pair(*index: Expr) -> Any:
        return reducer((r.var, wide(at(x, [*index[:axis], r.var, *index[axis:]]))), axis=r)

    found = te.compute(tuple(kept), lambda *i: pair(*i), name="arg")[0]
    keep = bool(attr(node, "keepdims", 1))

    def element_(*index: Expr) -> Expr:
        where = at(found, [*index[:axis], *index[axis + 1 :]] if keep else index)
        return cast(tirx.min(tirx.max(where, 0), old[axis] - 1), "int64")

    return [compute(node.output.dims, element_, node.op.lower())]
