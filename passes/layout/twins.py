"""Values and their twins: the same numbers with the axes stored in another order.

    %x: f32[1, 32, 7, 7]     twin %x': f32[1, 7, 7, 32], order (0, 2, 3, 1)
    %x: f32[1, 32, 7]        twin %x': f32[1, 1, 7, 32], order (0, None, 2, 1)

``order`` names the axis of the value that each stored axis holds; None: a stored axis of one element that the value
does not have. A one-dimensional network is thus stored like a two-dimensional one of height 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

import numpy as np

from onyxc.compiler.ir import infer
from onyxc.compiler.ir.channels_last import TO_LAST
from onyxc.compiler.ir.graph import Array, Graph, Node, Value

Order: TypeAlias = tuple[int | None, ...]

ORDERS: dict[int, Order] = {3: (0, None, 2, 1), 4: TO_LAST}  # rank -> how convolutions want their input


@dataclass(frozen=True)
class Twin:
    """``stored`` holds a value's numbers, its axes in ``order``."""

    stored: Value
    order: Order

    def axis(self, axis: int) -> int:
        """The stored axis that holds ``axis`` (negative ones count from the end)."""
        rank = sum(a is not None for a in self.order)
        return self.order.index(axis % rank)


def plain(rank: int) -> Order:
    """The order of a value that is stored as it is."""
    return tuple(range(rank))


def is_plain(order: Order) -> bool:
    """Whether the stored form is the value itself but for axes of one element."""
    kept = [a for a in order if a is not None]
    return kept == sorted(kept)


def stored_dims(dims: tuple[int, ...], order: Order) -> tuple[int, ...]:
    """The shape in which a value of ``dims`` is stored."""
    return tuple(1 if a is None else dims[a] for a in order)


def per_axis(numbers: Any, order: Order, missing: Any) -> list[Any]:
    """A number for each axis of the value as a number for each stored axis."""
    return [missing if a is None else numbers[a] for a in order]


def is_static(value: Value | None) -> bool:
    """Whether there is a value of static shape."""
    return value is not None and value.tensor.is_static


class Twins:
    """The walk's state: which values have twins, and the stored forms made so far."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.primary: dict[Value, Twin] = {}
        self.made: dict[tuple[Value, Order], Value] = {}

    def __getitem__(self, value: Value | None) -> Twin:
        assert value is not None
        return self.primary[value]

    def has(self, value: Value | None) -> bool:
        """Whether the value has a twin."""
        return value is not None and value in self.primary

    def find(self, node: Node) -> Twin | None:
        """The twin of the first input, when there is one and the node's shapes are static."""
        if not node.inputs or not self.has(node.inputs[0]) or not all(is_static(v) for v in node.outputs):
            return None
        return self[node.inputs[0]]

    def get(self, value: Value, order: Order, before: Node) -> Value:
        """``value`` stored in ``order``; moved in front of ``before`` if it is not yet."""
        key = (value, order)
        if key not in self.made:
            if value.const is not None:
                self.made[key] = self._constant(value, order)
            else:
                known = self.primary.get(value) or Twin(value, plain(value.tensor.rank))
                self.made[key] = self.move(known, value.dims, order, before)
                if value not in self.primary and not is_plain(order):
                    self.primary[value] = Twin(self.made[key], order)
        return self.made[key]

    def aligned(self, value: Value, rank: int, order: Order, before: Node) -> Value:
        """The stored form that broadcasts in ``order`` as ``value`` does, right-aligned, at ``rank`` axes."""
        if value.const is not None and value.const.size == 1:
            return value
        missing = rank - value.tensor.rank
        return self.get(value, tuple(None if a is None or a < missing else a - missing for a in order), before)

    def _constant(self, value: Value, order: Order) -> Value:
        array = value.array
        moved = np.ascontiguousarray(array.transpose([a for a in order if a is not None]))
        made = self.graph.constant(
            moved.reshape(stored_dims(array.shape, order)), f"{value.name}_last", value.dtype
        )  # fmt: skip
        return made

    def move(self, twin: Twin, dims: tuple[int, ...], order: Order, before: Node) -> Value:
        """A value of ``dims`` that is stored as ``twin``, in ``order``: reshaped where no element moves."""
        old, new = ([a for a in o if a is not None and dims[a] != 1] for o in (twin.order, order))
        if old != new:
            bare = self.reshaped(twin.stored, tuple(dims[a] for a in twin.order if a is not None), before)
            kept = [a for a in twin.order if a is not None]
            perm = tuple(kept.index(a) for a in order if a is not None)
            moved = infer.add(self.graph, "Transpose", [bare], before, perm=perm).output
        else:
            moved = twin.stored
        return self.reshaped(moved, stored_dims(dims, order), before)

    def reshaped(self, value: Value, dims: tuple[int, ...], before: Node) -> Value:
        """``value`` in another shape."""
        if value.dims == dims:
            return value
        assert prod(value.dims) == prod(dims)
        shape = self.graph.constant(np.array(dims, np.int64), "shape")
        return infer.add(self.graph, "Reshape", [value, shape], before, allowzero=int(0 in dims)).output

    def repacked(self, weight: Value, pack: Callable[[Array], Array]) -> Value:
        """A constant after ``pack``, which moves elements and may add zeros; so does what passes know of it."""
        made = self.graph.constant(pack(weight.array), weight.name, weight.dtype)
        palette, mask = weight.facts.get("palette"), weight.facts.get("sparsity")
        if mask is not None:
            made.facts["sparsity"] = pack(mask)
        if (
            isinstance(palette, np.ndarray)
            and palette.ndim == 1
            and (made.tensor.elements == weight.tensor.elements or 0 in palette)
        ):
            made.facts["palette"] = palette
        return made

    def constant(self, numbers: Any, name: str) -> Value:
        """Integers as a constant."""
        return self.graph.constant(np.array(numbers, np.int64), name)

    def replace(self, node: Node, stored: list[Value], order: Order) -> None:
        """``stored`` are the outputs of ``node`` in ``order``: readers of the old values get them moved back."""
        for old, new in zip(node.outputs, stored, strict=True):
            back = self.move(Twin(new, order), old.dims, plain(len(old.dims)), node)
            if back.producer is not None and back is not new:
                back.name = self.graph.fresh_name(old.name)
            back.type = old.type
            if not is_plain(order):
                self.primary[back] = Twin(new, order)
            self.graph.replace_uses(old, back)
        self.graph.erase(node)

    def standard(self, node: Node, inputs: list[Value | None], order: Order, **attrs: object) -> None:
        """Replace ``node`` by the same operator on stored forms, with some attributes changed."""
        changed: dict[str, Any] = {**node.attrs, **attrs}
        made = infer.add(
            self.graph, node.op, inputs, node, outputs=len(node.outputs), domain=node.domain, name=node.name, **changed
        )
        self.replace(node, list(made.outputs), order)
