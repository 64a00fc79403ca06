"""The data between a group of TE stages and its loops: scopes, folds, nests, and what all of them ask of tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import tvm
from tvm import te, tirx

from onyxc.backends.kernels.expression import Expr, Var, is_load, substitute, transform
from onyxc.backends.kernels.floats import memory_dtype

Strides = Mapping[tuple[int, int], tuple[int, ...]]  # key of a tensor -> of each axis, where it is not dense


class SplitGroup(Exception):  # noqa: N818 - a request to the caller, not a failure
    """``stage`` (a te.Tensor) has to be materialised before the group can be one loop nest."""

    def __init__(self, stage: Any, reason: str) -> None:
        super().__init__(f"{stage.op.name}: {reason}")
        self.stage = stage


@dataclass(eq=False)
class Scope:
    """A place where values are computed at a point: the body of the nest, or the source of a fold."""

    axes: list[Var]
    extents: list[int]
    bindings: list[tuple[Var, Expr]] = field(default_factory=list)  # in order, to be bound at the point
    bound: list[tuple[Any, list[Expr], Var]] = field(default_factory=list)
    points: int = 1  # how often the scope is evaluated in one run of the nest


@dataclass(eq=False)
class Fold:
    """A reduction at one place: ``results = combine(init, all sources over the scope's axes)``."""

    tensor: Any
    indices: list[Expr]
    results: list[Var]
    scope: Scope
    operands: list[Var]  # of the combiner: left ones, right ones
    identity: list[Expr]
    combined: list[Expr]  # the combiner's results in terms of ``operands``
    sources: list[Expr] = field(default_factory=list)
    init: list[Expr] = field(default_factory=list)


@dataclass(eq=False)
class Stash:
    """A dear value that a fold computes for a whole row and the nest needs again: kept in the output's memory.

    ``stored`` is its name in the fold, ``loaded`` in the nest: exp(x - max) of a softmax.
    """

    stored: Var
    loaded: Var


@dataclass(eq=False)
class Nest:
    """One loop nest: its values at a point of ``scope``, the folds in order, and the flat buffers it touches."""

    outputs: list[Any]
    scope: Scope
    values: list[Expr] = field(default_factory=list)
    folds: list[Fold] = field(default_factory=list)
    stash: Stash | None = None
    short: bool = False  # rows shorter than a vector: the vector axis, the last one, runs across them
    steps: list[int] = field(default_factory=list)  # elements of an output between neighbours along each axis
    buffers: dict[Any, Any] = field(default_factory=dict)  # key of a te.Tensor -> tirx buffer


def key(tensor: Any) -> tuple[int, int]:
    """Identity of a TE tensor, to look it up by (TVM refuses to compare tensors of rank 0)."""
    return hash(tensor.op), int(tensor.value_index)


def shape_of(tensor: Any) -> tuple[int, ...]:
    """The static shape of a TE tensor."""
    return tuple(int(d) for d in tensor.shape)


def steps_of(tensor: Any, strides: Strides) -> tuple[int, ...]:
    """Elements between neighbours along each axis of a tensor in memory."""
    shape = shape_of(tensor)
    return strides.get(key(tensor)) or tuple(prod(shape[i + 1 :]) for i in range(len(shape)))


def flat_buffer(tensor: Any, name: str, steps: Sequence[int]) -> Any:
    """A one-dimensional buffer that holds ``tensor``, from its first element to its last."""
    shape = shape_of(tensor)
    size = 1 + sum((d - 1) * s for d, s in zip(shape, steps, strict=True)) if prod(shape) else 0
    return tirx.decl_buffer((size,), memory_dtype(str(tensor.dtype)), name=name)


def stages(outputs: Sequence[Any], leaves: Sequence[Any] = ()) -> list[Any]:
    """All computed tensors behind ``outputs``, producers first, stopping at ``leaves``."""
    order: list[Any] = []
    seen = {key(t) for t in leaves}

    def visit(tensor: Any) -> None:
        if key(tensor) in seen or not isinstance(tensor.op, te.ComputeOp):
            return
        seen.add(key(tensor))
        for source in tensor.op.input_tensors:
            visit(source)
        order.append(tensor)

    for output in outputs:
        visit(output)
    return order


def expressions(nest: Nest) -> list[Expr]:
    """Every expression of the nest."""
    scopes = [nest.scope, *(f.scope for f in nest.folds)]
    bound = [value for s in scopes for _, value in s.bindings]
    return [*nest.values, *bound, *(e for f in nest.folds for e in (*f.sources, *f.init, *f.indices))]


def rewrite(nest: Nest, env: dict[Var, Expr]) -> None:
    """Substitute variables in every expression of ``nest``, in place, and simplify the indices."""
    analyzer = tvm.sym.Analyzer()

    def change(expr: Expr) -> Expr:
        def visit(node: Expr) -> Expr | None:
            if isinstance(node, tirx.Var):
                return env.get(node)
            if is_load(node):
                return tirx.BufferLoad(node.source, [analyzer.simplify(change(i)) for i in node.indices])
            return None

        return transform(expr, visit)

    nest.values = [change(v) for v in nest.values]
    for scope in (nest.scope, *(f.scope for f in nest.folds)):
        scope.bindings = [(var, change(value)) for var, value in scope.bindings]
    for fold in nest.folds:
        fold.sources, fold.init = [change(s) for s in fold.sources], [change(i) for i in fold.init]
        fold.indices = [analyzer.simplify(substitute(i, env)) for i in fold.indices]
