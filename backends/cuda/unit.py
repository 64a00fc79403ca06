"""One kernel's share of a group as TE over placeholders: what it reads, with everything between inlined.

    unit = Unit(memory)                     tensors in ``memory`` become placeholders at first use
    (y,) = unit.results(stage, sums)        the stage's results over one flat axis, a thread's element each

Axes of the group appear as quotients and remainders of the flat axis inside expressions only: as bindings of
blocks TVM rewrites them into forms that its schedule primitives do not recognise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import tvm_ffi
from tvm import te, tirx
from tvm.tirx import expr as nodes

from onyxc.backends.cuda.stages import Key, Stage, key
from onyxc.backends.kernels.expression import Expr, Var, dtype_of, is_call, transform

Readers = dict[Key, list[tuple[Stage, list[tuple[Expr, ...]]]]]


@dataclass(frozen=True)
class Sum:
    """A reduction that its only reader computes for itself, at ``place`` (in the reader's axes)."""

    stage: Stage
    reader: Stage
    place: tuple[Expr, ...]


@dataclass(eq=False)
class Unit:
    """Expands expressions of the group. ``local``: what replaces every load of a tensor, by `key`."""

    memory: Mapping[Key, Any]
    local: dict[Key, Expr] = field(default_factory=dict)
    reads: dict[Key, Any] = field(default_factory=dict)  # placeholder of each tensor read
    loads: dict[Key, list[tuple[Expr, ...]]] = field(default_factory=dict)  # and where it is read

    def expand(self, expr: Expr, env: Mapping[Var, Expr]) -> Expr:
        """``expr`` with its variables replaced, over placeholders alone."""

        def visit(node: Expr) -> Expr | None:
            if isinstance(node, tirx.Var):
                return env.get(node)
            if not is_call(node, "te.tensor_load"):
                return None
            tensor = node.args[0]
            if key(tensor) in self.local:
                return self.local[key(tensor)]
            indices = tuple(self.expand(i, env) for i in node.args[1:])
            if key(tensor) in self.memory:
                self.loads.setdefault(key(tensor), []).append(indices)
                return self._placeholder(tensor)(*indices)
            body = tensor.op.body[int(tensor.value_index)]
            return self.expand(body, axes_env(tensor.op.axis, indices))

        return transform(expr, visit)

    def trace(self, stage: Stage) -> dict[Key, list[tuple[Expr, ...]]]:
        """What the stage reads, and where, in its own axes."""
        body = stage.op.body[0]
        for source in (*body.source, body.condition, *body.init) if stage.is_reduction else [body]:
            self.expand(source, {})
        return self.loads

    def results(self, stage: Stage, sums: Sequence[Sum] = ()) -> list[Any]:
        """The results of ``stage`` over one flat axis; those of ``sums`` are computed beside them."""

        def beside(total: Sum) -> Callable[[Expr], dict[Var, Expr]]:
            return lambda i: self._at(total.place, unflat(stage.op.axis, i), total.stage)

        made = [(s.stage, self.reduction(s.stage, (stage.size,), beside(s))) for s in sums]

        def element(index: Expr) -> Expr:
            for reduction, tensors in made:
                self.local.update({key(t): m[index] for t, m in zip(reduction.tensors, tensors, strict=True)})
            return self.expand(stage.op.body[0], unflat(stage.op.axis, index))

        if stage.is_reduction:
            return self.reduction(stage, (stage.size,), lambda i: unflat(stage.op.axis, i))
        return [te.compute((stage.size,), element, name=str(stage.op.name))]

    def reduction(
        self,
        stage: Stage,
        shape: Sequence[int],
        axes: Callable[..., dict[Var, Expr]],
        before: Callable[..., None] = lambda *_: None,
    ) -> list[Any]:
        """``stage`` over other axes of ``shape``; ``axes`` gives what its own are there. ``before`` sets `local`."""
        body = stage.op.body[0]

        def element(*index: Expr) -> Any:
            before(*index)
            env = axes(*index)
            sources = tvm_ffi.Array([self.expand(s, env) for s in body.source])  # one object: te compares by it
            init = tvm_ffi.Array([self.expand(i, env) for i in body.init])
            rest = (sources, body.axis, self.expand(body.condition, env))
            parts = [nodes.Reduce(body.combiner, *rest, i, init) for i in range(len(sources))]
            return parts if len(parts) > 1 else parts[0]

        made = te.compute(shape, element, name=str(stage.op.name))
        return list(made) if isinstance(made, Sequence) else [made]

    def _at(self, place: Sequence[Expr], env: Mapping[Var, Expr], stage: Stage) -> dict[Var, Expr]:
        return axes_env(stage.op.axis, [self.expand(p, env) for p in place])

    def _placeholder(self, tensor: Any) -> Any:
        if key(tensor) not in self.reads:
            shape = [int(d) for d in tensor.shape]
            self.reads[key(tensor)] = te.placeholder(shape, str(tensor.dtype), name=str(tensor.op.name))
        return self.reads[key(tensor)]


def readers_of(stages: Sequence[Stage], memory: Mapping[Key, Any]) -> Readers:
    """Which of ``stages`` read each tensor, and where, in the reader's axes."""
    readers: Readers = {}
    for stage in stages:
        for tensor, places in Unit(memory).trace(stage).items():
            readers.setdefault(tensor, []).append((stage, places))
    return readers


def axes_env(axes: Sequence[Any], indices: Sequence[Expr]) -> dict[Var, Expr]:
    """The environment in which the axes have the values ``indices``."""
    return {
        a.var: i if dtype_of(i) == dtype_of(a.var) else nodes.Cast(dtype_of(a.var), i)
        for a, i in zip(axes, indices, strict=True)
    }


def unflat(axes: Sequence[Any], flat: Expr) -> dict[Var, Expr]:
    """The environment in which the axes together, row-major, are at ``flat``."""
    places: list[Expr] = []
    stride = 1
    for position, axis in reversed(list(enumerate(axes))):
        extent = int(axis.dom.extent)
        value = tirx.floordiv(flat, stride) if stride > 1 else flat
        is_inner = any(int(a.dom.extent) > 1 for a in axes[:position])
        places.append(tirx.const(0, "int32") if extent == 1 else tirx.floormod(value, extent) if is_inner else value)
        stride *= extent
    return axes_env(axes, places[::-1])
