"""Squares of a transposing access, turned in registers.

Where a load strides along the vector axis of a nest and is contiguous along another, a vector of it would take a
cache line for every lane. A square of as many rows as lanes is loaded the other way round, contiguously, and turned by
log2(lanes) rounds of interleaving.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import tvm_ffi
from tvm import tirx
from tvm.tirx.script import builder as T

from onyxc.backends.kernels.axes import safe_everywhere
from onyxc.backends.kernels.expression import Expr, Var, affine, dtype_of, is_load, occurrences, walk
from onyxc.backends.kernels.nest import Nest, expressions

LONGEST = 16  # elements along a side: more do not fit the registers
SHORTEST = 4
MOST = 2  # loads of a nest that are turned
LARGEST = 64  # nodes of the nest's expressions: the rows of a square are written out one by one


def interleave(first: Expr, second: Expr, high: bool) -> Expr:
    """Lanes of the lower or upper halves of two vectors in turn."""
    lanes = int(first.ty.dtype.lanes)
    half = range(lanes // 2, lanes) if high else range(lanes // 2)
    order = [tirx.const(i, "int32") for lane in half for i in (lane, lane + lanes)]
    return tirx.Shuffle([first, second], order)


def transpose(rows: Sequence[Expr]) -> list[Expr]:
    """The columns of a square of vectors, as many as lanes (a power of two): log2(lanes) rounds of interleaving."""
    vectors, count = list(rows), len(rows)
    rounds = count.bit_length() - 1
    for _ in range(rounds):
        pairs = [(vectors[i], vectors[i + count // 2]) for i in range(count // 2)]
        vectors = [T.bind(interleave(a, b, high)) for a, b in pairs for high in (False, True)]
    return vectors


def turned_loads(nest: Nest, along: Var) -> list[Expr]:
    """The loads of a nest without folds that are contiguous along the axis ``along`` and stride along the last one.

    Each once, but for loads of the same element; they lie inside their buffers wherever the nest does.
    """
    last, found = nest.scope.axes[-1], list[Expr]()
    for expr in expressions(nest):
        for node in walk(expr):
            if is_load(node):
                strides = affine(node.indices[0]).coefficients
                if strides.get(along, 0) == 1 and strides.get(last, 0) not in (0, 1):
                    found.append(node)
    return found


def same_load(left: Expr, right: Expr) -> bool:
    """Whether two loads read the same element."""
    return bool(left.source.same_as(right.source)) and bool(
        tvm_ffi.structural_equal(left.indices[0], right.indices[0], map_free_vars=False)
    )


def side(nest: Nest, along: int, lanes: int, ranges: Mapping[Var, int]) -> int:
    """Elements of a square's side for the axis ``along`` (its number); 0 where squares do not pay or are not safe."""
    loads = turned_loads(nest, nest.scope.axes[along])
    distinct = [a for i, a in enumerate(loads) if not any(same_load(a, b) for b in loads[:i])]
    size = sum(1 for e in expressions(nest) for _ in occurrences(e))
    if not distinct or len(distinct) > MOST or size > LARGEST:
        return 0
    if not all(safe_everywhere(load, ranges) for load in distinct):
        return 0
    if any(dtype_of(load) == "bool" for load in distinct):
        return 0
    room = min(lanes, LONGEST, nest.scope.extents[along], nest.scope.extents[-1])
    rows = 1 << (room.bit_length() - 1)
    return rows if rows >= SHORTEST else 0
