"""Where the elements of a moved tensor lie in the tensor that it was moved from: movement as start and strides.

    Transpose, Reshape, Squeeze, Unsqueeze, Flatten, Identity, Split, Slice

A kernel that reads by strides needs none of these to be computed.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from math import prod

from onyxc.compiler.ir.graph import Node, Value

MOVES = frozenset("Transpose Reshape Squeeze Unsqueeze Flatten Identity Split Slice".split())


@dataclass(frozen=True)
class View:
    """A tensor as elements of the dense tensor ``source``: the first one, and an element stride per dimension."""

    source: Value
    start: int
    strides: tuple[int, ...]


def dense(dims: tuple[int, ...]) -> tuple[int, ...]:
    """Element strides of a dense tensor."""
    return tuple(prod(dims[i + 1 :]) for i in range(len(dims)))


def view(value: Value, inside: Container[Node], pitch: int = 1) -> View | None:
    """``value`` as a view of what the nodes ``inside`` move; None where strides cannot tell.

    ``pitch``: the rows of the source begin so many rows apart.
    """
    node = value.producer
    source = node.inputs[0] if node is not None and node in inside and node.is_op(*MOVES) else None
    if node is None or source is None:
        strides = dense(value.dims)
        return View(value, 0, (*(s * pitch for s in strides[:-1]), *strides[-1:]))
    below = view(source, inside, pitch)
    return None if below is None else _moved(node, value, source.dims, below)


def _moved(node: Node, value: Value, dims: tuple[int, ...], below: View) -> View | None:
    start, strides = below.start, list(below.strides)
    if node.op == "Transpose":
        perm = node.integers("perm", tuple(range(len(dims)))[::-1])
        return View(below.source, start, tuple(strides[a] for a in perm))
    if node.op == "Split":
        axis = node.integer("axis") % len(dims)
        before = sum(o.dims[axis] for o in node.outputs[: value.index])
        return View(below.source, start + before * strides[axis], below.strides)
    if node.op == "Slice":
        first, last, axes, steps = (node.const(i) for i in (1, 2, 3, 4))
        if first is None or last is None:
            return None
        chosen = range(len(first)) if axes is None else [int(a) % len(dims) for a in axes]
        for i, axis in enumerate(chosen):
            begin, step, size = int(first[i]), 1 if steps is None else int(steps[i]), dims[axis]
            if step < 1:
                return None
            begin = min(max(begin + size if begin < 0 else begin, 0), size)
            start += begin * strides[axis]
            strides[axis] *= step
        return View(below.source, start, tuple(strides))
    reshaped = _reshaped(dims, below.strides, value.dims)
    return None if reshaped is None else View(below.source, start, reshaped)


def _reshaped(old: tuple[int, ...], strides: tuple[int, ...], new: tuple[int, ...]) -> tuple[int, ...] | None:
    """Strides of a reshaped tensor, where every run of merged dimensions lies evenly."""
    if 0 in old:
        return dense(new)
    left = [(d, s) for d, s in zip(old, strides, strict=True) if d != 1]
    made: list[int] = []
    for size in reversed(new):
        if size == 1:
            made.append(0)
            continue
        made.append(left[-1][1])
        while size > 1:
            inner, step = left.pop()
            if size % inner == 0:
                size //= inner
                if size > 1 and left[-1][1] != inner * step:
                    return None
            elif inner % size == 0:
                left.append((inner // size, step * size))
                size = 1
            else:
                return None
    return tuple(reversed(made))
