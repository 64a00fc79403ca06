"""Loads whose lanes lie close together, but not one after the other: a few whole vectors and a shuffle.

An image that is enlarged repeats elements, a slice with a step skips some: x[i // 2], x[2*i]. A lane at a time, such a
vector would take a load and an insertion each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tvm
from tvm import tirx
from tvm.tirx.script import builder as T

from onyxc.backends.kernels.expression import Expr, Var, dtype_of, free_vars, identity, is_guard, is_load, walk
from onyxc.backends.program import SLACK
from onyxc.compiler.ir.types import itemsize

MOST = 4  # vectors that a shuffle takes
FEWEST = 4  # lanes for which it pays


def near_loads(exprs: Sequence[Expr], axes: Sequence[Var], lanes: int) -> list[Expr]:
    """The loads that change along the last of ``axes``, on which alone they depend, and that no guard holds back."""
    nodes = [node for expr in exprs for node in walk(expr)]
    guarded = {identity(n) for g in nodes if is_guard(g) for branch in g.args[1:] for n in walk(branch)}
    known, last = set(axes), axes[-1]
    return [
        n
        for n in nodes
        if is_load(n) and identity(n) not in guarded and last in free_vars(n.indices[0]) <= known
        if not any(is_load(part) for part in walk(n.indices[0]))
        if dtype_of(n) != "bool" and lanes >= FEWEST and lanes * itemsize(dtype_of(n)) <= SLACK
    ]


def distances(index: Callable[[int], Expr], lanes: int, analyzer: tvm.sym.Analyzer) -> list[int] | None:
    """How far each lane's element lies behind the first lane's; None if that is not known, or no shuffle is needed."""
    first, found = index(0), [0]
    for lane in range(1, lanes):
        distance = analyzer.simplify(index(lane) - first)
        if not isinstance(distance, tirx.IntImm):
            return None
        found.append(int(distance))
    plain = all(d == found[1] * lane for lane, d in enumerate(found)) and found[1] in (0, 1)
    return None if plain or min(found) < 0 or max(found) >= MOST * lanes else found


def shuffled(source: Expr, first: Expr, places: Sequence[int]) -> Expr:
    """The elements of ``source`` that lie ``places`` behind ``first``, as one vector."""
    lanes = len(places)
    starts = range(0, max(places) + 1, lanes)
    vectors = [T.bind(tirx.BufferLoad(source, [tirx.Ramp(first + start, 1, lanes)])) for start in starts]
    return tirx.Shuffle(vectors, [tirx.const(p, "int32") for p in places])
